"""What a plan is handed over as: one file or package beside this for each, which registers itself."""

from __future__ import annotations

from collections.abc import Callable
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


class Target(NamedTuple):
    """What a plan is handed over as.

    Attributes:
        write: it.
        takes_input: whether `write` needs the input.
        folder: whether it makes a folder, not a file.
    """

    write: Write
    takes_input: bool = True
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


_TARGETS: dict[tuple[str, str | None], Target] = {}


def register(name: str, target: Target, runtime: str | None = None) -> None:
    """Make a target known by its name, as the command line has it, and what has to run it, if it is for that alone."""
    _TARGETS[name, runtime] = target


def target_of(name: str, runtime: str | None = None) -> Target:
    """The target of a name, for a runtime or for any.

    Raises:
        BitqError: there is none.
    """
    names = [known for known, runs in _TARGETS if runs is None]
    if name not in names:
        raise BitqError(f"{shortened(repr(name))} is nothing to export to; it must be one of {', '.join(names)}")
    if (name, runtime) not in _TARGETS:
        runtimes = ", ".join(f"{runs} (--to {known})" for known, runs in _TARGETS if runs is not None)
        raise BitqError(f"{shortened(repr(runtime))} runs no {name} of its own; --target may be {runtimes}")
    return _TARGETS[name, runtime]
