"""The best plan for one weight of movement, exactly, where tensors that share their format bind modules together.

The objective is a sum of tables: one for each module over the formats of its groups of tensors, one for each group. A
group is eliminated by adding up the tables that it stands in and keeping the least over its formats, a table over the
others of these groups: min-sum elimination, also called bucket elimination (Dechter, 1999). Networks are near trees, so
tables stay small.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from bitq.tradeoff.problem import Problem
from bitq.tradeoff.space import Choices

MOST_CELLS = 1 << 24
"""Of a table: 128 MiB."""


@dataclass(frozen=True, eq=False)
class Message:
    """Values by the formats of some groups.

    Attributes:
        scope: the groups, an axis each.
        values: for all combinations of their formats.
    """

    scope: tuple[int, ...]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """The elimination of a group.

    Attributes:
        group: that is eliminated.
        scope: it and all groups that it stands in a table with.
    """

    group: int
    scope: tuple[int, ...]


def solved(problem: Problem, alpha: float, loss: float = 1.0) -> Choices | None:
    """The plan of least loss · sum of scores + alpha · DM_sum / DM_max; None if that takes too large a table."""
    own = problem.narrowed(alpha, loss)
    order = steps(own)
    return None if order is None else own.choices(least(own, order, alpha, loss))


def steps(problem: Problem) -> tuple[Step, ...] | None:
    """In which order groups are eliminated: next the one whose table is the smallest; None if a table is too large."""
    sizes = [len(each) for each in problem.formats]
    near = {group: {group} for group in range(len(sizes))}
    for scope in problem.scopes:
        for group in scope:
            near[group] |= set(scope)
    found = []
    while near:
        group = min(near, key=lambda each: (prod(sizes[other] for other in near[each]), each))
        met = near.pop(group)
        if prod(sizes[each] for each in met) > MOST_CELLS:
            return None
        found.append(Step(group, (group, *sorted(met - {group}))))
        for other in met - {group}:
            near[other] = (near[other] | met) - {group}
    return tuple(found)


def least(problem: Problem, order: tuple[Step, ...], alpha: float, loss: float = 1.0) -> tuple[int, ...]:
    """For each group the place of its format in the plan of least loss · sum of scores + alpha · DM_sum / DM_max.

    Args:
        problem: what is to decide.
        order: its `steps`.
        alpha, loss: weights of movement and of scores.
    """
    picked = [total.argmin(axis=0) for total in _buckets(problem, order, alpha, loss)[0]]
    taken = [0] * len(problem.groups)
    for step, best in zip(reversed(order), reversed(picked), strict=True):
        taken[step.group] = int(best[tuple(taken[each] for each in step.scope[1:])])
    return tuple(taken)


def marginals(problem: Problem, order: tuple[Step, ...], alpha: float) -> tuple[NDArray[np.float64], ...]:
    """For each group an array (formats left,): the least sum of scores + alpha · DM_sum / DM_max of plans in which it
    has that format.

    Args:
        problem, order, alpha: as for `least`.
    """
    totals, takers = _buckets(problem, order, alpha, 1.0)
    found: list[NDArray[np.float64]] = [np.zeros(0)] * len(order)
    beliefs: list[NDArray[np.float64]] = [np.zeros(0)] * len(order)
    roots = [float(total.min()) for total, taker in zip(totals, takers, strict=True) if taker is None]
    for place in reversed(range(len(order))):
        step, total, taker = order[place], totals[place], takers[place]
        beliefs[place] = total
        if taker is None:
            rest = sum(roots) - float(total.min())
            beliefs[place] = total + rest
        else:
            message = total.min(axis=0)
            others = beliefs[taker]
            axes = tuple(at for at, group in enumerate(order[taker].scope) if group not in step.scope)
            kept = [group for group in order[taker].scope if group in step.scope]
            outside = others.min(axis=axes) if axes else others
            outside = outside.transpose([kept.index(group) for group in step.scope[1:]])
            beliefs[place] = total + (outside - message)[None]
        found[place] = beliefs[place].min(axis=tuple(range(1, total.ndim)))
    by_group = {step.group: own for step, own in zip(order, found, strict=True)}
    return tuple(by_group[group] for group in range(len(problem.groups)))


def _buckets(
    problem: Problem, order: tuple[Step, ...], alpha: float, loss: float
) -> tuple[list[NDArray[np.float64]], list[int | None]]:
    """For each step the sum of all tables with its group, over its scope; and the step that takes in what is left."""
    weight = alpha / problem.movement_max if alpha else 0.0
    tables = [Message((group,), loss * scores) for group, scores in enumerate(problem.scores)]
    tables += [Message(scope, weight * own[0]) for scope, own in zip(problem.scopes, problem.amounts, strict=True)]
    totals = []
    for step in order:
        own = [each for each in tables if step.group in each.scope]
        tables = [each for each in tables if step.group not in each.scope]
        totals.append(_sum(own, step.scope, [len(problem.formats[each]) for each in step.scope]))
        tables.append(Message(step.scope[1:], totals[-1].min(axis=0)))
    places = {step.group: place for place, step in enumerate(order)}
    takers = [min((places[each] for each in step.scope[1:]), default=None) for step in order]
    return totals, takers


def _sum(tables: list[Message], scope: tuple[int, ...], sizes: list[int]) -> NDArray[np.float64]:
    """Sum of tables over all groups of a scope that holds theirs."""
    total = np.zeros(sizes)
    for each in tables:
        shared = [group for group in scope if group in each.scope]
        axes = [each.scope.index(group) for group in shared]
        shape = [size if group in shared else 1 for group, size in zip(scope, sizes, strict=True)]
        total += each.values.transpose(axes).reshape(shape)
    return total
