"""What a plan is handed over as: one file or package beside this for each, which registers itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from bitq.errors import BitqError, shortened
from bitq.files import check_own_folder, check_replaceable


class Handed(NamedTuple):
    """What was written.

    Attributes:
        path: of it.
        notes: what whoever runs it has to know, a sentence each.
        figures: what there is to count, by name.
        ran: runs it on an input beside the network and tells in a sentence how far they agree, or why it was not run.
    """

    path: Path
    notes: tuple[str, ...]
    figures: dict[str, int]
    ran: Callable[[nn.Module, Any], str]


Write = Callable[[nn.Module, Any, Path], Handed]
"""Takes the quantized network, one input (a tensor or what the network is called with) and the path; writes
atomically."""


@dataclass(frozen=True)
class Target:
    """What networks are exported to.

    Attributes:
        write: writes it.
        folder: whether that makes a folder, not a file.
    """

    write: Write
    folder: bool = False

    def check(self, path: Path) -> None:
        """Refuse a path that it would not be written to.

        Raises:
            BitqError: something else is there.
        """
        if not self.folder:
            check_replaceable(path)
            return
        check_own_folder(path)
        if path.exists() and not path.is_dir():
            raise BitqError(f"{path} is a file; give the name of a folder to write")


_TARGETS: dict[str, Target] = {}


def register(name: str, write: Write, folder: bool = False) -> None:
    """Make a target known by its name, as the command line has it; `folder` tells that it makes a folder."""
    _TARGETS[name] = Target(write, folder)


def target_of(name: str) -> Target:
    """The target of a name.

    Raises:
        BitqError: there is none.
    """
    if name not in _TARGETS:
        raise BitqError(f"{shortened(repr(name))} is nothing to export to; it must be one of {', '.join(_TARGETS)}")
    return _TARGETS[name]
