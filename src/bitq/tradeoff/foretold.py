"""What was predicted of a plan, told beside what was measured."""

from __future__ import annotations

from bitq.tradeoff.predict import Curve, noise

ERRORS = 2.0
"""Standard deviations that a prediction may be off: if the curve is right, 19 of 20 are no further."""


def foretold(curve: Curve, score: float, float32: float, measured: float) -> str:
    """The prediction with its error, and whether what was measured lies beyond.

    Args:
        curve: that predicts.
        score: sum of the plan's scores.
        float32, measured: accuracies on validation data.
    """
    lost = curve.lost(score)
    error, missed = ERRORS * noise(lost), measured - (float32 - lost)
    told = f"predicted {100 * (float32 - lost):.2f} % ± {100 * error:.2f}"
    return f" ({told}: off by {100 * abs(missed):.2f} points)" if abs(missed) > error else f" ({told})"
