"""HBFP: one width of block floating point for every layer.

Drumond et al.: "Training DNNs with Hybrid Block Floating Point", NeurIPS 2018, and its code; Harma et al.: "Accuracy
Booster", 2022.

From there: mantissas of 8 bits with the sign (12, in place of 16-bit elements), exponents of 8 bits, one for a tile of
24 x 24 of a weight's outer axes and one for all of an input sample; every layer, also the first and the last. Accuracy
Booster ends with mantissas of 6 bits everywhere.

Ours: to nearest, where the emulator rounds stochastically also in evaluation; the exponent of the largest element,
where the emulator's differs at powers of two. After hbfp8 the widths 6 and 4 are proposed.
"""

from __future__ import annotations

from dataclasses import dataclass

from bitq.errors import BitqError
from bitq.formats import parse_format
from bitq.formats.blocking import LARGEST_BLOCK
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.records import Proposal
from bitq.tradeoff.rules.assigned import assigned, distinct
from bitq.tradeoff.rules.rule import Brought, Rule
from bitq.tradeoff.study import Study

ACTIVATIONS = {"sample": f"b{LARGEST_BLOCK}p{LARGEST_BLOCK}", "blocks": "v64"}
"""One exponent for all channels and positions of an input (of linear layers, for each row), or one for 64 channels, as
the preset hbfp8 has."""


@dataclass(frozen=True)
class Hbfp(Rule):
    """The rule.

    Attributes:
        activations: "sample" for one exponent for an input, as in the code, or "blocks" of 64 channels.

    Raises:
        BitqError: other activations.
    """

    activations: str = "sample"

    def __post_init__(self) -> None:
        if self.activations not in ACTIVATIONS:
            raise BitqError(
                f"the activations of hbfp are {self.activations!r}; they must be one of {', '.join(ACTIVATIONS)}"
            )

    def brings(self, offered: FormatSet) -> Brought:
        """Weights in tiles, activations as one block: mantissas of 8, 6, 4 bits; of 12, where elements have 16."""
        widths = (12, 8, 6) if offered.grid_bits == 16 else (8, 6, 4)
        weights = tuple(parse_format(f"s{bits}:e8m0:t24x24") for bits in widths)
        activations = tuple(parse_format(f"s{bits}:e8m0:{ACTIVATIONS[self.activations]}") for bits in widths)
        return Brought(FormatSet((*activations, *weights), weights, activations))

    def propose(self, study: Study, count: int) -> Proposal:
        """One width for all, the widest first."""
        inputs, weights = (study.space.offered.indices(tensor) for tensor in ("input", "weight"))
        modules = len(study.space.modules)
        plans = [assigned(study, [i] * modules, [w] * modules) for i, w in zip(inputs, weights, strict=True)]
        return Proposal(plans=distinct(plans, count), passes=0)
