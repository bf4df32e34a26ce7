"""What budgets leave to decide: prices for what they limit bound every plan, and few formats stay in question.

With a price on each limited quantity the budgets fall away (Lagrangian relaxation), and elimination finds the best
plan: its value bounds that of all plans within the budgets from below. The prices of the greatest bound are found by
cutting planes (Kelley, 1960). A format whose best plan at these prices is worse than a plan that keeps the budgets is
in none that is better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from bitq.tradeoff.elimination import least, marginals, steps
from bitq.tradeoff.problem import Problem

MOST_PRICES = 60
"""That are tried."""

HIGHEST = 1e6
"""Of the whole of a budget, which is far above what any score is worth."""

CLOSE = 1e-9
"""Share of the objective within which bounds are equal."""


def relaxed(
    problem: Problem,
    objective: NDArray[np.float64],
    room: NDArray[np.float64],
    fits: Callable[[Sequence[int]], bool] = lambda taken: True,
) -> Problem:
    """The problem without formats that no best plan within its budgets has; the same if none is told apart.

    Args:
        problem: what is to decide.
        objective: array (1 + quantities + steps,): what a unit of the sum of scores, of each quantity and of what is
            held at each step weighs.
        room: the same: what a plan may have of each; infinite without a budget.
        fits: whether a plan that keeps the room, as `Problem.spent` takes it, keeps all else.
    """
    order = steps(problem)
    bound = np.flatnonzero(np.isfinite(room))
    if order is None or not bound.size:
        return problem

    def priced(weights: NDArray[np.float64]) -> Problem:
        """Weighed quantities as if they were movement."""
        weighed = problem.amounts[0].shape[0]
        amounts = tuple(np.tensordot(weights[1 : 1 + weighed], own, 1)[None] for own in problem.amounts)
        scores = tuple(
            weights[0] * own + weights[1 + weighed :] @ held
            for own, held in zip(problem.scores, problem.held, strict=True)
        )
        return replace(problem, amounts=amounts, scores=scores, movement_max=1.0)

    unit = np.where(room[bound] == 0, 1.0, np.abs(room[bound]))
    cuts: list[tuple[float, NDArray[np.float64]]] = []  # value, and what the plan is over its budgets
    kept = np.inf

    def cut(prices: NDArray[np.float64]) -> float:
        nonlocal kept
        weights = objective.copy()
        weights[bound] += prices / unit
        taken = least(priced(weights), order, 1.0)
        found = problem.spent(taken)
        over = (found[bound] - room[bound]) / unit
        cuts.append((float(objective @ found), over))
        if (over <= 0).all() and fits(taken):
            kept = min(kept, cuts[-1][0])
        return cuts[-1][0] + float(prices @ over)

    best, at = -np.inf, np.zeros(len(bound))
    for prices in (np.zeros(len(bound)), *(HIGHEST * np.eye(len(bound))), np.full(len(bound), HIGHEST)):
        value = cut(prices)
        if value > best:
            best, at = value, prices
    for _ in range(MOST_PRICES):
        upper = np.array([[1.0, *(-over)] for _, over in cuts])
        limits = np.array([value for value, _ in cuts])
        ends = [(None, None), *[(0.0, HIGHEST)] * len(bound)]
        master = linprog([-1.0, *np.zeros(len(bound))], upper, limits, bounds=ends)
        if master.x is None:
            break
        value = cut(master.x[1:])
        if value > best:
            best, at = value, master.x[1:]
        if -master.fun - best <= CLOSE * (1 + abs(best)):
            break
    if kept == np.inf:
        return problem
    weights = objective.copy()
    weights[bound] += at / unit
    offset = float(at @ (room[bound] / unit))
    slack = CLOSE * (1 + abs(kept) + abs(offset))
    places = [np.flatnonzero(own - offset <= kept + slack) for own in marginals(priced(weights), order, 1.0)]
    return problem.reduced(places)
