"""The best plans for additive accuracy scores, exactly: for one weight of movement, for all, and under budgets.

With additive scores O falls apart into modules: the best plan for one weight of movement takes in every module the
best of its choices, and all weights together are one walk along the lower hulls of the modules' choices. Budgets,
and tensors that share their format, bind the modules together: see `bitq.tradeoff.knapsack`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.knapsack import Knapsack, as_choice, non_dominated
from bitq.tradeoff.space import Choice, Choices, Space

Scores = Sequence[NDArray[np.float64]]
"""For each module an array (3, formats): accuracy lost if its input, weight or output takes that format alone."""

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

    choices: Choices
    lost: float
    movement_bits: float
    least_alpha: float


def allocate(space: Space, scores: Scores, alpha: float, budgets: Budgets | None = None) -> Choices:
    """The plan of least predicted objective O = sum of scores + alpha · DM_sum / DM_max (paper, Eq. 2).

    Args:
        space: movement of every choice.
        scores: accuracy lost, as a share in [0, 1], by module.
        alpha: weight of movement.
        budgets: what the plan may cost at most; its `accuracy_loss` bounds the sum of the scores.

    Returns:
        One choice for each module; without a budget that matters, among equals the first format of the list.

    Raises:
        Infeasible: no plan keeps the budgets (says which, and what the least is).
    """
    (plan,) = allocations(space, scores, [alpha], budgets or Budgets())
    return plan


def allocations(
    space: Space,
    scores: Scores,
    alphas: Sequence[float],
    budgets: Budgets,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Choices, ...]:
    """What `allocate` finds, for several weights of movement; `progress` is called with (solved, all) before each."""
    lost = [_lost(table) for table in scores]
    movement = [space.movement(module) / space.movement_max for module in range(len(scores))]
    knapsack = None
    plans = []
    for done, alpha in enumerate(alphas):
        progress(done, len(alphas))
        tables = (
            np.where(space.offered.possible, one + alpha * moved, np.inf)
            for one, moved in zip(lost, movement, strict=True)
        )
        plan = tuple(as_choice(int(np.argmin(table)), len(space.formats)) for table in tables)
        if space.ties or not _kept(space, lost, budgets, plan):
            knapsack = knapsack or Knapsack(space, lost, budgets)
            plan = knapsack.solved(alpha)
        plans.append(plan)
    return tuple(plans)


def predicted_loss(scores: Scores, choices: Sequence[Choice]) -> float:
    """Sum of the scores of a plan."""
    return float(sum(table[0, i] + table[1, w] + table[2, o] for table, (i, w, o) in zip(scores, choices, strict=True)))


def front(space: Space, scores: Scores) -> tuple[FrontPoint, ...]:
    """Every plan that is best for some weight of movement: the lower hull of all plans, from the most movement on.

    For additive scores and independent tensors it takes one walk: along every module's own hull, always the step next
    that saves the most movement for the accuracy it costs.
    """
    steps = []
    plan: list[Choice] = []
    lost = moved = 0.0
    for module, table in enumerate(scores):
        ones, movement = _lost(table).ravel(), space.movement(module).ravel()
        allowed = np.flatnonzero(space.offered.possible)
        hull = [int(allowed[place]) for place in _hull(movement[allowed], ones[allowed])]
        plan.append(as_choice(hull[0], len(space.formats)))
        lost, moved = lost + ones[hull[0]], moved + movement[hull[0]]
        for before, after in pairwise(hull):
            cost, saved = ones[after] - ones[before], movement[before] - movement[after]
            steps.append((cost / (saved / space.movement_max), module, after, cost, saved))
    found = [FrontPoint(tuple(plan), lost, float(space.fixed_bits.sum()) + moved, 0.0)]
    for alpha, module, index, cost, saved in sorted(steps):
        plan[module] = as_choice(index, len(space.formats))
        last = found[-1]
        point = FrontPoint(tuple(plan), last.lost + cost, last.movement_bits - saved, float(alpha))
        if point.least_alpha == last.least_alpha:
            found[-1] = point
        else:
            found.append(point)
    return tuple(found)


def _kept(space: Space, lost: Sequence[NDArray[np.float64]], budgets: Budgets, plan: Sequence[Choice]) -> bool:
    return budgets.kept(space.cost(plan), sum(float(one[choice]) for one, choice in zip(lost, plan, strict=True)))


def _lost(table: NDArray[np.float64]) -> NDArray[np.float64]:
    inputs, weights, outputs = table
    lost: NDArray[np.float64] = inputs[:, None, None] + weights[None, :, None] + outputs[None, None, :]
    return lost


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
