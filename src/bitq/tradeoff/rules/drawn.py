"""Random search: every tensor's format is drawn by itself."""

from __future__ import annotations

import random

from bitq.tradeoff.groups import groups_of
from bitq.tradeoff.records import Proposal
from bitq.tradeoff.rules.units import admissible, planned
from bitq.tradeoff.study import Study


def drawn(study: Study, count: int) -> Proposal:
    """Plans by the study's seed."""
    draw = random.Random(study.seed)
    every = groups_of(study.space)
    own = [admissible(study, unit) for unit in every]
    plans = (planned(study.space, every, [draw.choice(each) for each in own]) for _ in range(count))
    return Proposal(plans=tuple(plans), passes=0)
