"""The tensors of a network that a rule gives formats one by one: each, or those that share one format together."""

from __future__ import annotations

from collections.abc import Sequence

from bitq.errors import BitqError
from bitq.formats import TENSORS, Format, format_for
from bitq.tradeoff.groups import Group, Slot
from bitq.tradeoff.space import Choices, Space
from bitq.tradeoff.study import Study


def admissible(study: Study, unit: Group) -> tuple[int, ...]:
    """Indices of the formats that all of a unit's tensors may take, in their order.

    Formats without a sign are for activations in which calibration met no negative number.

    Raises:
        BitqError: there is none.
    """
    found = [study.offered(study.space.modules[module], TENSORS[tensor]) for module, tensor in unit]
    common = tuple(index for index in found[0] if all(index in each for each in found))
    if not common:
        module, tensor = unit[0]
        raise BitqError(
            f"the {TENSORS[tensor]} of {study.space.modules[module]!r} and tensors that share its format have none in "
            "common that all of them may take; offer one to all"
        )
    return common


def rungs(study: Study, unit: Group) -> dict[int, int]:
    """By width of an element in bits, the widest first, a format of a unit: that of the middle of all so wide.

    The middle of Table 2's block sizes is 16. Of formats with and without a sign, those without: they waste no bit.
    """
    by_width: dict[int, list[int]] = {}
    for index in admissible(study, unit):
        by_width.setdefault(_format(study, index, unit[0]).element_bits, []).append(index)
    return {width: _middle(study, by_width[width], unit[0]) for width in sorted(by_width, reverse=True)}


def _middle(study: Study, indices: Sequence[int], end: Slot) -> int:
    unsigned = [index for index in indices if _format(study, index, end).never_negative]
    ordered = sorted(unsigned or indices, key=lambda index: _format(study, index, end))
    return ordered[len(ordered) // 2]


def _format(study: Study, index: int, end: Slot) -> Format:
    name, tensor = study.space.modules[end[0]], TENSORS[end[1]]
    return format_for(study.space.formats[index], tensor, study.ranges[name].non_negative(tensor))


def planned(space: Space, of: Sequence[Group], taken: Sequence[int]) -> Choices:
    """The plan in which each of all units has this format."""
    by_end = {end: index for unit, index in zip(of, taken, strict=True) for end in unit}
    return tuple((by_end[m, 0], by_end[m, 1], by_end[m, 2]) for m in range(len(space.modules)))
