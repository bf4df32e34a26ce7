"""Random search: every tensor's format is drawn by itself."""

from __future__ import annotations

import random

from bitq.tradeoff.records import Proposal
from bitq.tradeoff.study import Study


def drawn(study: Study, count: int) -> Proposal:
    """Plans by the study's seed."""
    draw = random.Random(study.seed)
    formats = range(len(study.space.formats))
    plans = tuple(
        tuple((draw.choice(formats), draw.choice(formats), draw.choice(formats)) for _ in study.space.modules)
        for _ in range(count)
    )
    return Proposal(plans=plans, passes=0)
