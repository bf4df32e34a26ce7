"""What there is to decide: for every group of tensors that have one format, which of those that are worth it.

A tensor that is tied to none is a group of its own. Formats go that another format of the group is nowhere behind: in
the sum of scores, and in all that is weighed, whatever the other tensors take. Nothing is lost by that, and of hundreds
of formats a few dozen stay. For one weight of movement few are worth it: the others cost more score than all movement
that they could save.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bitq.errors import BitqError
from bitq.formats import TENSORS
from bitq.tradeoff.groups import Group, Slot, groups_of
from bitq.tradeoff.quantities import SUMS
from bitq.tradeoff.space import Choice, Choices, Space

Scores = Sequence[NDArray[np.float64]]
"""For each module an array (3, formats): accuracy lost if its input, weight or output takes that format alone; infinite
where it may not."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A space for given scores, without the formats that are worth nothing.

    Attributes:
        groups: tensors of one format each, all tensors in one of them.
        formats: for each group the indices that are left, ascending.
        scores: for each group an array (formats left,): sum of the scores of its tensors.
        members: for each module the groups of its input, weight and output.
        amounts: for each module an array (quantities, *formats left of the groups in its scope): what it adds to each
            quantity, the first of which is movement.
        held: for each group an array (steps, formats left): what its tensors take of memory at each of some steps, in
            bytes.
        excess: for each group an array (formats left, formats left): by how much more movement the one format has than
            the other at most, whatever the other tensors take, in bits.
        movement_max: DM_max of the space, in bits.
    """

    groups: tuple[Group, ...]
    formats: tuple[NDArray[np.intp], ...]
    scores: tuple[NDArray[np.float64], ...]
    members: tuple[tuple[int, int, int], ...]
    amounts: tuple[NDArray[np.float64], ...]
    held: tuple[NDArray[np.float64], ...]
    excess: tuple[NDArray[np.float64], ...]
    movement_max: float

    @classmethod
    def of(
        cls,
        space: Space,
        scores: Scores,
        names: Sequence[str] = ("movement_bits",),
        held: Callable[[Group], NDArray[np.float64]] = lambda group: np.zeros((0, 1)),
    ) -> Problem:
        """The problem of some quantities of `bitq.tradeoff.quantities`.

        Args:
            space: what is tied in it is a group.
            scores: of its modules.
            names: sums that are weighed or limited.
            held: of a group an array (steps, formats or 1): what its tensors take of a memory that is limited.

        Raises:
            BitqError: a group that none of the formats is for.
        """
        groups = groups_of(space)
        of_end = {end: number for number, group in enumerate(groups) for end in group}
        modules = range(len(space.modules))
        members = tuple((of_end[module, 0], of_end[module, 1], of_end[module, 2]) for module in modules)
        tables = {id(moved): _tables(space, module, names) for module, moved in enumerate(space.bits)}
        excess = {key: tuple(_excess(each, tensor) for tensor in range(3)) for key, each in tables.items()}
        holding = [np.broadcast_to(each, (len(each), len(space.formats))) for each in map(held, groups)]
        kept = [_worthwhile(space, scores, *each, excess) for each in zip(groups, holding, strict=True)]
        formats = tuple(each[0] for each in kept)

        def amounts(module: int) -> NDArray[np.float64]:
            scope = _scope(members[module])
            places = [
                space.bits[module].places[tensor][formats[group]].reshape(
                    [-1 if group == each else 1 for each in scope]
                )
                for tensor, group in enumerate(members[module])
            ]
            table = tables[id(space.bits[module])]
            found: NDArray[np.float64] = np.moveaxis(np.moveaxis(table, 0, -1)[tuple(places)], -1, 0)
            return found

        return cls(
            groups,
            formats,
            tuple(each[1] for each in kept),
            members,
            tuple(map(amounts, modules)),
            tuple(each[:, own] for each, own in zip(holding, formats, strict=True)),
            tuple(each[2] for each in kept),
            space.movement_max,
        )

    def narrowed(self, alpha: float, loss: float = 1.0) -> Problem:
        """The same without formats that a plan of least loss · sum of scores + alpha · DM_sum / DM_max can go
        without."""
        weight = alpha / self.movement_max if alpha else 0.0
        places = [
            _undominated(loss * (scores[:, None] - scores[None, :]) + weight * excess)
            for scores, excess in zip(self.scores, self.excess, strict=True)
        ]
        return self.reduced(places)

    def reduced(self, places: Sequence[NDArray[np.intp]]) -> Problem:
        """The same with these of the formats left to each group, by their places."""
        return replace(
            self,
            formats=tuple(each[own] for each, own in zip(self.formats, places, strict=True)),
            scores=tuple(each[own] for each, own in zip(self.scores, places, strict=True)),
            amounts=tuple(
                amounts[np.ix_(np.arange(len(amounts)), *(places[group] for group in scope))]
                for amounts, scope in zip(self.amounts, self.scopes, strict=True)
            ),
            held=tuple(each[:, own] for each, own in zip(self.held, places, strict=True)),
            excess=tuple(each[np.ix_(own, own)] for each, own in zip(self.excess, places, strict=True)),
        )

    def spent(self, taken: Sequence[int]) -> NDArray[np.float64]:
        """Array (1 + quantities + steps,): sum of scores, what all modules add to each quantity, and what all groups
        take of memory at each step, of the plan in which each group has the one of its formats at this place."""
        lost = sum(float(own[place]) for own, place in zip(self.scores, taken, strict=True))
        added = [
            np.moveaxis(amounts, 0, -1)[tuple(taken[group] for group in scope)]
            for amounts, scope in zip(self.amounts, self.scopes, strict=True)
        ]
        held = [own[:, place] for own, place in zip(self.held, taken, strict=True)]
        return np.concatenate([[lost], np.sum(added, axis=0), np.sum(held, axis=0)])

    @cached_property
    def scopes(self) -> tuple[tuple[int, ...], ...]:
        """For each module the groups of its tensors, each once."""
        return tuple(map(_scope, self.members))

    @cached_property
    def is_independent(self) -> bool:
        """Whether no group has tensors of several modules."""
        return not any(map(self.is_shared, range(len(self.groups))))

    def is_shared(self, group: int) -> bool:
        """Whether a group has tensors of several modules."""
        return len({module for module, _ in self.groups[group]}) > 1

    def lost(self, module: int) -> NDArray[np.float64]:
        """Array (formats left of the groups in a module's scope): sum of the scores of groups that begin with it, so
        that all modules together have every group's once."""
        lost: NDArray[np.float64] = self.of_groups(module, [own[None] for own in self.scores])[0]
        return lost

    def of_groups(self, module: int, values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Array (values, formats left of the groups in a module's scope): sums over groups that begin with it.

        Args:
            module: its index.
            values: for each group an array (values, formats left).
        """
        scope = self.scopes[module]
        total = np.zeros((len(values[0]), *(values[group].shape[1] for group in scope)))
        for axis, group in enumerate(scope):
            if self.groups[group][0][0] == module:
                total += np.expand_dims(values[group], [1 + other for other in range(len(scope)) if other != axis])
        return total

    def choices(self, taken: Sequence[int]) -> Choices:
        """The plan in which each group has the one of its formats at this place."""
        return tuple(
            self.choice(module, [taken[group] for group in scope]) for module, scope in enumerate(self.scopes)
        )

    def choice(self, module: int, places: Sequence[int]) -> Choice:
        """The formats of a module whose groups, in the order of its scope, have those at these places."""
        own = dict(zip(self.scopes[module], places, strict=True))
        i, w, o = (int(self.formats[group][own[group]]) for group in self.members[module])
        return i, w, o


def _scope(members: tuple[int, int, int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(members))


def predicted_loss(scores: Scores, choices: Sequence[Choice]) -> float:
    """Sum of the scores of a plan."""
    return float(sum(table[0, i] + table[1, w] + table[2, o] for table, (i, w, o) in zip(scores, choices, strict=True)))


def _tables(space: Space, module: int, names: Sequence[str]) -> NDArray[np.float64]:
    """Array (quantities, widths of input, of weight, of output): what a module adds to each."""
    return np.stack([SUMS[name].table(space, module) for name in names])


def _excess(table: NDArray[np.float64], tensor: int) -> NDArray[np.float64]:
    """Array (quantities, widths, widths): how much more one width of a tensor may add than another, at most."""
    rows = np.moveaxis(table, 1 + tensor, 1).reshape(*table.shape[:1], table.shape[1 + tensor], -1)
    return np.stack([np.stack([(own[None] - each).max(axis=1) for own in each]) for each in rows])


def _worthwhile(
    space: Space,
    scores: Scores,
    group: Sequence[Slot],
    held: NDArray[np.float64],
    excess: Mapping[int, Sequence[NDArray[np.float64]]],
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Formats of a group that are worth it, their scores, and their excess of movement.

    Of those of equal widths at all its tensors, the first of the least score; of the others those that no other one
    equals or beats in score, all quantities and all that is held.
    """
    lost = np.sum([scores[module][tensor] for module, tensor in group], axis=0)
    offered = [np.isin(np.arange(len(lost)), space.offered.indices(TENSORS[tensor])) for _, tensor in group]
    usable = np.flatnonzero(np.isfinite(lost) & np.all(offered, axis=0))
    if not usable.size:
        module, tensor = group[0]
        raise BitqError(
            f"no format is left for the {TENSORS[tensor]} of {space.modules[module]!r}: those without negative numbers "
            "are for activations that have none; name one with a sign, too"
        )
    usable = usable[np.argsort(lost[usable], kind="stable")]
    widths = np.stack([space.bits[module].places[tensor][usable] for module, tensor in group], axis=1)
    _, first = np.unique(widths, axis=0, return_index=True)
    order = np.argsort(usable[first])
    usable, widths = usable[first][order], widths[first][order]
    more = np.sum(
        [
            excess[id(space.bits[module])][tensor][:, own[:, None], own[None, :]]
            for (module, tensor), own in zip(group, widths.T, strict=True)
        ],
        axis=0,
    )
    behind = np.maximum(lost[usable][:, None] - lost[usable][None, :], more.max(axis=0))
    own = held[:, usable]
    own = own[own.any(axis=1)]
    if len(own):
        behind = np.maximum(behind, (own[:, :, None] - own[:, None, :]).max(axis=0))
    kept = _undominated(behind)
    return usable[kept], lost[usable][kept], more[0][np.ix_(kept, kept)]


def _undominated(behind: NDArray[np.float64]) -> NDArray[np.intp]:
    """Places that no other is at least as good as, of those that are alike the first.

    Args:
        behind: array (n, n): by how much one lies behind another at most; at least as good is one that never does.
    """
    good = behind <= 0
    alike = good & good.T
    beats = (good & ~alike) | np.triu(alike, 1)
    return np.flatnonzero(~beats.any(axis=0))
