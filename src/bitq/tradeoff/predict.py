"""What a plan's accuracy will be after fine-tuning: a curve over the sum of its tensors' scores.

`benchmarks/predictors.py` compares this with other predictors, by rank correlation and by cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.optimize import nnls

PRIOR_LINEAR, PRIOR_BEND = 0.02, 0.04
"""The curve before anything was measured (our choice, between what the demo and a ResNet-20 lose: a guess that
measurements replace)."""

PRIOR_SPREAD = 1.0
"""How far the coefficients may be from that guess, as a share of it: one standard deviation."""

RECOVERED = {"input": 1.0, "weight": 0.6, "output": 1.0}
"""What a tensor's score counts for: fine-tuning moves weights, so it recovers more of what their formats perturb (our
choice, from the demo's and a ResNet-20's plans)."""

NOISE, RELATIVE_NOISE = 0.003, 0.1
"""Standard deviation of a measured loss of accuracy, and its growth with it: far plans tell little of near ones."""


@dataclass(frozen=True)
class Curve:
    """Accuracy lost after fine-tuning = linear · s + bend · s², s being the sum of a plan's scores; neither below 0.

    Fine-tuning recovers nearly all of a small perturbation and less and less of larger ones.
    """

    linear: float = PRIOR_LINEAR
    bend: float = PRIOR_BEND

    def lost(self, score: float) -> float:
        """Accuracy lost, as a share in [0, 1], by a plan of this sum of scores."""
        return min(self.linear * score + self.bend * score * score, 1.0)

    def slope(self, score: float) -> float:
        """Accuracy that one more unit of score costs a plan of this sum of scores."""
        return self.linear + 2 * self.bend * score

    def score(self, lost: float) -> float:
        """The sum of scores that loses so much accuracy."""
        if lost <= 0:
            return 0.0
        if self.linear + self.bend == 0:
            return float("inf")
        return 2 * lost / (self.linear + sqrt(self.linear**2 + 4 * self.bend * lost))

    @classmethod
    def fitted(cls, measured: Sequence[tuple[float, float]]) -> Curve:
        """The likeliest curve for (sum of scores, accuracy lost) of fine-tuned plans, on top of the first guess."""
        rows = [
            [1 / (PRIOR_SPREAD * PRIOR_LINEAR), 0.0],
            [0.0, 1 / (PRIOR_SPREAD * PRIOR_BEND)],
        ]
        values = [1 / PRIOR_SPREAD, 1 / PRIOR_SPREAD]
        for score, lost in measured:
            noise = NOISE + RELATIVE_NOISE * max(lost, 0.0)
            rows.append([score / noise, score * score / noise])
            values.append(lost / noise)
        (linear, bend), _ = nnls(np.array(rows), np.array(values))
        return cls(float(linear), float(bend))
