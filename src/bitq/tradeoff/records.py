"""The records of a run: what it costs and reaches, each written to the store and read from it by one definition.

What a file holds may come from anywhere: everything is checked as it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from bitq.errors import BitqError
from bitq.formats import TensorName

Proposer = Literal["uniform", "plan", "other"]
"""What a measured plan is: one format for every tensor, one of the search's, or one of another rule's."""

Role = Literal["float32", "uniform", "plan", "ablation", "baseline"]
"""What a row of a table stands for: the network as it came, the best uniform format, the plan that is handed over, the
best of a search without something, the best of another rule."""


class Record(BaseModel):
    """What one kind of evaluation gives."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    kind: ClassVar[str]

    @classmethod
    def read(cls, values: Mapping[str, Any], where: object) -> Self:
        """The record that the store holds.

        Args:
            values: as it was stored.
            where: of the store, for the message.

        Raises:
            BitqError: not such a record (names the first wrong entry).
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise wrong_result(cls.kind, where, error) from None


R = TypeVar("R", bound=Record)


def wrong_result(kind: str, where: object, error: ValidationError) -> BitqError:
    """What to say of a stored result that is not what its kind should be: the first wrong entry."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return BitqError(f"{where}: a result of kind {kind!r} is not one of bitq: {place}: {first['msg']}")


class Cost(Record):
    """What one inference of the whole network costs.

    Attributes:
        movement_bits: DM_sum, traffic over all memory boundaries, in bits.
        dram_bits: DM_D, traffic with the outermost memory, in bits.
        on_chip_bits: DM_S, traffic between the memories on the chip, in bits.
        energy_pj: energy of that traffic, in pJ (paper, Eq. 8).
        model_bytes: packed weights and everything else that is stored, in bytes.
    """

    movement_bits: float
    dram_bits: float
    on_chip_bits: float
    energy_pj: float
    model_bytes: int

    @classmethod
    def of_levels(cls, level_bits: Sequence[float], energy_pj: float, model_bytes: int) -> Cost:
        """The cost of traffic at every boundary, outermost (DRAM) first, in bits."""
        return Cost(
            movement_bits=sum(level_bits),
            dram_bits=level_bits[0],
            on_chip_bits=sum(level_bits[1:]),
            energy_pj=energy_pj,
            model_bytes=model_bytes,
        )

    def figures(self) -> dict[str, Any]:
        """The quantities of a cost alone, by name."""
        return {name: getattr(self, name) for name in Cost.model_fields}


class Measurement(Cost):
    """A plan that was measured.

    Attributes:
        label: what it is called.
        proposer: where it came from.
        loss: on validation data.
        validation, test: the metric there, in [0, 1].
        tuned: whether its weights are the fine-tuned ones.
    """

    kind = "finetune"
    label: str
    proposer: Proposer = "other"
    loss: float
    validation: float
    test: float
    tuned: bool = True


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
    accuracy: float
    objective: float | None = None


class Ablation(Row):
    """The best that was found without something."""

    kind = "ablation"


class Baseline(Row):
    """The best that another rule found."""

    kind = "baseline"


class FloatAccuracy(Record):
    """The metric of the network as it came, in 32-bit float, in [0, 1]."""

    kind = "float"
    validation: float
    test: float


class Calibration(Record):
    """By module path the largest finite |x| of its inputs and of its outputs over some training batches."""

    kind = "calibration"
    max_abs: dict[str, tuple[float | None, float | None]]


class Perturbations(Record):
    """By module path, tensor and format (its text): mean over inputs of the squared gradient times squared error."""

    kind = "perturbation"
    found: dict[str, dict[TensorName, dict[str, float]]]


class Predicted(Record):
    """What is predicted of a plan after fine-tuning: validation accuracy in [0, 1], movement in bits."""

    accuracy: float
    movement_bits: float


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
    tensors: int
    unlike: int
    bits: float
    independent: float
    tied: float


class Proposal(Record):
    """What a rule proposes.

    Attributes:
        plans: for each module the indices of its three formats, in the order of the rule.
        passes: forward or backward passes over a batch that it took to find them.
    """

    kind = "proposal"
    plans: tuple[tuple[tuple[int, int, int], ...], ...]
    passes: int


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
        command: that anyone can run to get this.
        versions: of what computed it.
        seconds: the whole search.
        device: what the bits move through.
    """

    kind = "outcome"
    settings: str
    rows: tuple[Row, ...]
    command: str
    versions: dict[str, str]
    seconds: float
    device: DeviceFacts


MOST_ALPHA = 1e30
"""Of alpha, the weight of movement: so that O, and sums of it, are finite."""


def objective(accuracy: float, movement_bits: float, movement_max: float, alpha: float) -> float:
    """O = (1 - accuracy) + alpha · DM_sum / DM_max (paper, Eq. 2), with accuracy in [0, 1]; smaller is better."""
    return (1 - accuracy) + alpha * movement_bits / movement_max
