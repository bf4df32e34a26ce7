"""Work in a process of its own, which may die of it, as compiled code of others does on files that are no network's."""

from __future__ import annotations

import faulthandler
import gc
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, TypeVar, cast

from bitq.errors import BitqError

T = TypeVar("T")


class Died(Exception):  # noqa: N818 - as a fact, it is told otherwise to users
    """The process ended without a result: it met its limits, or a signal."""


def apart(work: Callable[[], T], seconds: int, memory_bytes: int) -> T:
    """The result of some work, which must change nothing: it happens in a copy of this process.

    Only Linux has such copies that are safe; elsewhere the work is done here.

    Args:
        work: gives the result, which can be pickled, or raises a BitqError.
        seconds: of a processor, that it may take.
        memory_bytes: that it may take beside what this process has.

    Raises:
        BitqError: the work raised it.
        Died: it took more than it may, or its process ended in another way.
    """
    if sys.platform != "linux":
        return work()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of other threads, whose locks this work never needs
        pid = os.fork()
    if not pid:
        _answer(work, writing, seconds, memory_bytes)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as stream:
            answer = stream.read()
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        with suppress(ChildProcessError):  # somebody else waits for all processes
            os.waitpid(pid, 0)
    if not answer:
        raise Died
    done, result = pickle.loads(answer)
    if not done:
        raise BitqError(result)
    return cast("T", result)


def _answer(work: Callable[[], T], writing: int, seconds: int, memory_bytes: int) -> NoReturn:
    """Do the work and write what came of it, in the copy; nothing at all if it cannot be done."""
    import resource  # Windows has none

    try:
        gc.disable()  # objects of this process are not to be cleared away twice
        faulthandler.disable()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + memory_bytes, has + memory_bytes))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        answer: tuple[bool, object]
        try:
            answer = True, work()
        except BitqError as error:
            answer = False, str(error)
        with os.fdopen(writing, "wb") as file:
            file.write(pickle.dumps(answer))
    finally:
        os._exit(0)
