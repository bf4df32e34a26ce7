"""The plan: which format every tensor of every layer gets, how the device walks it, and what that moves and costs."""

from __future__ import annotations

from math import ldexp
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bitq.errors import BitqError
from bitq.files import write_atomically
from bitq.formats import BlockFormat, MaxAbs, TensorFormats
from bitq.layers import LOOPS
from bitq.movement import Tiling
from bitq.tradeoff.records import Cost, Row

MAX_FILE_BYTES = 64 << 20

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Extent = Annotated[int, Field(ge=1)]
Extents = tuple[Extent, Extent]  # height and width
Share = Annotated[float, Field(ge=0, le=1)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlanFormat(_Entry):
    """The format of one tensor; `exponent_bias` is the exponent of code 0."""

    bits: int
    exponent_bits: int
    block_size: int
    exponent_bias: Annotated[int, Field(ge=-1000, le=127)]  # what a float32's exponent can lead to

    @property
    def format(self) -> BlockFormat:
        """The format without its bias."""
        return BlockFormat(self.bits, self.exponent_bits, self.block_size)

    @model_validator(mode="after")
    def _possible(self) -> PlanFormat:
        _ = self.format
        return self


class TrafficBits(_Entry):
    """Traffic of one layer into and out of one memory, in bits."""

    input: Amount
    weight: Amount
    output_writes: Amount
    output_reads: Amount

    @property
    def total(self) -> float:
        """All of it, in bits."""
        return self.input + self.weight + self.output_writes + self.output_reads


class PlanLevel(_Entry):
    """How one memory is used while a layer is computed: its tiles, and the traffic with the next outer memory.

    `lower_bound_bits` is what no schedule of the layer comes below; plans of earlier versions lack it.
    """

    memory: str
    source: str
    permutation: tuple[str, ...]
    tiles: dict[str, Extent]
    traffic_bits: TrafficBits
    energy_pj: Amount
    lower_bound_bits: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @property
    def over_bound(self) -> float | None:
        """Traffic over its lower bound, if that is known."""
        return self.traffic_bits.total / self.lower_bound_bits if self.lower_bound_bits else None

    @property
    def tiling(self) -> Tiling:
        """The tiling as the movement model takes it."""
        return Tiling(self.permutation, self.tiles)

    @model_validator(mode="after")
    def _loops(self) -> PlanLevel:
        if set(self.tiles) != set(LOOPS):
            raise ValueError(f"tiles must name the loops {' '.join(LOOPS)}")
        _ = self.tiling
        return self


class PlanLayer(_Entry):
    """One layer: its tensors' formats (None: 32-bit float), and per memory, outermost first, what it moves.

    `transposed` tells that its weight is stored as a transposed convolution's, input channels first. What lies between
    `groups` and it is as in `bitq.Layer`; plans of earlier versions lack that.
    """

    name: str
    module: str
    loops: dict[str, Extent]
    groups: Extent
    stride: Extents | None = None
    dilation: Extents | None = None
    padding: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | None = None
    input_size: Extents | None = None
    input_dilation: Extents | None = None
    transposed: bool = False
    input: PlanFormat | None
    weight: PlanFormat | None
    output: PlanFormat | None
    levels: tuple[PlanLevel, ...]

    @model_validator(mode="after")
    def _loops(self) -> PlanLayer:
        if set(self.loops) != set(LOOPS):
            raise ValueError(f"loops must name {' '.join(LOOPS)}")
        return self

    @property
    def formats(self) -> TensorFormats:
        """The three formats without biases."""
        return TensorFormats(*(entry.format if entry else None for entry in (self.input, self.weight, self.output)))

    @property
    def movement_bits(self) -> float:
        """Traffic over all memories, in bits."""
        return sum(level.traffic_bits.total for level in self.levels)

    @property
    def energy_pj(self) -> float:
        """Energy of that traffic, in pJ."""
        return sum(level.energy_pj for level in self.levels)


class Totals(_Entry):
    """What the whole network comes to. Accuracies are measured, after fine-tuning, on the test data."""

    accuracy: Share
    accuracy_float: Share
    movement_bits: Amount
    movement_bits_float: Amount
    movement_bits_max: Amount
    dram_bits: Amount
    dram_bits_float: Amount
    energy_pj: Amount
    energy_pj_float: Amount
    model_bytes: Annotated[int, Field(ge=0)]
    model_bytes_float: Annotated[int, Field(ge=0)]
    objective: Annotated[float, Field(allow_inf_nan=False)]

    @classmethod
    def of(cls, planned: Row, float32: Row, movement_bits_max: float) -> Totals:
        """The totals of a plan's row, beside those of the float network (`NAME_float`)."""
        own = planned.model_dump(include=set(cls.model_fields))
        floats = {f"{name}_float": value for name, value in float32.model_dump().items()}
        known = {name: value for name, value in floats.items() if name in cls.model_fields}
        return cls(**own, **known, movement_bits_max=movement_bits_max)

    def rows(self) -> tuple[Row, Row]:
        """The float network and the plan as rows of a table."""
        plain = self._cost("_float")
        return (
            Row(name="float32", role="float32", accuracy=self.accuracy_float, **plain.figures()),
            Row(name="plan", role="plan", accuracy=self.accuracy, objective=self.objective, **self._cost("").figures()),
        )

    def _cost(self, suffix: str) -> Cost:
        found = {name: getattr(self, name + suffix) for name in Cost.model_fields if name != "on_chip_bits"}
        return Cost(**found, on_chip_bits=found["movement_bits"] - found["dram_bits"])


class Plan(_Entry):
    """A plan for one network on one device (the content of plan.json).

    `outcome` is the key of the search's outcome in the results store beside it; plans of earlier versions lack it.
    """

    schema_version: Literal[1] = 1
    network: str
    device: str
    bits: int
    alpha: Amount
    layers: tuple[PlanLayer, ...]
    totals: Totals
    outcome: Annotated[str, Field(max_length=64)] | None = None

    @model_validator(mode="after")
    def _names(self) -> Plan:
        if len({layer.name for layer in self.layers}) < len(self.layers):
            raise ValueError("two layers have the same name")
        return self

    def formats(self) -> dict[str, TensorFormats]:
        """Formats by module path, for `bitq.apply`."""
        return {layer.module: layer.formats for layer in self.layers if layer.formats != TensorFormats()}

    def max_abs(self) -> dict[str, MaxAbs]:
        """By module path, the largest magnitudes from which calibration derives the plan's exponent biases."""
        return {
            layer.module: MaxAbs(_max_abs(layer.input), _max_abs(layer.output))
            for layer in self.layers
            if layer.formats != TensorFormats()
        }

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        write_atomically(path, self.model_dump_json(indent=1).encode() + b"\n")


def _max_abs(entry: PlanFormat | None) -> float | None:
    return None if entry is None else ldexp(1.0, entry.exponent_bias + entry.format.top_code)


def load_plan(path: Path) -> Plan:
    """Read a plan.json.

    Raises:
        BitqError: no such file, or not a plan (names the first wrong entry).
    """
    if not path.is_file():
        raise BitqError(f"no plan at {path}: give the plan.json of a finished search")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise BitqError(f"plan {path} is larger than {MAX_FILE_BYTES >> 20} MiB; a plan is a short JSON file")
    try:
        return Plan.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BitqError(f"{path} is not a plan: {place}: {first['msg']}") from None
