"""Compiled work that may take long: it says now and then that it goes on, and ends where nobody waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

from bitq.errors import BitqError
from bitq.movement._engine import ffi, lib

TOLD_SECONDS = 0.5
"""How often it is told that work in threads goes on."""

Asked = TypeVar("Asked")
Solved = TypeVar("Solved")

UNWANTED = lib.bitq_ask
"""For the engine to ask whether its answer is still wanted."""


class _UnwantedError(Exception):
    """Ends work of a thread that nobody waits for any more."""


class _Thread(threading.local):
    """Who hears of the work of one thread, and what was raised meanwhile, as by Ctrl-C."""

    listener: Callable[[], None] | None = None
    raised: BaseException | None = None


_thread = _Thread()


@contextmanager
def heard(listener: Callable[[], None]) -> Iterator[None]:
    """Within, the listener of this thread is called now and then while compiled work goes on, and between two pieces of
    it; what it raises ends that work."""
    before = _thread.listener
    _thread.listener = listener
    try:
        yield
    finally:
        _thread.listener = before


def answered(
    answer: Callable[[Asked], Solved], questions: Sequence[Asked], threads: int, tell: Callable[[int], None]
) -> tuple[Solved, ...]:
    """The answers to all questions, in their order, several sought at once: compiled work lets other threads run.

    Args:
        answer: to one question, by compiled work.
        questions: apart from one another.
        threads: how many at once.
        tell: is told in this thread how many of the first questions are answered, before each, at the end, and now and
            then meanwhile.

    Raises:
        Exception: what the first question that cannot be answered raises, once no thread works any more; likewise what
            `tell` raises, or Ctrl-C.
    """
    unwanted = threading.Event()

    def ask() -> None:
        if unwanted.is_set():
            raise _UnwantedError

    def own(question: Asked) -> Solved:
        with heard(ask):
            return answer(question)

    found = []
    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(own, question) for question in questions]
        try:
            for done, future in enumerate(waiting):
                tell(done)
                while not wait([future], TOLD_SECONDS).done:
                    tell(done)
                found.append(future.result())
        except BaseException:
            unwanted.set()
            pool.shutdown(cancel_futures=True)
            raise
    tell(len(questions))
    return tuple(found)


def checked(count: int, layer: str, too_many: str = "") -> int:
    """What compiled work returned, if it has a result.

    Args:
        count: as the engine returns it.
        layer: worked on, for messages.
        too_many: what was more than it may be, and what to do about it.

    Raises:
        BitqError: the work found more than it may, or this machine has no memory for it.
        BaseException: what was raised meanwhile.
    """
    raised, _thread.raised = _thread.raised, None
    if raised is not None:
        raise raised
    if _thread.listener is not None:
        _thread.listener()
    if count == lib.BITQ_TOO_MANY:
        raise BitqError(f"{layer} {too_many}")
    if count == lib.BITQ_NO_MEMORY:
        raise BitqError(f"{layer} has more tilings than this machine has memory for; give a smaller input shape")
    return count


def _keep(kind: type[BaseException], error: BaseException, trace: object) -> None:
    _thread.raised = error


@ffi.def_extern(error=1, onerror=_keep)  # type: ignore[untyped-decorator]
def bitq_ask() -> int:
    """Python runs here, and so do the handlers of signals that came meanwhile."""
    if _thread.listener is not None:
        _thread.listener()
    return 0
