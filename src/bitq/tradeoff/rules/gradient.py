"""Squared gradient times squared error of every tensor, and the plan of least sum within a limit of the cost.

As NVIDIA ModelOpt's `auto_quantize`, which solves a linear program.
"""

from __future__ import annotations

from itertools import islice

import numpy as np

from bitq.accuracy.sensitivity import perturbations
from bitq.formats import TENSORS
from bitq.tradeoff.allocate import Scores, allocate
from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.measure import seeded
from bitq.tradeoff.records import Proposal
from bitq.tradeoff.rules.limits import limits
from bitq.tradeoff.study import Study

BATCHES = 8
"""Training batches that gradients are taken from."""


def gradient(study: Study, count: int) -> Proposal:
    """A plan for each of some limits of movement."""
    scores = gradient_scores(study)
    plans = tuple(allocate(study.space, scores, 0.0, Budgets(movement_bits=limit)) for limit in limits(study, count))
    return Proposal(plans=plans, passes=2 * BATCHES)


def gradient_scores(study: Study) -> Scores:
    """For each module an array (3, formats): squared gradient times squared error, every format measured."""
    space, subject = study.space, study.subject
    with seeded(study.seed):
        batches = list(islice(subject.data.train, BATCHES))
    found = perturbations(
        subject.model,
        space.modules,
        study.formats,
        {},
        batches,
        subject.task.loss,
        lambda done, total: study.ledger.listener.step("taking gradients", done, total),
    )
    return [
        np.array([[found[name][tensor][fmt] for fmt in study.formats(name, tensor)] for tensor in TENSORS])
        for name in space.modules
    ]
