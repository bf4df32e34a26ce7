"""The best plan where something binds the modules together: budgets, or tensors that share their format.

A multiple-choice knapsack, solved exactly by HiGHS: through SciPy, whose interface is documented and which leaves
stdout, where the command line prints JSON, alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array

from bitq.errors import Infeasible
from bitq.formats import TENSORS
from bitq.tradeoff.budgets import ACCURACY_LOSS, Budgets, check_possible
from bitq.tradeoff.quantities import QUANTITIES
from bitq.tradeoff.space import Choice, Space

GAP = 1e-9
"""By how much, as a share of itself, the objective that was found may miss the least."""

INFEASIBLE = 2
"""What SciPy calls a problem that is proved to have no solution."""

Tables = Sequence[NDArray[np.float64]]
"""For each module an array (formats, formats, formats)."""


class Knapsack:
    """One choice for each module, each quantity that has a budget within it, tied tensors in one format.

    Only formats that no other format of the same tensors beats in everything, and only choices that no other choice of
    their module with the same tied formats beats in everything, are considered.

    Raises:
        Infeasible: a budget that no plan keeps.
    """

    def __init__(self, space: Space, lost: Tables, budgets: Budgets) -> None:
        check(space, budgets)
        self._space, self._budgets = space, budgets
        weighed, *others = QUANTITIES
        names = [ACCURACY_LOSS, weighed, *(name for name in others if budgets.limit(name) is not None)]
        tables = [_quantity(space, lost, name) for name in names]
        useful = _useful(space, tables) if space.ties else None
        rows, costs = [], []
        for module, each in enumerate(zip(*tables, strict=True)):
            criteria = np.stack([table.ravel() for table in each], axis=1)
            rows.append(_choices(space, module, criteria, useful))
            costs.append(criteria[rows[-1]])
        self._rows, self._costs = np.concatenate(rows), np.concatenate(costs)
        self._owner = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
        self._lost = lost
        limits = [budgets.limit(name) for name in names]
        fixed = [_fixed(space, name) for name in names]
        self._room = np.array([np.inf if limit is None else limit - f for limit, f in zip(limits, fixed, strict=True)])
        self._equal = self._equalities()

    def solved(self, alpha: float) -> tuple[Choice, ...]:
        """The plan of least sum of scores + alpha · DM_sum / DM_max.

        Raises:
            Infeasible: no plan keeps all budgets at once.
            RuntimeError: the solver failed.
        """
        objective = self._costs[:, 0] + alpha * self._costs[:, 1] / self._space.movement_max
        room = self._room.copy()
        while (taken := self._taken(objective, room)) is not None:
            plan = tuple(as_choice(int(row), len(self._space.formats)) for row in self._rows[taken])
            over = np.maximum(self._costs[taken].sum(axis=0) - room, 0.0)
            lost = sum(float(one[choice]) for one, choice in zip(self._lost, plan, strict=True))
            if self._budgets.kept(self._space.cost(plan), lost) or not over.any():
                return plan
            room -= 2 * over  # which HiGHS takes for rounding
        raise Infeasible(f"no plan keeps {self._budgets} all at once; loosen one of them")

    def _taken(self, objective: NDArray[np.float64], room: NDArray[np.float64]) -> NDArray[np.intp] | None:
        scale = np.abs(self._costs).max(axis=0) / 1e3  # bits beside shares: all alike, and far above what counts as 0
        scale[scale == 0] = 1.0
        count = len(self._owner)
        constraints = [
            LinearConstraint(csr_array((np.ones(count), (self._owner, np.arange(count)))), 1, 1),
            LinearConstraint((self._costs / scale).T, -np.inf, room / scale),
        ]
        if self._equal is not None:
            constraints.append(LinearConstraint(self._equal, 0, 0))
        solved = milp(
            objective,
            integrality=np.ones(count),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": GAP},
        )
        if solved.status == INFEASIBLE:
            return None
        if solved.x is None:
            raise RuntimeError(f"HiGHS found neither a plan nor that there is none: {solved.message}")
        return np.flatnonzero(solved.x > 0.5)

    def _equalities(self) -> csr_array | None:
        """For every format and two tied tensors: whether it is taken by the one less whether by the other."""
        formats = len(self._space.formats)
        choices = np.stack(np.unravel_index(self._rows, (formats,) * 3))
        values: list[float] = []
        places: list[tuple[int, int]] = []
        count = 0
        for group in self._space.ties:
            for pair in pairwise(group):
                if pair[0][0] == pair[1][0]:  # tensors of one module, of which only choices that agree are rows
                    continue
                for sign, (module, tensor) in zip((1.0, -1.0), pair, strict=True):
                    for column in np.flatnonzero(self._owner == module):
                        places.append((count + int(choices[tensor, column]), int(column)))
                        values.append(sign)
                count += formats
        if not places:
            return None
        return csr_array(coo_array((values, tuple(zip(*places, strict=True))), shape=(count, len(self._owner))))


def non_dominated(costs: NDArray[np.float64]) -> NDArray[np.intp]:
    """Rows of `costs` (n, criteria) that no other equals or beats in every column; of equal ones the first."""
    rest = np.lexsort(costs.T[::-1])  # a row that is beaten comes after one that beats it
    kept = []
    while rest.size:
        kept.append(rest[0])
        rest = rest[1:]
        rest = rest[(costs[rest] < costs[kept[-1]]).any(axis=1)]
    return np.array(kept, dtype=np.intp)


def check(space: Space, budgets: Budgets) -> None:
    """Refuse budgets that no plan of the space keeps, whatever it loses.

    Raises:
        Infeasible: names the first, and the least that any plan comes to.
    """
    for name, _ in budgets.limits:
        quantity = QUANTITIES[name]
        tables = (quantity.table(space, module) for module in range(len(space.modules)))
        least = sum(float(table[space.offered.possible].min()) for table in tables)
        check_possible(budgets, {name: quantity.fixed(space) + least})


def as_choice(index: int, formats: int) -> Choice:
    """The formats of input, weight and output behind a flat index into an array (formats, formats, formats)."""
    i, w, o = np.unravel_index(index, (formats,) * 3)
    return int(i), int(w), int(o)


def _useful(space: Space, tables: Sequence[Tables]) -> dict[tuple[int, int], NDArray[np.bool_]]:
    """By tensor (module, 0 to 2), which formats no other that it may take beats in every quantity whatever the others
    take.

    Of a tied group's tensors together, since they have one format; of equal formats the first stays.
    """
    tied = {end for group in space.ties for end in group}
    alone = [((module, tensor),) for module in range(len(space.modules)) for tensor in range(3)]
    groups = [*space.ties, *(group for group in alone if group[0] not in tied)]
    found: dict[tuple[int, int], NDArray[np.bool_]] = {}
    taken = [np.isin(np.arange(len(space.formats)), space.offered.indices(tensor)) for tensor in TENSORS]
    for group in groups:
        formats = len(space.formats)
        beats = np.ones((formats, formats), dtype=bool)
        for module, tensor in group:
            beats &= taken[tensor][:, None]
            for quantity in tables:
                rows = np.moveaxis(quantity[module], tensor, 0).reshape(formats, -1)
                beats &= np.array([(row <= rows).all(axis=1) for row in rows])
        first = np.tril(beats & beats.T, -1).T  # of two equals the earlier beats the later
        beaten = ((beats & ~beats.T) | first).any(axis=0)
        found.update((end, np.logical_not(beaten)) for end in group)
    return found


def _choices(
    space: Space, module: int, criteria: NDArray[np.float64], useful: dict[tuple[int, int], NDArray[np.bool_]] | None
) -> NDArray[np.intp]:
    """The choices of a module, as flat indices, that are worth considering."""
    possible = space.offered.possible
    if useful is None:
        allowed = np.flatnonzero(possible)
        return allowed[non_dominated(criteria[allowed])]
    formats = len(space.formats)
    allowed = np.flatnonzero(
        possible
        & useful[module, 0][:, None, None]
        & useful[module, 1][None, :, None]
        & useful[module, 2][None, None, :]
    )
    taken = np.stack(np.unravel_index(allowed, (formats,) * 3))
    for group in space.ties:
        own = [tensor for owner, tensor in group if owner == module]
        agree = (taken[own[1:]] == taken[own[:1]]).all(axis=0)
        allowed, taken = allowed[agree], taken[:, agree]
    bound = sorted(tensor for group in space.ties for owner, tensor in group if owner == module)
    fixed = taken[bound]
    _, kinds = np.unique(fixed, axis=1, return_inverse=True) if bound else (None, np.zeros(len(allowed), dtype=int))
    parts = [allowed[kinds == kind] for kind in range(int(kinds.max()) + 1)]
    return np.concatenate([part[non_dominated(criteria[part])] for part in parts])


def _quantity(space: Space, lost: Tables, name: str) -> list[NDArray[np.float64]]:
    """What every choice of every module adds to a quantity that may have a budget."""
    if name == ACCURACY_LOSS:
        return list(lost)
    return [QUANTITIES[name].table(space, module) for module in range(len(space.modules))]


def _fixed(space: Space, name: str) -> float:
    """What no choice changes."""
    return 0.0 if name == ACCURACY_LOSS else QUANTITIES[name].fixed(space)
