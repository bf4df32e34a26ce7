"""What a plan's accuracy will be after fine-tuning, told from the supernet and from the plans measured so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bitq.store import Json
from bitq.tradeoff.run import Run
from bitq.tradeoff.space import Choice

Choices = tuple[Choice, ...]

PRIOR_LOSS = 0.02
"""Accuracy that a first guess of `left` = 1 is worth: few and small measured losses say little."""

LEFT = (0.1, 2.0)
"""Bounds of `left`: a format is never taken to cost nothing, however well one was fine-tuned."""

LOSS_TO_ACCURACY = (0.02, 1.0)
"""Bounds of the accuracy lost per unit of loss, where the probes are too few or too alike to tell."""


@dataclass(frozen=True)
class Contender:
    """A plan that was fine-tuned and measured; `objective` is O on validation data."""

    label: str
    choices: Choices
    result: Json
    objective: float


@dataclass(frozen=True)
class Predictor:
    """Predicted accuracy = float - left * (best uniform plan on the supernet - this plan on the supernet).

    The best uniform plan stands for float because the supernet, which serves all formats at once, is a little worse
    than float in the finest of them too.

    Attributes:
        run: whose supernet it is.
        accuracy_float: of the float network on validation data.
        accuracy_best: of the best uniform plan on the supernet.
        accuracy_per_loss: accuracy that one unit of the supernet's loss costs.
        left: share of the accuracy lost on the supernet that is still lost after fine-tuning.
    """

    run: Run
    accuracy_float: float
    accuracy_best: float
    accuracy_per_loss: float
    left: float = 1.0

    @classmethod
    def of(cls, run: Run) -> Predictor:
        """Probe every uniform format on the supernet."""
        total = len(run.space.formats)
        probes = []
        for index in range(total):
            run.listener.step("predicting uniform formats", index, total)
            probes.append(run.probe(run.space.uniform(index)))
        accuracy_best = max(float(probe["accuracy"]) for probe in probes)
        return cls(run, float(run.float_accuracy()["validation"]), accuracy_best, _accuracy_per_loss(probes))

    def objective(self, choices: Sequence[Choice]) -> float:
        """Predicted O of a plan."""
        probe = self.run.probe(choices)
        accuracy = self.accuracy_float - self.left * (self.accuracy_best - probe["accuracy"])
        return self.run.objective(accuracy, probe["movement_bits"])

    def corrected(self, contenders: Sequence[Contender]) -> Predictor:
        """The predictor with `left` fitted to all plans measured so far, by their losses in sum."""
        lost = sum(self.accuracy_best - self.run.probe(contender.choices)["accuracy"] for contender in contenders)
        still_lost = sum(self.accuracy_float - contender.result["validation"] for contender in contenders)
        left = (still_lost + PRIOR_LOSS) / (max(lost, 0.0) + PRIOR_LOSS)
        return replace(self, left=float(np.clip(left, *LEFT)))


def _accuracy_per_loss(probes: Sequence[Json]) -> float:
    """By least squares through the plan of least loss, over the better half: far from it the relation bends."""
    best = min(probes, key=lambda probe: float(probe["loss"]))
    gained = np.array([probe["loss"] - best["loss"] for probe in probes])
    lost = np.array([best["accuracy"] - probe["accuracy"] for probe in probes])
    near = gained <= np.median(gained)
    slope = float(gained[near] @ lost[near] / max(float(gained[near] @ gained[near]), 1e-12))
    return float(np.clip(slope, *LOSS_TO_ACCURACY))
