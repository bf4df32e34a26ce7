"""Compiled work that may take long: it says now and then that it goes on, and ends where nobody waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bitq.errors import BitqError
from bitq.movement._engine import ffi, lib

UNWANTED = lib.bitq_ask
"""For the engine to ask whether its answer is still wanted."""


class _Thread(threading.local):
    """Who hears of the work of one thread, and what was raised meanwhile, as by Ctrl-C."""

    listener: Callable[[], None] | None = None
    raised: BaseException | None = None


_thread = _Thread()


@contextmanager
def heard(listener: Callable[[], None]) -> Iterator[None]:
    """Within, the listener is called now and then while compiled work goes on; what it raises ends that work."""
    before = _thread.listener
    _thread.listener = listener
    try:
        yield
    finally:
        _thread.listener = before


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
