"""Pooling: the largest number of a window, or the average."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bitq.exporting.c99.fixed_point import IntArray
from bitq.exporting.c99.integers import Slots, changed, drawn, lifted
from bitq.exporting.c99.lowering import Flowing, Lowering, UnknownError, computes, extents
from bitq.exporting.c99.steps import ROOM, Change, Lift, OfOneTensor, Origin, Resident, StepOfC, bits_of
from bitq.exporting.c99.windows import Walk, loops_over, pair, taps_of
from bitq.exporting.c99.wires import Wire
from bitq.exporting.c99.writing import LinesOfC, Writer, change_in_c, source_in_c


@dataclass(frozen=True)
class Pool(OfOneTensor, Origin):
    """The largest or the sum of a window's numbers, of each channel."""

    walk: Walk
    largest: bool

    @property
    def chosen_from(self) -> Resident | None:
        """The tensor, of which it takes the largest."""
        return self.lift.stored if self.largest else None


@dataclass(frozen=True)
class Divide(Change):
    """z is divided by a whole number, rounded toward zero; an average that is a tie between two k stays one."""

    by: int


def _windows(stored: Resident, walk: Walk, largest: bool, height: int, width: int) -> Wire:
    """The largest number of windows, or their sum."""
    numbers, count = stored.numbers, 1 if largest else walk.kernel[0] * walk.kernel[1]
    unit = numbers.highest + bits_of(stored.largest * count) - ROOM
    bounds = np.full(stored.channels, count * stored.bound / numbers.scale)
    gains = np.full(stored.channels, numbers.scale)
    source = Pool(Lift(stored, numbers.highest - unit), walk, largest)
    return Wire(source, (), unit, bounds, gains, np.zeros(stored.channels), height, width)


def _divided(wire: Wire, count: int) -> Wire:
    """By a whole number, in units that were chosen for larger ones."""
    if count & (count - 1) == 0:
        return wire.scaled(1 / count, 0.0)
    after = wire.after(Divide(count), wire.unit, wire.bounds / count)
    return replace(after, offsets=wire.offsets / count)


@drawn.register
def _pool_in_integers(source: Pool, memory: Slots, target: Resident) -> IntArray:
    z = lifted(source.lift, *memory[source.lift.stored.name])
    found = np.full((target.height, target.width, target.channels), np.iinfo(np.int64).min if source.largest else 0)
    for rows, columns, seen in taps_of(source.walk, source.lift.stored, target):
        part = z[rows, columns]
        if source.largest:
            found[seen] = np.maximum(found[seen], part)
        else:
            found[seen] += part
    return found


@changed.register
def _divide_in_integers(operation: Divide, z: IntArray, memory: Slots) -> IntArray:
    found: IntArray = np.sign(z) * (np.abs(z) // operation.by)
    return found


@source_in_c.register
def _pool_in_c(source: Pool, writer: Writer, number: int, step: StepOfC) -> LinesOfC:
    stored = source.lift.stored
    z = writer.lifted(source.lift, f"iy * {stored.width} + ix", "k")
    inner = [f"const int64_t z = {z};", "v = z > v ? z : v;"] if source.largest else [f"v += {z};"]
    lines = [
        f"const int32_t y = (at + t) / {step.target.width}, x = (at + t) % {step.target.width};",
        "int32_t r, s;",
        "v = INT64_MIN;" if source.largest else "v = 0;",
        *loops_over(source.walk, stored, inner),
    ]
    return LinesOfC(lines)


@change_in_c.register
def _divide_in_c(operation: Divide, writer: Writer, name: str) -> list[str]:
    return [f"v /= {operation.by};"]


def _pooled(lowering: Lowering, flow: Flowing, walk: Walk, largest: bool, count: int) -> Flowing:
    shape = lowering.shape()
    flow = lowering.along(flow, 0)
    if flow.content is None or flow.flat:
        raise UnknownError("it reads what has no format")
    made = _windows(lowering.stored(flow), walk, largest, *extents(shape, 0))
    return Flowing(shape, 0, made if largest else _divided(made, count))


@computes("max_pool1d", "max_pool2d")
def _max_pool(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    size = len(given["self"].shape) - 1
    kernel = pair(given["kernel_size"], size, 1)
    stride = pair(given.get("stride") or given["kernel_size"], size, 1)
    walk = Walk(kernel, stride, pair(given.get("padding", 0), size), pair(given.get("dilation", 1), size, 1))
    return _pooled(lowering, given["self"], walk, True, 1)


@computes("avg_pool1d", "avg_pool2d")
def _avg_pool(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    shape = given["self"].shape[1:]
    kernel = pair(given["kernel_size"], len(shape), 1)
    stride = pair(given.get("stride") or given["kernel_size"], len(shape), 1)
    padding = pair(given.get("padding", 0), len(shape))
    if any(padding) and not given.get("count_include_pad", True):
        raise UnknownError("it counts what lies in its padding apart")
    sizes = (*(1,) * (2 - len(shape)), *shape)
    out = extents(lowering.shape(), 0)
    if any((o - 1) * s + k > n + 2 * p for o, s, k, n, p in zip(out, stride, kernel, sizes, padding, strict=True)):
        raise UnknownError("its last windows are cut (ceil_mode)")
    count = given.get("divisor_override") or kernel[0] * kernel[1]
    return _pooled(lowering, given["self"], Walk(kernel, stride, padding), False, count)


@computes("adaptive_avg_pool1d", "adaptive_avg_pool2d")
def _adaptive(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    out = extents(lowering.shape(), 0)
    sizes = extents(given["self"].shape, 0)
    if any(n % o for n, o in zip(sizes, out, strict=True)):
        raise UnknownError("its windows are of unlike sizes")
    kernel = (sizes[0] // out[0], sizes[1] // out[1])
    return _pooled(lowering, given["self"], Walk(kernel, kernel, (0, 0)), False, kernel[0] * kernel[1])


@computes("mean")
def _mean(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    flow = given["self"]
    axes = sorted(axis % (len(flow.shape) + 1) - 1 for axis in given.get("dim") or ())
    if flow.axis not in (0, None) or axes != list(range(1, len(flow.shape))):
        raise UnknownError("it takes the mean of other axes than all but the channels")
    kernel = extents(flow.shape, 0)
    found = _pooled(lowering, flow, Walk(kernel, kernel, (0, 0)), False, kernel[0] * kernel[1])
    return replace(found, content=replace(found.content, height=1, width=1))  # type: ignore[type-var]
