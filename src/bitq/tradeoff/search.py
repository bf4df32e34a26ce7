"""Find the plan of least objective O: score the tensors, solve exactly, measure, fine-tune, correct, solve again.

1. Every tensor gets a score in every format: how much it perturbs the loss, by the squared gradient and the squared
   error (`bitq.accuracy.sensitivity`). Scores add up, so the best plans for all weights of movement are known exactly.
2. Uniform formats and plans along that front are measured as they are (`bitq.tradeoff.trials`), which is cheap.
   The best of either stand in the list of contenders from then on.
3. A curve says which accuracy a sum of scores loses after fine-tuning (`bitq.tradeoff.predict`), first by what plans
   lose without it. By it the plans of least O are proposed, fine-tuned and measured. They lie some way apart: plans
   that are nearly equal tell nothing new. The most promising uniform formats are fine-tuned alike.
4. The curve is fitted to all that was measured, and the next plans are proposed. This ends when no plan is left that
   could be better than the best, or when the rounds are done.
Whatever has the least O on validation data and keeps the budgets wins, fine-tuned or not, a plan or a uniform format;
what it reaches is measured on test data. If the fewest bits are looked for, they decide in place of O. Plans that seem
to have the fewest bits near float32 are measured in full, too: `bitq.tradeoff.answers` tells of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf, sqrt

from bitq.errors import Infeasible
from bitq.tradeoff.allocate import allocate, allocations, front
from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.contenders import Candidate, Contender, Trial, merit, rank
from bitq.tradeoff.earlier import measured_earlier
from bitq.tradeoff.forecast import time_needed
from bitq.tradeoff.foretold import foretold
from bitq.tradeoff.predict import LEFT, Curve
from bitq.tradeoff.study import Proposed, Study
from bitq.tradeoff.trials import better, nearer, tried
from bitq.tradeoff.uniforms import format_of
from bitq.tradeoff.uniforms import uniforms as uniforms_of

WEIGHTS = (0.0, *(2.0 ** (power / 2) for power in range(-8, 9)))
"""Weights of movement that plans are solved for under budgets, as multiples of the likely one."""

LIKELY_SCORE = 0.5
"""Sum of scores around which the best plans lie, roughly."""

HEAVY = 100.0
"""Weight of movement, beside accuracy, by which the fewest bits within a budget are solved for."""

MIN_SLOPE = 1e-6
"""Accuracy per score below which a curve is taken to be flat."""

APART = (0.3, 0.1)
"""Plans measured differ by this share in the sum of their scores, in the first round, which finds out where the curve
lies, and in the later ones: nearly equal plans tell nothing new."""


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        contenders: all that were measured, the best first: within the budgets, and of least O on validation data or, if
            these are looked for, of the fewest bits.
        trials: all that were measured as they are on a part of it, the best first.
        candidates: the best plans for all weights of movement (those that the budgets leave), most movement first.
        curve: what a sum of scores loses.
    """

    contenders: tuple[Contender, ...]
    trials: tuple[Trial, ...]
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
    note(f"float32: {study.measure} {100 * accuracy_float:.2f} % on validation data")
    _outlook(study, [])
    if not study.is_scored:
        note(time_needed(study))
    every = (Candidate.of(study, plan) for plan in uniforms_of(study))
    uniforms = [each for each in every if settings.budgets.fits(each.cost)]
    candidates = _candidates(study)
    trials = tried(study, uniforms, candidates)
    untuned = [(each.candidate.score, each.lost) for each in trials]
    guess = curve = Curve.guessed(untuned, LEFT if study.training else 1.0) if trials else Curve()
    contenders = _with_trials(study, [], partial(better, trials))
    number, last = 1, 1 if settings.alone else settings.rounds
    while number <= last:
        plans = _proposals(study, curve, uniforms, (*candidates, *_bounded(study, curve)), trials, contenders, number)
        _outlook(study, contenders)
        if not plans and number < last:
            note(f"no plan is left that could be better than the best: {number - 1} of {last} rounds were enough")
        for plan, measured in study.measured(plans):
            contenders.append(Contender.of(study, plan, measured))
            score = contenders[-1].score
            expected = "" if settings.alone else foretold(curve, score, accuracy_float, measured.validation)
            note(_line(study, contenders[-1]) + expected)
            _outlook(study, contenders)
        tuned = [(each.score, accuracy_float - each.measured.validation) for each in contenders if each.plan.tune]
        curve = Curve.fitted(tuned, guess)
        number = number + 1 if plans else max(number + 1, last)  # what is left then are uniform formats
    contenders = _with_trials(study, contenders, partial(better, trials))
    contenders = _with_trials(study, contenders, partial(nearer, study, trials))
    if settings.fewest_bits:  # no search for them comes behind what another one offered
        own = {(each.plan.choices, each.plan.tune) for each in contenders}
        before = ((plan, found) for plan, found in measured_earlier(study) if (plan.choices, plan.tune) not in own)
        contenders += [Contender.of(study, plan, found) for plan, found in before]
    contenders.sort(key=rank)
    float_objective = study.objective(accuracy_float, study.space.float_cost.movement_bits)
    if not settings.alone and not settings.fewest_bits and float_objective < contenders[0].objective:
        note(f"no format pays: float32 itself has O {float_objective:.4f}; the best plan is handed over nevertheless")
    if contenders[0].excess == inf:
        raise Infeasible(f"no plan that was measured fits on the device ({settings.budgets}); loosen a limit of bytes")
    if contenders[0].excess:
        note(f"no measured plan keeps the budgets ({settings.budgets}); more rounds or plans may find one")
    return Found(tuple(contenders), trials, candidates, curve)


