"""One of the formats that people would pick without a search, for every tensor: int8, int4, mxint8, mxfp4."""

from __future__ import annotations

from dataclasses import dataclass

from bitq.formats import formats_of
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.records import Proposal
from bitq.tradeoff.rules.rule import Brought, Rule
from bitq.tradeoff.study import Study

NAMED = "int4,mxfp4,int8,mxint8"
"""The coarse ones first: fine-tuning is for them."""


@dataclass(frozen=True)
class Named(Rule):
    """The rule."""

    def brings(self, offered: FormatSet) -> Brought:
        """These formats."""
        return Brought(FormatSet(tuple(each for each in formats_of(NAMED) if each is not None)))

    def propose(self, study: Study, count: int) -> Proposal:
        """A plan for each."""
        space = study.space
        return Proposal(plans=tuple(map(space.uniform, space.offered.of_all))[:count], passes=0)
