"""Tensors lowered one after the other, in the order of what each alone loses.

Accuracy is measured with one tensor at a time in each of a few formats, one for every width of an element; tensors are
then lowered in that order until the limit of movement is met, as AIMET's automatic mixed precision does.
"""

from __future__ import annotations

from collections import defaultdict

from bitq.formats import TENSORS, TensorFormats
from bitq.tradeoff.groups import Group, groups_of
from bitq.tradeoff.measure import first_inputs
from bitq.tradeoff.records import Proposal
from bitq.tradeoff.rules.limits import limits
from bitq.tradeoff.rules.units import planned, rungs
from bitq.tradeoff.rules.untuned import Untuned
from bitq.tradeoff.study import Study


def greedy(study: Study, count: int) -> Proposal:
    """A plan for each of some limits of movement."""
    space, every = study.space, groups_of(study.space)
    ladders = [tuple(rungs(study, unit).values()) for unit in every]
    batches = first_inputs(study.subject.model, study.subject.data.validation, study.settings.scored_inputs)
    untuned, moves = Untuned(study), []
    for number, (unit, ladder) in enumerate(zip(every, ladders, strict=True)):
        study.ledger.listener.step("measuring tensors alone", number, len(every))
        for step, index in enumerate(ladder[1:], 1):
            moves.append((-untuned.accuracy(_alone(study, unit, index), batches), step, number))
    plans = []
    for limit in limits(study, count):
        steps = [0] * len(every)
        plan = planned(space, every, [ladder[0] for ladder in ladders])
        for _, step, number in sorted(moves):
            if space.cost(plan, placed=False).movement_bits <= limit:
                break
            steps[number] = max(steps[number], step)
            plan = planned(space, every, [ladder[own] for ladder, own in zip(ladders, steps, strict=True)])
        plans.append(plan)
    return Proposal(plans=tuple(plans), passes=len(moves))


def _alone(study: Study, unit: Group, index: int) -> dict[str, TensorFormats]:
    """One format for the tensors of a unit, by module path; all else stays float."""
    found: dict[str, dict[str, object]] = defaultdict(dict)
    for module, tensor in unit:
        name = study.space.modules[module]
        found[name][TENSORS[tensor]] = study.formats(name, TENSORS[tensor])[index]
    return {name: TensorFormats(**formats) for name, formats in found.items()}  # type: ignore[arg-type]
