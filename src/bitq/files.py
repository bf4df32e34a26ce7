"""Files that are seen whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
