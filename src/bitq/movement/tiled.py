"""A layer on a device whose memories are all tiled: what crosses every boundary.

The outermost on-chip memory tiles the layer; each of its tiles is a problem of its own for the next inner memory,
and so on to the registers. Edge tiles are counted as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bitq.devices import Device
from bitq.layers import Layer
from bitq.movement.axis import Axis, largest_rows
from bitq.movement.bound import lower_bound
from bitq.movement.expression import Parts, split, traffic, whole
from bitq.movement.model import Footprint, Tiling, Traffic, Widths

Tilings = tuple[Tiling, ...]
"""One of each memory, the outermost first."""


@dataclass(frozen=True)
class LevelTotal:
    """What one memory of a device receives and sends.

    Attributes:
        memory: the memory that holds the tiles.
        source: the next outer memory, where its tiles come from.
        bits: traffic between the two.
        energy_pj: bits times the device's energy of one bit from `source`, in pJ.
        lower_bound_bits: no schedule moves less through a memory of this size, whatever the others do.
    """

    memory: str
    source: str
    bits: float
    energy_pj: float
    lower_bound_bits: float

    @property
    def over_bound(self) -> float:
        """Traffic over its lower bound, at least 1."""
        return self.bits / self.lower_bound_bits


@dataclass(frozen=True)
class LevelMovement(LevelTotal):
    """The same while one layer is computed.

    Attributes:
        tiling: tile sizes and order of the tile loops.
        traffic: the bits as elements.
    """

    tiling: Tiling
    traffic: Traffic


@dataclass(frozen=True)
class CountedTilings:
    """A plan of all memories, counted.

    Attributes:
        tilings: of each memory, the outermost first.
        moved: into each memory, in elements, edge tiles of all memories counted as they are.
        held: what each memory has to hold, in elements.
    """

    tilings: Tilings
    moved: tuple[Traffic, ...]
    held: tuple[Footprint, ...]

    @classmethod
    def of(cls, layer: Layer, tilings: Tilings) -> CountedTilings:
        """Count a layer's."""
        own = list(zip(tilings, _problems(layer, tilings), strict=True))
        return cls(
            tilings,
            tuple(traffic(layer, tiling, parts) for tiling, (_, parts) in own),
            tuple(held_in(problem, tiling.tiles) for tiling, (problem, _) in own),
        )


@dataclass(frozen=True, eq=False)
class PlanTable:
    """Plans of a layer's memories for many widths.

    Attributes:
        bits: array (n, boundaries): traffic in bits for each row of widths, the outermost boundary first.
        chosen: array (n,): each row's place in `plans`.
        plans: the distinct plans.
    """

    bits: NDArray[np.float64]
    chosen: NDArray[np.int32]
    plans: tuple[Tilings, ...]


def levels_of(layer: Layer, widths: Widths, device: Device, tilings: Tilings) -> tuple[LevelMovement, ...]:
    """Movement of a layer at every memory of a device, tiled so, outermost (DRAM's traffic) first.

    Args:
        layer: any layer.
        widths: bits per element, partial sums as the device has them.
        device: its memories.
        tilings: one of each, that fits.
    """
    levels = []
    counted = CountedTilings.of(layer, tilings).moved
    for (memory, source), tiling, moved in zip(device.boundaries, tilings, counted, strict=True):
        bits = moved.bits(widths)
        energy, least = bits * source.energy_pj_per_bit, lower_bound(layer, widths, memory.capacity_bits)
        levels.append(LevelMovement(memory.name, source.name, bits, energy, least, tiling, moved))
    return tuple(levels)


def held_in(problem: Layer, size: Mapping[str, int]) -> Footprint:
    """`bitq.movement.footprint` of a tile of one problem, in elements, with the engine's count of rows."""
    rows, columns = (
        largest_rows(Axis.of(problem, axis), size[out], size[tap])
        for axis, (out, tap) in enumerate((("P", "R"), ("Q", "S")))
    )
    return Footprint(
        input=size["N"] * size["C"] * rows * columns,
        weight=size["K"] * size["C"] * size["R"] * size["S"],
        output=size["N"] * size["K"] * size["P"] * size["Q"],
    )


def _problems(layer: Layer, tilings: Sequence[Tiling]) -> Iterator[tuple[Layer, Parts]]:
    """For each memory the largest of its problems, as a layer of one group, and all of them."""
    problem, parts = layer.group, whole(layer)
    for tiling in tilings:
        yield problem, parts
        problem, parts = interior(problem, tiling), split(parts, tiling)


def interior(problem: Layer, tiling: Tiling) -> Layer:
    """The largest tile as a layer of one group. An axis that is cut is seen from its interior, without padding."""
    size = tiling.tiles
    padding, stored = list(problem.padding), list(problem.size)
    for axis, (out, tap) in enumerate((("P", "R"), ("Q", "S"))):
        if size[out] < problem.extent(out) or size[tap] < problem.extent(tap):
            reach = (size[out] - 1) * problem.stride[axis] + (size[tap] - 1) * problem.dilation[axis]
            padding[axis], stored[axis] = 0, reach // problem.input_dilation[axis] + 1
    return replace(
        problem,
        N=size["N"],
        K=size["K"],
        C=size["C"],
        P=size["P"],
        Q=size["Q"],
        R=size["R"],
        S=size["S"],
        padding=(padding[0], padding[1]),
        input_size=(stored[0], stored[1]),
        depth=1,  # a tile may hold the channels at some of the taps
    )
