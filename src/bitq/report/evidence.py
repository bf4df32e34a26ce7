"""What the report knows of a run: its plan and its finished evaluations, checked before anything is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from os.path import lexists
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bitq.database import damaged
from bitq.files import RunFolder
from bitq.formats import TensorName
from bitq.movement.sweep import Series, Sweep
from bitq.store import Evaluation, Store
from bitq.tradeoff.naming import measure
from bitq.tradeoff.plan import LEAST, Plan, PlanLayer, load_plan
from bitq.tradeoff.records import (
    MOST,
    RECORDS,
    SWEEP,
    Ablation,
    Baseline,
    Cost,
    FloatAccuracy,
    Front,
    Measurement,
    Offers,
    Outcome,
    Pictures,
    R,
    Reencoding,
    References,
    Row,
    Screened,
    Sensitivity,
    objective,
    wrong_result,
)

_WHOLE = (Outcome.kind,)
"""Kinds whose time is that of all the others."""


@dataclass(frozen=True)
class Effort:
    """How often one kind of evaluation was run, and the seconds that took."""

    kind: str
    count: int
    seconds: float


@dataclass(frozen=True)
class Milestone:
    """What one evaluation of a course reached.

    Attributes:
        seconds: of all the evaluations that the folder holds, up to this one.
        label: what was measured.
        tuned: whether it was fine-tuned.
        objective: O on the validation data, or on the part of it that trials take.
    """

    seconds: float
    label: str
    tuned: bool
    objective: float


@dataclass(frozen=True)
class Evidence:
    """All that a run folder holds; what an interrupted search did not reach is None or empty.

    Attributes:
        plan: that was handed over.
        identity: what the run was about: network, device, seed, ...
        outcome: of the search that handed over the plan; `front`, `reencoding`, `sensitivity` and `sweep` are its own.
        sensitivity: by module, tensor and format text, as in `Sensitivity`.
        measured: all plans that were measured in the folder, oldest first.
        ablations: the best that was found without something, with the same settings otherwise.
        baselines: the best that other rules found, with the same settings.
        sweep: float32, the best uniform format and the plan by the size of the outermost memory on the chip.
        offers: of the search that handed over the plan: what was measured that answers what people ask.
        references: by their names, what the network costs in plain formats.
        pictures: what the network finds in some images, as it came and in the plan.
        course: what was measured, as it is or fine-tuned, in this order.
        finished: Unix time of the last evaluation.
    """

    plan: Plan
    identity: Mapping[str, Any]
    float32: FloatAccuracy | None
    outcome: Outcome | None
    front: Front | None
    reencoding: Reencoding | None
    sensitivity: Mapping[str, Mapping[TensorName, Mapping[str, float]]]
    measured: tuple[Measurement, ...]
    ablations: tuple[Row, ...]
    baselines: tuple[Row, ...]
    sweep: Sweep | None
    offers: Offers | None
    references: Mapping[str, Cost]
    pictures: Pictures | None
    efforts: tuple[Effort, ...]
    course: tuple[Milestone, ...]
    finished: float | None

    @property
    def measure(self) -> str:
        """What the metric is called."""
        return measure(self.identity.get("metric"))

    def score(self, layer: PlanLayer) -> float | None:
        """What the formats of a layer of the plan are estimated to cost of the metric, in [0, 1]; None if unknown."""
        drops = self.sensitivity.get(layer.module, {})
        formats = {tensor: fmt for tensor, fmt in vars(layer.formats).items() if fmt is not None}
        own = [drops.get(tensor, {}).get(str(fmt)) for tensor, fmt in formats.items()]  # type: ignore[call-overload]
        known = [drop for drop in own if drop is not None and isfinite(drop)]
        return sum(known) if known and len(known) == len(own) else None


def load_evidence(folder: Path) -> Evidence:
    """Read plan.json and, where there is one, results.sqlite of a run folder.

    Raises:
        BitqError: no plan, or a plan or result that does not hold what it should (says which entry).
    """
    files = RunFolder(folder)
    plan, where = load_plan(files.plan), files.results
    evaluations: tuple[Evaluation, ...] = ()
    identity: Mapping[str, Any] = {}
    if lexists(where):
        with Store(where, read_only=True) as store:
            evaluations, identity = store.evaluations(), store.identity()
    led_to = [each for each in evaluations if plan.outcome is not None and each.config.get("outcome") == plan.outcome]
    outcome = _last(Outcome, led_to, where)
    alike = [each for each in evaluations if outcome and each.config.get("settings") == outcome.settings]
    references = _last(References, evaluations, where)
    sensitivity = _last(Sensitivity, led_to, where)
    return Evidence(
        plan=plan,
        identity=identity,
        float32=_last(FloatAccuracy, evaluations, where),
        outcome=outcome,
        front=_last(Front, led_to, where),
        reencoding=_last(Reencoding, led_to, where),
        sensitivity=sensitivity.scores if sensitivity else {},
        measured=_all(Measurement, evaluations, where),
        ablations=tuple({row.name: row for row in _all(Ablation, alike, where)}.values()),
        baselines=tuple({row.name: row for row in _all(Baseline, alike, where)}.values()),
        sweep=_sweep(led_to, where),
        offers=_last(Offers, led_to, where),
        references=references.costs if references else {},
        pictures=_last(Pictures, led_to, where),
        efforts=_efforts(evaluations),
        course=tuple(_course(plan, evaluations, where)),
        finished=max((evaluation.finished for evaluation in evaluations), default=None),
    )


def check_result(each: Evaluation, where: Path) -> None:
    """Raise BitqError if an evaluation of a kind that is known did not give what its kind should."""
    if each.kind == SWEEP:
        _sweep([each], where)
    elif each.kind in RECORDS:
        RECORDS[each.kind].read(each.result, where)


def _all(record: type[R], evaluations: Sequence[Evaluation], where: Path) -> tuple[R, ...]:
    return tuple(record.read(each.result, where) for each in evaluations if each.kind == record.kind)


def _last(record: type[R], evaluations: Sequence[Evaluation], where: Path) -> R | None:
    return next(reversed(_all(record, evaluations, where)), None)


def _sweep(evaluations: Sequence[Evaluation], where: Path) -> Sweep | None:
    stored = [each.result for each in evaluations if each.kind == SWEEP]
    try:
        found = TypeAdapter(Sweep).validate_python(stored[-1]) if stored else None
    except ValidationError as error:
        raise wrong_result(SWEEP, where, error) from None
    if found is not None:
        amounts = [*found.sizes_bytes, *(each for series in found.series for each in _amounts(series))]
        if not all(amount == 0 or LEAST <= amount <= MOST for amount in amounts):
            raise damaged(where, f"a result of kind {SWEEP!r} has an amount that is not within {LEAST:g} to {MOST:g}")
    return found


def _amounts(series: Series) -> tuple[float, ...]:
    reached = (series.float_bytes, series.floor_bytes)
    return (*series.traffic_bits, *series.energy_pj, series.floor_bits, *(each for each in reached if each is not None))


def _course(plan: Plan, evaluations: Sequence[Evaluation], where: Path) -> Iterator[Milestone]:
    seconds = 0.0
    for each in evaluations:
        if each.kind in _WHOLE:
            continue
        seconds += each.seconds
        found: Measurement | Screened
        if each.kind == Measurement.kind:
            found = Measurement.read(each.result, where)
            tuned, accuracy = found.tuned, found.validation
        elif each.kind == Screened.kind and each.config.get("formats"):  # not float32 itself
            found = Screened.read(each.result, where)
            tuned, accuracy = False, found.accuracy
        else:
            continue
        reached = objective(accuracy, found.movement_bits, plan.totals.movement_bits_max, plan.alpha)
        if isfinite(reached):
            yield Milestone(seconds, found.label, tuned, reached)


def _efforts(evaluations: tuple[Evaluation, ...]) -> tuple[Effort, ...]:
    kinds = dict.fromkeys(each.kind for each in evaluations if each.kind not in _WHOLE)
    groups = ((kind, [each.seconds for each in evaluations if each.kind == kind]) for kind in kinds)
    return tuple(Effort(kind, len(seconds), sum(seconds)) for kind, seconds in groups)
