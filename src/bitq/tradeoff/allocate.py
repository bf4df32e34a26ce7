"""The best plans for additive accuracy scores, exactly: for one weight of movement, for all, and under budgets.

Where tensors are independent the best plan for one weight of movement takes in every module the best of its choices,
and all weights together are one walk along the lower hulls of the modules' choices. Tensors that share their format
bind modules together: `bitq.tradeoff.elimination` solves for one weight, and all weights are found one between two that
are known. Budgets bind all modules: see `bitq.tradeoff.knapsack`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.elimination import solved
from bitq.tradeoff.knapsack import Knapsack
from bitq.tradeoff.problem import Problem
from bitq.tradeoff.problem import Scores as Scores
from bitq.tradeoff.problem import predicted_loss as predicted_loss
from bitq.tradeoff.space import Choice, Choices, Space

MOST_SOLVES = 100
"""Plans that are solved for along a front whose modules are not independent."""

SAME = 1e-12
"""Share of an objective within which two plans are equal: sums are rounded."""

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
    problem, knapsack = Problem.of(space, scores), None
    plans = []
    for done, alpha in enumerate(alphas):
        progress(done, len(alphas))
        plan = solved(problem, alpha)
        if plan is None or not budgets.kept(space.cost(plan, placed=budgets.of_ram), predicted_loss(scores, plan)):
            knapsack = knapsack or Knapsack(space, scores, budgets)
            plan = knapsack.solved(alpha)
        plans.append(plan)
    return tuple(plans)


def front(
    space: Space, scores: Scores, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[FrontPoint, ...]:
    """Every plan that is best for some weight of movement: the lower hull of all plans, from the most movement on.

    Where tied tensors bind modules together, these are up to 100 of them, where movement leaves the widest gaps first;
    `progress` is then called with (solved, at most) before each solve.
    """
    problem = Problem.of(space, scores)
    return _walked(space, problem) if problem.is_independent else _bisected(space, problem, scores, progress)


def _walked(space: Space, problem: Problem) -> tuple[FrontPoint, ...]:
    """The front of independent modules: along every module's own hull, always the step next that saves the most
    movement for the accuracy it costs."""
    found_steps = []
    plan: list[Choice] = []
    lost = moved = 0.0
    for module in range(len(problem.members)):
        ones, movement = problem.lost(module).ravel(), problem.amounts[module][0].ravel()
        hull = _hull(movement, ones)
        choices = [_chosen(problem, module, place) for place in hull]
        plan.append(choices[0])
        lost, moved = lost + ones[hull[0]], moved + movement[hull[0]]
        for (before, _), (after, choice) in pairwise(zip(hull, choices, strict=True)):
            cost, saved = ones[after] - ones[before], movement[before] - movement[after]
            found_steps.append((cost / (saved / space.movement_max), module, choice, cost, saved))
    found = [FrontPoint(tuple(plan), lost, float(space.fixed_bits.sum()) + moved, 0.0)]
    for alpha, module, choice, cost, saved in sorted(found_steps, key=lambda each: each[:2]):
        plan[module] = choice
        last = found[-1]
        point = FrontPoint(tuple(plan), last.lost + cost, last.movement_bits - saved, float(alpha))
        if point.least_alpha == last.least_alpha:
            found[-1] = point
        else:
            found.append(point)
    return tuple(found)


def _chosen(problem: Problem, module: int, place: int) -> Choice:
    """The choice of a module behind a flat index into the formats left to it."""
    return problem.choice(module, [int(each) for each in np.unravel_index(place, problem.amounts[module].shape[1:])])


def _bisected(
    space: Space, problem: Problem, scores: Scores, progress: Callable[[int, int], None]
) -> tuple[FrontPoint, ...]:
    """The front by solves: at the weight for which two neighbouring plans are equal, until there is none between."""
    knapsack: Knapsack | None = None
    plans: list[Choices] = []
    points: list[tuple[float, float]] = []  # movement, lost

    def plan_for(alpha: float, loss: float = 1.0) -> int:
        nonlocal knapsack
        progress(len(plans), MOST_SOLVES)
        plan = solved(problem, alpha, loss)
        if plan is None:
            knapsack = knapsack or Knapsack(space, scores, Budgets())
            plan = knapsack.solved(alpha, loss)
        plans.append(plan)
        points.append((float(space.level_bits(plan).sum()), predicted_loss(scores, plan)))
        return len(plans) - 1

    gaps: list[tuple[float, int, int]] = []

    def between(more: int, less: int) -> None:
        gap = points[more][0] - points[less][0]
        if gap > 0 and points[less][1] > points[more][1]:
            heappush(gaps, (-gap, more, less))

    between(plan_for(0.0), plan_for(1.0, 0.0))
    while gaps and len(plans) < MOST_SOLVES:
        _, more, less = heappop(gaps)
        (most, low), (few, high) = points[more], points[less]
        alpha = (high - low) * space.movement_max / (most - few)
        new = plan_for(alpha)
        gain = low + alpha * most / space.movement_max - points[new][1] - alpha * points[new][0] / space.movement_max
        if gain > SAME * (abs(low) + alpha):
            between(more, new)
            between(new, less)
    movement, lost = np.array(points).T
    hull = _hull(movement, lost)
    weights = [0.0] + [
        float((lost[b] - lost[a]) * space.movement_max / (movement[a] - movement[b])) for a, b in pairwise(hull)
    ]
    return tuple(
        FrontPoint(plans[place], float(lost[place]), float(movement[place]), weight)
        for place, weight in zip(hull, weights, strict=True)
    )


def _hull(movement: NDArray[np.float64], lost: NDArray[np.float64]) -> list[int]:
    """Lower left hull of points, from the least loss to the least movement; of equal points the first."""
    order = np.lexsort((lost, movement))
    best = np.minimum.accumulate(lost[order])
    falling = order[np.concatenate([[True], best[1:] < best[:-1]])]
    hull: list[int] = []
    for point in falling[::-1].tolist():
        while len(hull) > 1 and _above(movement, lost, hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _above(x: NDArray[np.float64], y: NDArray[np.float64], a: int, b: int, c: int) -> bool:
    """Whether b does not lie below the line from a to c; x falls from a to c, y rises."""
    return bool((y[b] - y[a]) * (x[a] - x[c]) >= (y[c] - y[a]) * (x[a] - x[b]))
