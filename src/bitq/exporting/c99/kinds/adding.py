"""Sums of two tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import frexp, ldexp
from typing import Any

from bitq.exporting.c99.fixed_point import IntArray, scaled
from bitq.exporting.c99.integers import Slots, changed, lifted
from bitq.exporting.c99.kinds.scaling import times
from bitq.exporting.c99.lowering import Flowing, Lowering, UnknownError, computes
from bitq.exporting.c99.steps import SUM, Change, Lift, OfOneTensor, Resident, bits_of, least_unit, multiplier
from bitq.exporting.c99.wires import Wire
from bitq.exporting.c99.writing import Writer, change_in_c


@dataclass(frozen=True)
class Add(OfOneTensor, Change):
    """Another tensor's number of the same place is added; with a gain, if it has a scale, as by `Affine`."""

    gain: int = 0
    shift: int = 0


def plus(wire: Wire, stored: Resident) -> Wire:
    """The sum with a tensor."""
    left, numbers = wire.computed(), stored.numbers
    largest = max(float(left.bounds.max()), stored.bound)
    left = left.above(least_unit(largest, SUM - 1))
    if numbers.scale == 1:
        operation = Add(Lift(stored, numbers.highest - left.unit))
    else:
        lift = SUM - 1 - bits_of(numbers.most)
        left = left.above(frexp(numbers.scale)[1] + 2 - lift)
        operation = Add(Lift(stored, lift), *multiplier(ldexp(numbers.scale, -left.unit - lift)))
    return left.after(operation, left.unit, left.bounds + stored.bound)


def _chosen(flow: Flowing) -> bool:
    """Whether its numbers are those of a tensor, which take no more when they are stored."""
    return isinstance(flow.content, Wire) and flow.content.origin() is not None


@changed.register
def _add_in_integers(operation: Add, z: IntArray, memory: Slots) -> IntArray:
    other = lifted(operation.lift, *memory[operation.lift.stored.name])
    return z + (scaled(other, operation.gain, operation.shift) if operation.shift else other).reshape(z.shape)


@change_in_c.register
def _add_in_c(operation: Add, writer: Writer, name: str) -> list[str]:
    z = writer.lifted(operation.lift, "at + t", "k")
    return [f"v += bitq_scaled({z}, {operation.gain}, {operation.shift});" if operation.shift else f"v += {z};"]


@computes("add")
def _add(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    one, other = given["self"], given["other"]
    if given.get("alpha", 1) != 1:
        raise UnknownError("it multiplies what it adds")
    if not isinstance(one, Flowing):
        one, other = other, one
    if not isinstance(other, Flowing):
        return times(lowering, one, 1.0, other)
    if one.shape != other.shape or one.flat or other.flat:
        raise UnknownError("it adds tensors of unlike shapes")
    if isinstance(other.content, Wire) and (isinstance(one.content, Resident) or _chosen(one)):
        one, other = other, one
    other = lowering.along(other, one.axis if one.axis is not None else 0)
    if other.content is None or one.content is None:
        raise UnknownError("it adds the network's input, which has no format there")
    layer = max(one.layer, other.layer, key=lowering.layers.index)
    return replace(one, content=plus(lowering.wire(one), lowering.stored(other)), recipe=None, layer=layer)  # type: ignore[no-any-return]
