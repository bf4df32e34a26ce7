"""The nouns of the movement model: widths, a tiling, the traffic it causes, and an optimum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from bitq.errors import BitqError
from bitq.layers import LOOPS, Layer


@dataclass(frozen=True)
class Widths:
    """Bits per element of the three tensors of a layer (the paper's q_i, q_o, q_w); any positive number.

    An output that is still accumulated is a partial sum, which hardware keeps wider than the result (our choice; the
    paper has one width). The output tile in the buffer takes `partial_sum` bits per element, and so does every spill:
    all writes but an element's last, and all read-backs. The last write carries the finished output at `output` bits.
    Every output is finished once, whatever the schedule. So traffic is that of outputs of `partial_sum` bits plus a
    constant, and the best tilings are those for the widths (input, partial_sum, weight).

    Attributes:
        input, output, weight: of the finished tensors.
        partial_sum: of an output that is still accumulated; at least `output`, which is the default.

    Raises:
        BitqError: a width that is not a positive finite number, or a partial sum narrower than its output.
    """

    input: float
    output: float
    weight: float
    partial_sum: float | None = None

    def __post_init__(self) -> None:
        if self.partial_sum is None:
            object.__setattr__(self, "partial_sum", self.output)
        for name in ("input", "output", "weight", "partial_sum"):
            width = getattr(self, name)
            if not 0 < width < float("inf"):
                raise BitqError(f"width of {name} is {width!r} bits; it must be a positive number")
        if self.accumulated < self.output:
            raise BitqError(
                f"width of partial_sum is {self.partial_sum!r} bits; it must be at least the output's {self.output!r}"
            )

    @property
    def accumulated(self) -> float:
        """`partial_sum`, which is set by now (bits)."""
        assert self.partial_sum is not None
        return self.partial_sum

    def with_partial_sums(self, least: float) -> Widths:
        """The same with partial sums of at least so many bits."""
        return replace(self, partial_sum=max(self.accumulated, least))


@dataclass(frozen=True)
class Traffic:
    """What crosses the boundary of a buffer, in elements (paper, Eq. 3-5)."""

    input_reads: int
    weight_reads: int
    output_writes: int
    output_reads: int

    def bits(self, widths: Widths) -> float:
        """Traffic in bits: each tensor's elements times its width, spilled partial sums at theirs (see `Widths`)."""
        moved = (
            widths.input * self.input_reads
            + widths.weight * self.weight_reads
            + widths.accumulated * (self.output_writes + self.output_reads)
        )
        return moved + (widths.output - widths.accumulated) * self.outputs

    @property
    def outputs(self) -> int:
        """Outputs that are written for the last time, which is all of them once: the other writes are read back."""
        return self.output_writes - self.output_reads

    def scaled(self, times: int) -> Traffic:
        """The traffic of `times` independent repetitions."""
        return Traffic(
            self.input_reads * times,
            self.weight_reads * times,
            self.output_writes * times,
            self.output_reads * times,
        )


@dataclass(frozen=True)
class Tiling:
    """A tile size for each loop and the order of the tile loops, outermost first.

    Attributes:
        permutation: loops from outermost to innermost; a loop of a single trip may be left out.
        tiles: tile size of each loop, in iterations of one group; a loop left out has one tile of its whole extent.
    """

    permutation: tuple[str, ...]
    tiles: Mapping[str, int] = field(hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "permutation", tuple(self.permutation))
        object.__setattr__(self, "tiles", MappingProxyType(dict(self.tiles)))
        unknown = (set(self.permutation) | set(self.tiles)) - set(LOOPS)
        if unknown or len(set(self.permutation)) != len(self.permutation):
            raise BitqError(
                f"permutation {self.permutation} and tiles {dict(self.tiles)} may name nothing but {LOOPS}, each once"
            )

    def __reduce__(self) -> tuple[type[Tiling], tuple[tuple[str, ...], dict[str, int]]]:
        return Tiling, (self.permutation, dict(self.tiles))

    def size(self, layer: Layer, loop: str) -> int:
        """Tile size of a loop of one group of the layer."""
        return self.tiles.get(loop, layer.extent(loop))

    def trips(self, layer: Layer, loop: str) -> int:
        """Number of tiles along a loop of one group of the layer."""
        return -(-layer.extent(loop) // self.size(layer, loop))

    def check(self, layer: Layer) -> None:
        """Raise BitqError unless every tile fits its loop and every loop of several trips has its place."""
        for loop in LOOPS:
            size, extent = self.size(layer, loop), layer.extent(loop)
            if not 1 <= size <= extent:
                raise BitqError(f"tile {loop}={size} of layer {layer.name!r} must lie in 1..{extent}")
            if self.trips(layer, loop) > 1 and loop not in self.permutation:
                raise BitqError(
                    f"loop {loop} of layer {layer.name!r} has several tiles but no place in the permutation"
                )


@dataclass(frozen=True)
class Footprint:
    """The largest tile of each tensor, in elements: what a buffer has to hold."""

    input: int
    weight: int
    output: int

    def bits(self, widths: Widths) -> float:
        """Capacity needed, in bits."""
        return widths.input * self.input + widths.weight * self.weight + widths.accumulated * self.output


@dataclass(frozen=True)
class Optimum:
    """The least traffic of a layer through one buffer, with the tiling that has it.

    Attributes:
        bits: traffic in bits.
        tiling: one tiling of that traffic (others may tie).
        traffic: the same in elements; `simulate(layer, tiling)` counts exactly this.
        footprint: what the tiling keeps in the buffer, in elements.
    """

    bits: float
    tiling: Tiling
    traffic: Traffic
    footprint: Footprint
