"""The plan: which format every tensor of every layer gets, how the device walks it, and what that moves and costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from math import ldexp
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError, model_serializer, model_validator

from bitq.calls import Call, Points, Transposed
from bitq.errors import BitqError, shortened
from bitq.files import write_atomically
from bitq.floating import StaysFloat
from bitq.formats import BlockFormat, Format, Ranges, Span, TensorFormats, parse_format
from bitq.formats.grammar import LONGEST
from bitq.formats.scales import SharedExponent
from bitq.layers import GEOMETRY, LOOPS, Layer
from bitq.movement import Tiling
from bitq.outside import read_outside
from bitq.placement import Buffer, Placement
from bitq.tradeoff.records import MOST, Between, Cost, Row
from bitq.validation import parsed, told

if TYPE_CHECKING:
    from bitq.tracing.lifetimes import Activation

MAX_FILE_BYTES, MAX_VALUES = 16 << 20, 250_000
"""Of a plan.json. That of ConvNeXt-L on a device with five memories has 0.3 MB and 18,000 values."""

LEAST = 1e-6
"""What divides others is no smaller: a ratio of two amounts is a number."""

Amount = Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False)]
PositiveAmount = Annotated[float, Field(ge=LEAST, le=MOST, allow_inf_nan=False)]
Extent = Annotated[int, Field(ge=1, le=1 << 40)]
Extents = tuple[Extent, Extent]  # height and width
Padding = Annotated[int, Field(ge=0, le=1 << 40)]
ByLoop = Annotated[dict[str, Extent], Field(max_length=len(LOOPS))]
ByteCount = Annotated[int, Field(ge=0, lt=1 << 63)]
StepNumber = Annotated[int, Field(ge=0, lt=1 << 31)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(max_length=1000)]
Key = Annotated[str, Field(max_length=64)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlanFormat(_Entry):
    """The format of one tensor, and what the tensor shares.

    Attributes:
        bits, exponent_bits, block_size: of a format BITS:eSE:bBS.
        text: of any other format, as `bitq.parse_format` reads it; "format" in the file.
        exponent_bias: of formats with a scale eN, the exponent of code 0.
        tensor_range: of other activations that share something, the least and the largest number that it was made for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    bits: int | None = None
    exponent_bits: int | None = None
    block_size: Extent | None = None
    text: Annotated[str, Field(max_length=LONGEST)] | None = Field(default=None, alias="format")
    exponent_bias: Annotated[int, Field(ge=-1000, le=127)] | None = None  # what a float32's exponent can lead to
    tensor_range: Between | None = None

    @classmethod
    def of(cls, fmt: Format, exponent_bias: int | None = None, tensor_range: Span | None = None) -> PlanFormat:
        """The entry of a format."""
        own: dict[str, Any] = {"text": fmt.text}
        if isinstance(fmt, BlockFormat):
            own = {name: getattr(fmt, name) for name in _BLOCK}
        return cls(**own, exponent_bias=exponent_bias, tensor_range=tensor_range)

    @cached_property
    def format(self) -> Format:
        """The format without what the tensor shares."""
        if self.text is not None:
            return parse_format(self.text)
        return BlockFormat(self.bits, self.exponent_bits, self.block_size)  # type: ignore[arg-type]  # all are there

    @property
    def span(self) -> Span | None:
        """A range of the tensor that leads to what it shares; None, if that is its own."""
        if self.exponent_bias is None or not isinstance(self.format.scale, SharedExponent):
            return self.tensor_range
        largest = ldexp(1.0, self.exponent_bias + self.format.scale.top_code)
        return -largest, largest

    @model_validator(mode="after")
    def _possible(self) -> PlanFormat:
        given = [name for name in _BLOCK if getattr(self, name) is not None]
        if self.text is None and len(given) < len(_BLOCK):
            missing = next(name for name in _BLOCK if name not in given)
            raise ValueError(f"{missing} is missing; a format has {', '.join(_BLOCK)}, or its text as format")
        if self.text is not None and given:
            raise ValueError(f"format and {given[0]} are both given; give one of them")
        biased = isinstance(self.format.scale, SharedExponent)
        if biased != (self.exponent_bias is not None):
            raise ValueError(f"exponent_bias {'is missing' if biased else f'is not of {shortened(self.format.text)}'}")
        if self.tensor_range is not None and (biased or not self.format.needs_range):
            raise ValueError(f"tensor_range is not of {shortened(self.format.text)}")
        return self

    @model_serializer
    def _told(self) -> dict[str, Any]:
        """What there is."""
        known = {name: getattr(self, name) for name in type(self).model_fields if getattr(self, name) is not None}
        return {"format" if name == "text" else name: value for name, value in known.items()}


_BLOCK = ("bits", "exponent_bits", "block_size")


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

    memory: Name
    source: Name
    permutation: Annotated[tuple[Name, ...], Field(max_length=len(LOOPS))]
    tiles: ByLoop
    traffic_bits: TrafficBits
    energy_pj: Amount
    lower_bound_bits: PositiveAmount | None = None

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


