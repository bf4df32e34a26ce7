"""Argmax over the channels: which of them is the largest, the first of equals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bitq.exporting.c99.fixed_point import IntArray
from bitq.exporting.c99.integers import Slots, drawn, lifted
from bitq.exporting.c99.lowering import Flowing, Lowering, UnknownError, computes
from bitq.exporting.c99.numbers import Numbers
from bitq.exporting.c99.steps import ROOM, Lift, OfOneTensor, Origin, Resident, StepOfC, bits_of
from bitq.exporting.c99.wires import Wire
from bitq.exporting.c99.writing import LinesOfC, Writer, source_in_c

MOST_CHANNELS = 1 << 15


@dataclass(frozen=True)
class Argmax(OfOneTensor, Origin):
    """The channel of the largest number at each position."""


@drawn.register
def _argmax_in_integers(source: Argmax, memory: Slots, target: Resident) -> IntArray:
    found: IntArray = lifted(source.lift, *memory[source.lift.stored.name]).argmax(2)[:, :, None]
    return found


@source_in_c.register
def _argmax_in_c(source: Argmax, writer: Writer, number: int, step: StepOfC) -> LinesOfC:
    value = [
        "int64_t peak = INT64_MIN;",
        "int32_t c;",
        "v = 0;",
        f"for (c = 0; c < {source.lift.stored.channels}; c++) {{",
        f"    const int64_t z = {writer.lifted(source.lift, 'at + t', 'c')};",
        "    if (z > peak) {",
        "        peak = z;",
        "        v = c;",
        "    }",
        "}",
    ]
    return LinesOfC(value)


@computes("argmax")
def _argmax(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    flow, dim = given["self"], given.get("dim")
    if flow.content is None or dim is None:
        raise UnknownError("it reads what has no format, or all axes at once")
    axis = dim % (len(flow.shape) + 1) - 1
    flow = lowering.along(flow, axis)
    stored = lowering.stored(flow)
    if flow.axis != axis or stored.channels > MOST_CHANNELS:
        raise UnknownError("it looks along another axis than that of the channels, or at more than 2^15 of them")
    lift = Lift(stored, ROOM - bits_of(stored.largest))
    one = np.ones(1)
    wire = Wire(Argmax(lift), (), 0, one * (stored.channels - 1), one, 0 * one, stored.height, stored.width)
    return lowering.put(Flowing(lowering.shape(), 0, wire), Numbers(0, max(stored.channels - 1, 1), 0, 0, 1))
