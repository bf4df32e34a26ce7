"""Parts of a tensor, every so many of its numbers, and zeros around it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bitq.exporting.c99.fixed_point import IntArray
from bitq.exporting.c99.integers import Slots, drawn, lifted
from bitq.exporting.c99.lowering import Flowing, Lowering, UnknownError, computes, extents
from bitq.exporting.c99.steps import ROOM, Lift, OfOneTensor, Origin, Resident, StepOfC, bits_of
from bitq.exporting.c99.wires import Wire
from bitq.exporting.c99.writing import LinesOfC, Writer, source_in_c

Three = tuple[int, int, int]
"""Of rows, columns and channels."""


@dataclass(frozen=True)
class PartOf(OfOneTensor, Origin):
    """Numbers of a tensor at places that lie as far apart as each other; 0 beyond it.

    Attributes:
        lift: of the tensor.
        starts: where the first lies.
        strides: from one to the next.
    """

    starts: Three
    strides: Three

    @property
    def chosen_from(self) -> Resident | None:
        """The tensor."""
        return self.lift.stored

    @property
    def keeps_blocks(self) -> bool:
        """Whether channels of a block come from one block."""
        return self.starts[2] % self.lift.stored.stored.block == 0 and self.strides[2] == 1

    def inside(self, sizes: Three) -> tuple[bool, bool, bool]:
        """Along which axes all of a result of these extents comes from the tensor."""
        rows, columns, channels = (
            _within(start, stride, size, extent)
            for start, stride, size, extent in zip(
                self.starts, self.strides, sizes, _sizes(self.lift.stored), strict=True
            )
        )
        return rows, columns, channels


def _within(start: int, stride: int, size: int, extent: int) -> bool:
    return start >= 0 and start + (size - 1) * stride < extent


def _sizes(stored: Resident) -> Three:
    return stored.height, stored.width, stored.channels


@drawn.register
def _cut_in_integers(source: PartOf, memory: Slots, target: Resident) -> IntArray:
    stored = source.lift.stored
    z = lifted(source.lift, *memory[stored.name])
    places = [
        start + stride * np.arange(size)
        for start, stride, size in zip(source.starts, source.strides, _sizes(target), strict=True)
    ]
    known = [(each >= 0) & (each < extent) for each, extent in zip(places, _sizes(stored), strict=True)]
    held = z[np.ix_(*(np.where(own, each, 0) for own, each in zip(known, places, strict=True)))]
    found: IntArray = np.where(known[0][:, None, None] & known[1][:, None] & known[2], held, 0)
    return found


@source_in_c.register
def _cut_in_c(source: PartOf, writer: Writer, number: int, step: StepOfC) -> LinesOfC:
    stored, target = source.lift.stored, step.target
    names, outs = ("y", "x", "c"), (f"(at + t) / {target.width}", f"(at + t) % {target.width}", "k")
    lines = [
        f"const int32_t {name} = {out} * {stride} + {start};"
        for name, out, stride, start in zip(names, outs, source.strides, source.starts, strict=True)
    ]
    outside = [
        f"{name} < 0 || {name} >= {extent}"
        for name, extent, inside in zip(names, _sizes(stored), source.inside(_sizes(target)), strict=True)
        if not inside
    ]
    z = writer.lifted(source.lift, f"y * {stored.width} + x", "c")
    return LinesOfC([*lines, f"v = {' || '.join(outside)} ? 0 : {z};" if outside else f"v = {z};"])


def _cut(lowering: Lowering, flow: Flowing, starts: dict[int, int], strides: dict[int, int], shape: Any) -> Flowing:
    """Lowers it, of starts and strides by axis."""
    if flow.content is None or flow.axis is None:
        raise UnknownError("it reads the network's input before that has a format")
    axis, own, new = flow.axis, flow.shape, tuple(shape)
    others = [each for each in range(len(own)) if each != axis]
    order = [*[None] * (2 - len(others)), *others, axis]
    first: Three = tuple(0 if each is None else starts.get(each, 0) for each in order)  # type: ignore[assignment]
    apart: Three = tuple(1 if each is None else strides.get(each, 1) for each in order)  # type: ignore[assignment]
    sizes = (*extents(new, axis), new[axis])
    before = flow.content.source if isinstance(flow.content, Wire) and not flow.content.operations else None
    whole = (*extents(own, axis), own[axis])
    if isinstance(before, PartOf) and not flow.flat and _join(before, whole, first, apart, sizes):
        stored = before.lift.stored
        first = tuple(b + s * f for b, s, f in zip(before.starts, before.strides, first, strict=True))  # type: ignore[assignment]
        apart = tuple(s * a for s, a in zip(before.strides, apart, strict=True))  # type: ignore[assignment]
    else:
        stored = lowering.stored(flow)
    numbers = stored.numbers
    unit = numbers.highest + bits_of(stored.largest) - ROOM
    source = PartOf(Lift(stored, numbers.highest - unit), first, apart)
    ones = np.ones(sizes[2])
    made = Wire(source, (), unit, ones * stored.bound / numbers.scale, ones * numbers.scale, 0 * ones, *sizes[:2])
    return replace(flow, shape=new, content=made, flat=False, recipe=None)


def _join(before: PartOf, whole: Three, starts: Three, strides: Three, sizes: Three) -> bool:
    """Whether a part of a part is one, zeros around it included: those lie beyond the tensor itself."""
    return all(
        _within(start, stride, size, extent) or (own == 0 and apart == 1 and extent == full)
        for start, stride, size, extent, own, apart, full in zip(
            starts, strides, sizes, whole, before.starts, before.strides, _sizes(before.lift.stored), strict=True
        )
    )


@computes("slice")
def _slice(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    flow: Flowing = given["self"]
    extent, axis = len(flow.shape) + 1, given.get("dim", 0) % (len(flow.shape) + 1) - 1
    shape = lowering.shape()
    if shape == flow.shape:
        return flow
    if axis < 0:
        raise UnknownError("it takes a part of the batch")
    extent, start = flow.shape[axis], given.get("start") or 0
    start = min(max(start + extent if start < 0 else start, 0), extent)
    return _cut(lowering, flow, {axis: start}, {axis: given.get("step", 1)}, shape)


@computes("pad", "constant_pad_nd")
def _pad(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    flow: Flowing = given["self"]
    if given.get("mode", "constant") != "constant" or given.get("value") not in (None, 0, 0.0):
        raise UnknownError("it pads with something else than zeros")
    widths = list(given["pad"])[::2]
    if len(widths) > len(flow.shape):
        raise UnknownError("it pads the batch")
    starts = {len(flow.shape) - 1 - place: -width for place, width in enumerate(widths)}
    return _cut(lowering, flow, starts, {}, lowering.shape())


@computes("chunk", "split", "split_with_sizes")
def _split(lowering: Lowering, given: dict[str, Any]) -> list[Flowing]:
    flow: Flowing = given["self"]
    axis = given.get("dim", 0) % (len(flow.shape) + 1) - 1
    shapes = [tuple(each.shape[1:]) for each in lowering.node.meta["val"]]
    if axis < 0:
        raise UnknownError("it takes a part of the batch")
    held = replace(flow, content=lowering.stored(flow), flat=False) if flow.content is not None else flow
    starts = np.cumsum([0, *(shape[axis] for shape in shapes)])
    return [_cut(lowering, held, {axis: int(at)}, {}, shape) for at, shape in zip(starts[:-1], shapes, strict=True)]
