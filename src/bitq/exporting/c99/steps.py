"""What an exported network does, step by step: each reads tensors, computes fixed-point numbers, and stores a tensor.

A fixed-point number z of 64 bits stands for z·2^unit. Units are chosen here so that no number of a network leaves 62
bits, whatever its input, as bounds of all weights and formats prove. `integers` computes the same steps in NumPy,
`source` writes them in C.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, frexp, log2, prod
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bitq.exporting.c99.filters import Filters
from bitq.exporting.c99.numbers import Numbers

ROOM = 56
"""Bits that numbers may take as they come out of a source; sums may take more, up to 61."""

LEAST_SHIFT, MOST_SHIFT = 33, 95

INPUT_LIFT = 36
"""Bits that the significand of an input is shifted to the left before it is multiplied."""


@dataclass(frozen=True)
class Resident:
    """A tensor in memory, channels last: all k, then all codes.

    Attributes:
        name: unique.
        height, width, channels: extents; 1 where there are none.
        numbers: what k and codes stand for.
        bound: of magnitudes.
    """

    name: str
    height: int
    width: int
    channels: int
    numbers: Numbers
    bound: float

    @property
    def positions(self) -> int:
        """Height times width."""
        return self.height * self.width

    @property
    def blocks(self) -> int:
        """Codes at a position."""
        return -(-self.channels // self.numbers.block) if self.numbers.top else 0

    @property
    def codes_at(self) -> int:
        """Where its codes lie, in bytes from its begin."""
        return self.positions * self.channels * self.numbers.bytes

    @property
    def bytes(self) -> int:
        """Of all."""
        return self.codes_at + self.positions * self.blocks


# What numbers come from


@dataclass(frozen=True)
class Lift:
    """How k of a tensor becomes z: (k·2^left) >> (top - code), rounded down.

    Attributes:
        stored: the tensor.
        left: bits; below 0 they are dropped, rounded down.
    """

    stored: Resident
    left: int


@dataclass(frozen=True)
class FromInput:
    """The network's input, float32 numbers in the order of the network's own axes.

    Attributes:
        channel_stride, position_stride: from one channel, one position to the next.
    """

    channel_stride: int
    position_stride: int


@dataclass(frozen=True)
class Walk:
    """How windows walk over a tensor.

    Attributes:
        kernel, stride, padding, dilation: along height and width.
        transposed: whether inputs walk over outputs instead.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    transposed: bool = False

    def read(self, out: int, tap: int, axis: int, extent: int) -> int | None:
        """What row or column a tap reads for an output; None beyond the tensor."""
        if self.transposed:
            found, rest = divmod(out + self.padding[axis] - tap * self.dilation[axis], self.stride[axis])
            return found if not rest and 0 <= found < extent else None
        found = out * self.stride[axis] - self.padding[axis] + tap * self.dilation[axis]
        return found if 0 <= found < extent else None


@dataclass(frozen=True)
class ChannelRun:
    """Neighbouring channels whose products are summed before they are shifted.

    Attributes:
        first, last: of a group's channels, from and to before.
        code: of the activation's blocks.
        weight_code: of the weight's.
    """

    first: int
    last: int
    code: int
    weight_code: int


