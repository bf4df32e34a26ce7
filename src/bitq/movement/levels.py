"""Traffic through all memories of a device, from DRAM inward (paper, Sec. "Data movement modeling").

The outermost on-chip memory tiles the layer; each of its tiles is a problem of its own for the next inner memory, and
so on to the registers. Edge tiles are counted as they are. Every memory minimizes the traffic into it, outermost
first: the DRAM traffic is the true optimum, an inner one is the optimum for the tile it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitq.devices import Device
from bitq.layers import LOOPS, Layer
from bitq.movement.bound import lower_bound
from bitq.movement.cache import cached
from bitq.movement.expression import Parts, split, traffic, whole
from bitq.movement.model import Tiling, Traffic, Widths
from bitq.movement.optimum import Table, optimal_tilings, optimize, priced, width_table


@dataclass(frozen=True)
class LevelMovement:
    """What one memory of a device receives and sends while a layer is computed.

    Attributes:
        memory: the memory that holds the tiles.
        source: the next outer memory, where its tiles come from.
        tiling: tile sizes and order of the tile loops.
        traffic: between the two, in elements.
        bits: the same in bits.
        energy_pj: bits times the device's energy of one bit from `source`, in pJ.
        lower_bound_bits: no schedule of the layer moves less through a memory of this size, whatever the others do.
    """

    memory: str
    source: str
    tiling: Tiling
    traffic: Traffic
    bits: float
    energy_pj: float
    lower_bound_bits: float

    @property
    def over_bound(self) -> float:
        """Traffic over its lower bound, at least 1."""
        return self.bits / self.lower_bound_bits


def movement(layer: Layer, widths: Widths, device: Device) -> tuple[LevelMovement, ...]:
    """Movement of a layer at every memory of a device, outermost (DRAM's traffic) first.

    Args:
        layer: any layer.
        widths: bits per element; partial sums take at least those of the device.
        device: its memories.

    Raises:
        Infeasible: a memory too small for one element of each tensor.
    """
    widths = widths.with_partial_sums(device.partial_sum_bits)
    levels, problem, parts = [], layer.group, whole(layer)
    for memory, source in device.boundaries:
        tiling = optimize(problem, widths, memory.capacity_bits).tiling
        moved = traffic(layer, tiling, parts)
        bits = moved.bits(widths)
        energy, least = bits * source.energy_pj_per_bit, lower_bound(layer, widths, memory.capacity_bits)
        levels.append(LevelMovement(memory.name, source.name, tiling, moved, bits, energy, least))
        problem, parts = interior(problem, tiling), split(parts, tiling)
    return tuple(levels)


def movement_many(layer: Layer, widths: ArrayLike, device: Device) -> NDArray[np.float64]:
    """`movement` for many widths at once; tables that were computed before are read from the disk's cache.

    Args:
        layer: any layer.
        widths: array (n, 3) of bits per element of input, weight, output; or (n, 4) with those of partial sums.
        device: its memories.

    Returns:
        Array (n, number of boundaries) of traffic in bits, outermost first, equal to the `bits` of `movement`.

    Raises:
        BitqError, Infeasible: as for `movement` and `optimize_many`.
    """
    table = width_table(widths)
    if device.partial_sum_bits:
        table = np.column_stack([table[:, :3], np.maximum(table[:, -1], device.partial_sum_bits)])
    capacities = [memory.capacity_bits for memory, _ in device.boundaries]

    def compute() -> NDArray[np.float64]:
        bits = np.empty((len(table), len(capacities)))
        _fill(layer, layer.group, whole(layer), table, np.arange(len(table)), capacities, bits)
        return bits

    return cached(layer, table, capacities, compute)


def _fill(
    layer: Layer,
    problem: Layer,
    parts: Parts,
    table: Table,
    rows: NDArray[np.int64],
    capacities: Sequence[float],
    bits: NDArray[np.float64],
) -> None:
    level = bits.shape[1] - len(capacities)
    _, chosen, optima = optimal_tilings(problem, table[rows], capacities[0])
    inner: dict[tuple[int, ...], list[int]] = {}
    for index, optimum in enumerate(optima):
        moved = traffic(layer, optimum.tiling, parts)
        picked = rows[chosen == index]
        bits[picked, level] = priced(table[picked], moved)
        inner.setdefault(tuple(optimum.tiling.tiles[loop] for loop in LOOPS), []).append(index)
    if len(capacities) == 1:
        return
    for indices in inner.values():  # orders differ, but the next memory sees the same tiles
        tiling = optima[indices[0]].tiling
        picked = rows[np.isin(chosen, indices)]
        _fill(layer, interior(problem, tiling), split(parts, tiling), table, picked, capacities[1:], bits)


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
    )
