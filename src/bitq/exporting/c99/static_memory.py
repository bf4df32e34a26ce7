"""Where tensors lie in the memory of exported C."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bitq.exporting.c99.steps import Add, Convolve, Copy, FromInput, Lift, Origin, Pool, Resident, Schedule
from bitq.placement import Buffer, place

ALIGNMENT = 8


class StaticMemory(NamedTuple):
    """A static memory.

    Attributes:
        offsets: by name of a tensor, from the begin (bytes).
        size: in bytes.
    """

    offsets: dict[str, int]
    size: int


def read_by(source: Origin) -> Iterator[Resident]:
    """The tensors that a source reads."""
    if isinstance(source, Convolve):
        yield source.input
    elif isinstance(source, Pool):
        yield source.lift.stored
    elif isinstance(source, Copy):
        yield from (lift.stored for lift in source.parts)
    else:
        assert isinstance(source, FromInput)


def placed_in_memory(network: Schedule) -> StaticMemory:
    """A place for every tensor, so that none lies on another that is still read."""
    lives: dict[str, list[int]] = {}
    for number, step in enumerate(network.steps):
        lifts: list[Lift] = [each.lift for each in step.operations if isinstance(each, Add)]
        for stored in (*read_by(step.source), *(lift.stored for lift in lifts)):
            lives[stored.name][1] = number
        lives[step.target.name] = [number, number]
    lives[network.output.name][1] = len(network.steps)
    targets = [step.target for step in network.steps]
    placed = place([Buffer(each.bytes, *lives[each.name]) for each in targets], ALIGNMENT)
    return StaticMemory({each.name: offset for each, offset in zip(targets, placed.offsets, strict=True)}, placed.peak)
