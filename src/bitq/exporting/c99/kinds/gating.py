"""Products of two tensors, number by number, as gates have them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from bitq.exporting.c99.fixed_point import IntArray, scaled
from bitq.exporting.c99.integers import Slots, changed, lifted
from bitq.exporting.c99.lowering import Flowing, Lowering, UnknownError
from bitq.exporting.c99.steps import LEAST_SHIFT, ROOM, Change, Lift, OfOneTensor, Resident, bits_of
from bitq.exporting.c99.wires import Wire
from bitq.exporting.c99.writing import Writer, change_in_c

GAIN_BITS = 30
"""Of the other tensor's numbers, and of 2^30 itself, which wide ones may be rounded to."""


@dataclass(frozen=True)
class Gate(OfOneTensor, Change):
    """z becomes round(z·g·2^-shift), halves up, where g is another tensor's number, as `Lift` has it.

    Attributes:
        lift: of the other tensor, which has the same positions, or one for all.
        shift: 33..95.
    """

    shift: int


def gated(wire: Wire, stored: Resident) -> Wire:
    """The product with a tensor."""
    own, numbers = wire.computed(), stored.numbers
    left = GAIN_BITS - bits_of(stored.largest)
    shift = max(LEAST_SHIFT, bits_of(float(own.bounds.max()) / 2.0**own.unit) + GAIN_BITS - ROOM)
    unit = own.unit + numbers.highest - left + shift
    bounds = own.bounds * (stored.bound / numbers.scale)
    return own.after(Gate(Lift(stored, left), shift), unit, bounds).scaled(numbers.scale, 0.0)


def product(lowering: Lowering, one: Flowing, other: Flowing) -> Flowing:
    """Lowers the product of two tensors of one shape, or of one with a number for each of its channels."""
    if prod(one.shape) < prod(other.shape):
        one, other = other, one
    if one.axis is None or other.axis != one.axis or len(one.shape) != len(other.shape):
        raise UnknownError("it multiplies tensors whose channels lie along different axes")
    alike = [n for place, n in enumerate(other.shape) if place != one.axis]
    if one.shape != other.shape and (one.shape[one.axis] != other.shape[other.axis] or prod(alike) != 1):
        raise UnknownError("it multiplies tensors of unlike shapes")
    if isinstance(one.content, Resident) and isinstance(other.content, Wire) and one.shape == other.shape:
        one, other = other, one
    stored = lowering.stored(other)
    return replace(one, content=gated(lowering.wire(one), stored), flat=False, recipe=None, layer="")


@changed.register
def _gate_in_integers(operation: Gate, z: IntArray, memory: Slots) -> IntArray:
    stored = operation.lift.stored
    gain = lifted(operation.lift, *memory[stored.name])
    return scaled(z.reshape(-1, stored.channels), gain.reshape(-1, stored.channels), operation.shift).reshape(z.shape)


@change_in_c.register
def _gate_in_c(operation: Gate, writer: Writer, name: str) -> list[str]:
    place = "at + t" if operation.lift.stored.positions > 1 else "0"
    return [f"v = bitq_scaled(v, (int32_t){writer.lifted(operation.lift, place, 'k')}, {operation.shift});"]
