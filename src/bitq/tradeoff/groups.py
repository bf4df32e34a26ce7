"""Which tensors of a space have one format."""

from __future__ import annotations

from collections.abc import Iterable

from bitq.tradeoff.space import Space

Slot = tuple[int, int]
"""A tensor: index of its module; 0 for input, 1 for weight, 2 for output."""

Group = tuple[Slot, ...]
"""Tensors that have one format."""


def joined(groups: Iterable[Iterable[Slot]]) -> tuple[Group, ...]:
    """The groups of tensors, those that meet in one as one, in the order of their first tensors."""
    found: list[set[Slot]] = []
    for group in map(set, groups):
        meeting = [each for each in found if each & group]
        found = [each for each in found if each not in meeting] + [group.union(*meeting)]
    return tuple(sorted(tuple(sorted(each)) for each in found))


def groups_of(space: Space) -> tuple[Group, ...]:
    """All tensors in order of execution, those of one format together: as they are tied, and outputs with inputs where
    these decide."""
    modules = range(len(space.modules))
    alone = (((module, tensor),) for module in modules for tensor in range(3))
    same = (((module, 0), (module, 2)) for module in modules if space.offered.output_as_input)
    return joined((*alone, *same, *space.ties))
