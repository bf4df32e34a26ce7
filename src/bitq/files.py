"""Files that are seen whole or not at all, and what a run's folder holds."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bitq.errors import BitqError
from bitq.outside import check_regular

try:
    import fcntl
except ImportError:  # Windows, which does not remove the files that others have open
    fcntl = None  # type: ignore[assignment]

_PART, _PARTS = ".bitq-{}.part", ".bitq-*.part"
"""Names of files that are being written."""

_REFUSALS = {
    (errno.ENOSPC, errno.EDQUOT): "the disk is full or a quota is used up; make room",
    (errno.EFBIG,): "it would be larger than the system allows; raise its limit of file sizes",
    (errno.EACCES, errno.EPERM): "this user may not; change the permissions or give another place",
    (errno.EROFS,): "the file system is read-only; give another place",
    (errno.ENOTDIR, errno.EEXIST): "a part of its path is no folder; give another place",
    (errno.ENAMETOOLONG,): "the name is too long; give a shorter one",
    (errno.ELOOP,): "its links lead in a circle; give a place without",
}


def refusal(error: OSError) -> str:
    """Why the system refuses to read or write, and what helps, for a message."""
    known = (told for numbers, told in _REFUSALS.items() if error.errno in numbers)
    return next(known, (error.strerror or "the system refuses it").lower())


def check_replaceable(path: Path) -> None:
    """Refuse what `replacing` would, for what takes long before it writes.

    Raises:
        BitqError: something is there that is no regular file, such as a folder, a pipe or a device.
    """
    try:
        found = path.stat()
    except (OSError, ValueError):  # nothing, as a rule; else writing tells why
        return
    check_regular(found, path, "the name of a file to write")


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[IO[bytes]]:
    """A file to write and seek in that takes the place of `path` at the end; a reader sees the old or the new one.

    An exception inside leaves what was there before. Missing folders are made. A link is replaced, not followed: what
    it leads to may be another's. What writers that were killed left in the folder is removed.

    Args:
        path: of a regular file, a link to one, or nothing yet.
        durable: wait until the disk has it.

    Raises:
        BitqError: the disk is full, the folder cannot be written, or there is something that is no regular file.
    """
    check_replaceable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        with _part(path.parent) as (file, part):
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            if fcntl is None:
                file.close()  # Windows does not rename the files that are open, either
            part.replace(path)
    except OSError as error:
        raise BitqError(f"{path} cannot be written: {refusal(error)}") from None


def check_own_folder(path: Path) -> None:
    """Refuse a link in the place of a folder that files are written to and removed from: it may lead to another's.

    Raises:
        BitqError: a link is there.
    """
    if path.is_symlink():
        raise BitqError(f"{path} is a link, and what it leads to may be another's; put a folder in its place")


def remove_leftovers(folder: Path) -> None:
    """Remove what was being written in a folder, by `replacing`, as its writer was killed."""
    for part in folder.glob(_PARTS):
        with suppress(OSError):  # its writer was faster, or it is another user's
            handle = os.open(part, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
            try:
                if stat.S_ISREG(os.fstat(handle).st_mode) and _locked(handle, wait=False):
                    part.unlink()
            finally:
                os.close(handle)


@contextmanager
def _part(folder: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """A new file that is locked while it is open, so that others see that its writer lives; it is removed at the end,
    if it still has its name."""
    while True:
        part = folder / _PART.format(secrets.token_hex(8))
        with open(part, "x+b") as file:  # noqa: PTH123 - as its mode follows the user's mask
            try:
                _locked(file.fileno(), wait=True)
                if fcntl is None or os.fstat(file.fileno()).st_nlink:  # not taken for a leftover before it was locked
                    yield file, part
                    return
            finally:
                part.unlink(missing_ok=True)


def _locked(handle: int, wait: bool) -> bool:
    """Lock a file until it is closed, as it is however the process ends; false if another has locked it, or if there
    are no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never a part.

    Raises:
        BitqError: what `replacing` refuses.
    """
    with replacing(path) as file:
        file.write(content)


@dataclass(frozen=True)
class RunFolder:
    """Where everything lies that a search makes; the names stand here alone."""

    path: Path

    @property
    def plan(self) -> Path:
        """The plan: formats, tilings, totals (JSON)."""
        return self.path / "plan.json"

    @property
    def weights(self) -> Path:
        """The quantized network's state, the weights of the plan packed (safetensors)."""
        return self.path / "weights.safetensors"

    @property
    def results(self) -> Path:
        """Every finished evaluation (SQLite)."""
        return self.path / "results.sqlite"

    @property
    def report(self) -> Path:
        """The page (HTML)."""
        return self.path / "report.html"

    @property
    def checkpoints(self) -> Path:
        """The folder with the fine-tuned weights of every plan."""
        return self.path / "checkpoints"

    def checkpoint(self, key: str) -> Path:
        """The fine-tuned weights of the plan that a key stands for (safetensors)."""
        return self.checkpoints / f"{key}.safetensors"
