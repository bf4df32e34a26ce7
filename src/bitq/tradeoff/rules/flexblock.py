"""FlexBlock: three widths of block floating point, and for each layer the least that sets few elements to zero.

Noh et al.: "FlexBlock: A Flexible DNN Training Accelerator with Multi-Mode Block Floating Point Support", IEEE
Transactions on Computers, 2023, and its simulator.

From there: 8 bits of exponent for 216, 108 or 54 elements, as 24, 12 or 6 channels times 3 x 3 of the kernel window or
of the plane, magnitudes truncated; the first convolution, 1 x 1 shortcuts and the last linear layer stay float; a
weight's zero setting error, the share of elements that have no bit left beside their block's largest, zeros counted,
decides over weight and input; widths change where it leaves an interval, 0.1 to 0.2 on ImageNet, 0.6 to 0.8 on CIFAR.

Ours: the interval lets widths change for ever, so the least with an error of at most its upper end is taken. It decides
during training; here the weights of the float network do. Each upper end gives a plan, and the fixed widths do. FB12,
FB16, FB24 are 4, 8 and 16 bits with the sign, as the names say; the simulator has the sign beside them. What a shortcut
is, see `shortcuts`.
"""

from __future__ import annotations

from dataclasses import dataclass

from bitq.errors import BitqError
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.records import Proposal
from bitq.tradeoff.rules.assigned import (
    FLOAT32,
    chosen,
    distinct,
    finest_first,
    first_convolution,
    last_linear,
    shortcuts,
)
from bitq.tradeoff.rules.rule import Brought, Rule
from bitq.tradeoff.rules.statistics import weight_zeroed
from bitq.tradeoff.space import Choices
from bitq.tradeoff.study import Study

MODES = {16: "b6p3", 8: "b12p3", 4: "b24p3"}
"""By bits of an element, the blocks of FB24, FB16 and FB12."""

SIGNS = {"inside": 0, "beside": 1}


@dataclass(frozen=True)
class FlexBlock(Rule):
    """The rule.

    Attributes:
        upper: zero setting errors that the width of a layer may have at most; a plan for each.
        sign: "inside" the 4, 8 or 16 bits, as the names say, or "beside" them, as in the simulator.

    Raises:
        BitqError: another sign.
    """

    upper: tuple[float, ...] = (0.2, 0.8)
    sign: str = "inside"

    def __post_init__(self) -> None:
        if self.sign not in SIGNS:
            raise BitqError(f"the sign of flexblock is {self.sign!r}; it must be one of {', '.join(SIGNS)}")

    def brings(self, offered: FormatSet) -> Brought:
        """Float32, FB24, FB16, FB12."""
        more = SIGNS[self.sign]
        return finest_first(
            FLOAT32.text, *(f"s{bits + more}:e8m0:{blocks}:toward_zero" for bits, blocks in MODES.items())
        )

    def propose(self, study: Study, count: int) -> Proposal:
        """The layers' own widths by each upper end, then FB16 and FB12 for all."""
        formats, modules = study.space.formats, study.space.modules
        floating = first_convolution(study) | shortcuts(study) | last_linear(study)
        errors = [[weight_zeroed(study, name, fmt) for fmt in formats[1:]] for name in modules]  # type: ignore[arg-type]

        def plan(widths: list[int]) -> Choices:
            return chosen(study, widths, widths, floating)

        dynamic = [plan([_least(own, upper) for own in errors]) for upper in self.upper]
        fixed = [plan([index] * len(modules)) for index in (2, 3)]
        return Proposal(plans=distinct([*dynamic, *fixed], count), passes=0)


def _least(errors: list[float], upper: float) -> int:
    """Index of the coarsest format whose error is small enough, or else of the finest; float32 has index 0."""
    return next((index for index in range(len(errors), 1, -1) if errors[index - 1] <= upper), 1)
