"""The rules by which others choose plans, as we read them: each a function from a study to the plans it proposes.

A rule proposes several plans, because none of these weighs accuracy against movement itself; whoever asks measures all
and takes the one of least O. All are our own implementations, on our space and with our movement as their cost. To add
one, add a module and name it here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bitq.tradeoff.records import Proposal
from bitq.tradeoff.rules.drawn import drawn
from bitq.tradeoff.rules.gradient import gradient
from bitq.tradeoff.rules.greedy import greedy
from bitq.tradeoff.rules.hessian import hessian
from bitq.tradeoff.rules.uniform import uniform, uniform_within
from bitq.tradeoff.study import Study

Rule = Callable[[Study, int], Proposal]
"""(what is studied, how many plans at most) to plans, and what finding them took."""

RULES: Mapping[str, Rule] = {
    "uniform": uniform,
    "uniform-within": uniform_within,
    "random": drawn,
    "gradient": gradient,
    "greedy": greedy,
    "hessian": hessian,
}
"""All of them, by name."""
