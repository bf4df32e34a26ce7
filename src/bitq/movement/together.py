"""All memories of a device planned together: the least movement, or the least energy, over all boundaries.

A plan is a tiling of every memory. What it moves is linear in the widths, and so is what it has to hold. So a plan
found for some widths is soon priced for any others, and every plan is tried for every row of a table: narrower
widths never move more than wider ones of the same table. Plans come from `bitq.movement.chain`, from planning the
memories one by one and, for layers so small that all plans can be looked at, from `bitq.movement.exact`, which
proves that there is no better one.

Of a table of few rows each is solved. Of a larger one a sample is solved row by row: always the row whose best plan
is farthest above its lower bound (`bitq.movement.least`), the more so the farther its widths are from those of all
rows that were solved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

from bitq.devices import Device
from bitq.layers import LOOPS, Layer
from bitq.movement._engine import ffi, lib
from bitq.movement.chain import chained
from bitq.movement.exact import ROUNDING, BestKnown, improved
from bitq.movement.least import least_bits, least_chained
from bitq.movement.model import Widths
from bitq.movement.nearby import best_nearby
from bitq.movement.onebyone import plan_one_by_one
from bitq.movement.optimum import Table, finishing, held_widths, outputs_of, priced
from bitq.movement.tiled import CountedTilings, PlanTable, Tilings

EACH_ROW = 32
"""Rows of a table up to which each is solved. One alone is solved from more plans yet."""

SAMPLE, MOST_SOLVED = 2048, 256
"""Rows of a larger table to choose from, and how many of them are solved at most."""

NEAR = 0.001
"""A row is solved if the share by which its best plan lies above its lower bound, times how far its widths are from
those of all rows that were solved (as logarithms), is more than this."""

SHARES = (1.0, 0.97, 0.92)
"""Of all memories, to plan with: where edge tiles spoil a plan, another one is near."""

FAR, SHARES_IF_FAR = 0.05, (0.8, 0.7, 0.6)
"""Where a plan lies above its lower bound by more than this share, plans are made for less of all memories as well, and
better ones are looked for near all of them, not only near the best one."""

ROUNDING_OF_SUMS = 1e-9
"""Relative error that sums of the engine may have, at most."""

SMALL, BUDGET = 2048, 200_000
"""Tile vectors that a layer has at most if all its plans are looked at, and how many of all memories' are."""


