"""Softmax over the channels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import e, ldexp, log2
from typing import Any

import numpy as np

from bitq.exporting.c99.fixed_point import IntArray, scaled
from bitq.exporting.c99.integers import Slots, drawn, lifted
from bitq.exporting.c99.lowering import Flowing, Lowering, UnknownError, computes
from bitq.exporting.c99.pieces import PLACE_BITS, Pieces, pieces_of
from bitq.exporting.c99.steps import ROOM, Lift, OfOneTensor, Origin, Resident, StepOfC, bits_of, multiplier
from bitq.exporting.c99.wires import Wire
from bitq.exporting.c99.writing import LinesOfC, Writer, source_in_c

ONE_BITS = 30
"""Of a share of 1."""


@cache
def halving() -> Pieces:
    """2^-x from 0 to 1."""
    return pieces_of(lambda x: np.exp2(-x), 0, 1)


@dataclass(frozen=True)
class Softmax(OfOneTensor, Origin):
    """Shares of 1 of the channels at each position: of x less the largest x of them, 2^(x·log2 e).

    Attributes:
        lift: of the tensor.
        gain, shift: x·log2 e, in 2^-24 of a piece of `halving`, is round(z·gain·2^-shift), halves up.
    """

    gain: int
    shift: int


def shares(stored: Resident) -> Wire:
    """Softmax of a tensor.

    Raises:
        UnknownError: numbers so large that all but one share are 0.
    """
    numbers = stored.numbers
    unit = numbers.highest + bits_of(stored.largest) - ROOM
    ratio = ldexp(log2(e) * numbers.scale, unit + PLACE_BITS - halving().width)
    if ratio >= 0.25:
        raise UnknownError("its input may be as large as 2^28")
    source = Softmax(Lift(stored, numbers.highest - unit), *multiplier(ratio))
    ones = np.ones(stored.channels)
    return Wire(source, (), -ONE_BITS, ones, ones, 0 * ones, stored.height, stored.width)


def _powers(source: Softmax, z: IntArray) -> IntArray:
    """2^(x·log2 e), in 2^-30, of z below the largest."""
    pieces, bits = halving(), PLACE_BITS - halving().width
    places = scaled(z, source.gain, source.shift)
    found: IntArray = pieces.at(places & ((1 << bits) - 1)) >> np.minimum(places >> bits, 63)
    return found


@drawn.register
def _softmax_in_integers(source: Softmax, memory: Slots, target: Resident) -> IntArray:
    z = lifted(source.lift, *memory[source.lift.stored.name])
    powers = _powers(source, z.max(2, keepdims=True) - z)
    total = powers.sum(2, keepdims=True)
    found: IntArray = ((powers << ONE_BITS) + total // 2) // total
    return found


@source_in_c.register
def _softmax_in_c(source: Softmax, writer: Writer, number: int, step: StepOfC) -> LinesOfC:
    pieces, bits = halving(), PLACE_BITS - halving().width
    table = writer.table("int32_t", "halving", pieces.table.reshape(-1).tolist())
    z = writer.lifted(source.lift, "at", "k")
    power = [
        f"const int64_t places = bitq_scaled(peak - {z}, {source.gain}, {source.shift});",
        f"const int64_t half = bitq_pieces(places & {(1 << bits) - 1}, {table}, {len(pieces.table) - 2});",
        f"const int64_t power = half >> (places >> {bits} < 63 ? places >> {bits} : 63);",
    ]
    over = f"for (k = 0; k < {source.lift.stored.channels}; k++) {{"
    tile = [
        "peak = INT64_MIN;",
        over,
        f"    const int64_t z = {z};",
        "    peak = z > peak ? z : peak;",
        "}",
        "total = 0;",
        over,
        *(f"    {each}" for each in power),
        "    total += power;",
        "}",
    ]
    value = [*power, f"v = (bitq_left(power, {ONE_BITS}) + total / 2) / total;"]
    return LinesOfC(value, ["int64_t peak, total;"], tile)


@computes("softmax", "_softmax")
def _softmax(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    flow = given["self"]
    axis = given["dim"] % (len(flow.shape) + 1) - 1
    if flow.content is None:
        raise UnknownError("it reads what has no format")
    flow = lowering.along(flow, axis)
    if flow.axis != axis:
        raise UnknownError("it sums over another axis than that of the channels")
    return Flowing(flow.shape, axis, shares(lowering.stored(flow)))
