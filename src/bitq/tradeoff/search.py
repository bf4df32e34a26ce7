"""Find the plan of least objective O: predict, solve exactly for the prediction, fine-tune, correct, solve again.

1. A supernet, trained once while formats are drawn at random, predicts any plan's accuracy by one evaluation.
2. The uniform formats it ranks best are fine-tuned and measured: they are the competition, and they tell which share of
   the predicted loss of accuracy fine-tuning leaves.
3. Around a base plan, the sensitivity of every tensor to every format is measured on the supernet. With additive scores
   the best plan is exact (`allocate`); the supernet tells how far to follow it. The result is the next base.
4. The plan is fine-tuned and measured as the uniform formats were, the prediction corrected, and the plan near the best
   measured one that is then predicted best fine-tuned too, a few times.
The plan with the least O measured on validation data wins; what it reaches is measured on test data.
"""

from __future__ import annotations

from bitq.accuracy.sensitivity import TENSORS, sensitivities
from bitq.tradeoff.allocate import Scores, allocate, predicted_gains
from bitq.tradeoff.predict import Choices, Contender, Predictor
from bitq.tradeoff.run import Run

CAUTION = (0.5, 1.0, 2.0, 4.0)
"""Factors on the scores that are tried."""


def search(run: Run) -> tuple[Contender, ...]:
    """All fine-tuned contenders, the best (least O on validation data) first.

    Every evaluation is kept in the run's store; calling it again continues where it was interrupted.
    """
    space, note = run.space, run.listener.note
    note(f"float32: accuracy {run.float_accuracy()['validation']:.4f} (validation)")

    predictor = Predictor.of(run)
    uniforms = sorted(map(space.uniform, range(len(space.formats))), key=predictor.objective)
    contenders = [_measured(run, f"uniform {_format(run, plan)}", plan) for plan in uniforms[: run.settings.uniforms]]
    predictor = predictor.corrected(contenders)
    base = min(uniforms, key=predictor.objective)
    scores: Scores = []
    for number in range(run.settings.rounds):
        scores = _scores(run, base, predictor, number)
        plan = min(_proposals(run, base, scores), key=predictor.objective)
        note(f"round {number + 1}: O {predictor.objective(plan):.4f} predicted, {predictor.objective(base):.4f} before")
        if plan == base:
            break
        base = plan

    for number in range(run.settings.plans):
        measured = {contender.choices for contender in contenders}
        unmeasured = [plan for plan in _proposals(run, base, scores) if plan not in measured]
        if not unmeasured:
            break
        contenders.append(_measured(run, f"plan {number + 1}", min(unmeasured, key=predictor.objective)))
        before, predictor = predictor, predictor.corrected(contenders)
        scores = [predictor.left / before.left * table for table in scores]
        base = min(contenders, key=lambda contender: contender.objective).choices
    return tuple(sorted(contenders, key=lambda contender: contender.objective))


def _proposals(run: Run, base: Choices, scores: Scores) -> list[Choices]:
    """The base, the best plans for the scores, more and less cautious, and only the most promising moves to each.

    Many tensors changed at once cost more than the sum of each alone; the supernet tells how far to go.
    """
    proposals = [base]
    for caution in CAUTION:
        weighed = [caution * table for table in scores]
        plan = allocate(run.space, weighed, run.settings.alpha)
        gains = predicted_gains(run.space, weighed, run.settings.alpha, base, plan)
        moved = sorted((module for module in range(len(plan)) if gains[module] > 0), key=lambda m: -gains[m])
        for count in sorted({len(moved) >> shift for shift in range(len(moved).bit_length())}):
            far = set(moved[:count])
            proposals.append(tuple(plan[m] if m in far else base[m] for m in range(len(plan))))
    return proposals


def _measured(run: Run, label: str, choices: Choices) -> Contender:
    result = run.finetuned(choices, label)
    contender = Contender(label, choices, result, run.objective(result["validation"], result["movement_bits"]))
    run.listener.note(
        f"{label}: accuracy {result['validation']:.4f} (validation), "
        f"{result['movement_bits'] / run.space.movement_max:.1%} of the largest movement, O {contender.objective:.4f}"
    )
    return contender


def _scores(run: Run, base: Choices, predictor: Predictor, number: int) -> Scores:
    """Accuracy lost by every tensor in every format, estimated around a plan, and kept for the report."""
    what = f"measuring sensitivities, round {number + 1}"
    found = sensitivities(
        base,
        run.space.formats,
        run.loss,
        lambda done, total: run.listener.step(what, done, total),
    )
    slope = predictor.left * predictor.accuracy_per_loss
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


def _format(run: Run, uniform: Choices) -> str:
    return str(run.space.formats[uniform[0][0]])
