"""The best plan where something binds the modules together: budgets, or tensors that share their format.

A multiple-choice knapsack, solved exactly by HiGHS: through SciPy, whose interface is documented and which leaves
stdout, where the command line prints JSON, alone.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array

from bitq.errors import Infeasible
from bitq.formats import TENSORS
from bitq.tradeoff.budgets import ACCURACY_LOSS, Budgets, check_possible
from bitq.tradeoff.priced import relaxed
from bitq.tradeoff.problem import Problem, Scores, predicted_loss
from bitq.tradeoff.quantities import QUANTITIES, SUMS
from bitq.tradeoff.space import Choices, Space

GAP = 1e-9
"""By how much, as a share of itself, the objective that was found may miss the least."""

INFEASIBLE = 2
"""What SciPy calls a problem that is proved to have no solution."""


class Knapsack:
    """One choice for each module, each quantity that has a budget within it, tied tensors in one format.

    Memory of activations keeps its budget if what lives at each step does, in sum, and the arrangement of all of it
    does. The sums are constraints; where a plan's arrangement takes more, it is cut off, with all plans in which the
    tensors that stand in each other's way are no smaller.

    Only formats that are worth it (`bitq.tradeoff.problem`) and in question within the budgets
    (`bitq.tradeoff.priced`), and only choices that no other choice of their module with the same formats of tensors
    that others share beats in everything, are considered.

    Raises:
        BitqError: a tensor that none of the formats is for.
        Infeasible: a budget that no plan keeps.
    """

    def __init__(self, space: Space, scores: Scores, budgets: Budgets) -> None:
        check(space, budgets)
        weighed, *others = SUMS
        names = [weighed, *(name for name in others if budgets.limit(name) is not None)]
        limits = [budgets.limit(name) for name in (ACCURACY_LOSS, *names)]
        fixed = [0.0, *(SUMS[name].fixed(space) for name in names)]
        room = [np.inf if limit is None else limit - f for limit, f in zip(limits, fixed, strict=True)]
        self._ram, arena = budgets.limit("ram_bytes"), space.arena
        if self._ram is None or arena is None:
            problem = Problem.of(space, scores, names)
        else:  # sums at steps that some plan overfills, and sizes, which arrangements depend on
            steps = arena.full[arena.most > self._ram]
            kinds = np.concatenate([steps, np.eye(len(arena.activations))])
            problem = Problem.of(space, scores, names, lambda group: _times(kinds, arena.bytes_of(group)))
            room += [*(self._ram - steps @ arena.fixed), *([np.inf] * len(arena.activations))]
        self._space, self._scores, self._budgets, self._all = space, scores, budgets, problem
        self._room = np.array(room)
        self._conflicts: list[list[tuple[int, NDArray[np.intp]]]] = []

    def solved(self, alpha: float, loss: float = 1.0) -> Choices:
        """The plan of least loss · sum of scores + alpha · DM_sum / DM_max.

        Raises:
            Infeasible: no plan keeps all budgets at once.
            RuntimeError: the solver failed.
        """
        weights = np.zeros(len(self._room))
        weights[:2] = loss, alpha / self._space.movement_max if alpha else 0.0
        self._problem = relaxed(self._all, weights, self._room, lambda taken: self._fits(self._all.choices(taken)))
        rows, costs = zip(*(_choices(self._problem, module) for module in range(len(self._space.modules))), strict=True)
        self._rows, self._costs = np.concatenate(rows), np.concatenate(costs)
        self._owner = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
        self._equal = self._equalities()
        objective = self._costs @ weights
        room = self._room.copy()
        while (taken := self._taken(objective, room)) is not None:
            plan = tuple(
                self._problem.choice(module, [place for place in self._rows[row].tolist() if place >= 0])
                for module, row in enumerate(taken)
            )
            over = np.maximum(self._costs[taken].sum(axis=0) - room, 0.0)
            cost = self._space.cost(plan, placed=self._budgets.of_ram)
            if self._budgets.kept(cost, predicted_loss(self._scores, plan)):
                return plan
            if over.any():
                room -= 2 * over  # which HiGHS takes for rounding
            elif self._fits(plan):
                return plan
            else:
                self._forbid(plan)
        raise Infeasible(f"no plan keeps {self._budgets} all at once; loosen one of them")

    def _taken(self, objective: NDArray[np.float64], room: NDArray[np.float64]) -> NDArray[np.intp] | None:
        scale = np.abs(self._costs).max(axis=0) / 1e3  # bits beside shares: all alike, and far above what counts as 0
        scale[scale == 0] = 1.0
        count = len(self._owner)
        bound = np.isfinite(room)
        constraints = [
            LinearConstraint(csr_array((np.ones(count), (self._owner, np.arange(count)))), 1, 1),
            LinearConstraint((self._costs / scale).T[bound], -np.inf, (room / scale)[bound]),
        ]
        for conflict in self._conflicts:
            row = np.concatenate([self._taking(*each) for each in conflict])
            columns, counts = np.unique(row, return_counts=True)
            taking = csr_array((counts, (np.zeros(len(columns), int), columns)), shape=(1, count))
            constraints.append(LinearConstraint(taking, -np.inf, len(conflict) - 1))
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

    def _fits(self, plan: Choices) -> bool:
        """Whether the memory of activations holds a plan."""
        arena = self._space.arena
        return self._ram is None or arena is None or arena.placed(plan).peak <= self._ram

    def _forbid(self, plan: Choices) -> None:
        """Leave out a plan that the memory of activations does not hold, and all that are no smaller where it matters:
        for each group that does, the formats in which it takes as much."""
        arena, groups = self._space.arena, self._all.groups
        assert arena is not None
        assert self._ram is not None
        conflict = []
        for group in arena.conflict(plan, groups, self._ram):
            module, tensor = groups[group][0]
            sizes = arena.bytes_of(groups[group])
            large = (sizes >= sizes[:, [plan[module][tensor]]]).all(axis=0)
            conflict.append((group, np.flatnonzero(large)))
        self._conflicts.append(conflict)

    def _taking(self, group: int, formats: NDArray[np.intp]) -> NDArray[np.intp]:
        """The variables by which a group takes one of these formats."""
        module = self._problem.groups[group][0][0]
        columns = np.flatnonzero(self._owner == module)
        own = self._rows[columns, self._problem.scopes[module].index(group)]
        return columns[np.isin(self._problem.formats[group][own], formats)]

    def _equalities(self) -> csr_array | None:
        """For every format of a group and two modules it has tensors of: whether the one takes it less whether the
        other does."""
        parts: list[NDArray[np.int64]] = []
        values: list[NDArray[np.float64]] = []
        count = 0
        for group, formats in enumerate(self._problem.formats):
            owners = [module for module, scope in enumerate(self._problem.scopes) if group in scope]
            for pair in pairwise(owners):
                for sign, module in zip((1.0, -1.0), pair, strict=True):
                    columns = np.flatnonzero(self._owner == module)
                    taken = self._rows[columns, self._problem.scopes[module].index(group)]
                    parts.append(np.stack([count + taken, columns]))
                    values.append(np.full(len(columns), sign))
                count += len(formats)
        if not parts:
            return None
        places = np.concatenate(parts, axis=1)
        return csr_array(coo_array((np.concatenate(values), tuple(places)), shape=(count, len(self._owner))))


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
        check_possible(budgets, {name: QUANTITIES[name].least(space)})


def _times(kinds: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Array (kinds, formats): sums of sizes (activations, formats); infinite in formats that are not for these."""
    usable = np.isfinite(sizes).all(axis=0)
    found = np.full((len(kinds), sizes.shape[1]), np.inf)
    found[:, usable] = kinds @ sizes[:, usable]
    return found


