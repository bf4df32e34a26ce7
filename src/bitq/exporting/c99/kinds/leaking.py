"""Leaky ReLU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bitq.exporting.c99.fixed_point import IntArray, scaled
from bitq.exporting.c99.integers import Slots, changed
from bitq.exporting.c99.lowering import Flowing, Lowering, UnknownError, computes
from bitq.exporting.c99.steps import SUM, Change, least_unit, multiplier
from bitq.exporting.c99.wires import Wire
from bitq.exporting.c99.writing import Writer, change_in_c


@dataclass(frozen=True)
class Leak(Change):
    """Where z is negative, it becomes round(4z·gain·2^-shift), halves up."""

    gain: int
    shift: int


def _leaking(wire: Wire, slope: float) -> Wire:
    own = wire.computed()
    own = own.above(least_unit(float(own.bounds.max()), SUM - 3))
    return own.after(Leak(*multiplier(slope / 4)), own.unit, own.bounds)


@changed.register
def _leak_in_integers(operation: Leak, z: IntArray, memory: Slots) -> IntArray:
    return np.where(z < 0, scaled(z * 4, operation.gain, operation.shift), z)


@change_in_c.register
def _leak_in_c(operation: Leak, writer: Writer, name: str) -> list[str]:
    return [f"v = v < 0 ? bitq_scaled(v * 4, {operation.gain}, {operation.shift}) : v;"]


@computes("leaky_relu")
def _leaky_relu(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    slope = float(given.get("negative_slope", 0.01))
    if not 0 <= slope < 1:
        raise UnknownError("its slope is not within 0..1")
    flow = given["self"]
    return replace(flow, content=_leaking(lowering.wire(flow), slope), flat=False, recipe=None)  # type: ignore[no-any-return]
