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
class Table:
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
    weight = alpha / problem.movement_max if alpha else 0.0
    tables = [Table((group,), loss * scores) for group, scores in enumerate(problem.scores)]
    tables += [Table(scope, weight * own[0]) for scope, own in zip(problem.scopes, problem.amounts, strict=True)]
    picked = []
    for step in order:
        own = [each for each in tables if step.group in each.scope]
        tables = [each for each in tables if step.group not in each.scope]
        total = _sum(own, step.scope, [len(problem.formats[each]) for each in step.scope])
        best = total.argmin(axis=0)
        picked.append(best)
        tables.append(Table(step.scope[1:], np.take_along_axis(total, best[None], axis=0)[0]))
    taken = [0] * len(problem.groups)
    for step, best in zip(reversed(order), reversed(picked), strict=True):
        taken[step.group] = int(best[tuple(taken[each] for each in step.scope[1:])])
    return tuple(taken)


def _sum(tables: list[Table], scope: tuple[int, ...], sizes: list[int]) -> NDArray[np.float64]:
    """Sum of tables over all groups of a scope that holds theirs."""
    total = np.zeros(sizes)
    for each in tables:
        shared = [group for group in scope if group in each.scope]
        axes = [each.scope.index(group) for group in shared]
        shape = [size if group in shared else 1 for group, size in zip(scope, sizes, strict=True)]
        total += each.values.transpose(axes).reshape(shape)
    return total
