"""Where tensors lie in the memory of exported C."""

from __future__ import annotations

from typing import NamedTuple

from bitq.exporting.c99.steps import Schedule
from bitq.placement import Buffer, place


class StaticMemory(NamedTuple):
    """A static memory.

    Attributes:
        offsets: by name of a tensor, from the begin (bytes).
        size: in bytes.
    """

    offsets: dict[str, int]
    size: int


def placed_in_memory(network: Schedule) -> StaticMemory:
    """A place for every tensor, so that none lies on another that is still read."""
    lives: dict[str, list[int]] = {}
    for number, step in enumerate(network.steps):
        for stored in step.reads:
            lives[stored.name][1] = number
        lives[step.target.name] = [number, number]
    lives[network.output.name][1] = len(network.steps)
    targets = [step.target for step in network.steps]
    placed = place([Buffer(each.bytes, *lives[each.name]) for each in targets])
    return StaticMemory({each.name: offset for each, offset in zip(targets, placed.offsets, strict=True)}, placed.peak)
