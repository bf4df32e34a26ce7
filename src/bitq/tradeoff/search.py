"""Find the plan of least objective O: score the tensors, solve exactly, fine-tune, correct the prediction, solve again.

1. Every tensor gets a score in every format: how much it perturbs the loss, by the squared gradient and the squared
   error (`bitq.accuracy.sensitivity`). Scores add up, so the best plans for all weights of movement are known exactly.
2. A curve says which accuracy a sum of scores loses after fine-tuning (`bitq.tradeoff.predict`). By it the plans of
   least O are proposed, fine-tuned and measured. They lie some way apart: plans that are nearly equal tell nothing new.
   Uniform formats are measured alike.
3. The curve is fitted to all that was measured, and the next plans are proposed. This ends when no plan is left that
   could be better than the best, or when the rounds are done.
The plan of least O on validation data that keeps the budgets wins; what it reaches is measured on test data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, sqrt

from bitq.errors import Infeasible
from bitq.tradeoff.allocate import allocate, allocations, front, predicted_loss
from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.predict import Curve
from bitq.tradeoff.records import Cost, Measurement
from bitq.tradeoff.space import Choices
from bitq.tradeoff.study import Proposed, Study

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
    """A plan that was measured.

    Attributes:
        plan: what was proposed.
        score: sum of its tensors' scores.
        measured: what came out.
        objective: O on validation data.
        excess: by how much it misses the budgets; 0 if it keeps them.
    """

    plan: Proposed
    score: float
    measured: Measurement
    objective: float
    excess: float

    @property
    def is_uniform(self) -> bool:
        """Whether it was proposed as one format for every tensor."""
        return self.plan.proposer == "uniform"


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        contenders: all that were measured, the best first: within the budgets, and of least O on validation data.
        candidates: the best plans for all weights of movement (those that the budgets leave), most movement first.
        curve: what a sum of scores loses.
    """

    contenders: tuple[Contender, ...]
    candidates: tuple[Candidate, ...]
    curve: Curve

    @property
    def best(self) -> Contender:
        """The winner."""
        return self.contenders[0]

    @property
    def best_uniform(self) -> Contender | None:
        """The best of the uniform formats that were measured."""
        return next((contender for contender in self.contenders if contender.is_uniform), None)


def search(study: Study) -> Found:
    """Propose, measure, correct; everything is kept in the study's ledger, and calling it again continues.

    Raises:
        Infeasible: budgets that no plan keeps.
    """
    settings, note = study.settings, study.ledger.listener.note
    accuracy_float = study.float_accuracy.validation
    note(f"float32: accuracy {accuracy_float:.4f} (validation)")
    _outlook(study, [])
    curve = Curve()
    uniforms = [_candidate(study, study.space.uniform(index)) for index in range(len(study.space.formats))]
    candidates = _candidates(study)
    contenders: list[Contender] = []
    number, last = 1, 1 if settings.alone else settings.rounds
    while number <= last:
        plans = _proposals(study, curve, uniforms, (*candidates, *_bounded(study, curve)), contenders, number)
        _outlook(study, contenders)
        if not plans and number < last:
            note(f"no plan is left that could be better than the best: {number - 1} of {last} rounds were enough")
        for plan, measured in study.measured(plans):
            contenders.append(_contender(study, plan, measured))
            note(_line(study, contenders[-1]))
            _outlook(study, contenders)
        contenders.sort(key=_rank)
        curve = Curve.fitted([(each.score, accuracy_float - each.measured.validation) for each in contenders])
        number = number + 1 if plans else max(number + 1, last)  # what is left then are uniform formats
    if contenders[0].excess:
        note(f"no measured plan keeps the budgets ({settings.budgets}); more rounds or plans may find one")
    return Found(tuple(contenders), candidates, curve)


def _rank(contender: Contender) -> tuple[float, float, str]:
    """The best first, whatever order they were measured in."""
    return contender.excess, contender.objective, contender.plan.label


def _outlook(study: Study, contenders: Sequence[Contender]) -> None:
    """Tell the listener what is to come, and the best so far."""
    settings = study.settings
    count = settings.plans if settings.alone else settings.uniforms + settings.rounds * settings.plans
    steps = 0 if study.training is None else study.training.steps * max(count - len(contenders), 0)
    best = min(contenders, key=_rank, default=None)
    told = f"O {best.objective:.4f} ({best.plan.label})" if best else ""
    study.ledger.listener.outlook({"fine-tuning": steps}, told)


def _candidates(study: Study) -> tuple[Candidate, ...]:
    """The best plans for all weights of movement, from the most movement on.

    If budgets or tied tensors bind the modules together, those for some weights around the likely one.
    """
    settings, space, scores = study.settings, study.space, study.scores
    costs = settings.budgets.with_loss(None)
    if costs == Budgets() and not space.ties:
        plans = tuple(point.choices for point in front(space, scores))
    else:
        weights = [_likely(study, Curve()) * factor for factor in WEIGHTS]
        progress = partial(study.ledger.listener.step, "solving for the best plans")
        plans = allocations(space, scores, weights, costs, progress)
    found = (_candidate(study, plan) for plan in dict.fromkeys(plans))
    ordered = sorted(found, key=lambda each: -each.cost.movement_bits)
    if settings.without == "movement":
        return tuple(ordered[:1])
    return tuple(ordered[-1:] if settings.without == "tradeoff" else ordered)


