"""Ctrl-C and SIGTERM in a process that is `bitq`: one sentence, whatever it is at.

A command that computes is sent KeyboardInterrupt, so that what it is at tidies up. Elsewhere that would come out as
anything: inside an import, C modules turn it into an ImportError, which others take for a package that is not there; in
a destructor it is lost; while the interpreter ends it is a traceback. There, and the second time, the process ends at
once. That loses nothing: what is finished is kept by then, and every file is seen whole or not at all.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # typing would be loaded before there is an answer to an interrupt
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType
    from typing import Any, NoReturn

INTERRUPTED = 130
"""Exit code of an interrupt, as shells have it: 128 and the number of SIGINT."""

CONTINUED = dict.fromkeys(("search", "compare"), "; the same command continues where it stopped")
"""What an interrupt of a command is told with, beside that it happened."""

_IMPORTING = "<frozen importlib."
_CLEAN_LINE = b"\r\x1b[2K\x1b[?25h"
"""Erases what a bar has drawn in the line and shows the cursor again."""


class Interrupts:
    """Answers the signals of this process.

    Attributes:
        working: whether a command computes, which tidies up when it is sent KeyboardInterrupt.
        code: the exit code of the interrupt that came, 0 before.
    """

    def __init__(self) -> None:
        self.working = False
        self.code = 0

    def start(self) -> None:
        """From here on; a signal that the process was started to ignore, as by nohup, stays ignored."""
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._came)
        sys.unraisablehook = _ending(self, sys.unraisablehook)

    def _came(self, number: int, frame: FrameType | None) -> None:
        before, self.code = self.code, 128 + number
        if before or not self.working or _imports(frame):
            self.end()
        raise KeyboardInterrupt

    def end(self, leave: Callable[[int], NoReturn] = os._exit) -> NoReturn:
        """Tell it and end the process, without anything else.

        Args:
            leave: stands here because modules lose their names while the interpreter ends.
        """
        try:
            line = _CLEAN_LINE if os.isatty(2) else b""
            os.write(2, line + sentence(sys.argv[1:]).encode() + b"\n")
        except Exception:  # nobody reads
            pass
        leave(self.code)


def sentence(words: Sequence[str]) -> str:
    """What an interrupt of `bitq WORDS` is told with."""
    return "Error: interrupted before the end" + CONTINUED.get("".join(words[:1]), "")


interrupts = Interrupts()


def _imports(frame: FrameType | None) -> bool:
    while frame and not frame.f_code.co_filename.startswith(_IMPORTING):
        frame = frame.f_back
    return frame is not None


def _ending(watched: Interrupts, hook: Callable[[Any], object]) -> Callable[[Any], object]:
    """What ends the process if an interrupt came where no exception can be raised, as in a destructor."""

    def ignored(unraisable: Any) -> None:
        if watched.code:
            watched.end()
        hook(unraisable)

    return ignored
