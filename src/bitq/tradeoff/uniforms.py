"""Plans of one format for all tensors, as far as each can have it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from bitq.tradeoff.groups import groups_of
from bitq.tradeoff.space import Choices
from bitq.tradeoff.study import Study


def uniforms(study: Study) -> tuple[Choices, ...]:
    """For each format that every tensor may take the plan that gives it to all, in the order of the formats.

    Activations that are never negative take its partner without a sign instead, if that is offered: the same numbers in
    a bit less for each.
    """
    space = study.space
    return without_signs(study, [space.uniform(index) for index in space.offered.of_all])


def without_signs(study: Study, plans: Sequence[Choices]) -> tuple[Choices, ...]:
    """The same plans, in which activations that are never negative take the partners of their formats without a sign.

    Tensors of one format take its partner together or not at all.
    """
    unsigned, ends = study.space.offered.unsigned, list(product(range(len(study.space.modules)), range(3)))
    negative = {end for end in ends if not study.never_negative(*end)}
    kept = {end for group in groups_of(study.space) if negative.intersection(group) for end in group}

    def own(plan: Choices, module: int, tensor: int) -> int:
        index = plan[module][tensor]
        return index if (module, tensor) in kept else unsigned[index]

    return tuple(
        tuple((own(plan, m, 0), own(plan, m, 1), own(plan, m, 2)) for m in range(len(plan))) for plan in plans
    )


def format_of(study: Study, plan: Choices) -> str:
    """What the format of a plan of one is called: weights have it everywhere."""
    return str(study.space.formats[plan[0][1]])
