"""Traffic through all memories of a device, from DRAM inward (paper, Sec. "Data movement modeling").

A device says what is minimized and how (`Device.minimize`, `Device.planned`): its memories are planned together
(`bitq.movement.together`), or one by one (`bitq.movement.onebyone`). A single memory has the true optimum either way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitq.devices import Device
from bitq.layers import Layer
from bitq.movement.cache import cached
from bitq.movement.model import Widths
from bitq.movement.onebyone import plan_one_by_one
from bitq.movement.optimum import Table, width_table
from bitq.movement.tiled import LevelMovement, PlanTable, levels_of
from bitq.movement.together import least_price, plan_row, plan_together
from bitq.planning import Planning


@dataclass(frozen=True)
class LayerPlan:
    """A plan of all memories of a device for one layer.

    Attributes:
        levels: movement at every memory, outermost (DRAM's traffic) first.
        price: what the device minimizes: bits over all boundaries, or their energy in pJ.
        lower_bound: below which no plan of these memories comes, in the same unit; equal to `price` if the plan is
            proven to be the best there is.
    """

    levels: tuple[LevelMovement, ...]
    price: float
    lower_bound: float

    @property
    def gap(self) -> float:
        """Share of the price, in [0, 1], that a better plan could save at most."""
        return 1 - self.lower_bound / self.price


def plan(layer: Layer, widths: Widths, device: Device) -> LayerPlan:
    """The plan of all memories for one layer, and how far from the best there is it may be.

    Args:
        layer: any layer.
        widths: bits per element; partial sums take at least those of the device.
        device: its memories, and what is minimized.

    Raises:
        Infeasible: a memory too small for one element of each tensor.
    """
    widths = widths.with_partial_sums(device.partial_sum_bits)
    table = width_table([[widths.input, widths.weight, widths.output, widths.accumulated]])
    if _one_by_one(device):
        tilings = _plan_table(layer, table, device).plans[0]
        least = least_price(layer, table, device)
    else:
        found = plan_row(layer, table, device)
        tilings, least = found.tilings, found.least
    levels = levels_of(layer, widths, device, tilings)
    price = sum(level.bits * price for level, price in zip(levels, device.prices, strict=True))
    return LayerPlan(levels, price, min(least, price))


def movement(layer: Layer, widths: Widths, device: Device) -> tuple[LevelMovement, ...]:
    """The levels of `plan`."""
    return plan(layer, widths, device).levels


def movement_many(layer: Layer, widths: ArrayLike, device: Device) -> NDArray[np.float64]:
    """The traffic of `plan_many`: an array (n, number of boundaries) of bits, outermost first."""
    return plan_many(layer, widths, device).bits


def plan_many(layer: Layer, widths: ArrayLike, device: Device) -> PlanTable:
    """Plans for many widths at once; tables that were computed before are read from the disk's cache.

    Every plan is tried for every row, so that narrower widths never take more than wider ones.

    Args:
        layer: any layer.
        widths: array (n, 3) of bits per element of input, weight, output; or (n, 4) with those of partial sums.
        device: its memories, and what is minimized.

    Raises:
        BitqError, Infeasible: as for `plan` and `optimize_many`.
    """
    table = width_table(widths)
    if device.partial_sum_bits:
        table = np.column_stack([table[:, :3], np.maximum(table[:, -1], device.partial_sum_bits)])
    return cached(layer, table, device, lambda: _plan_table(layer, table, device))


def _one_by_one(device: Device) -> bool:
    return device.planned is Planning.one_by_one or len(device.boundaries) == 1


def _plan_table(layer: Layer, table: Table, device: Device) -> PlanTable:
    if _one_by_one(device):
        return plan_one_by_one(layer, table, [memory.capacity_bits for memory, _ in device.boundaries])
    return plan_together(layer, table, device)
