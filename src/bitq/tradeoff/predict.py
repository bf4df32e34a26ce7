"""What a plan's accuracy will be after fine-tuning: a curve over the sum of its tensors' scores.

`benchmarks/predictors.py` compares this with other predictors, by rank correlation and by cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import fmean

import numpy as np
from scipy.optimize import nnls

PRIOR_LINEAR, PRIOR_BEND = 0.02, 0.04
"""The curve before anything was measured (our choice, between what the demo and a ResNet-20 lose: a guess that
measurements replace)."""

PRIOR_SPREAD = 1.0
"""How far the coefficients may be from that guess, as a share of it: one standard deviation."""

RECOVERED = {"input": 1.0, "weight": 0.3, "output": 1.0}
"""What a tensor's score counts for: fine-tuning moves weights, so it recovers more of what their formats perturb (our
choice, from the demo's and a ResNet-20's plans)."""

LEFT = 0.4
"""Share of what a plan loses as it is that fine-tuning leaves, before any was tuned (our choice)."""

TELLING_LOSS, FEWEST = 0.3, 5
"""Plans that lose so much at most tell of the curve; if none does, so many of the least scores do."""

FOLLOWED = 1.5
"""If the usual curve errs so many times more than one of any coefficients on what plans lose as they are, and than
noise, scores have another scale than usual, and these plans alone decide: of a loss that is a mean over an image's
pixels, scores are some thirty times smaller."""

LEAST_SHARE = 0.1
"""A guess is no less than this share of `PRIOR_LINEAR` and `PRIOR_BEND`, so that measurements can raise it."""

NOISE, RELATIVE_NOISE = 0.003, 0.1
"""Standard deviation of a measured loss of accuracy, and its growth with it: far plans tell little of near ones."""


def noise(lost: float) -> float:
    """Standard deviation of a loss of accuracy that is measured."""
    return NOISE + RELATIVE_NOISE * max(lost, 0.0)


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

    def error(self, measured: Sequence[tuple[float, float]]) -> float:
        """Root of the mean square by which plans' (sum of scores, accuracy lost) lie off it, in their noises."""
        squares = (((self.lost(score) - lost) / noise(lost)) ** 2 for score, lost in measured)
        return sqrt(fmean(squares))

    @classmethod
    def guessed(cls, untuned: Sequence[tuple[float, float]], left: float = LEFT) -> Curve:
        """What is likely to be left of what plans lose as they are, by their (sum of scores, accuracy lost).

        A network that fits its data well loses up to 70 times more at one score than another, so the first guess comes
        from the network itself. Plans that lose most of what it knows say little of those that are worth a thought.
        """
        ordered = sorted(untuned)
        telling = [each for each in ordered if each[1] <= TELLING_LOSS] or ordered[:FEWEST]
        found, free = cls.fitted(telling), cls.fitted(telling, cls(inf, inf))
        if len(telling) >= FEWEST and found.error(telling) > FOLLOWED * max(free.error(telling), 1.0):
            found = free
        least = PRIOR_LINEAR * LEAST_SHARE, PRIOR_BEND * LEAST_SHARE
        return cls(max(left * found.linear, least[0]), max(left * found.bend, least[1]))

    @classmethod
    def fitted(cls, measured: Sequence[tuple[float, float]], guess: Curve | None = None) -> Curve:
        """The likeliest curve for (sum of scores, accuracy lost) of plans, on top of a first guess."""
        guess = guess or cls()
        rows = [
            [1 / (PRIOR_SPREAD * guess.linear), 0.0],
            [0.0, 1 / (PRIOR_SPREAD * guess.bend)],
        ]
        values = [1 / PRIOR_SPREAD, 1 / PRIOR_SPREAD]
        for score, lost in measured:
            rows.append([score / noise(lost), score * score / noise(lost)])
            values.append(lost / noise(lost))
        (linear, bend), _ = nnls(np.array(rows), np.array(values))
        return cls(float(linear), float(bend))
