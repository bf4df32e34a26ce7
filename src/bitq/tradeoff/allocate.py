"""The best plans for additive accuracy scores, exactly: for one weight of movement, for all, and under budgets.

With additive scores O falls apart into modules: the best plan for one weight of movement takes in every module the
best of its choices, and all weights together are one walk along the lower hulls of the modules' choices. A budget ties
the modules together: a multiple-choice knapsack, which HiGHS solves (through SciPy, which leaves stdout alone).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from bitq.errors import BitqError
from bitq.tradeoff.budgets import QUANTITIES, Budgets, check_possible
from bitq.tradeoff.space import Choice, Space

Scores = Sequence[NDArray[np.float64]]
"""For each module an array (3, formats): accuracy lost if its input, weight or output takes that format alone."""

GAP = 1e-9
"""By how much, as a share of itself, the objective found under budgets may miss the least."""


@dataclass(frozen=True)
class FrontPoint:
    """A plan that is best for some weights of movement.

    Attributes:
        choices: the plan.
        lost: sum of its scores, accuracy in [0, 1].
        movement_bits: what it moves.
        least_alpha: it is best for weights of movement from this one up to the `least_alpha` of the next point with
            less movement.
    """

    choices: tuple[Choice, ...]
    lost: float
    movement_bits: float
    least_alpha: float


def allocate(space: Space, scores: Scores, alpha: float, budgets: Budgets | None = None) -> tuple[Choice, ...]:
    """The plan of least predicted objective O = sum of scores + alpha · DM_sum / DM_max (paper, Eq. 2).

    Args:
        space: movement of every choice.
        scores: accuracy lost, as a share in [0, 1], by module.
        alpha: weight of movement.
        budgets: what the plan may cost at most; its `accuracy_loss` bounds the sum of the scores.

    Returns:
        One choice for each module; without a budget that matters, among equals the first format of the list.

    Raises:
        BitqError: no plan keeps the budgets (says which, and what the least is).
    """
    (plan,) = allocations(space, scores, [alpha], budgets or Budgets())
    return plan


def allocations(
    space: Space, scores: Scores, alphas: Sequence[float], budgets: Budgets
) -> tuple[tuple[Choice, ...], ...]:
    """What `allocate` finds, for several weights of movement."""
    lost = [_lost(table) for table in scores]
    movement = [space.movement(module) / space.movement_max for module in range(len(scores))]
    knapsack = None
    plans = []
    for alpha in alphas:
        tables = (one + alpha * moved for one, moved in zip(lost, movement, strict=True))
        plan = tuple(_choice(int(np.argmin(table)), len(space.formats)) for table in tables)
        if not _kept(space, lost, budgets, plan):
            knapsack = knapsack or _Knapsack(space, lost, budgets)
            plan = knapsack.solved(alpha)
        plans.append(plan)
    return tuple(plans)


def predicted_loss(scores: Scores, choices: Sequence[Choice]) -> float:
    """Sum of the scores of a plan."""
    return float(sum(table[0, i] + table[1, w] + table[2, o] for table, (i, w, o) in zip(scores, choices, strict=True)))


def front(space: Space, scores: Scores) -> tuple[FrontPoint, ...]:
    """Every plan that is best for some weight of movement: the lower hull of all plans, from the most movement on.

    For additive scores it takes one walk: along every module's own hull, always the step next that saves the most
    movement for the accuracy it costs.
    """
    steps = []
    plan: list[Choice] = []
    lost = moved = 0.0
    for module, table in enumerate(scores):
        ones, movement = _lost(table).ravel(), space.movement(module).ravel()
        hull = _hull(movement, ones)
        plan.append(_choice(hull[0], len(space.formats)))
        lost, moved = lost + ones[hull[0]], moved + movement[hull[0]]
        for before, after in pairwise(hull):
            cost, saved = ones[after] - ones[before], movement[before] - movement[after]
            steps.append((cost / (saved / space.movement_max), module, after, cost, saved))
    found = [FrontPoint(tuple(plan), lost, float(space.fixed_bits.sum()) + moved, 0.0)]
    for alpha, module, index, cost, saved in sorted(steps):
        plan[module] = _choice(index, len(space.formats))
        last = found[-1]
        point = FrontPoint(tuple(plan), last.lost + cost, last.movement_bits - saved, float(alpha))
        if point.least_alpha == last.least_alpha:
            found[-1] = point
        else:
            found.append(point)
    return tuple(found)


def non_dominated(costs: NDArray[np.float64]) -> NDArray[np.intp]:
    """Rows of `costs` (n, criteria) that no other equals or beats in every column; of equal ones the first."""
    rest = np.lexsort(costs.T[::-1])  # a row that is beaten comes after one that beats it
    kept = []
    while rest.size:
        kept.append(rest[0])
        rest = rest[1:]
        rest = rest[(costs[rest] < costs[kept[-1]]).any(axis=1)]
    return np.array(kept, dtype=np.intp)


class _Knapsack:
    """Multiple choice: one choice for each module, each quantity that has a budget within it.

    Only choices that no other choice of their module beats in every quantity are considered.
    """

    def __init__(self, space: Space, lost: Sequence[NDArray[np.float64]], budgets: Budgets) -> None:
        check(space, budgets)
        self._space, self._lost, self._budgets = space, lost, budgets
        names = ["accuracy_loss", "movement_bits"]
        names += [name for name in ("energy_pj", "model_bytes") if budgets.limit(name) is not None]
        rows, costs = [], []
        for module in zip(*(_quantity(space, lost, name) for name in names), strict=True):
            criteria = np.stack([table.ravel() for table in module], axis=1)
            rows.append(non_dominated(criteria))
            costs.append(criteria[rows[-1]])
        self._rows, self._costs = np.concatenate(rows), np.concatenate(costs)
        self._owner = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
        limits = [budgets.limit(name) for name in names]
        fixed = [_fixed(space, name) for name in names]
        self._room = np.array([np.inf if limit is None else limit - f for limit, f in zip(limits, fixed, strict=True)])

    def solved(self, alpha: float) -> tuple[Choice, ...]:
        objective = self._costs[:, 0] + alpha * self._costs[:, 1] / self._space.movement_max
        room = self._room.copy()
        while (taken := self._taken(objective, room)) is not None:
            plan = tuple(_choice(int(row), len(self._space.formats)) for row in self._rows[taken])
            over = np.maximum(self._costs[taken].sum(axis=0) - room, 0.0)
            if _kept(self._space, self._lost, self._budgets, plan) or not over.any():
                return plan
            room -= 2 * over  # which HiGHS takes for rounding
        raise BitqError(f"no plan keeps {self._budgets} all at once; loosen one of them")

    def _taken(self, objective: NDArray[np.float64], room: NDArray[np.float64]) -> NDArray[np.intp] | None:
        scale = np.abs(self._costs).max(axis=0) / 1e3  # bits beside shares: all alike, and far above what counts as 0
        scale[scale == 0] = 1.0
        count = len(self._owner)
        solved = milp(
            objective,
            integrality=np.ones(count),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(csr_array((np.ones(count), (self._owner, np.arange(count)))), 1, 1),
                LinearConstraint((self._costs / scale).T, -np.inf, room / scale),
            ],
            options={"mip_rel_gap": GAP},
        )
        return None if solved.x is None else np.flatnonzero(solved.x > 0.5)


def check(space: Space, budgets: Budgets) -> None:
    """Refuse budgets that no plan of the space keeps, whatever it loses.

    Raises:
        BitqError: names the first, and the least that any plan comes to.
    """
    lost = [np.zeros((1, 1, 1))] * len(space.modules)
    for name in QUANTITIES:
        if name != "accuracy_loss" and budgets.limit(name) is not None:
            least = _fixed(space, name) + sum(float(table.min()) for table in _quantity(space, lost, name))
            check_possible(budgets, {name: least})


def _kept(space: Space, lost: Sequence[NDArray[np.float64]], budgets: Budgets, plan: Sequence[Choice]) -> bool:
    return budgets.kept(space.cost(plan), sum(float(one[choice]) for one, choice in zip(lost, plan, strict=True)))


def _quantity(space: Space, lost: Sequence[NDArray[np.float64]], name: str) -> list[NDArray[np.float64]]:
    """What every choice of every module adds to a quantity that may have a budget."""
    if name == "accuracy_loss":
        return list(lost)
    modules = range(len(space.modules))
    if name == "movement_bits":
        return [space.movement(module) for module in modules]
    if name == "energy_pj":
        return [space.energy(module) for module in modules]
    shape = (len(space.formats),) * 3
    return [np.broadcast_to(space.weight_bytes(module)[None, :, None], shape) for module in modules]


def _fixed(space: Space, name: str) -> float:
    """What no choice changes."""
    return {
        "accuracy_loss": 0.0,
        "movement_bits": float(space.fixed_bits.sum()),
        "energy_pj": space.fixed_energy_pj,
        "model_bytes": float(space.other_bytes),
    }[name]


def _lost(table: NDArray[np.float64]) -> NDArray[np.float64]:
    inputs, weights, outputs = table
    lost: NDArray[np.float64] = inputs[:, None, None] + weights[None, :, None] + outputs[None, None, :]
    return lost


def _choice(index: int, formats: int) -> Choice:
    i, w, o = np.unravel_index(index, (formats,) * 3)
    return int(i), int(w), int(o)


def _hull(movement: NDArray[np.float64], lost: NDArray[np.float64]) -> list[int]:
    """Lower left hull of points, from the least loss to the least movement; of equal points the first."""
    hull: list[int] = []
    for index in non_dominated(np.stack([movement, lost], axis=1))[::-1]:
        point = int(index)
        while len(hull) > 1 and _above(movement, lost, hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _above(x: NDArray[np.float64], y: NDArray[np.float64], a: int, b: int, c: int) -> bool:
    """Whether b does not lie below the line from a to c; x falls from a to c, y rises."""
    return bool((y[b] - y[a]) * (x[a] - x[c]) >= (y[c] - y[a]) * (x[a] - x[b]))
