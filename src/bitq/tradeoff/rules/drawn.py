"""Random search: every tensor's format is drawn by itself."""

from __future__ import annotations

import random

from bitq.formats import TENSORS
from bitq.tradeoff.records import Proposal
from bitq.tradeoff.space import Choice
from bitq.tradeoff.study import Study


def drawn(study: Study, count: int) -> Proposal:
    """Plans by the study's seed."""
    draw = random.Random(study.seed)
    offered = study.space.offered
    inputs, weights, outputs = (offered.indices(tensor) for tensor in TENSORS)

    def choice() -> Choice:
        first, weight = draw.choice(inputs), draw.choice(weights)
        return first, weight, first if offered.output_as_input else draw.choice(outputs)

    plans = tuple(tuple(choice() for _ in study.space.modules) for _ in range(count))
    return Proposal(plans=plans, passes=0)
