"""What there is to decide: for every group of tensors that have one format, which of those that are worth it.

A tensor that is tied to none is a group of its own. Formats go that some other format of the group is never behind: in
the sum of scores, and in all that is weighed, whatever the other tensors take. Nothing is lost by that, and of hundreds
of formats a few dozen stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bitq.errors import BitqError
from bitq.formats import TENSORS
from bitq.tradeoff.quantities import QUANTITIES
from bitq.tradeoff.space import Choice, Choices, Space

Scores = Sequence[NDArray[np.float64]]
"""For each module an array (3, formats): accuracy lost if its input, weight or output takes that format alone; infinite
where it may not."""

End = tuple[int, int]
"""A tensor: index of its module; 0 for input, 1 for weight, 2 for output."""

_SAMPLED = 16
"""Amounts that are compared before all of them."""


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
        movement_max: DM_max of the space, in bits.
    """

    groups: tuple[tuple[End, ...], ...]
    formats: tuple[NDArray[np.intp], ...]
    scores: tuple[NDArray[np.float64], ...]
    members: tuple[tuple[int, int, int], ...]
    amounts: tuple[NDArray[np.float64], ...]
    movement_max: float

    @classmethod
    def of(cls, space: Space, scores: Scores, names: Sequence[str] = ("movement_bits",)) -> Problem:
        """The problem of some quantities of `bitq.tradeoff.quantities`.

        Args:
            space: what is tied in it is a group.
            scores: of its modules.
            names: quantities that are weighed or limited.

        Raises:
            BitqError: a group that none of the formats is for.
        """
        groups = _groups(space)
        of_end = {end: number for number, group in enumerate(groups) for end in group}
        modules = range(len(space.modules))
        members = tuple((of_end[module, 0], of_end[module, 1], of_end[module, 2]) for module in modules)
        scopes = list(map(_scope, members))
        tables = _tables(space, names)
        kept, lost = zip(*(_distinct(space, scores, group) for group in groups), strict=True)
        formats, sums = list(kept), list(lost)

        def amounts(module: int) -> NDArray[np.float64]:
            scope = scopes[module]
            places = [
                space.bits[module].places[tensor][formats[group]].reshape(
                    [-1 if group == each else 1 for each in scope]
                )
                for tensor, group in enumerate(members[module])
            ]
            found: NDArray[np.float64] = tables[module][:, *places]
            return found

        weights_first = sorted(range(len(groups)), key=lambda number: groups[number][0][1] != 1)
        for number in weights_first:
            rows = [
                np.moveaxis(amounts(module), 1 + scopes[module].index(number), 0).reshape(len(formats[number]), -1)
                for module in dict.fromkeys(module for module, _ in groups[number])
            ]
            worth = _never_behind(sums[number], np.concatenate(rows, axis=1))
            formats[number], sums[number] = formats[number][worth], sums[number][worth]
        return cls(
            groups,
            tuple(formats),
            tuple(sums),
            members,
            tuple(map(amounts, modules)),
            space.movement_max,
        )

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
        own = (self.scores[group] * (self.groups[group][0][0] == module) for group in self.scopes[module])
        lost: NDArray[np.float64] = sum(np.meshgrid(*own, indexing="ij", sparse=True), np.float64(0.0))
        return lost

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


def _groups(space: Space) -> tuple[tuple[End, ...], ...]:
    """All tensors, those of one format together: as they are tied, and outputs with inputs where these decide."""
    bound = list(space.ties)
    if space.offered.output_as_input:
        bound += [((module, 0), (module, 2)) for module in range(len(space.modules))]
    found: dict[End, tuple[End, ...]] = {
        end: (end,) for end in ((module, tensor) for module in range(len(space.modules)) for tensor in range(3))
    }
    for group in bound:
        joined = tuple(sorted({end for each in group for end in found[each]}))
        found.update(dict.fromkeys(joined, joined))
    return tuple(dict.fromkeys(found.values()))


def _tables(space: Space, names: Sequence[str]) -> list[NDArray[np.float64]]:
    """For each module an array (quantities, widths of input, of weight, of output); made once for those of one shape."""
    made: dict[int, NDArray[np.float64]] = {}
    for module, moved in enumerate(space.bits):
        if id(moved) not in made:
            made[id(moved)] = np.stack([QUANTITIES[name].table(space, module) for name in names])
    return [made[id(moved)] for moved in space.bits]


def _distinct(
    space: Space, scores: Scores, group: Sequence[End]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Formats of a group and their scores: of those of equal widths at all its tensors, the first of the least score."""
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
    kept = np.sort(usable[first])
    return kept, lost[kept]


def _never_behind(lost: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.intp]:
    """Which of some formats no other one equals or beats in all: score and amounts (formats, all else)."""
    order = np.lexsort((rows.sum(axis=1), lost))  # what is beaten comes after what beats it
    sample = rows[:, :: max(rows.shape[1] // _SAMPLED, 1)].copy()
    kept: list[int] = []
    for each in order.tolist():
        likely = [kept[at] for at in np.flatnonzero((sample[kept] <= sample[each]).all(axis=1))]
        if not any((rows[other] <= rows[each]).all() for other in likely):
            kept.append(each)
    return np.sort(np.array(kept, dtype=np.intp))
