"""Squared gradient times squared error of every tensor, and the plan of least sum within a limit of the cost.

As NVIDIA ModelOpt's `auto_quantize`, which solves a linear program.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import numpy as np

from bitq.accuracy.sensitivity import POWER, perturbations, probed
from bitq.accuracy.sensitivity import scores as scores_of
from bitq.formats import TENSORS, Ranges
from bitq.tradeoff.allocate import Scores, allocate
from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.measure import seeded
from bitq.tradeoff.records import Proposal
from bitq.tradeoff.rules.limits import limits
from bitq.tradeoff.rules.units import admissible
from bitq.tradeoff.study import Study

MANY = 64
"""Formats of a tensor from which on some of them are measured."""

BATCHES = 8
"""Training batches that gradients are taken from."""


def gradient(study: Study, count: int) -> Proposal:
    """A plan for each of some limits of movement."""
    scores = gradient_scores(study, {})
    plans = tuple(allocate(study.space, scores, 0.0, Budgets(movement_bits=limit)) for limit in limits(study, count))
    return Proposal(plans=plans, passes=2 * BATCHES)


def gradient_scores(study: Study, ranges: Mapping[str, Ranges]) -> Scores:
    """For each module an array (3, formats): squared gradient times squared error.

    Infinite in what a tensor may not take. Every format is measured, but of many those that bitq measures, too; the
    others are read off lines through them.

    Args:
        study: network, data and formats.
        ranges: from which activations get what a whole tensor shares; of a module that is not named, each has its own.
    """
    space, subject = study.space, study.subject
    own = {
        (name, tensor): admissible(study, ((module, number),))
        for module, name in enumerate(space.modules)
        for number, tensor in enumerate(TENSORS)
    }
    formats = {
        (name, tensor): [study.formats(name, tensor)[index] for index in indices]
        for (name, tensor), indices in own.items()
    }
    extents = {name: space.extents(module) for module, name in enumerate(space.modules)}
    measured = {
        (name, tensor): each if len(each) < MANY else probed(each, extents[name][tensor])
        for (name, tensor), each in formats.items()
    }
    with seeded(study.seed):
        batches = list(islice(subject.data.train, BATCHES))
    found = perturbations(
        subject.model,
        space.modules,
        lambda name, tensor: measured[name, tensor],
        ranges,
        batches,
        subject.task.loss,
        lambda done, total: study.ledger.listener.step("taking gradients", done, total),
        points=space.points,
    )
    scores = []
    for name in space.modules:
        table = np.full((len(TENSORS), len(space.formats)), np.inf)
        for row, tensor in zip(table, TENSORS, strict=True):
            every, known = formats[name, tensor], found[name][tensor]
            values = [known[fmt] for fmt in every if fmt in known]
            if len(values) < len(every):
                values = list(2 * scores_of(every, known, extents[name][tensor]) ** (1 / POWER))
            row[list(own[name, tensor])] = values
        scores.append(table)
    return scores