@dataclass(frozen=True, eq=False)
class Convolve:
    """Sums of products: of each segment p, an integer; then the sum of (p·2^left) >> (tops - codes), times 2^lift.

    Attributes:
        input: what is read.
        filters: the weight.
        walk: of windows.
        groups: of channels.
        left: bits that p is shifted to the left.
        wide: whether the sum has 64 bits or 32, which hold it exactly.
        lift: bits that the sum is shifted to the left at the end.
    """

    input: Resident
    filters: Filters
    walk: Walk
    groups: int
    left: int
    wide: bool
    lift: int

    @property
    def tops(self) -> int:
        """Of both codes together."""
        return self.input.numbers.top + self.filters.top

    def segments(self, group: int) -> tuple[ChannelRun, ...]:
        """Those of a group."""
        inner, first = self.filters.k.shape[2], group * self.filters.k.shape[2]
        block, own = self.input.numbers.block, self.filters.block
        edges = {0, inner}
        if self.input.numbers.top:
            edges |= {edge - first for edge in range(-(-first // block) * block, first + inner, block)}
        if self.filters.top:
            edges |= set(range(0, inner, own))
        marks = sorted(edges)
        return tuple(
            ChannelRun(a, b, (first + a) // block if self.input.numbers.top else 0, a // own if self.filters.top else 0)
            for a, b in pairwise(marks)
        )


@dataclass(frozen=True)
class Pool:
    """The largest or the sum of a window's numbers, of each channel."""

    lift: Lift
    walk: Walk
    largest: bool


@dataclass(frozen=True)
class Copy:
    """Tensors as they are, one after the other along the channels.

    Attributes:
        parts: of the same positions.
        view: "flat": positions become channels, each channel's together, as flattening has it; "turned": positions
            become channels, and channels positions.
    """

    parts: tuple[Lift, ...]
    view: View = "same"


View = Literal["same", "flat", "turned"]

Origin = FromInput | Convolve | Pool | Copy


# What becomes of them


@dataclass(frozen=True, eq=False)
class Affine:
    """z becomes round(z·gain·2^-shift), halves up, plus an offset, of each channel.

    Attributes:
        gains: below 2^31; empty: none is multiplied.
        shifts: 33..95.
        offsets: empty: none is added.
    """

    gains: NDArray[np.int64]
    shifts: NDArray[np.int64]
    offsets: NDArray[np.int64]


@dataclass(frozen=True)
class Divide:
    """z is divided by a whole number, rounded toward zero; an average that is a tie between two k stays one."""

    by: int


@dataclass(frozen=True)
class Drop:
    """z loses some lowest bits, halves up."""

    bits: int


@dataclass(frozen=True)
class Add:
    """Another tensor's number of the same place is added; with a gain, if it has a scale, as by `Affine`."""

    lift: Lift
    gain: int = 0
    shift: int = 0


@dataclass(frozen=True)
class Clamp:
    """z is held within bounds; None: without."""

    low: int | None
    high: int | None


@dataclass(frozen=True)
class Leak:
    """Where z is negative, it becomes round(4z·gain·2^-shift), halves up."""

    gain: int
    shift: int


Change = Affine | Divide | Drop | Add | Clamp | Leak


@dataclass(frozen=True)
class StepOfC:
    """One pass over a tensor that is made.

    Attributes:
        module: path of the module that it is of.
        source: what numbers come from.
        operations: what becomes of each.
        unit: of z in the end.
        target: where it is stored; blocks are rounded to nearest, ties to even.
        gain, shift: of a target with a scale: k is round(z·gain·2^-shift), halves up.
    """

    module: str
    source: Origin
    operations: tuple[Change, ...]
    unit: int
    target: Resident
    gain: int = 0
    shift: int = 0


@dataclass(frozen=True)
class Schedule:
    """A whole network.

    Attributes:
        steps: in order.
        input_shape, output_shape: of one input and output, without the batch.
        output: what the last step stores.
        channel_stride, position_stride: of the output.
    """

    steps: tuple[StepOfC, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    output: Resident
    channel_stride: int
    position_stride: int

    @property
    def inputs(self) -> int:
        """Numbers of an input."""
        return prod(self.input_shape)

    @property
    def outputs(self) -> int:
        """Numbers of an output."""
        return prod(self.output_shape)


def multiplier(ratio: float) -> tuple[int, int]:
    """(gain, shift) with |gain| of 31 bits and gain·2^-shift next to a ratio; shift within 33..95."""
    if ratio == 0:
        return 0, LEAST_SHIFT
    fraction, exponent = frexp(ratio)
    shift = 31 - exponent
    gain = round(fraction * (1 << 31))
    if abs(gain) == 1 << 31:
        gain, shift = gain // 2, shift - 1
    if shift > MOST_SHIFT:
        gain, shift = round(gain / 2.0 ** (shift - MOST_SHIFT)), MOST_SHIFT
    assert shift >= LEAST_SHIFT
    return gain, shift


def bits_of(value: float) -> int:
    """Bits that hold all whole numbers up to a positive one."""
    return max(floor(log2(value)) + 1, 0) if value > 0 else 0


def least_unit(bound: float, bits: int) -> int:
    """The least unit in which numbers up to a bound take no more than some bits."""
    return ceil(log2(bound)) - bits if bound > 0 else -bits
