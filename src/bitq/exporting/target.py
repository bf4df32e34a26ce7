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


Write = Callable[[nn.Module, Any, Path], Handed]
"""Takes the quantized network, one input (a tensor or what the network is called with) and the path; writes
atomically."""

_TARGETS: dict[str, Write] = {}


def register(name: str, write: Write) -> None:
    """Make a target known by its name, as the command line has it."""
    _TARGETS[name] = write


def target_of(name: str) -> Write:
    """What writes the target of a name.

    Raises:
        BitqError: there is none.
    """
    if name not in _TARGETS:
        raise BitqError(f"{shortened(repr(name))} is nothing to export to; it must be one of {', '.join(_TARGETS)}")
    return _TARGETS[name]
