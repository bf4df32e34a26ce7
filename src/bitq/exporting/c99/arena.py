"""Where tensors lie in the memory of exported C."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bitq.exporting.c99.steps import Add, Convolve, Copy, FromInput, Lift, Origin, Pool, Resident, Schedule

ALIGNMENT = 8


class Arena(NamedTuple):
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


def arena_of(network: Schedule) -> Arena:
    """A place for every tensor, so that none lies on another that is still read."""
    lives: dict[str, list[int]] = {}
    for number, step in enumerate(network.steps):
        lifts: list[Lift] = [each.lift for each in step.operations if isinstance(each, Add)]
        for stored in (*read_by(step.source), *(lift.stored for lift in lifts)):
            lives[stored.name][1] = number
        lives[step.target.name] = [number, number]
    lives[network.output.name][1] = len(network.steps)
    stored_by_name = [step.target for step in network.steps]
    sizes = [-(-each.bytes // ALIGNMENT) * ALIGNMENT for each in stored_by_name]
    offsets, size = _placed(sizes, [tuple(lives[each.name]) for each in stored_by_name])
    return Arena({each.name: offset for each, offset in zip(stored_by_name, offsets, strict=True)}, size)


def _placed(sizes: list[int], lives: list[tuple[int, ...]]) -> tuple[list[int], int]:
    """Offsets and the peak: the largest first, each as low as those before let it."""
    offsets: dict[int, int] = {}
    for each in sorted(range(len(sizes)), key=lambda place: (-sizes[place], place)):
        low = 0
        met = [o for o in offsets if lives[o][0] <= lives[each][1] and lives[each][0] <= lives[o][1]]
        for other in sorted(met, key=offsets.__getitem__):
            if offsets[other] - low >= sizes[each]:
                break
            low = max(low, offsets[other] + sizes[other])
        offsets[each] = low
    return [offsets[each] for each in range(len(sizes))], max((offsets[e] + sizes[e] for e in offsets), default=0)
