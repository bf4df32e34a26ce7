"""Hostile inputs, one of each kind: a function writes the files, its docstring says what they try.

A module gathers those that come in by the same door. `tests/test_attacks.py` runs the real command on each.
"""

from __future__ import annotations

import importlib
import pkgutil
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_FOUND: list[Attack] = []


@dataclass(frozen=True)
class Attack:
    """A hostile input.

    Attributes:
        name: module and function.
        tries: what it tries to do.
        make: writes its files into a folder, where the command runs.
        words: of the command, after "bitq".
        says: a regular expression that is found in the last line on stderr.
        code: that it must exit with.
    """

    name: str
    tries: str
    make: Callable[[Path], None]
    words: tuple[str, ...]
    says: str
    code: int


def attack(command: str, says: str, code: int = 2) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Enter a function into the list; `command` is split as a shell does, and may be repeated for other doors."""

    def enter(make: Callable[[Path], None]) -> Callable[[Path], None]:
        tries = " ".join((make.__doc__ or "").split())
        name = f"{make.__module__.rpartition('.')[2]}.{make.__name__}"
        _FOUND.append(Attack(name, tries, make, tuple(shlex.split(command)), says, code))
        return make

    return enter


def attacks() -> tuple[Attack, ...]:
    """All of them."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return tuple(_FOUND)
