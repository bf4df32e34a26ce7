"""What a plan is handed over as: one file or package beside this for each, which registers itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from bitq.errors import BitqError, shortened


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


class Target(NamedTuple):
    """A form that a quantized network is handed over in.

    Attributes:
        name: as the command line has it.
        summary: what it is, in a few words.
        write: takes the quantized network, one input (a tensor or what the network is called with) and the path; writes
            atomically.
    """

    name: str
    summary: str
    write: Callable[[nn.Module, Any, Path], Handed]


_TARGETS: dict[str, Target] = {}


def register(target: Target) -> None:
    """Make a target known by its name."""
    _TARGETS[target.name] = target


def targets() -> tuple[Target, ...]:
    """All that are known, by name."""
    return tuple(_TARGETS[name] for name in sorted(_TARGETS))


def target_of(name: str) -> Target:
    """The target of a name.

    Raises:
        BitqError: there is none.
    """
    if name not in _TARGETS:
        raise BitqError(f"{shortened(repr(name))} is nothing to export to; it must be one of {', '.join(_TARGETS)}")
    return _TARGETS[name]
