"""Files from outside: only regular ones, and none larger than what it is read for can need."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bitq.errors import BitqError

_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # a pipe without a writer would be waited for


@contextmanager
def opened_outside(path: Path, most_bytes: int, what: str) -> Iterator[IO[bytes]]:
    """A file to read and seek in.

    Args:
        path: of a regular file, or a link to one.
        most_bytes: that it may have.
        what: it is to be, such as "a checkpoint".

    Raises:
        BitqError: no such file, one that may not be read, no regular file (a folder, pipe or device), or a larger one.
    """
    try:
        handle = os.open(path, os.O_RDONLY | _NO_WAIT)
    except OSError as error:
        raise unreadable(path, what, error) from error
    except ValueError as error:  # a name with a null character
        raise BitqError(f"{str(path)!r} is no name of a file; give {what}") from error
    try:
        found = os.fstat(handle)
        check_regular(found, path, what)
        if found.st_size > most_bytes:
            raise _too_large(path, found.st_size, most_bytes, what)
        with os.fdopen(handle, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(handle)


def read_outside(path: Path, most_bytes: int, what: str) -> bytes:
    """All of a file; arguments and errors as of `opened_outside`."""
    with opened_outside(path, most_bytes, what) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:  # it grew meanwhile
        raise _too_large(path, len(content), most_bytes, what)
    return content


def check_outside(path: Path, most_bytes: int, what: str) -> None:
    """Refuse what `opened_outside` refuses, for libraries that open files by name."""
    with opened_outside(path, most_bytes, what):
        pass


def unreadable(path: Path, what: str, error: OSError) -> BitqError:
    """What is told of a file that the system does not give."""
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return BitqError(f"there is no file {path}; give {what}")
        case IsADirectoryError():
            return BitqError(f"{path} is a folder; give {what}")
        case PermissionError():
            return BitqError(f"{path} may not be read by this user; change its permissions or give another file")
    why = (error.strerror or "the system refuses it").lower()
    return BitqError(f"{path} cannot be read ({why}); give {what}")


def check_regular(found: os.stat_result, path: Path, what: str) -> None:
    """Refuse what is there instead of a file.

    Args:
        found: what the system tells of it.
        path: of it.
        what: to give instead, such as "a checkpoint".

    Raises:
        BitqError: it is a folder, pipe, socket or device.
    """
    if stat.S_ISDIR(found.st_mode):
        raise BitqError(f"{path} is a folder; give {what}")
    if not stat.S_ISREG(found.st_mode):
        raise BitqError(f"{path} is no regular file (a pipe, socket or device); give {what}")


def _too_large(path: Path, size: int, most_bytes: int, what: str) -> BitqError:
    return BitqError(f"{path} has {size} bytes, but {what} has at most {most_bytes}")
