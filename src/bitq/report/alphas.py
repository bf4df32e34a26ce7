"""What the answer would be if movement weighed less or more: from what is stored, without searching again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitq.errors import BitqError
from bitq.report.evidence import Evidence
from bitq.tradeoff.records import MOST_ALPHA, Measurement, Predicted, objective

ALPHAS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
"""Weights of movement that a report tells the best plan for: seven, as in the paper; the values are ours."""


@dataclass(frozen=True)
class Answer:
    """The answer for one weight of movement.

    Attributes:
        alpha: that weight.
        predicted: the plan of least predicted O.
        measured: of the plans that were measured, the one of least O on validation data.
        objective: O of that plan on test data.
    """

    alpha: float
    predicted: Predicted
    measured: Measurement
    objective: float


def answers(run: Evidence, alphas: Sequence[float] = ALPHAS) -> tuple[Answer, ...]:
    """The answers for these weights and the plan's own, smallest first; none if nothing was predicted or measured.

    Raises:
        BitqError: a weight that is negative, larger than `MOST_ALPHA` or no number.
    """
    for alpha in alphas:
        if not 0 <= alpha <= MOST_ALPHA:
            raise BitqError(f"alpha is {alpha!r}; it must be a number of at least 0, up to {MOST_ALPHA:g}")
    if run.front is None or not run.front.points or not run.measured:
        return ()
    points, measured, most = run.front.points, run.measured, run.plan.totals.movement_bits_max
    found = []
    for alpha in sorted({*alphas, run.plan.alpha}):
        best = min(measured, key=lambda each: objective(each.validation, each.movement_bits, most, alpha))
        found.append(
            Answer(
                alpha,
                min(points, key=lambda point: objective(point.accuracy, point.movement_bits, most, alpha)),
                best,
                objective(best.test, best.movement_bits, most, alpha),
            )
        )
    return tuple(found)
