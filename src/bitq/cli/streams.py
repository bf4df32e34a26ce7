"""The standard streams of a command, whatever it was started with: closed, on a full disk, or read by nobody."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any, TextIO

from bitq.errors import BitqError
from bitq.files import refusal

READER_LEFT = 141
"""Exit code if nobody reads the result any more, as shells have it: 128 and the number of SIGPIPE."""


class _Results(io.FileIO):
    """Standard output: what it does not take is told once, and ends the command."""

    def write(self, content: Any) -> int:
        try:
            while (written := super().write(content)) is None:  # not ready, and made not to wait by others
                select.select([], [self.fileno()], [])
            return written
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # there goes what is left
            os.close(nowhere)
            if isinstance(error, BrokenPipeError):
                raise SystemExit(READER_LEFT) from None
            raise BitqError(f"the result cannot be written to standard output: {refusal(error)}") from None


class _Told(io.FileIO):
    """Standard error: progress that cannot be told is no reason to stop."""

    def write(self, content: Any) -> int:
        try:
            written = super().write(content)
        except OSError:
            written = None
        return len(content) if written is None else written


def own_streams() -> None:
    """Make standard output one for results alone, and both it and standard error fit for any text.

    What libraries print from C, as a solver does, goes to standard error. Descriptors that were closed are taken by
    the null device, so that no file of the command is given their numbers.

    Raises:
        BitqError: standard output is closed.
    """
    output, told = sys.stdout, sys.stderr
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this
    sys.stderr = _text(_Told(2, "w", closefd=False), told)
    if output is None:
        sys.stdout = sys.stderr
        raise BitqError("standard output is closed; to throw the result away, send it to the null device")
    output.flush()
    sys.stdout = _text(_Results(os.dup(1), "w"), output)
    os.dup2(2, 1)


def _text(raw: io.FileIO, like: TextIO | None) -> TextIO:
    encoding = like.encoding if like else "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=True)
