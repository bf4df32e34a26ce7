"""Find the plan of least objective O: score the tensors, solve exactly, fine-tune, correct the prediction, solve again.

1. Every tensor gets a score in every format: how much it perturbs the loss, by the squared gradient and the squared
   error (`bitq.accuracy.sensitivity`). Scores add up, so the best plans for all weights of movement are known exactly.
2. A curve says which accuracy a sum of scores loses after fine-tuning (`bitq.tradeoff.predict`). With it, the plans of
   least O are proposed, some apart from each other, fine-tuned and measured; uniform formats are measured alike.
3. The curve is fitted to all that was measured, and the next plans proposed, until no plan is left that could be better
   or the rounds are done.
The plan of least O on validation data that keeps the budgets wins; what it reaches is measured on test data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf, sqrt

from bitq.errors import BitqError
from bitq.store import Json
from bitq.tradeoff.allocate import Scores, allocate, allocations, front, predicted_loss
from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.predict import Curve
from bitq.tradeoff.run import Run
from bitq.tradeoff.space import Choice, Cost

Choices = tuple[Choice, ...]

WEIGHTS = (0.0, *(2.0 ** (power / 2) for power in range(-8, 9)))
"""Weights of movement that plans are solved for under budgets, as multiples of the likely one."""

LIKELY_SCORE = 0.5
"""Sum of scores around which the best plans lie, roughly."""

MIN_SLOPE = 1e-6
"""Accuracy per score below which a curve is taken to be flat."""

APART = (0.3, 0.1)
"""Plans measured differ by this share in the sum of their scores, in the first round, which finds out where the curve
lies, and in the later ones: nearly equal plans tell nothing new."""


@dataclass(frozen=True)
class Candidate:
    """A plan with its sum of scores and its cost."""

    choices: Choices
    score: float
    cost: Cost


@dataclass(frozen=True)
class Contender:
    """A plan that was measured, with its sum of scores; `objective` is O on validation data, `excess` by how much it
    misses the budgets."""

    label: str
    choices: Choices
    score: float
    result: Json
    objective: float
    excess: float

    @property
    def is_uniform(self) -> bool:
        """Whether it was measured as a uniform format."""
        return self.label.startswith("uniform")


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        contenders: all that were measured, the best first: within the budgets, and of least O on validation data.
        candidates: the best plans for all weights of movement (those that the budgets leave), most movement first.
        curve: what a sum of scores loses.
        accuracy_float: of the float network on validation data.
    """

    contenders: tuple[Contender, ...]
    candidates: tuple[Candidate, ...]
    curve: Curve
    accuracy_float: float


def search(run: Run) -> Found:
    """Propose, measure, correct; everything is kept in the run's store, and calling it again continues.

    Raises:
        BitqError: budgets that no plan keeps.
    """
    settings, note = run.settings, run.listener.note
    accuracy_float = float(run.float_accuracy()["validation"])
    note(f"float32: accuracy {accuracy_float:.4f} (validation)")
    _outlook(run, [])
    scores, curve = run.scores(), Curve()
    uniforms = [_candidate(run, scores, run.space.uniform(index)) for index in range(len(run.space.formats))]
    candidates = _candidates(run, scores)
    contenders: list[Contender] = []
    for number in range(1, (1 if settings.alone else settings.rounds) + 1):
        plans = _proposals(run, curve, uniforms, (*candidates, *_bounded(run, scores, curve)), contenders, number)
        _outlook(run, contenders)
        for label, result in run.measured(plans):
            score = predicted_loss(scores, plans[label])
            contenders.append(_contender(run, label, plans[label], score, result, accuracy_float))
            note(_line(run, contenders[-1]))
            _outlook(run, contenders)
        contenders.sort(key=_rank)
        curve = Curve.fitted([(each.score, accuracy_float - float(each.result["validation"])) for each in contenders])
    if contenders[0].excess:
        note(f"no measured plan keeps the budgets ({settings.budgets}); more rounds or plans may find one")
    return Found(tuple(contenders), candidates, curve, accuracy_float)


def _rank(contender: Contender) -> tuple[float, float, str]:
    """The best first, whatever order they were measured in."""
    return contender.excess, contender.objective, contender.label


def _outlook(run: Run, contenders: Sequence[Contender]) -> None:
    """Tell the listener what is to come, and the best so far."""
    settings = run.settings
    count = settings.plans if settings.alone else settings.uniforms + settings.rounds * settings.plans
    steps = 0 if run.training is None else run.training.steps * max(count - len(contenders), 0)
    best = min(contenders, key=_rank, default=None)
    told = f"O {best.objective:.4f} ({best.label})" if best else ""
    run.listener.outlook({"fine-tuning": steps}, told)


