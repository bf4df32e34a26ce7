"""Trials: uniform formats and a part of the best plans, as they are, before anything is fine-tuned.

They take a part of the validation data (`bitq.tradeoff.screening`). What they lose is told beside the float network on
that same part, and so is their O: as if all validation data lost as much. Few of them are worth all data: `better` and
`nearer` say which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

import numpy as np

from bitq.tradeoff.answers import losses
from bitq.tradeoff.contenders import Candidate, Contender, Trial, merit, rank
from bitq.tradeoff.knapsack import non_dominated
from bitq.tradeoff.predict import Curve
from bitq.tradeoff.records import Proposer, Screened
from bitq.tradeoff.screening import screened, screened_float
from bitq.tradeoff.study import Proposed, Study
from bitq.tradeoff.uniforms import format_of

COARSE, FINE = 16, 12
"""Plans along the front that are tried: so many at first, and then so many around the best."""

LIKELY, ALONG = 12, 12
"""Uniform formats that are tried: so many of the least predicted O, and so many evenly along the movement, of those
that no other beats in both the sum of scores and movement."""


def most_trials(study: Study) -> int:
    """Trials that `tried` makes, at most."""
    if study.settings.alone:
        return 0
    return min(len(study.space.offered.of_all), LIKELY + ALONG) + COARSE + FINE


def most_in_full(study: Study) -> int:
    """Trials that `better` and `nearer` find worth all data, usually at most: the best of two kinds, and one for each
    loss."""
    return 0 if study.settings.alone else 2 + len(losses(study.settings.budgets))


def tried(study: Study, uniforms: Sequence[Candidate], candidates: Sequence[Candidate]) -> tuple[Trial, ...]:
    """The trials of a study, the best first: the uniform formats that are `worth_trying`, and plans evenly along the
    movement, then in the gaps beside the best of them.

    Args:
        study: none whose settings leave one plan alone to find, or there are no trials.
        uniforms: of each format of its space.
        candidates: the best plans, by their movement.
    """
    if study.settings.alone:
        return ()
    formats = {f"uniform {format_of(study, each.choices)}": each for each in worth_trying(study, uniforms)}
    trials = _of(study, formats, "uniform")
    most, least = candidates[0].cost.movement_bits, candidates[-1].cost.movement_bits
    marks = [most + (least - most) * step / max(COARSE - 1, 1) for step in range(COARSE)]
    places = {
        min(range(len(candidates)), key=lambda place: abs(candidates[place].cost.movement_bits - mark))
        for mark in marks
    }
    coarse = {_label(place): candidates[place] for place in sorted(places)}
    along = dict(zip(sorted(places), _of(study, coarse, "plan", len(trials)), strict=True))
    for _ in range(FINE):
        known = sorted(along)
        best = known.index(min(along, key=lambda place: rank(along[place])))
        gaps = [(known[at + 1] - known[at], known[at]) for at in (best - 1, best) if 0 <= at < len(known) - 1]
        width, begin = max(gaps, default=(0, 0))
        if width < 2:
            break
        place = begin + width // 2
        (along[place],) = _of(study, {_label(place): candidates[place]}, "plan", len(trials) + len(along))
    return tuple(sorted((*trials, *along.values()), key=rank))


def worth_trying(study: Study, uniforms: Sequence[Candidate]) -> list[Candidate]:
    """Of uniform formats those to try, in their order: that no other beats in both the sum of scores and movement."""
    if not uniforms:
        return []
    costs = np.array([[each.score, each.cost.movement_bits] for each in uniforms])
    falling = sorted(non_dominated(costs).tolist(), key=lambda place: -costs[place, 1])
    curve = Curve()

    def promise(place: int) -> float:
        return study.objective(1 - curve.lost(costs[place, 0]), costs[place, 1])

    chosen = set(sorted(falling, key=promise)[:LIKELY])
    others = [place for place in falling if place not in chosen]
    if others:
        chosen |= {others[round(at)] for at in np.linspace(0, len(others) - 1, min(ALONG, len(others)))}
    return [each for place, each in enumerate(uniforms) if place in chosen]


def better(trials: Sequence[Trial], contenders: Sequence[Contender]) -> Trial | None:
    """A trial that deserves to be measured in full, as nothing that was measured is as good: the best of the uniform
    formats, or the best of all.

    Args:
        trials: the best first.
        contenders: what was measured.
    """
    uniform = [each for each in trials if each.plan.proposer == "uniform"]
    for first, measured in ((uniform[:1], [each for each in contenders if each.is_uniform]), (trials[:1], contenders)):
        best = min(map(rank, measured), default=None)
        for trial in first:
            if (best is None or rank(trial)[:2] < best[:2]) and not _is_known(trial, contenders):
                return trial
    return None


def nearer(study: Study, trials: Sequence[Trial], contenders: Sequence[Contender]) -> Trial | None:
    """A trial that deserves to be measured in full, as it has the fewest bits within some points of float32 (those of
    `bitq.tradeoff.answers.losses`), and nothing that was measured has fewer there."""
    budgets, float32 = study.settings.budgets, study.float_accuracy.validation
    for loss in losses(budgets):
        bound = budgets.with_loss(loss)
        known = (each.measured for each in contenders)
        fewest = min((each.movement_bits for each in known if bound.kept(each, float32 - each.validation)), default=inf)
        near = [
            each
            for each in trials
            if bound.kept(each.candidate.cost, each.lost)
            and each.candidate.cost.movement_bits < fewest
            and not _is_known(each, contenders)
        ]
        if near:
            return min(near, key=lambda each: (each.candidate.cost.movement_bits, rank(each)))
    return None


def _is_known(trial: Trial, contenders: Sequence[Contender]) -> bool:
    """Whether a trial was measured in full."""
    return any(each.plan.choices == trial.plan.choices for each in contenders)


def _label(place: int) -> str:
    return f"front {place + 1}"


def _of(study: Study, candidates: Mapping[str, Candidate], proposer: Proposer, before: int = 0) -> list[Trial]:
    """Trials of candidates, by their labels, after so many others."""
    plans = [Proposed(label, each.choices, proposer, tune=False) for label, each in candidates.items()]
    float32 = screened_float(study)
    reached = screened(study, plans, before, most_trials(study))
    return [_trial(study, *each, float32) for each in zip(candidates.values(), plans, reached, strict=True)]


def _trial(study: Study, candidate: Candidate, plan: Proposed, found: Screened, float32: float) -> Trial:
    lost = float32 - found.accuracy
    accuracy = found.accuracy + (study.float_accuracy.validation - float32)
    return Trial(
        candidate,
        plan,
        lost,
        study.objective(accuracy, found.movement_bits),
        study.settings.budgets.excess(candidate.cost, lost),
        merit(study, accuracy, found.movement_bits),
    )