def _choices(problem: Problem, module: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The choices of a module that are worth considering.

    Returns:
        Arrays (choices, 3): places of the formats of the groups in its scope, filled up with -1; and (choices, 1 +
        quantities + steps): its groups' scores and what they hold, of each group at the first of its modules alone, and
        what it adds to each quantity between them.
    """
    scope, amounts = problem.scopes[module], problem.amounts[module]
    lost = problem.lost(module)
    held = problem.of_groups(module, problem.held)
    costs = np.concatenate([lost[None], amounts, held]).reshape(1 + len(amounts) + len(held), -1).T
    places = np.stack(np.unravel_index(np.arange(len(costs)), lost.shape), axis=1)
    shared = [axis for axis, group in enumerate(scope) if problem.is_shared(group)]
    kinds = np.ravel_multi_index(tuple(places[:, shared].T), [lost.shape[axis] for axis in shared]) if shared else None
    differing = (costs != costs[:1]).any(axis=0)
    judged = costs[:, differing] if differing.any() else costs[:, :1]
    if kinds is None:
        kept = non_dominated(judged)
    else:
        order = np.argsort(kinds, kind="stable")
        ends = np.flatnonzero(np.diff(kinds[order])) + 1
        kept = np.concatenate([part[non_dominated(judged[part])] for part in np.split(order, ends)])
    rows = np.full((len(kept), len(TENSORS)), -1)
    rows[:, : len(scope)] = places[kept]
    return rows, costs[kept]