def _candidates(run: Run, scores: Scores) -> tuple[Candidate, ...]:
    """The best plans for all weights of movement, from the most movement on; under budgets, or with tied tensors, those
    for some weights."""
    settings, space = run.settings, run.space
    costs = replace(settings.budgets, accuracy_loss=None)
    if costs == Budgets() and not space.ties:
        plans = tuple(point.choices for point in front(space, scores))
    else:
        weights = [_likely(run, Curve()) * factor for factor in WEIGHTS]
        plans = allocations(space, scores, weights, costs, partial(run.listener.step, "solving for the best plans"))
    found = (_candidate(run, scores, plan) for plan in dict.fromkeys(plans))
    ordered = sorted(found, key=lambda each: -each.cost.movement_bits)
    if settings.without == "movement":
        return tuple(ordered[:1])
    return tuple(ordered[-1:] if settings.without == "tradeoff" else ordered)


def _bounded(run: Run, scores: Scores, curve: Curve) -> tuple[Candidate, ...]:
    """The best plan of all whose predicted loss of accuracy keeps its budget, if there is such a budget and plan."""
    budgets = run.settings.budgets
    if budgets.accuracy_loss is None or run.settings.alone:
        return ()
    bound = replace(budgets, accuracy_loss=curve.score(budgets.accuracy_loss))
    try:
        return (_candidate(run, scores, allocate(run.space, scores, _likely(run, curve), bound)),)
    except BitqError:  # the prediction may be wrong: plans that lose the least are measured then
        return ()


def _likely(run: Run, curve: Curve) -> float:
    """Weight of movement beside scores that comes to the run's alpha beside accuracy."""
    return run.settings.alpha / max(curve.slope(LIKELY_SCORE), MIN_SLOPE)


def _proposals(
    run: Run,
    curve: Curve,
    uniforms: Sequence[Candidate],
    candidates: Sequence[Candidate],
    contenders: Sequence[Contender],
    number: int,
) -> dict[str, Choices]:
    """By label: the uniform formats and the plans that a round measures."""
    settings, accuracy_float = run.settings, float(run.float_accuracy()["validation"])
    measured = {contender.choices for contender in contenders}
    best = min(contenders, key=_rank, default=None)
    within = best.objective if best and not best.excess else inf

    def promise(plan: Candidate) -> tuple[float, float]:
        lost = curve.lost(plan.score)
        return settings.budgets.excess(plan.cost, lost), run.objective(1 - lost, plan.cost.movement_bits)

    wanted = 0 if settings.alone else settings.uniforms if number == settings.rounds else 1
    count = wanted - sum(contender.is_uniform for contender in contenders)
    best_first = sorted((each for each in uniforms if each.choices not in measured), key=promise)
    chosen = {f"uniform {run.space.formats[each.choices[0][0]]}": each.choices for each in best_first[:count]}
    hopeful = sorted(  # those that could be better than the best, if they lost no accuracy
        (
            each
            for each in candidates
            if each.choices not in measured and run.objective(accuracy_float, each.cost.movement_bits) < within
        ),
        key=promise,
    )
    bracket = _bracket(run, contenders)
    if bracket and hopeful and hopeful[0].score > bracket[0]:
        kept, missed = bracket
        between = (each for each in hopeful if kept < each.score < missed)
        hopeful = sorted(between, key=lambda each: abs(each.score - sqrt(kept * missed)))
    known = [each.score for each in contenders if not each.is_uniform]
    proposed: list[Candidate] = []
    apart = APART[min(number, len(APART)) - 1]
    for plan in hopeful:
        if len(proposed) < settings.plans and all(abs(plan.score - score) > apart * score for score in known):
            proposed.append(plan)
            known.append(plan.score)
    return chosen | {f"plan {number}.{place}": each.choices for place, each in enumerate(proposed, 1)}


def _bracket(run: Run, contenders: Sequence[Contender]) -> tuple[float, float] | None:
    """The sums of scores of a plan that keeps a budget of accuracy and of the next one that misses it, if both are
    known: a measurement between them tells more than the curve."""
    if run.settings.budgets.accuracy_loss is None:
        return None
    plans = [each for each in contenders if not each.is_uniform]
    kept = max((each.score for each in plans if not each.excess), default=inf)
    missed = min((each.score for each in plans if each.excess and each.score > kept), default=None)
    return None if missed is None else (kept, missed)


def _candidate(run: Run, scores: Scores, choices: Choices) -> Candidate:
    return Candidate(choices, predicted_loss(scores, choices), run.space.cost(choices))


def _contender(
    run: Run, label: str, choices: Choices, score: float, result: Json, accuracy_float: float
) -> Contender:
    excess = run.settings.budgets.excess(run.space.cost(choices), accuracy_float - float(result["validation"]))
    reached = run.objective(result["validation"], result["movement_bits"])
    return Contender(label, choices, score, result, reached, excess)


def _line(run: Run, contender: Contender) -> str:
    result = contender.result
    untuned = run.training is not None and not result.get("tuned", True)
    return (
        f"{contender.label}: accuracy {result['validation']:.4f} (validation), "
        f"{result['movement_bits'] / run.space.movement_max:.1%} of the largest movement, O {contender.objective:.4f}"
        + (" (fine-tuning made it worse and was undone)" if untuned else "")
        + (" (misses a budget)" if contender.excess else "")
    )