def _bounded(study: Study, curve: Curve) -> tuple[Candidate, ...]:
    """The best plan of all whose predicted loss of accuracy keeps its budget, if there is such a budget and plan."""
    budgets = study.settings.budgets
    if budgets.accuracy_loss is None or study.settings.alone:
        return ()
    bound = budgets.with_loss(curve.score(budgets.accuracy_loss))
    try:
        return (_candidate(study, allocate(study.space, study.scores, _likely(study, curve), bound)),)
    except Infeasible:  # the prediction may be wrong: plans that lose the least are measured then
        return ()


def _likely(study: Study, curve: Curve) -> float:
    """Weight of movement beside scores that comes to the study's alpha beside accuracy."""
    return study.settings.alpha / max(curve.slope(LIKELY_SCORE), MIN_SLOPE)


def _proposals(
    study: Study,
    curve: Curve,
    uniforms: Sequence[Candidate],
    candidates: Sequence[Candidate],
    contenders: Sequence[Contender],
    number: int,
) -> tuple[Proposed, ...]:
    """The uniform formats and the plans that a round measures."""
    settings = study.settings
    measured = {contender.plan.choices for contender in contenders}

    def promise(candidate: Candidate) -> tuple[float, float]:
        lost = curve.lost(candidate.score)
        return settings.budgets.excess(candidate.cost, lost), study.objective(1 - lost, candidate.cost.movement_bits)

    wanted = 0 if settings.alone else settings.uniforms if number == settings.rounds else 1
    count = wanted - sum(contender.is_uniform for contender in contenders)
    best_first = sorted((each for each in uniforms if each.choices not in measured), key=promise)
    formats = (study.space.formats[each.choices[0][0]] for each in best_first)
    chosen = [
        Proposed(f"uniform {fmt}", each.choices, "uniform")
        for fmt, each in zip(formats, best_first[: max(count, 0)], strict=False)
    ]
    hopeful = _within_bracket(study, sorted(_could_win(study, candidates, contenders), key=promise), contenders)
    apart = APART[min(number, len(APART)) - 1]
    proposed: list[Candidate] = []
    known = [each.score for each in contenders if not each.is_uniform]
    for each in hopeful:
        if len(proposed) < settings.plans and all(abs(each.score - score) > apart * score for score in known):
            proposed.append(each)
            known.append(each.score)
    plans = (Proposed(f"plan {number}.{place}", each.choices, "plan") for place, each in enumerate(proposed, 1))
    return (*chosen, *plans)


def _could_win(
    study: Study, candidates: Sequence[Candidate], contenders: Sequence[Contender]
) -> tuple[Candidate, ...]:
    """The plans not measured yet that could be better than the best, if they lost no accuracy."""
    measured = {contender.plan.choices for contender in contenders}
    best = min(contenders, key=_rank, default=None)
    within = best.objective if best and not best.excess else inf
    accuracy_float = study.float_accuracy.validation
    return tuple(
        each
        for each in candidates
        if each.choices not in measured and study.objective(accuracy_float, each.cost.movement_bits) < within
    )


def _within_bracket(
    study: Study, hopeful: Sequence[Candidate], contenders: Sequence[Contender]
) -> Sequence[Candidate]:
    """If the best would lie beyond what is known to keep a budget of accuracy: those in the bracket, middle first."""
    bracket = _bracket(study, contenders)
    if not bracket or not hopeful or hopeful[0].score <= bracket[0]:
        return hopeful
    kept, missed = bracket
    between = (each for each in hopeful if kept < each.score < missed)
    return sorted(between, key=lambda each: abs(each.score - sqrt(kept * missed)))


def _bracket(study: Study, contenders: Sequence[Contender]) -> tuple[float, float] | None:
    """The sums of scores of a plan that keeps a budget of accuracy and of the next one that misses it, if both are
    known: a measurement between them tells more than the curve."""
    if study.settings.budgets.accuracy_loss is None:
        return None
    plans = [each for each in contenders if not each.is_uniform]
    kept = max((each.score for each in plans if not each.excess), default=inf)
    missed = min((each.score for each in plans if each.excess and each.score > kept), default=None)
    return None if missed is None else (kept, missed)


def _candidate(study: Study, choices: Choices) -> Candidate:
    return Candidate(choices, predicted_loss(study.scores, choices), study.space.cost(choices))


def _contender(study: Study, plan: Proposed, measured: Measurement) -> Contender:
    lost = study.float_accuracy.validation - measured.validation
    return Contender(
        plan,
        predicted_loss(study.scores, plan.choices),
        measured,
        study.objective(measured.validation, measured.movement_bits),
        study.settings.budgets.excess(measured, lost),
    )


def _line(study: Study, contender: Contender) -> str:
    measured = contender.measured
    untuned = study.training is not None and not measured.tuned
    return (
        f"{contender.plan.label}: accuracy {measured.validation:.4f} (validation), "
        f"{measured.movement_bits / study.space.movement_max:.1%} of the largest movement, O {contender.objective:.4f}"
        + (" (fine-tuning made it worse and was undone)" if untuned else "")
        + (" (misses a budget)" if contender.excess else "")
    )
