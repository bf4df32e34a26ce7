"""Find the plan of least objective O: predict, solve exactly for the prediction, fine-tune, correct, solve again.

1. A supernet, trained once while formats are drawn at random, predicts any plan's accuracy by one evaluation.
2. The uniform formats it ranks best are fine-tuned and measured: they are the competition, and they tell which share of
   the predicted loss of accuracy fine-tuning leaves.
3. Around a base plan, the sensitivity of every tensor to every format is measured on the supernet. With additive scores
   the best plan is exact (`allocate`); the supernet tells how far to follow it. The result is the next base.
4. The plan is fine-tuned and measured as the uniform formats were, the prediction corrected, and the plan that is then
   best fine-tuned too.
The plan with the least O measured on validation data wins; what it reaches is measured on test data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitq.accuracy.sensitivity import TENSORS, sensitivities
from bitq.store import Json
from bitq.tradeoff.allocate import Scores, allocate, predicted_gains
from bitq.tradeoff.run import Run
from bitq.tradeoff.space import Choice

Choices = tuple[Choice, ...]

CAUTION = (0.5, 1.0, 2.0, 4.0)
"""Factors on the scores that are tried."""

LEFT = (0.1, 2.0)
"""Bounds of the share of a predicted loss of accuracy that fine-tuning leaves."""

LOSS_TO_ACCURACY = (0.02, 1.0)
"""Bounds of the accuracy lost per unit of loss, where the probes are too few or too alike to tell."""


@dataclass(frozen=True)
class Contender:
    """A plan that was fine-tuned and measured; `objective` is O on validation data."""

    label: str
    choices: Choices
    result: Json
    objective: float


def search(run: Run) -> tuple[Contender, ...]:
    """All fine-tuned contenders, the best (least O on validation data) first.

    Every evaluation is kept in the run's store; calling it again continues where it was interrupted.
    """
    space, note = run.space, run.listener.note
    note(f"float32: accuracy {run.float_accuracy()['validation']:.4f} (validation)")

    uniforms = sorted(range(len(space.formats)), key=lambda index: _predicted(run, space.uniform(index), 1.0))
    contenders = [
        _measured(run, f"uniform {space.formats[index]}", space.uniform(index))
        for index in uniforms[: run.settings.uniforms]
    ]
    left = _left_by_finetuning(run, contenders)
    slope = _accuracy_per_loss(run, uniforms)
    base = min((space.uniform(index) for index in uniforms), key=lambda plan: _predicted(run, plan, left))
    scores: Scores = []
    for number in range(run.settings.rounds):
        scores = _scores(run, base, left * slope, number)
        plan, before = _best_proposal(run, base, scores, left), _predicted(run, base, left)
        note(f"round {number + 1}: predicted O {_predicted(run, plan, left):.4f}, {before:.4f} before")
        if plan == base:
            break
        base = plan

    for number in range(run.settings.plans):
        if any(contender.choices == base for contender in contenders):
            break
        contenders.append(_measured(run, f"plan {number + 1}", base))
        corrected = _left_by_finetuning(run, contenders)
        base = _best_proposal(run, base, [corrected / left * table for table in scores], corrected)
    return tuple(sorted(contenders, key=lambda contender: contender.objective))


def _best_proposal(run: Run, base: Choices, scores: Scores, left: float) -> Choices:
    """The base or the best plan near it, as the supernet sees them."""
    return min([base, *_proposals(run, base, scores)], key=lambda choices: _predicted(run, choices, left))


def _proposals(run: Run, base: Choices, scores: Scores) -> list[Choices]:
    """The best plans for the scores, more and less cautious, and each one's most promising moves from the base only.

    Many tensors changed at once cost more than the sum of each alone; the supernet tells how far to go.
    """
    proposals = []
    for caution in CAUTION:
        weighed = [caution * table for table in scores]
        plan = allocate(run.space, weighed, run.settings.alpha)
        gains = predicted_gains(run.space, weighed, run.settings.alpha, base, plan)
        moved = sorted((module for module in range(len(plan)) if gains[module] > 0), key=lambda m: -gains[m])
        for count in sorted({len(moved) >> shift for shift in range(len(moved).bit_length())}):
            far = set(moved[:count])
            proposals.append(tuple(plan[m] if m in far else base[m] for m in range(len(plan))))
    return proposals


def _predicted(run: Run, choices: Sequence[Choice], left: float) -> float:
    """O with the supernet's accuracy, of whose loss against float the share `left` is left after fine-tuning."""
    probe, reference = run.probe(choices), run.float_accuracy()["validation"]
    return run.objective(reference - left * (reference - probe["accuracy"]), probe["movement_bits"])


def _measured(run: Run, label: str, choices: Choices) -> Contender:
    result = run.finetuned(choices, label)
    contender = Contender(label, choices, result, run.objective(result["validation"], result["movement_bits"]))
    run.listener.note(
        f"{label}: accuracy {result['validation']:.4f} (validation), "
        f"{result['movement_bits'] / run.space.movement_max:.1%} of the largest movement, O {contender.objective:.4f}"
    )
    return contender


def _scores(run: Run, base: Choices, slope: float, number: int) -> Scores:
    """Accuracy lost by every tensor in every format, estimated around a plan, and kept for the report."""
    what = f"measuring sensitivities, round {number + 1}"
    found = sensitivities(
        base,
        run.space.formats,
        run.loss,
        lambda done, total: run.listener.step(what, done, total),
    )
    scores = [slope * table for table in found]
    named = {
        module: {
            tensor: {str(fmt): float(value) for fmt, value in zip(run.space.formats, row, strict=True)}
            for tensor, row in zip(TENSORS, table, strict=True)
        }
        for module, table in zip(run.space.modules, scores, strict=True)
    }
    run.store.get_or_run("sensitivity", {"base": [list(c) for c in base], "slope": slope}, lambda: {"scores": named})
    return scores


def _accuracy_per_loss(run: Run, uniforms: Sequence[int]) -> float:
    """Accuracy lost per unit of loss gained, by least squares through the best uniform plan."""
    probes = [run.probe(run.space.uniform(index)) for index in uniforms]
    best = min(probes, key=lambda probe: probe["loss"])
    gained = np.array([probe["loss"] - best["loss"] for probe in probes])
    lost = np.array([best["accuracy"] - probe["accuracy"] for probe in probes])
    near = gained <= np.median(gained)  # far from the best the relation bends
    slope = float(gained[near] @ lost[near] / max(float(gained[near] @ gained[near]), 1e-12))
    return float(np.clip(slope, *LOSS_TO_ACCURACY))


def _left_by_finetuning(run: Run, contenders: Sequence[Contender]) -> float:
    """Share of the predicted loss of accuracy that fine-tuning leaves, over all contenders so far."""
    reference = run.float_accuracy()["validation"]
    predicted = sum(reference - run.probe(contender.choices)["accuracy"] for contender in contenders)
    measured = sum(reference - contender.result["validation"] for contender in contenders)
    return float(np.clip(measured / predicted if predicted > 0 else 1.0, *LEFT))
