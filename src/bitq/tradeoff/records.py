"""The records of a run: what it costs and reaches, each written to the store and read from it by one definition.

What a file holds may come from anywhere: everything is checked as it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from bitq.database import damaged
from bitq.errors import BitqError
from bitq.formats import TensorName
from bitq.validation import told

MOST = 1e60
"""No amount is larger, so that sums and ratios of amounts are numbers."""

MOST_ALPHA = 1e12
"""A larger weight of movement tells nothing apart: the accuracy would be lost in rounding."""

SWEEP = "sweep"
"""What the store calls the traffic at other sizes of a memory; see `bitq.movement.sweep.Sweep`."""

Proposer = Literal["uniform", "plan", "other"]
"""What a measured plan is: one format for every tensor, one of the search's, or one of another rule's."""

Role = Literal["float32", "alternative", "uniform", "plan", "ablation", "baseline"]
"""What a row of a table stands for: the network as it came, a format that people know, the best uniform format, the
plan that is handed over, the best of a search without something, the best of another rule."""


def _sane(value: float) -> float:
    if isfinite(value) and abs(value) > MOST:
        raise ValueError(f"{value!r} is beyond all that is measured or counted; it must be at most {MOST:g}")
    return value


Figure = Annotated[float, AfterValidator(_sane)]
"""What was measured: a NaN or infinity where a network diverged, but no finite number beyond `MOST`."""

Magnitude = Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False)]
Below = Annotated[float, Field(ge=-MOST, le=0, allow_inf_nan=False)]
Between = tuple[Below, Magnitude]
Count = Annotated[int, Field(ge=0, lt=1 << 63)]


class Record(BaseModel):
    """What one kind of evaluation gives."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    kind: ClassVar[str]

    @classmethod
    def read(cls, values: Mapping[str, Any], where: Path) -> Self:
        """The record that the store holds.

        Args:
            values: as it was stored.
            where: path of the store, for the message.

        Raises:
            BitqError: not such a record (names the first wrong entry).
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise wrong_result(cls.kind, where, error) from None


R = TypeVar("R", bound=Record)


def wrong_result(kind: str, where: Path, error: ValidationError) -> BitqError:
    """What to say of a stored result that is not what its kind should be: the first wrong entry."""
    return damaged(where, f"a result of kind {kind!r} is not one of bitq: {told(error)}")


class Cost(Record):
    """What one inference of the whole network costs.

    Attributes:
        movement_bits: DM_sum, traffic over all memory boundaries, in bits.
        dram_bits: DM_D, traffic with the outermost memory, in bits.
        on_chip_bits: DM_S, traffic between the memories on the chip, in bits.
        energy_pj: energy of that traffic, in pJ (paper, Eq. 8).
        model_bytes: packed weights and everything else that is stored, in bytes.
        ram_bytes: the memory that holds all activations while they live (`bitq.tradeoff.arena`), in bytes; None where
            it is not known, as in results of earlier versions.
    """

    movement_bits: Figure
    dram_bits: Figure
    on_chip_bits: Figure
    energy_pj: Figure
    model_bytes: Count
    ram_bytes: Count | None = None

    @classmethod
    def of_levels(
        cls, level_bits: Sequence[float], energy_pj: float, model_bytes: int, ram_bytes: int | None = None
    ) -> Cost:
        """The cost of traffic at every boundary, outermost (DRAM) first, in bits."""
        return Cost(
            movement_bits=sum(level_bits),
            dram_bits=level_bits[0],
            on_chip_bits=sum(level_bits[1:]),
            energy_pj=energy_pj,
            model_bytes=model_bytes,
            ram_bytes=ram_bytes,
        )

    def figures(self) -> dict[str, Any]:
        """The quantities of a cost alone, by name."""
        return {name: getattr(self, name) for name in Cost.model_fields}


C = TypeVar("C", bound=Cost)


class Measurement(Cost):
    """A plan that was measured.

    Attributes:
        label: what it is called.
        proposer: where it came from.
        loss: on validation data.
        before: the metric there before fine-tuning; results of earlier versions lack it.
        validation, test: the metric there, in [0, 1].
        tuned: whether its weights are the fine-tuned ones.
        weights: SHA-256 of the file that its weights are kept in; results of earlier versions lack it.
    """

    kind = "finetune"
    label: str
    proposer: Proposer = "other"
    loss: float
    before: Figure | None = None
    validation: Figure
    test: Figure
    tuned: bool = True
    weights: Annotated[str, Field(max_length=64)] | None = None


class Screened(Cost):
    """A plan that was measured as it is, without fine-tuning, on a part of the validation data.

    Attributes:
        label: what it is called.
        proposer: where it came from.
        accuracy: in [0, 1].
    """

    kind = "screened"
    label: str
    proposer: Proposer = "other"
    accuracy: Annotated[float, Field(ge=0, le=1)]


def points_text(loss: float) -> str:
    """A loss of accuracy, a share in [0, 1], in points: "0.5 points", "1 point"."""
    points = f"{100 * loss:g}"
    return f"{points} point" if points == "1" else f"{points} points"


def _known(cost: C) -> C:
    for name, value in cost:
        if isinstance(value, float) and not isfinite(value):
            raise ValueError(f"{name} is {value!r}; it must be a finite number")
    return cost


class Offer(Cost):
    """What was measured that answers a question.

    Attributes:
        within: which has the fewest bits at most so much less accurate than float32, a share in [0, 1]; None: which has
            the least O.
        label: what it is called.
        tuned: whether its weights are fine-tuned ones.
        lost: what float32 reaches more on validation data.
        validation, test: the metric there, in [0, 1].
        objective: O on validation data.
    """

    within: Annotated[float, Field(ge=0, le=1)] | None = None
    label: str
    tuned: bool
    lost: Figure
    validation: Figure
    test: Figure
    objective: Figure

    @property
    def title(self) -> str:
        """What it is called, and what was not done to it."""
        return self.label + ("" if self.tuned or self.label == "float32" else ", not fine-tuned")


class Offers(Record):
    """What a search offers.

    Attributes:
        offers: the least O, and for every loss of accuracy the fewest bits, where anything was measured that answers.
        within: these losses, as shares in [0, 1].
        bounded: whether the plan had a budget of accuracy.
    """

    kind = "offers"
    offers: tuple[Annotated[Offer, AfterValidator(_known)], ...]
    within: tuple[Annotated[float, Field(ge=0, le=1)], ...]
    bounded: bool = False

    @property
    def by_question(self) -> tuple[tuple[str, Offer | None], ...]:
        """Every question in words with its answer; None where nothing that was measured is one."""
        found = {offer.within: offer for offer in self.offers}
        words = {None: "least O"} | {loss: f"fewest bits within {points_text(loss)}" for loss in self.within}
        return tuple((question, found.get(loss)) for loss, question in words.items())


class References(Record):
    """By name of `bitq.tradeoff.shares.REFERENCES`, what the network costs in plain formats."""

    kind = "references"
    costs: dict[str, Annotated[Cost, AfterValidator(_known)]]


class Row(Cost):
    """One line of a table: what a network in these formats costs, and how good it is on the test data.

    Attributes:
        name: what it is called.
        role: what it stands for.
        accuracy: in [0, 1].
        objective: O; None where no largest movement is known.
    """

    name: str
    role: Role
    accuracy: Figure
    objective: Figure | None = None


class Alternative(Cost):
    """A format that people know for all tensors, as it is: what it costs, and the metric on test data, in [0, 1]."""

    kind = "alternative"
    accuracy: Annotated[float, Field(ge=0, le=1)]


class Ablation(Row):
    """The best that was found without something."""

    kind = "ablation"


class Baseline(Row):
    """The best that another rule found."""

    kind = "baseline"


class FloatAccuracy(Record):
    """The metric of the network as it came, in 32-bit float, in [0, 1]."""

    kind = "float"
    validation: Figure
    test: Figure


class Calibration(Record):
    """By module path between which finite numbers, 0 among them, inputs and outputs lie in some training batches, and
    weights that are activations.

    Earlier versions stored largest magnitudes, as kind "calibration".
    """

    kind = "ranges"
    ranges: dict[str, tuple[Between | None, Between | None] | tuple[Between | None, Between | None, Between | None]]


class Perturbations(Record):
    """By module path, tensor and format (its text): mean over inputs of the squared gradient times squared error."""

    kind = "perturbation"
    found: dict[str, dict[TensorName, dict[str, Magnitude]]]


class Predicted(Record):
    """What is predicted of a plan after fine-tuning: validation accuracy in [0, 1], movement in bits."""

    accuracy: Figure
    movement_bits: Figure


class Front(Record):
    """The best plans for all weights of movement, as predicted."""

    kind = "front"
    points: tuple[Predicted, ...]


class Sensitivity(Record):
    """Estimated loss of accuracy, in [0, 1], by module, tensor and format, if that tensor alone takes it."""

    kind = "sensitivity"
    scores: dict[str, dict[TensorName, dict[str, float]]]


class Reencoding(Record):
    """Tensors that several layers meet.

    Attributes:
        tensors: how many.
        unlike: those among them with several formats.
        bits: what storing each once and re-encoding it for its readers would move.
        independent, tied: the least O predicted if every layer takes its own formats, and if every tensor has one.
    """

    kind = "stored"
    tensors: Count
    unlike: Count
    bits: Figure
    independent: Figure
    tied: Figure


class Proposal(Record):
    """What a rule proposes.

    Attributes:
        plans: for each module the indices of its three formats, in the order of the rule.
        passes: forward or backward passes over a batch that it took to find them.
    """

    kind = "proposal"
    plans: tuple[tuple[tuple[int, int, int], ...], ...]
    passes: Count


class MemoryFacts(Record):
    """One memory of the device that a run was about; see `bitq.devices.Memory`. No capacity is an unbounded one."""

    name: str
    capacity_bits: float | None
    energy_pj_per_bit: float
    note: str


class DeviceFacts(Record):
    """The device that a run was about, as it was described then; see `bitq.devices.Device`."""

    name: str
    title: str
    memories: tuple[MemoryFacts, ...]
    partial_sum_bits: float = 0.0


class Outcome(Record):
    """What a search came to.

    Attributes:
        settings: digest of all settings that led here; the ablations and baselines of the run carry it, too.
        rows: float32, the best uniform format if any was measured, the plan.
        alternatives: formats that people know; outcomes of earlier versions lack them.
        command: that anyone can run to get this.
        versions: of what computed it.
        seconds: the whole search.
        device: what the bits move through.
    """

    kind = "outcome"
    settings: str
    rows: tuple[Row, ...]
    alternatives: tuple[Row, ...] = ()
    command: str
    versions: dict[str, str]
    seconds: Figure
    device: DeviceFacts


RECORDS: Mapping[str, type[Record]] = {
    each.kind: each
    for each in (
        *(Measurement, Screened, Alternative, Ablation, Baseline, FloatAccuracy, Calibration, Perturbations),
        *(Front, Sensitivity, Reencoding, Proposal, Outcome, Offers, References),
    )
}
"""By kind, what evaluations give; beside the sweeps of `bitq.movement.sweep`."""


def objective(accuracy: float, movement_bits: float, movement_max: float, alpha: float) -> float:
    """O = (1 - accuracy) + alpha · DM_sum / DM_max (paper, Eq. 2), with accuracy in [0, 1]; smaller is better."""
    return (1 - accuracy) + alpha * movement_bits / movement_max
