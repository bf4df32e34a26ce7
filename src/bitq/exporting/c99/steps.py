"""What an exported network does, step by step: each reads tensors, computes fixed-point numbers, and stores a tensor.

A fixed-point number z of 64 bits stands for z·2^unit. Units are chosen so that no number of a network leaves 62 bits,
whatever its input, as bounds of all weights and formats prove. What numbers come from and what becomes of them is of
many kinds, one file in `kinds` for each, which computes it in NumPy and writes it in C.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, frexp, ldexp, log2, prod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bitq.exporting.c99.numbers import Numbers

ROOM = 56
"""Bits that numbers may take as they come out of a source; sums may take more, up to `SUM`."""

SUM = 61
"""Bits that a number may take wherever it is."""

LEAST_SHIFT, MOST_SHIFT = 33, 95


@dataclass(frozen=True)
class Resident:
    """A tensor in memory, channels last, packed: all k, then all codes, then zeros up to a whole byte.

    Attributes:
        name: unique.
        height, width, channels: extents; 1 where there are none.
        stored: what k and codes stand for.
        bound: of magnitudes.
    """

    name: str
    height: int
    width: int
    channels: int
    stored: Numbers
    bound: float

    @property
    def numbers(self) -> Numbers:
        """What those who read it compute with."""
        return self.stored.as_read()

    @property
    def positions(self) -> int:
        """Height times width."""
        return self.height * self.width

    @property
    def largest(self) -> float:
        """The largest |k| under the top code."""
        return self.bound / ldexp(self.numbers.scale, self.numbers.highest)

    @property
    def blocks(self) -> int:
        """Codes at a position."""
        return -(-self.channels // self.stored.block) if self.stored.top else 0

    @property
    def codes_at(self) -> int:
        """Where its codes lie, in bits from its begin."""
        return self.positions * self.channels * self.stored.bits

    @property
    def bytes(self) -> int:
        """Of all."""
        return -(-(self.codes_at + self.positions * self.blocks * self.stored.code_bits) // 8)


@dataclass(frozen=True)
class Lift:
    """How k of a tensor becomes z: (k·2^left) >> (top - code), rounded down.

    Attributes:
        stored: the tensor.
        left: bits; below 0 they are dropped, rounded down.
    """

    stored: Resident
    left: int


class OfTensors:
    """Reads tensors, none by default."""

    @property
    def reads(self) -> tuple[Resident, ...]:
        """Which."""
        return ()


@dataclass(frozen=True)
class OfOneTensor(OfTensors):
    """Reads one tensor.

    Attributes:
        lift: of the tensor.
    """

    lift: Lift

    @property
    def reads(self) -> tuple[Resident, ...]:
        """The tensor."""
        return (self.lift.stored,)


class Origin(OfTensors):
    """What numbers come from.

    Attributes:
        takes_input: whether that is the network's input.
        tiled: whether many positions are computed before their blocks are stored.
    """

    takes_input: ClassVar[bool] = False
    tiled: ClassVar[bool] = False

    @property
    def chosen_from(self) -> Resident | None:
        """A tensor whose numbers it gives as they are, if it does."""
        return None

    @property
    def keeps_blocks(self) -> bool:
        """Whether a block of what is chosen comes from one block of that tensor."""
        return False


class Change(OfTensors):
    """What becomes of a number."""


@dataclass(frozen=True, eq=False)
class Affine(Change):
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
class Drop(Change):
    """z loses some lowest bits, halves up."""

    bits: int


@dataclass(frozen=True)
class StepOfC:
    """One pass over a tensor that is made.

    Attributes:
        module: path of the module that it is of.
        source: what numbers come from.
        operations: what becomes of each.
        unit: of z in the end.
        target: where it is stored.
        numbers: what is rounded to there, blocks to nearest, ties to even.
        gain, shift: of a target with a scale: k is round(z·gain·2^-shift), halves up.
    """

    module: str
    source: Origin
    operations: tuple[Change, ...]
    unit: int
    target: Resident
    numbers: Numbers
    gain: int = 0
    shift: int = 0

    @property
    def reads(self) -> tuple[Resident, ...]:
        """The tensors that it reads."""
        return tuple(stored for each in (self.source, *self.operations) for stored in each.reads)


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
