"""Integers of mixed widths, as the tools in use choose them: for each layer one width, by its sensitivity.

The layers' sensitivities are squared gradients times squared errors of weight and input, and the plan is the one of the
least sum within a limit of movement: NVIDIA ModelOpt's `auto_quantize` and NNCF's mixed precision work so, the latter
with traces of the Hessian, for which there is the rule `hessian`.

Ours: integers of 2 to 8 bits, weights by output channel, activations by tensor, without a sign where calibration met no
negative number. A layer's output has the width of those that read it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bitq.errors import BitqError
from bitq.formats import integers
from bitq.formats.families import FEWEST, MOST
from bitq.tradeoff.allocate import allocate
from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.groups import joined
from bitq.tradeoff.records import Proposal
from bitq.tradeoff.rules.gradient import BATCHES, gradient_scores
from bitq.tradeoff.rules.limits import limits
from bitq.tradeoff.rules.rule import Brought, Rule
from bitq.tradeoff.study import Study


@dataclass(frozen=True)
class IntMixed(Rule):
    """The rule.

    Attributes:
        least, most: bits of the integers, 2..16.

    Raises:
        BitqError: other bits.
    """

    least: int = 2
    most: int = 8

    def __post_init__(self) -> None:
        if not FEWEST <= self.least <= self.most <= MOST:
            raise BitqError(
                f"int-mixed has integers of {self.least} to {self.most} bits; they must have {FEWEST}..{MOST}, the "
                "least first"
            )

    def brings(self, offered: FormatSet) -> Brought:
        """int8, int7, …, int2."""
        return Brought(FormatSet(tuple(integers(bits) for bits in range(self.most, self.least - 1, -1))))

    def propose(self, study: Study, count: int) -> Proposal:
        """A plan for each of some limits of movement."""
        space, modules = study.space, range(len(study.space.modules))
        tied = replace(space, ties=joined((*(((module, 0), (module, 1)) for module in modules), *space.ties)))
        scores = gradient_scores(study, study.ranges)
        plans = tuple(allocate(tied, scores, 0.0, Budgets(movement_bits=limit)) for limit in limits(study, count))
        return Proposal(plans=plans, passes=2 * BATCHES)
