"""Memories planned one by one, DRAM's traffic first: what the paper's text suggests, kept to be compared with.

Every memory minimizes the traffic into it, outermost first: DRAM's traffic is the true optimum, that of an inner
memory the optimum for the tiles it is given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bitq.layers import Layer
from bitq.movement.expression import Parts, split, traffic, whole
from bitq.movement.optimum import Table, optimal_tilings, priced
from bitq.movement.tiled import PlanTable, Tilings, interior


def plan_one_by_one(layer: Layer, table: Table, capacities: Sequence[float]) -> PlanTable:
    """A plan of all memories for every row of widths.

    Args:
        layer: any layer.
        table: widths, checked.
        capacities: of the memories in bits, the outermost first.

    Raises:
        BitqError, Infeasible: as for `optimize_many`.
    """
    found = PlanTable(np.empty((len(table), len(capacities))), np.zeros(len(table), dtype=np.int32), ())
    plans: list[Tilings] = []
    if len(table):
        _fill(layer, layer.group, whole(layer), table, np.arange(len(table)), capacities, (), found, plans)
    return PlanTable(found.bits, found.chosen, tuple(plans))


def _fill(
    layer: Layer,
    problem: Layer,
    parts: Parts,
    table: Table,
    rows: NDArray[np.int64],
    capacities: Sequence[float],
    outer: Tilings,
    found: PlanTable,
    plans: list[Tilings],
) -> None:
    level = len(outer)
    _, chosen, optima = optimal_tilings(problem, table[rows], capacities[level])
    for index, optimum in enumerate(optima):
        picked, tilings = rows[chosen == index], (*outer, optimum.tiling)
        found.bits[picked, level] = priced(table[picked], traffic(layer, optimum.tiling, parts))
        if len(tilings) == len(capacities):
            found.chosen[picked] = len(plans)
            plans.append(tilings)
        else:
            problems = interior(problem, optimum.tiling), split(parts, optimum.tiling)
            _fill(layer, *problems, table, picked, capacities, tilings, found, plans)