def plan_together(layer: Layer, table: Table, device: Device) -> PlanTable:
    """A plan of all memories for every row of widths.

    Args:
        layer: any layer.
        table: widths, checked, partial sums at least as wide as the device's.
        device: its memories, and what is minimized.

    Raises:
        BitqError, Infeasible: as for `optimize_many`.
    """
    pool = _Pool(layer, table, device)
    distinct = np.sort(np.unique(table, axis=0, return_index=True)[1])
    if len(distinct) <= EACH_ROW:
        for row in distinct:
            pool.solve(row)
    else:
        step = -(-len(distinct) // SAMPLE)
        for plan in _of_sample(layer, table[distinct[::step]], device):
            pool.add(plan)
        before = plan_one_by_one(layer, table, pool.capacities)
        for index in np.unique(before.chosen[before.bits @ device.prices < pool.price()]):
            pool.offer(before.plans[index])
    while len(left := np.flatnonzero(pool.chosen < 0)):  # wider than all that were solved
        pool.solve(left[np.argmax(pool.held[left].sum(axis=1))])
    return pool.found()


def plan_row(layer: Layer, table: Table, device: Device) -> BestKnown:
    """The plan of a table of one row, and what no plan comes below.

    Raises:
        BitqError, Infeasible: as for `plan_together`.
    """
    pool = _Pool(layer, table, device)
    pool.make(0)
    return pool.search(0)


def least_into_each(layer: Layer, table: Table, device: Device) -> NDArray[np.float64]:
    """Bits that any plan moves into each memory at least, for every row: an array (n, boundaries)."""
    return least_bits(layer, table, [memory.capacity_bits for memory, _ in device.boundaries])


def least_price(layer: Layer, table: Table, device: Device) -> float:
    """What is minimized, at least, whatever the plan; of a table of one row."""
    each = float((least_into_each(layer, table, device)[0] * device.prices).sum())
    capacities = [memory.capacity_bits for memory, _ in device.boundaries]
    return max(each, (1 - ROUNDING_OF_SUMS) * least_chained(layer, row_widths(table[0]), capacities, device.prices))


def row_widths(row: NDArray[np.float64]) -> Widths:
    """Widths of a row of a table."""
    values = row.tolist()
    return Widths(input=values[0], weight=values[1], output=values[2], partial_sum=values[-1])


def _of_sample(layer: Layer, table: Table, device: Device) -> Sequence[CountedTilings]:
    """Plans that are enough for all rows of a table."""
    pool = _Pool(layer, table, device)
    least = (least_into_each(layer, table, device) * device.prices).sum(axis=1)
    place = np.log(pool.held)
    away = np.full(len(table), np.inf)  # from the nearest row that was solved
    row = int(np.argmax(pool.held.sum(axis=1)))
    for _ in range(MOST_SOLVED):
        pool.solve(row, thorough=False)
        away = np.minimum(away, np.abs(place - place[row]).max(axis=1))
        above = pool.price() / least - 1
        row = int(np.argmax(above * away))
        if not above[row] * away[row] > NEAR:
            break
    return pool.plans


def _is_small(layer: Layer) -> bool:
    return prod(layer.extent(loop) for loop in LOOPS) <= SMALL


class _Pool:
    """Plans of a layer, and the best of them for every row of a table."""

    def __init__(self, layer: Layer, table: Table, device: Device) -> None:
        self.layer, self.table, self.device, self.held = layer, table, device, held_widths(table)
        self.capacities = [memory.capacity_bits for memory, _ in device.boundaries]
        self.plans: list[CountedTilings] = []
        self.chosen = np.full(len(table), -1, dtype=np.int32)
        self._best = np.full(len(table), np.inf)
        self._least: dict[int, float] = {}
        self._known: set[tuple[object, ...]] = set()

    def solve(self, row: int, thorough: bool = True) -> None:
        """Offer plans made for one row; of a small layer the best there is."""
        self.make(row, thorough)
        if thorough and _is_small(self.layer):
            self.offer(self.search(row).tilings)

    def make(self, row: int, thorough: bool = True) -> None:
        """Offer plans made for one row; those one by one come first, which tell of a layer too large to look at."""
        if thorough or self.chosen[row] < 0:
            self.offer(*plan_one_by_one(self.layer, self.table[[row]], self.capacities).plans)
        self._chain(row, SHARES if thorough else SHARES[:1])
        if thorough and self.price()[row] > self._limit(row):
            self.offer(self._near(row, self.plans[self.chosen[row]].tilings))

    def _chain(self, row: int, shares: Sequence[float]) -> None:
        """Offer the plans of `bitq.movement.chain` for these shares of all memories."""
        q = row_widths(self.table[row])
        for halves, share in product((False, True), shares):
            smaller = [share * capacity for capacity in self.capacities]
            found = chained(self.layer, q, smaller, self.device.prices, halves)
            if found is not None:
                self.offer(found)

    def search(self, row: int) -> BestKnown:
        """The best plan of all for a row of a small layer, else the best one known; and what no plan comes below."""
        table, least = self.table[[row]], self.least(row)
        if self.price()[row] > least * (1 + FAR):
            self._chain(row, SHARES_IF_FAR)
            for plan in tuple(self.plans):
                self.offer(self._near(row, plan.tilings))
        known, price = self.plans[self.chosen[row]].tilings, float(self.price()[row])
        if not price > self._limit(row):
            return BestKnown(known, price, price)
        if not _is_small(self.layer):
            return BestKnown(known, price, least)
        least_bits = least_into_each(self.layer, table, self.device)[0].tolist()
        found = improved(self.layer, row_widths(table[0]), self.device, known, price, least_bits, BUDGET)
        return replace(found, least=max(found.least, min(least, found.price)))

    def least(self, row: int) -> float:
        """What is minimized, at least, whatever the plan of a row."""
        if row not in self._least:
            self._least[row] = least_price(self.layer, self.table[[row]], self.device)
        return self._least[row]

    def _limit(self, row: int) -> float:
        """A plan of a row that takes no more is the best there is."""
        return self.least(row) * (1 + ROUNDING)

    def _near(self, row: int, tilings: Tilings) -> Tilings:
        """The best plan for one row that steps from a known one lead to."""
        return best_nearby(self.layer, row_widths(self.table[row]), self.capacities, self.device.prices, tilings)

    def price(self) -> NDArray[np.float64]:
        """Of each row's best plan: what is minimized."""
        return self._best + sum(self.device.prices) * finishing(self.table, outputs_of(self.layer))

    def found(self) -> PlanTable:
        """The best plan of every row, without those that no row chose."""
        bits = np.empty((len(self.table), len(self.capacities)))
        used, chosen = np.unique(self.chosen, return_inverse=True)
        for place, index in enumerate(used):
            rows = np.flatnonzero(chosen == place)
            for level, moved in enumerate(self.plans[index].moved):
                bits[rows, level] = priced(self.table[rows], moved)
        return PlanTable(bits, chosen.astype(np.int32), tuple(self.plans[index].tilings for index in used))

    def offer(self, tilings: Tilings) -> None:
        """Try a plan for every row, if it is a new one."""
        if _key(tilings) not in self._known:
            self.add(CountedTilings.of(self.layer, tilings))

    def add(self, plan: CountedTilings) -> None:
        """Try a new plan for every row."""
        self._known.add(_key(plan.tilings))
        moved = [
            np.array([each.input_reads, each.weight_reads, each.output_writes + each.output_reads], dtype=np.float64)
            for each in plan.moved
        ]
        elements = sum(price * each for price, each in zip(self.device.prices, moved, strict=True))
        held = [[each.input, each.weight, each.output] for each in plan.held]
        lib.bitq_choose_plans(
            ffi.from_buffer("double[]", self.held),
            len(self.held),
            ffi.from_buffer("double[]", elements),
            ffi.from_buffer("double[]", np.array(held, dtype=np.float64)),
            1,
            len(held),
            ffi.new("double[]", self.capacities),
            len(self.plans),
            ffi.from_buffer("double[]", self._best),
            ffi.from_buffer("int32_t[]", self.chosen),
        )
        self.plans.append(plan)


def _key(tilings: Tilings) -> tuple[object, ...]:
    return tuple((tiling.permutation, *tiling.tiles.values()) for tiling in tilings)
