"""The folder that exported C lies in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bitq.errors import BitqError
from bitq.files import write_atomically

MARK = "Written by bitq"
"""Stands in the first line of every file."""


def check_own_files(folder: Path, names: tuple[str, ...]) -> None:
    """Refuse to replace files that bitq did not write.

    Raises:
        BitqError: there is one.
    """
    for name in names:
        with suppress(FileNotFoundError, NotADirectoryError), (folder / name).open("rb") as file:
            if MARK.encode() not in file.readline(200):
                raise BitqError(f"{folder / name} was not written by bitq; give the name of another folder")


def replace_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write files in a folder, each whole or not at all; others in it stay.

    Raises:
        BitqError: the folder cannot be written.
    """
    for name, text in files.items():
        write_atomically(folder / name, text.encode("ascii"))
