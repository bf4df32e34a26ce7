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

from bitq.errors import BitqError
from bitq.tradeoff.budgets import QUANTITIES, Budgets, check_possible
from bitq.tradeoff.space import Choice, Space

GAP = 1e-9
"""By how much, as a share of itself, the objective that was found may miss the least."""

Tables = Sequence[NDArray[np.float64]]
"""For each module an array (formats, formats, formats)."""


class Knapsack:
    """One choice for each module, each quantity that has a budget within it, tied tensors in one format.

    Only formats that no other format of the same tensors beats in everything, and only choices that no other choice of
    their module with the same tied formats beats in everything, are considered.

    Raises:
        BitqError: a budget that no plan keeps.
    """

    def __init__(self, space: Space, lost: Tables, budgets: Budgets) -> None:
        check(space, budgets)
        self._space, self._budgets = space, budgets
        names = ["accuracy_loss", "movement_bits"]
        names += [name for name in ("energy_pj", "model_bytes") if budgets.limit(name) is not None]
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
            BitqError: no plan keeps all budgets at once.
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
        raise BitqError(f"no plan keeps {self._budgets} all at once; loosen one of them")

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
        return None if solved.x is None else np.flatnonzero(solved.x > 0.5)

    def _equalities(self) -> csr_array | None:
        """For every format and two tied tensors: whether it is taken by the one less whether by the other."""
        formats = len(self._space.formats)
        choices = np.stack(np.unravel_index(self._rows, (formats,) * 3))
        values: list[float] = []
        places: list[tuple[int, int]] = []
        count = 0
        for group in self._space.ties:
            for pair in pairwise(group):
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
        BitqError: names the first, and the least that any plan comes to.
    """
    lost = [np.zeros((1, 1, 1))] * len(space.modules)
    for name in QUANTITIES:
        if name != "accuracy_loss" and budgets.limit(name) is not None:
            least = _fixed(space, name) + sum(float(table.min()) for table in _quantity(space, lost, name))
            check_possible(budgets, {name: least})


def as_choice(index: int, formats: int) -> Choice:
    """The formats of input, weight and output behind a flat index into an array (formats, formats, formats)."""
    i, w, o = np.unravel_index(index, (formats,) * 3)
    return int(i), int(w), int(o)


def _useful(space: Space, tables: Sequence[Tables]) -> dict[tuple[int, int], NDArray[np.bool_]]:
    """By tensor (module, 0 to 2), which formats no other beats in every quantity whatever the others take.

    Of a tied group's tensors together, since they have one format; of equal formats the first stays.
    """
    tied = {end for group in space.ties for end in group}
    alone = [((module, tensor),) for module in range(len(space.modules)) for tensor in range(3)]
    groups = [*space.ties, *(group for group in alone if group[0] not in tied)]
    found: dict[tuple[int, int], NDArray[np.bool_]] = {}
    for group in groups:
        formats = len(space.formats)
        beats = np.ones((formats, formats), dtype=bool)
        for module, tensor in group:
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
    if useful is None:
        return non_dominated(criteria)
    formats = len(space.formats)
    allowed = np.flatnonzero(
        useful[module, 0][:, None, None] & useful[module, 1][None, :, None] & useful[module, 2][None, None, :]
    )
    bound = sorted(tensor for group in space.ties for owner, tensor in group if owner == module)
    fixed = np.stack(np.unravel_index(allowed, (formats,) * 3))[bound]
    _, kinds = np.unique(fixed, axis=1, return_inverse=True) if bound else (None, np.zeros(len(allowed), dtype=int))
    parts = [allowed[kinds == kind] for kind in range(int(kinds.max()) + 1)]
    return np.concatenate([part[non_dominated(criteria[part])] for part in parts])


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