class PlanCall(_Entry):
    """The call of a function, as `bitq.calls.Call`."""

    module: Name
    function: Name
    number: Annotated[int, Field(ge=0, lt=1 << 31)]

    @classmethod
    def of(cls, call: Call) -> PlanCall:
        """The entry of a call."""
        return cls(**call._asdict())

    @property
    def call(self) -> Call:
        """The same."""
        return Call(self.module, self.function, self.number)


class PlanBuffer(_Entry):
    """A stored activation, as `bitq.tracing.lifetimes.Activation`: the steps from and to which it lives, both included,
    and where it lies."""

    name: Name
    bytes: ByteCount
    first: StepNumber
    last: StepNumber
    offset: ByteCount

    @model_validator(mode="after")
    def _lasting(self) -> PlanBuffer:
        if self.last < self.first:
            raise ValueError(f"last is {self.last}; it may not come before first, {self.first}")
        return self


class PlanRam(_Entry):
    """The memory of all activations: how large it is, below what none can be, and what lies in it."""

    bytes: ByteCount
    lower_bound_bytes: ByteCount
    activations: Annotated[tuple[PlanBuffer, ...], FailFast()]

    @classmethod
    def of(cls, activations: Sequence[Activation], buffers: Sequence[Buffer], placed: Placement) -> PlanRam:
        """The entry of activations with what they take, and where they lie."""
        entries = (
            PlanBuffer(name=each.name, bytes=own.size, first=own.first, last=own.last, offset=offset)
            for each, own, offset in zip(activations, buffers, placed.offsets, strict=True)
        )
        return cls(bytes=placed.peak, lower_bound_bytes=placed.lower_bound, activations=tuple(entries))


class PlanLayer(_Entry):
    """One layer: its tensors' formats (None: 32-bit float), and per memory, outermost first, what it moves.

    `stored_at` are the calls whose results, after activation functions and sums, are what its module stores as its
    output, one for each call of the module; none, if it stores its own result.

    `parameter` is the name of its weight in the network's state, where that is another module's. `computed_by` is
    the call of a function that is a product of two activations and computes this layer, as a child of its module.

    `ram_bytes` are those of all activations that live while it runs; plans of earlier versions lack that.

    `table` are the rows and columns of what a lookup reads, `depth` is of a 3-D convolution. `transposed` tells
    that its weight is stored as a transposed convolution's, input channels first. What lies between `groups`
    and it, and `weight_is_parameter`, is as in `bitq.Layer`; plans of earlier versions lack that.
    """

    name: Name
    module: Name
    loops: ByLoop
    groups: Extent
    stride: Extents | None = None
    dilation: Extents | None = None
    padding: tuple[Padding, Padding] | None = None
    input_size: Extents | None = None
    input_dilation: Extents | None = None
    transposed: bool = False
    table: Extents | None = None
    depth: Extent = 1
    weight_is_parameter: bool | None = None
    parameter: Name | None = None
    computed_by: PlanCall | None = None
    input: PlanFormat | None
    weight: PlanFormat | None
    output: PlanFormat | None
    stored_at: Annotated[tuple[PlanCall, ...], FailFast()] = ()
    levels: Annotated[tuple[PlanLevel, ...], FailFast()]
    ram_bytes: ByteCount | None = None

    @model_validator(mode="after")
    def _loops(self) -> PlanLayer:
        if set(self.loops) != set(LOOPS):
            raise ValueError(f"loops must name {' '.join(LOOPS)}")
        _ = self.layer
        return self

    @property
    def layer(self) -> Layer:
        """What is computed, as far as the plan tells."""
        names = ("groups", "transposed", "table", "depth", "module", *GEOMETRY)
        known = {name: value for name in names if (value := getattr(self, name)) is not None}
        told: dict[str, Any] = {**self.loops, **known, "weight_is_parameter": self.weight_is_parameter is not False}
        return Layer(self.name, **told)

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


class FloatPart(_Entry):
    """What stays 32-bit float for one reason: as `bitq.floating.StaysFloat`, with what it moves and takes.

    The shares are of the whole network's traffic over all memories, and of its energy, in [0, 1].
    """

    reason: Name
    modules: tuple[Name, ...]
    layers: tuple[Name, ...]
    movement_bits: Amount
    movement_share: Share
    energy_pj: Amount
    energy_share: Share
    stored_bytes: ByteCount | None


