"""Hostile inputs made by changing good ones: a module for each kind, entered in `KINDS`.

A kind knows how to lay out a good input (`make`) and how to change it (`changes`). A case is a kind, a good input and a
few changes, all drawn from a seed and a number alone, so that each can be made again, and with fewer changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

MOST_BYTES = 16 << 20
"""Of a file that is changed."""


class UnchangedError(Exception):
    """Nothing was left that could be changed so: an earlier change took it away."""


@dataclass
class Input:
    """What a command is given. Changes alter both.

    Attributes:
        folder: where the command runs, with all its files.
        words: of the command, after "bitq".
    """

    folder: Path
    words: list[str]

    def path(self, name: str) -> Path:
        """Of a file to change, which never lies outside of the folder, whatever its name was changed to.

        Raises:
            UnchangedError: another name.
        """
        parts = Path(name).parts
        if not parts or ".." in parts or Path(name).is_absolute() or "\0" in name or max(map(len, parts)) > 60:
            raise UnchangedError
        path = self.folder / name
        if any(folder.is_symlink() or not folder.is_dir() for folder in list(path.parents)[: len(parts)]):
            raise UnchangedError
        if path.exists() and not path.is_file() and not path.is_dir():  # opening a pipe would wait for ever
            raise UnchangedError
        return path

    def content(self, name: str) -> bytes:
        """Of a file to change.

        Raises:
            UnchangedError: none, or too many bytes.
        """
        try:
            path = self.path(name)
            if path.is_file() and path.stat().st_size <= MOST_BYTES:
                return path.read_bytes()
        except (OSError, UnicodeError):
            pass
        raise UnchangedError


Change = Callable[[Random, Input], str]
"""Alters an input and says how."""


@dataclass(frozen=True)
class Kind:
    """A door that inputs come in by.

    Attributes:
        name: of the kind.
        make: lays a good input out in an empty folder, by files of the folder of seeds, and gives the command.
        changes: that may be made; each is as likely as it is often here.
        most: of them are made.
    """

    name: str
    make: Callable[[Random, Path, Path], list[str]]
    changes: Sequence[Change]
    most: int = 3


@dataclass(frozen=True)
class Case:
    """One hostile input, by its number under a seed."""

    kind: Kind
    seed: int
    index: int

    @property
    def count(self) -> int:
        """Changes that it has."""
        return Random(f"{self.seed} {self.index} changes").randint(1, self.kind.most)

    def build(self, seeds: Path, folder: Path, kept: Sequence[int]) -> tuple[Input, tuple[str, ...]]:
        """The input in a new folder with the changes of these numbers, and what they are.

        Args:
            seeds: folder of good files.
            folder: to be made.
            kept: numbers of the changes, below `count`.
        """
        folder.mkdir()
        words = self.kind.make(Random(f"{self.seed} {self.index}"), seeds, folder)
        given = Input(folder, words)
        told = []
        for number in kept:
            rng = Random(f"{self.seed} {self.index} {number}")
            try:
                told.append(rng.choice(self.kind.changes)(rng, given))
            except Exception as error:  # what writes files refuses some that earlier changes made odd
                told.append(f"nothing ({type(error).__name__})")
        return given, tuple(told)


def kinds() -> dict[str, Kind]:
    """All kinds by name."""
    from fuzzing import arrays, checkpoints, devices, graphs, options, packed, pictures, plans, runs

    modules = (devices, plans, runs, checkpoints, packed, graphs, arrays, pictures, options)
    return {module.KIND.name: module.KIND for module in modules}