def _with_trials(
    study: Study, contenders: Sequence[Contender], deserving: Callable[[Sequence[Contender]], Trial | None]
) -> list[Contender]:
    """Contenders, and beside them, one after the other, the trials that deserve to be measured in full, as they are."""
    found = list(contenders)
    while trial := deserving(found):
        plan = replace(trial.plan, tune=study.training is None)
        ((_, measured),) = study.measured([plan])
        found.append(Contender.of(study, plan, measured))
        study.ledger.listener.note(_line(study, found[-1]))
    return found


def _outlook(study: Study, contenders: Sequence[Contender]) -> None:
    """Tell the listener what is to come, and the best so far."""
    settings = study.settings
    count = settings.plans if settings.alone else settings.uniforms + settings.rounds * settings.plans
    done = sum(each.plan.tune for each in contenders)
    steps = 0 if study.training is None else study.training.steps * max(count - done, 0)
    best = min(contenders, key=rank, default=None)
    told = f"O {best.objective:.4f} ({best.plan.label})" if best else ""
    study.ledger.listener.outlook({"fine-tuning": steps}, told)


def _candidates(study: Study) -> tuple[Candidate, ...]:
    """The best plans for all weights of movement, from the most movement on.

    If budgets bind the modules together, those for some weights around the likely one.
    """
    settings, space, scores = study.settings, study.space, study.scores
    costs = settings.budgets.with_loss(None)
    progress = partial(study.ledger.listener.step, "solving for the best plans")
    if costs == Budgets():
        plans = tuple(point.choices for point in front(space, scores, progress))
    else:
        weights = [_likely(study, Curve()) * factor for factor in WEIGHTS]
        plans = allocations(space, scores, weights, costs, progress)
    found = (Candidate.of(study, plan) for plan in dict.fromkeys(plans))
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
    weight = _likely(study, curve, HEAVY if study.settings.fewest_bits else None)
    try:
        return (Candidate.of(study, allocate(study.space, study.scores, weight, bound)),)
    except Infeasible:  # the prediction may be wrong: plans that lose the least are measured then
        return ()


def _likely(study: Study, curve: Curve, alpha: float | None = None) -> float:
    """Weight of movement beside scores that comes to an alpha, by default the study's, beside accuracy."""
    return (study.settings.alpha if alpha is None else alpha) / max(curve.slope(LIKELY_SCORE), MIN_SLOPE)


def _proposals(
    study: Study,
    curve: Curve,
    uniforms: Sequence[Candidate],
    candidates: Sequence[Candidate],
    trials: Sequence[Trial],
    contenders: Sequence[Contender],
    number: int,
) -> tuple[Proposed, ...]:
    """The uniform formats and the plans that a round fine-tunes and measures."""
    settings = study.settings
    tuned = [each for each in contenders if each.plan.tune]
    measured = {contender.plan.choices for contender in tuned}
    untuned = {each.plan.choices: each.lost for each in trials}

    def promise(candidate: Candidate) -> tuple[float, float]:
        lost = min(curve.lost(candidate.score), untuned.get(candidate.choices, 1.0))
        return settings.budgets.excess(candidate.cost, lost), merit(study, 1 - lost, candidate.cost.movement_bits)

    wanted = 0 if settings.alone else settings.uniforms if number == settings.rounds else 1
    count = wanted - sum(contender.is_uniform for contender in tuned)
    best_first = sorted((each for each in uniforms if each.choices not in measured), key=promise)
    chosen = [
        Proposed(f"uniform {format_of(study, each.choices)}", each.choices, "uniform")
        for each in best_first[: max(count, 0)]
    ]
    hopeful = _within_bracket(study, sorted(_could_win(study, candidates, contenders), key=promise), tuned)
    apart = APART[min(number, len(APART)) - 1]
    proposed: list[Candidate] = []
    known = [each.score for each in tuned if not each.is_uniform]
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
    measured = {contender.plan.choices for contender in contenders if contender.plan.tune}
    best = min(contenders, key=rank, default=None)
    within = best.merit if best and not best.excess else inf
    accuracy_float = study.float_accuracy.validation
    return tuple(
        each
        for each in candidates
        if each.choices not in measured and merit(study, accuracy_float, each.cost.movement_bits) < within
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


def _line(study: Study, contender: Contender) -> str:
    measured = contender.measured
    undone = contender.plan.tune and study.training is not None and not measured.tuned
    return (
        f"{contender.plan.label}: {study.measure} {100 * measured.validation:.2f} % on validation data, "
        f"{100 * measured.movement_bits / study.space.movement_max:.1f} % of the largest movement, "
        f"O {contender.objective:.4f}"
        + (" (fine-tuning made it worse and was undone)" if undone else "")
        + ("" if contender.plan.tune else " (not fine-tuned)")
        + (" (misses a budget)" if contender.excess else "")
    )
