"""Plans of one format for all tensors, as far as each can have it."""

from __future__ import annotations

from bitq.tradeoff.groups import groups_of
from bitq.tradeoff.space import Choices
from bitq.tradeoff.study import Study


def uniforms(study: Study) -> tuple[Choices, ...]:
    """For each format that every tensor may take the plan that gives it to all, in the order of the formats.

    Activations that are never negative take its partner without a sign instead, if that is offered: the same numbers in
    a bit less for each. Tensors of one format take it together or not at all.
    """
    space = study.space
    groups = groups_of(space)
    unsigned = [all(study.never_negative(module, tensor) for module, tensor in group) for group in groups]
    plans = []
    for index in space.offered.of_all:
        partner = space.offered.unsigned[index]
        own = {
            end: partner if without else index
            for group, without in zip(groups, unsigned, strict=True)
            for end in group
        }
        plans.append(tuple((own[m, 0], own[m, 1], own[m, 2]) for m in range(len(space.modules))))
    return tuple(plans)


def format_of(study: Study, plan: Choices) -> str:
    """What the format of a plan of one is called: weights have it everywhere."""
    return str(study.space.formats[plan[0][1]])
