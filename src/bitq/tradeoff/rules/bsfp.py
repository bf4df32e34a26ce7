"""BSFP: weights as sums of two narrow integers, each with a small float as its scale; activations in MSFP.

Lo, Lee and Liu: "Block and Subword-Scaling Floating-Point (BSFP)", ICLR 2023.

From there: vectors of 16 weights, two integers of 2 bits, scales of 7 bits; activations in MSFP. There, a trained
network is converted as it is, as here with tuned=no.

Ours: which width of MSFP is not told, msfp16 by default and narrower ones after it; vectors run along the input
channels of one kernel tap; scales are those of the least squared error; plans are fine-tuned as all others, with scales
that are looked for anew every 50 steps (`bitq.accuracy.held`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bitq.errors import BitqError
from bitq.formats import PRESETS
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.records import Proposal
from bitq.tradeoff.rules.assigned import assigned, distinct
from bitq.tradeoff.rules.rule import Brought, Proposals, Rule
from bitq.tradeoff.study import Study

WIDEST, NARROWEST = 16, 12


@dataclass(frozen=True)
class Bsfp(Rule):
    """The rule.

    Attributes:
        msfp: of activations in its first plan, 12..16.
        tuned: "no" to measure its plans as they are.

    Raises:
        BitqError: no such MSFP, or something else than yes or no.
    """

    msfp: int = 16
    tuned: str = "yes"

    def __post_init__(self) -> None:
        if not NARROWEST <= self.msfp <= WIDEST:
            raise BitqError(f"the msfp of bsfp is {self.msfp}; it must be {NARROWEST}..{WIDEST}")
        if self.tuned not in ("yes", "no"):
            raise BitqError(f"tuned of bsfp is {self.tuned!r}; it must be yes or no")

    def brings(self, offered: FormatSet) -> Brought:
        """MSFP for activations, BSFP for weights."""
        activations = tuple(PRESETS[f"msfp{bits}"] for bits in range(self.msfp, NARROWEST - 1, -1))
        weights = (PRESETS["bsfp"],)
        return Brought(FormatSet((*activations, *weights), weights, activations))

    def proposals(self, study: Study, label: str, count: int) -> Proposals:
        """As of every rule; measured as they are if they are not to be tuned."""
        found = super().proposals(study, label, count)
        tune = self.tuned == "yes" or study.training is None
        return replace(found, plans=tuple(replace(plan, tune=tune) for plan in found.plans))

    def propose(self, study: Study, count: int) -> Proposal:
        """One width of activations for all, the widest first."""
        (weight,) = study.space.offered.indices("weight")
        modules = len(study.space.modules)
        plans = [assigned(study, [i] * modules, [weight] * modules) for i in study.space.offered.indices("input")]
        return Proposal(plans=distinct(plans, count), passes=0)
