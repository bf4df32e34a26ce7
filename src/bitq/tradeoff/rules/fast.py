"""FAST: mantissas of 2 or 4 bits, whichever the relative difference of the two asks for.

Zhang, McDanel and Kung: "FAST: DNN Training Under Variable Precision Block Floating Point with Stochastic Rounding",
HPCA 2022, as others sum it up.

From there: 16 elements to an exponent of 3 bits, mantissas of 2 or 4 bits beside the sign; tensors of layer l of L in
iteration i of I have 4 bits if r = sum |BFP4 - BFP2| / sum |BFP2| is above a - b·i/I - b·l/L. Chunks of 2 bits of a
mantissa are stored with a sign each, so 16 elements take 3 + 16·(m/2)·3 bits, 6.19 or 3.19 an element: this is what is
counted, though the numbers are those of 5.19 and 3.19 bits.

Ours: a = 0.6 and b = 0.3 are from memory; nearest rounding, where the source is unclear; r is of the weight for the
weight and of inputs on training batches for the input. It decides during training; here the float network does, first
as at the end of training (i = I), then as at earlier times, down to its beginning.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bitq.accuracy.quantized import Shared, quantized_weight
from bitq.errors import BitqError
from bitq.formats import Format, parse_format
from bitq.numerics import quantize
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.records import Proposal
from bitq.tradeoff.rules.assigned import assigned, distinct, finest_first
from bitq.tradeoff.rules.rule import Brought, Rule
from bitq.tradeoff.rules.statistics import BATCHES, summed_over_inputs, weight_numbers
from bitq.tradeoff.study import Study

ROUNDINGS = {"nearest": "", "toward_zero": ":toward_zero"}
BLOCK, EXPONENT_BITS = 16, 3


@dataclass(frozen=True)
class Fast(Rule):
    """The rule.

    Attributes:
        alpha, beta: a and b of the threshold.
        rounding: of mantissas, "nearest" or "toward_zero".

    Raises:
        BitqError: another rounding.
    """

    alpha: float = 0.6
    beta: float = 0.3
    rounding: str = "nearest"

    def __post_init__(self) -> None:
        if self.rounding not in ROUNDINGS:
            raise BitqError(f"the rounding of fast is {self.rounding!r}; it must be one of {', '.join(ROUNDINGS)}")

    def brings(self, offered: FormatSet) -> Brought:
        """Mantissas of 4 and 2 bits, counted as they are stored: 6 and 3 bits an element, and the exponents."""
        shared, rounded = f"e{EXPONENT_BITS}:v{BLOCK}", ROUNDINGS[self.rounding]
        own = (f"{1 + bits + EXPONENT_BITS}:{shared}{rounded}" for bits in (4, 2))
        return finest_first(*own, counted=[f"{bits // 2 * 3 + EXPONENT_BITS}:{shared}{rounded}" for bits in (4, 2)])

    def propose(self, study: Study, count: int) -> Proposal:
        """What it has assigned at the end of training, and at earlier times."""
        fine, coarse = map(parse_format, map(str, study.space.formats))
        weights = [_weight_ratio(study, name, fine, coarse) for name in study.space.modules]
        inputs = [_input_ratios(study, fine, coarse)[name] for name in study.space.modules]
        times = np.linspace(1, 0, count) if count > 1 else [1.0]

        def widths(ratios: list[float], time: float) -> list[int]:
            last = len(ratios)
            limits = (self.alpha - self.beta * time - self.beta * layer / last for layer in range(1, last + 1))
            return [0 if ratio > limit else 1 for ratio, limit in zip(ratios, limits, strict=True)]

        plans = [assigned(study, widths(inputs, time), widths(weights, time)) for time in times]
        return Proposal(plans=distinct(plans, count), passes=BATCHES)


def difference(fine: Tensor, coarse: Tensor) -> tuple[float, float]:
    """The sums of |fine - coarse| and |coarse|, whose quotient is r."""
    return float((fine - coarse).abs().sum()), float(coarse.abs().sum())


def _ratio(sums: tuple[float, float]) -> float:
    """r; nothing that is not 0 in the coarse format asks for the fine one."""
    return sums[0] / sums[1] if sums[1] else np.inf if sums[0] else 0.0


def _weight_ratio(study: Study, name: str, fine: Format, coarse: Format) -> float:
    layer, weight = study.subject.model.get_submodule(name), weight_numbers(study, name)
    with torch.inference_mode():
        return _ratio(difference(*(quantized_weight(layer, weight, fmt) for fmt in (fine, coarse))))


def _input_ratios(study: Study, fine: Format, coarse: Format) -> dict[str, float]:
    def looked(x: Tensor, axis: int, name: str) -> list[tuple[float, float]]:
        own, found = study.ranges[name].input, []
        for fmt in (fine, coarse):
            found.append(quantize(x, fmt, axis, exponent_bias=Shared.of(fmt, own).exponent_bias))
        return [difference(*found)]

    return {name: _ratio(found[0]) for name, found in summed_over_inputs(study, looked).items()}
