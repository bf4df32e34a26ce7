"""One format for every tensor."""

from __future__ import annotations

from collections.abc import Sized
from typing import cast

import numpy as np

from bitq.errors import BitqError
from bitq.tradeoff.allocate import predicted_loss
from bitq.tradeoff.knapsack import non_dominated
from bitq.tradeoff.predict import Curve
from bitq.tradeoff.records import Proposal
from bitq.tradeoff.rules.untuned import Untuned
from bitq.tradeoff.space import Choices
from bitq.tradeoff.study import Study
from bitq.tradeoff.uniforms import uniforms

STEP = 0.03
"""Share of movement by which the uniform formats within a loss of accuracy differ at least."""


def uniform(study: Study, count: int) -> Proposal:
    """Those that no other beats in both the sum of scores and movement, nearest to the least predicted O.

    Where accuracy has a budget, those that are predicted to keep it come first.
    """
    curve, budgets = Curve(), study.settings.budgets

    def promise(plan: Choices, score: float, movement_bits: float) -> tuple[float, float]:
        lost = curve.lost(score)
        cost = study.space.cost(plan, placed=budgets.of_ram)
        return budgets.excess(cost, lost), study.objective(1 - lost, movement_bits)

    order = sorted(_worth(study), key=lambda each: promise(*each))
    return Proposal(plans=tuple(plan for plan, *_ in order[:count]), passes=0)


def uniform_within(study: Study, count: int) -> Proposal:
    """The one of least movement that keeps the budget of accuracy without fine-tuning, and coarser ones."""
    least = study.float_accuracy.validation - (study.settings.budgets.accuracy_loss or 0.0)
    finest_first = sorted(_worth(study), key=lambda each: -each[2])
    untuned, validation = Untuned(study), study.subject.data.validation
    enough = 0
    for place, (plan, *_) in enumerate(finest_first):
        study.ledger.listener.step("measuring uniform formats", place, len(finest_first))
        if untuned.accuracy(study.tensor_formats(plan), validation) >= least:
            enough = place
    chosen = [finest_first[enough]]
    for each in finest_first[enough + 1 :]:
        if len(chosen) < count and each[2] <= (1 - STEP) * chosen[-1][2]:
            chosen.append(each)
    passes = len(finest_first) * len(cast(Sized, validation))
    return Proposal(plans=tuple(plan for plan, *_ in chosen), passes=passes)


def _worth(study: Study) -> list[tuple[Choices, float, float]]:
    """Uniform plans that no other beats in both, with their sum of scores and what they move, in bits."""
    plans = uniforms(study)
    if not plans:
        raise BitqError("no format is offered to weights and activations alike; offer one, or leave this rule out")
    moved = [study.space.cost(plan, placed=False).movement_bits for plan in plans]
    costs = np.array([[predicted_loss(study.scores, plan), bits] for plan, bits in zip(plans, moved, strict=True)])
    return [(plans[i], *costs[i]) for i in non_dominated(costs)]
