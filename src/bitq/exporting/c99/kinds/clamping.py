"""ReLU and its kind, which hold numbers within bounds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ldexp
from typing import Any

import numpy as np

from bitq.exporting.c99.fixed_point import IntArray
from bitq.exporting.c99.integers import Slots, changed
from bitq.exporting.c99.lowering import Flowing, Lowering, computes
from bitq.exporting.c99.steps import SUM, Change
from bitq.exporting.c99.wires import Wire
from bitq.exporting.c99.writing import Writer, change_in_c


@dataclass(frozen=True)
class Clamp(Change):
    """z is held within bounds; None: without."""

    low: int | None
    high: int | None


def within(wire: Wire, low: float | None, high: float | None) -> Wire:
    """Within bounds."""
    own = wire.computed()
    limit = ldexp(1.0, own.unit + SUM)
    ends = [None if each is None or abs(each) > limit else round(ldexp(each, -own.unit)) for each in (low, high)]
    return own.after(Clamp(ends[0], ends[1]), own.unit, own.bounds)


@changed.register
def _clamp_in_integers(operation: Clamp, z: IntArray, memory: Slots) -> IntArray:
    if operation.low is not None:
        z = np.maximum(z, operation.low)
    return z if operation.high is None else np.minimum(z, operation.high)


@change_in_c.register
def _clamp_in_c(operation: Clamp, writer: Writer, name: str) -> list[str]:
    lines = []
    for end, sign in ((operation.low, "<"), (operation.high, ">")):
        if end is not None:
            lines.append(f"v = v {sign} INT64_C({end}) ? INT64_C({end}) : v;")
    return lines


@computes("relu")
def _relu(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    return _held(lowering, given["self"], 0.0, None)


@computes("relu6")
def _relu6(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    return _held(lowering, given["self"], 0.0, 6.0)


@computes("hardtanh")
def _hardtanh(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    return _held(lowering, given["self"], float(given.get("min_val", -1.0)), float(given.get("max_val", 1.0)))


@computes("clamp", "clamp_min", "clamp_max")
def _clamp(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    low, high = given.get("min"), given.get("max")
    return _held(lowering, given["self"], None if low is None else float(low), None if high is None else float(high))


def _held(lowering: Lowering, flow: Flowing, low: float | None, high: float | None) -> Flowing:
    return replace(flow, content=within(lowering.wire(flow), low, high), flat=False, recipe=None)
