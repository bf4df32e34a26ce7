"""What the report reads of a run: its plan and its finished evaluations, checked before anything is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from bitq.errors import BitqError
from bitq.movement.sweep import Sweep
from bitq.store import Evaluation, Store
from bitq.tradeoff.plan import Plan, load_plan

PLAN_FILE = "plan.json"
RESULTS_FILE = "results.sqlite"

Tensor = Literal["input", "weight", "output"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Float(_Record):
    """The network as it came, in 32-bit float: accuracies in [0, 1]."""

    validation: float
    test: float


class Predicted(_Record):
    """What is predicted of a plan after fine-tuning: validation accuracy in [0, 1], movement in bits."""

    accuracy: float
    movement_bits: float


class Front(_Record):
    """The best plans for all weights of movement, as predicted."""

    points: tuple[Predicted, ...]


class FineTuned(_Record):
    """A combination of formats, measured: accuracies in [0, 1], whether its weights are fine-tuned, bits, pJ, bytes."""

    label: str
    validation: float
    test: float
    tuned: bool = True
    movement_bits: float
    energy_pj: float
    model_bytes: float


class Sensitivity(_Record):
    """Estimated loss of accuracy, in [0, 1], by module, tensor and format, if that tensor alone takes it."""

    scores: dict[str, dict[Tensor, dict[str, float]]]


class OutcomeRow(_Record):
    """One line of the comparison: test accuracy in [0, 1], bits, pJ, bytes, objective O."""

    name: str
    accuracy: float
    dram_bits: float
    on_chip_bits: float
    movement_bits: float
    energy_pj: float
    model_bytes: float
    objective: float | None = None


class Outcome(_Record):
    """What the search came to: the comparison, and how to repeat it (`seconds`: the whole search)."""

    rows: tuple[OutcomeRow, ...]
    command: str
    versions: dict[str, str]
    seconds: float


class Stored(_Record):
    """Tensors that several layers meet: how many, how many of them with unlike formats, what re-encoding would move.

    `independent` and `tied`: the least O predicted if every layer takes its own formats, and if every tensor has one.
    """

    tensors: int
    unlike: int
    bits: float
    independent: float
    tied: float


@dataclass(frozen=True)
class Effort:
    """How often one kind of evaluation was run, and the seconds that took."""

    kind: str
    count: int
    seconds: float


@dataclass(frozen=True)
class Run:
    """All that a run folder holds; what an interrupted search did not reach is None or empty.

    Attributes:
        identity: what the run was about: network, device, seed, ...
        sensitivity: by module, tensor and format text, as in `Sensitivity`.
        front, stored: kept under the configuration of the outcome, like `sweep`.
        ablations: the best that was found without something, for the same weight of movement.
        baselines: the best that other rules found, for the same weight of movement.
        sweep: float32, the best uniform format and the plan by the size of the outermost memory on the chip; stored
            under the configuration of the outcome.
        finished: Unix time of the last evaluation.
    """

    plan: Plan
    identity: Mapping[str, Any]
    float32: Float | None
    front: Front | None
    stored: Stored | None
    fine_tuned: tuple[FineTuned, ...]
    sensitivity: Mapping[str, Mapping[Tensor, Mapping[str, float]]]
    outcome: Outcome | None
    ablations: tuple[OutcomeRow, ...]
    baselines: tuple[OutcomeRow, ...]
    sweep: Sweep | None
    efforts: tuple[Effort, ...]
    finished: float | None


def load_run(folder: Path) -> Run:
    """Read plan.json and, where there is one, results.sqlite of a run folder.

    Raises:
        BitqError: no plan, or a plan or result that does not hold what it should (says which entry).
    """
    plan = load_plan(folder / PLAN_FILE)
    results = folder / RESULTS_FILE
    evaluations: tuple[Evaluation, ...] = ()
    identity: Mapping[str, Any] = {}
    if results.is_file():
        with Store(results) as store:
            evaluations, identity = store.evaluations(), store.identity()
    floats = _read(Float, "float", evaluations, results)
    configs = [each.config for each in evaluations if each.kind == "outcome"]
    outcomes = list(zip(_read(Outcome, "outcome", evaluations, results), configs, strict=True))
    outcome, config = next((each for each in reversed(outcomes) if _led_to(each[0], plan)), (None, None))
    of_plan = tuple(each for each in evaluations if each.config == config)
    sweeps = _read(Sweep, "sweep", of_plan, results)
    fronts = _read(Front, "front", of_plan, results)
    sensitivities = _read(Sensitivity, "sensitivity", (*evaluations, *of_plan), results)
    weighed = tuple(each for each in evaluations if each.config.get("alpha") == plan.alpha)
    ablations, baselines = (
        tuple({row.name: row for row in _read(OutcomeRow, kind, weighed, results)}.values())
        for kind in ("ablation", "baseline")
    )
    return Run(
        plan=plan,
        identity=identity,
        float32=floats[-1] if floats else None,
        front=fronts[-1] if fronts else None,
        stored=next(iter(_read(Stored, "stored", of_plan, results)), None),
        fine_tuned=_read(FineTuned, "finetune", evaluations, results),
        sensitivity={module: scores for each in sensitivities for module, scores in each.scores.items()},
        outcome=outcome,
        ablations=ablations,
        baselines=baselines,
        sweep=sweeps[-1] if sweeps else None,
        efforts=_efforts(evaluations),
        finished=max((evaluation.finished for evaluation in evaluations), default=None),
    )


def _led_to(outcome: Outcome, plan: Plan) -> bool:
    """A folder keeps the outcomes of all weights of movement it was searched with; the plan is of one of them."""
    return bool(outcome.rows) and outcome.rows[-1].objective == plan.totals.objective


_R = TypeVar("_R")


def _read(record: type[_R], kind: str, evaluations: tuple[Evaluation, ...], where: Path) -> tuple[_R, ...]:
    try:
        return tuple(TypeAdapter(record).validate_python(each.result) for each in evaluations if each.kind == kind)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BitqError(f"{where}: a result of kind {kind!r} is not one of bitq: {place}: {first['msg']}") from None


def _efforts(evaluations: tuple[Evaluation, ...]) -> tuple[Effort, ...]:
    kinds = dict.fromkeys(each.kind for each in evaluations if each.kind != "outcome")
    groups = ((kind, [each.seconds for each in evaluations if each.kind == kind]) for kind in kinds)
    return tuple(Effort(kind, len(seconds), sum(seconds)) for kind, seconds in groups)