def float_parts(
    parts: Iterable[StaysFloat], moved: Mapping[str, tuple[float, float]]
) -> tuple[FloatPart, ...]:
    """What stays float with its share of a network's movement, the largest part of the energy first.

    Args:
        parts: what stays float.
        moved: by name of every layer of the network, its traffic over all memories in bits and its energy in pJ.
    """
    bits, energy = (sum(each) for each in zip(*moved.values(), strict=True))
    found = []
    for part in parts:
        own = [moved[name] for name in part.layers]
        own_bits, own_energy = sum(each for each, _ in own), sum(each for _, each in own)
        found.append(
            FloatPart(
                **vars(part),
                movement_bits=own_bits,
                movement_share=_share(own_bits, bits),
                energy_pj=own_energy,
                energy_share=_share(own_energy, energy),
            )
        )
    return tuple(sorted(found, key=lambda part: (-part.energy_pj, -part.movement_bits)))


def _share(part: float, whole: float) -> float:
    return min(part / whole, 1.0) if whole else 0.0  # rounding may add up to more than the whole


class Totals(_Entry):
    """What the whole network comes to. Accuracies are measured, after fine-tuning, on the test data.

    `ram_bytes` is the memory of all activations; plans of earlier versions lack it.
    """

    accuracy: Share
    accuracy_float: Share
    movement_bits: Amount
    movement_bits_float: Amount
    movement_bits_max: PositiveAmount
    dram_bits: Amount
    dram_bits_float: Amount
    energy_pj: Amount
    energy_pj_float: Amount
    model_bytes: ByteCount
    model_bytes_float: ByteCount
    ram_bytes: ByteCount | None = None
    ram_bytes_float: ByteCount | None = None
    objective: Annotated[float, Field(ge=-MOST, le=MOST, allow_inf_nan=False)]

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

    `stays_float` tells what stays float, with the reasons. `outcome` is the key of the search's outcome in the results
    store beside it, `weights` the checksum of the weights.safetensors that belongs to the plan, and `ram` the memory of
    its activations. `metric` is what the accuracies of the totals are: "accuracy", "agreement with float32", …. Plans
    of earlier versions lack them. `bits` are those of the grid of Table 2 that formats were chosen from, or None.
    """

    schema_version: Literal[1] = 1
    network: Name
    device: Name
    bits: Annotated[int, Field(ge=1, le=64)] | None
    alpha: Amount
    metric: Name | None = None
    layers: Annotated[tuple[PlanLayer, ...], FailFast()]
    totals: Totals
    ram: PlanRam | None = None
    stays_float: tuple[FloatPart, ...] | None = None
    outcome: Key | None = None
    weights: Key | None = None

    @model_validator(mode="after")
    def _names(self) -> Plan:
        if len({layer.name for layer in self.layers}) < len(self.layers):
            raise ValueError("two layers have the same name")
        return self

    @property
    def untold(self) -> bool:
        """Whether layers stay float and it does not say why, as plans of earlier versions do not."""
        return self.stays_float is None and any(layer.formats == TensorFormats() for layer in self.layers)

    def formats(self) -> dict[str, TensorFormats]:
        """Formats by module path, for `bitq.apply`."""
        return {layer.module: layer.formats for layer in self.layers if layer.formats != TensorFormats()}

    def ranges(self) -> dict[str, Ranges]:
        """By module path, ranges of the activations from which calibration derives what the plan has them share."""
        return {
            layer.module: Ranges(
                None if layer.input is None else layer.input.span,
                None if layer.output is None else layer.output.span,
                None if layer.weight is None or layer.weight_is_parameter is not False else layer.weight.span,
            )
            for layer in self.layers
            if layer.formats != TensorFormats()
        }

    def products(self) -> dict[str, Call | str]:
        """By path of the products with formats that no module of their own computes, the calls that compute them, or
        the names of their weights."""
        taking = [layer for layer in self.layers if layer.formats != TensorFormats()]
        named = {
            layer.module: Transposed(layer.parameter) if layer.transposed else layer.parameter
            for layer in taking
            if layer.parameter is not None
        }
        return {**named, **{layer.module: layer.computed_by.call for layer in taking if layer.computed_by is not None}}

    def points(self) -> Points:
        """By module path, where what it stores comes out of the network."""
        return {
            layer.module: tuple(each.call for each in layer.stored_at)
            for layer in self.layers
            if layer.stored_at and layer.formats != TensorFormats()
        }

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        write_atomically(path, self.model_dump_json(indent=1).encode() + b"\n")


def load_plan(path: str | Path) -> Plan:
    """Read a plan.json; nothing that it names is opened or imported.

    Raises:
        BitqError: no such file, or not a plan (names the first wrong entry).
    """
    path = Path(path)
    if not path.exists() or path.is_dir():
        raise BitqError(f"no plan at {path}: give the plan.json of a finished search")
    content = read_outside(path, MAX_FILE_BYTES, "a plan")
    try:
        document = parsed(content, MAX_VALUES)
    except BitqError as error:
        raise BitqError(f"{path} is not a plan: it {error}") from None
    try:
        return Plan.model_validate(document)
    except ValidationError as error:
        raise BitqError(f"{path} is not a plan: {told(error)}") from None
