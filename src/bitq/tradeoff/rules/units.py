"""The tensors of a network that a rule gives formats one by one: each, or those that share one format together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bitq.errors import BitqError
from bitq.formats import TENSORS, Format, format_for
from bitq.tradeoff.space import Choices, Space
from bitq.tradeoff.study import Study

Place = tuple[int, int]
"""A tensor: (index of its module, 0 for input, 1 for weight, 2 for output)."""

Unit = tuple[Place, ...]
"""Tensors that have one format."""


def joined(groups: Iterable[Iterable[Place]]) -> tuple[Unit, ...]:
    """The groups of tensors, those that meet in one as one, in the order of their first tensors."""

    found: list[set[Place]] = []
    for group in map(set, groups):
        meeting = [each for each in found if each & group]
        found = [each for each in found if each not in meeting] + [group.union(*meeting)]
    return tuple(sorted(tuple(sorted(each)) for each in found))


def units(space: Space) -> tuple[Unit, ...]:
    """All tensors of a space's modules, in order of execution; tied ones together."""
    alone = (((module, tensor),) for module in range(len(space.modules)) for tensor in range(len(TENSORS)))
    same = (((module, 0), (module, 2)) for module in range(len(space.modules)) if space.offered.output_as_input)
    return joined((*alone, *same, *space.ties))


def admissible(study: Study, unit: Unit) -> tuple[int, ...]:
    """Indices of the formats that all of a unit's tensors may take, in their order.

    Formats without a sign are for activations in which calibration met no negative number.

    Raises:
        BitqError: there is none.
    """
    found = [_of_tensor(study, end) for end in unit]
    common = tuple(index for index in found[0] if all(index in each for each in found))
    if not common:
        module, tensor = unit[0]
        raise BitqError(
            f"the {TENSORS[tensor]} of {study.space.modules[module]!r} and tensors that share its format have none in "
            "common that all of them may take; offer one to all"
        )
    return common


def _of_tensor(study: Study, end: Place) -> tuple[int, ...]:
    space, name, tensor = study.space, study.space.modules[end[0]], TENSORS[end[1]]
    offered = space.offered.indices(tensor)
    unsigned = {i for i in offered if isinstance(fmt := space.formats[i], Format) and fmt.never_negative}
    if unsigned and not study.ranges[name].non_negative(tensor):
        return tuple(index for index in offered if index not in unsigned)
    return offered


def rungs(study: Study, unit: Unit) -> dict[int, int]:
    """By width of an element in bits, the widest first, a format of a unit: that of the middle of all so wide.

    The middle of Table 2's block sizes is 16. Of formats with and without a sign, those without: they waste no bit.
    """
    by_width: dict[int, list[int]] = {}
    for index in admissible(study, unit):
        by_width.setdefault(_format(study, index, unit[0]).element_bits, []).append(index)
    return {width: _middle(study, by_width[width], unit[0]) for width in sorted(by_width, reverse=True)}


def _middle(study: Study, indices: Sequence[int], end: Place) -> int:
    unsigned = [index for index in indices if _format(study, index, end).never_negative]
    ordered = sorted(unsigned or indices, key=lambda index: _format(study, index, end))
    return ordered[len(ordered) // 2]


def _format(study: Study, index: int, end: Place) -> Format:
    name, tensor = study.space.modules[end[0]], TENSORS[end[1]]
    return format_for(study.space.formats[index], tensor, study.ranges[name].non_negative(tensor))


def planned(space: Space, of: Sequence[Unit], taken: Sequence[int]) -> Choices:
    """The plan in which each of all units has this format."""
    by_end = {end: index for unit, index in zip(of, taken, strict=True) for end in unit}
    return tuple((by_end[m, 0], by_end[m, 1], by_end[m, 2]) for m in range(len(space.modules)))
