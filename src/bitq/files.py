"""Files that are seen whole or not at all, and what a run's folder holds."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bitq.errors import BitqError


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write and seek in that takes the place of `path` at the end; a reader sees the old or the new one.

    An exception inside leaves what was there before. Missing folders are made.

    Raises:
        BitqError: the disk is full, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise BitqError(f"{path} cannot be written: {error.strerror or error}") from None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never a part.

    Raises:
        BitqError: the disk is full, or the folder cannot be written.
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

    def checkpoint(self, key: str) -> Path:
        """The fine-tuned weights of the plan that a key stands for (safetensors)."""
        return self.path / "checkpoints" / f"{key}.safetensors"
