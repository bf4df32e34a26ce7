"""A stand-in for DBPS, whose formats, criterion and thresholds are not published where we can read them.

Lee et al.: "DBPS: Dynamic Block Size and Precision Scaling for Efficient DNN Training Supported by RISC-V ISA
Extensions", DAC 2023. From its abstract is that block sizes and precisions change while a network is trained.

Ours is all else: exponents of 8 bits, mantissas of 4 or 8, blocks of 8, 16, 24 or 48; each weight and each input has
the least width in which few elements have no bit left beside their block's largest (`zeroed`), by the float network's
weights and training batches; the first and the last layer stay float.
"""

from __future__ import annotations

from dataclasses import dataclass

from bitq.formats import format_for
from bitq.layers import Layer
from bitq.movement.widths import widths
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.records import Proposal
from bitq.tradeoff.rules.assigned import FLOAT32, chosen, distinct, finest_first
from bitq.tradeoff.rules.rule import Brought, Rule
from bitq.tradeoff.rules.statistics import BATCHES, input_zeroed, weight_zeroed
from bitq.tradeoff.space import formats_in
from bitq.tradeoff.study import Study

MANTISSAS, BLOCKS, EXPONENT_BITS = (8, 4), (8, 16, 24, 48), 8


@dataclass(frozen=True)
class DbpsLike(Rule):
    """The rule.

    Attributes:
        upper: shares of elements that may be left without a bit; a plan for each.
    """

    upper: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)

    def brings(self, offered: FormatSet) -> Brought:
        """Float32, then the finest first."""
        own = (f"{bits + EXPONENT_BITS}:e{EXPONENT_BITS}:b{size}" for bits in MANTISSAS for size in BLOCKS)
        return finest_first(FLOAT32.text, *own)

    def propose(self, study: Study, count: int) -> Proposal:
        """The least widths by each share."""
        space = study.space
        formats = [format_for(each, "weight") for each in space.formats[1:]]
        weights = [[weight_zeroed(study, name, fmt) for fmt in formats] for name in space.modules]
        found = input_zeroed(study, formats)
        inputs = [found[name] for name in space.modules]
        floating = {0, len(space.modules) - 1}

        def least(shares: list[list[float]], upper: float, tensor: str) -> list[int]:
            return [
                _narrowest([share <= upper for share in own], _widths(study, layers[0], tensor))
                for own, layers in zip(shares, space.layers, strict=True)
            ]

        plans = [
            chosen(study, least(inputs, upper, "input"), least(weights, upper, "weight"), floating)
            for upper in self.upper
        ]
        return Proposal(plans=distinct(plans, count), passes=BATCHES)


def _widths(study: Study, layer: Layer, tensor: str) -> list[float]:
    """Of each format but float32, bits an element."""
    return [getattr(widths(layer, formats_in((each,) * 3)), tensor) for each in study.space.formats[1:]]


def _narrowest(fits: list[bool], own: list[float]) -> int:
    """Index of the narrowest format that fits, the finest of equals, or else of the finest; float32 has index 0."""
    return 1 + min((place for place, fit in enumerate(fits) if fit), key=lambda place: own[place], default=0)
