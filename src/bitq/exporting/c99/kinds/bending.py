"""Activation functions that are curves: sigmoid, tanh, SiLU, hard-swish, GELU and their kind.

Each is what ReLU gives, or nothing, plus a rest that is constant far from 0, of which `pieces` makes polynomials.
Another function is another line in `CURVES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from math import ldexp
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, ndtr

from bitq.exporting.c99.fixed_point import IntArray, Reals
from bitq.exporting.c99.integers import Slots, changed
from bitq.exporting.c99.lowering import Flowing, Lowering, UnknownError, computes
from bitq.exporting.c99.pieces import PLACE_BITS, Pieces, pieces_of
from bitq.exporting.c99.steps import ROOM, Change, least_unit
from bitq.exporting.c99.wires import Wire
from bitq.exporting.c99.writing import Writer, change_in_c


class Curved(NamedTuple):
    """A function of one number.

    Attributes:
        value: of float64 numbers.
        low, high: whole numbers, beyond which the rest is constant.
        follows: whether it is ReLU and a rest, or a rest alone.
    """

    value: Callable[[Reals], Reals]
    low: int
    high: int
    follows: bool = True

    def rest(self, x: Reals) -> Reals:
        """What it is beside ReLU, if it follows that."""
        found: Reals = self.value(x) - (np.maximum(x, 0) if self.follows else 0)
        return found


CURVES = {
    "sigmoid": Curved(expit, -16, 16, False),
    "tanh": Curved(np.tanh, -9, 9, False),
    "hardsigmoid": Curved(lambda x: np.clip(x / 6 + 0.5, 0, 1), -3, 3, False),
    "silu": Curved(lambda x: x * expit(x), -20, 20),
    "hardswish": Curved(lambda x: x * np.clip(x / 6 + 0.5, 0, 1), -3, 3),
    "gelu": Curved(lambda x: x * ndtr(x), -6, 6),
    "gelu_tanh": Curved(lambda x: x * expit(np.sqrt(8 / np.pi) * (x + 0.044715 * x**3)), -6, 6),
    "mish": Curved(lambda x: x * np.tanh(np.logaddexp(x, 0)), -20, 20),
    "softplus": Curved(lambda x: np.logaddexp(x, 0), -16, 16),
    "elu": Curved(lambda x: np.where(x < 0, np.expm1(np.minimum(x, 0)), x), -16, 0),
    "selu": Curved(lambda x: np.where(x < 0, 1.6732632423543772 * np.expm1(np.minimum(x, 0)), x), -16, 0),
}
"""By name of the operator."""

SELU = 1.0507009873554805
"""What SELU is times the curve of its name."""


@cache
def pieces_named(name: str) -> Pieces:
    """The rest of a curve."""
    curve = CURVES[name]
    return pieces_of(curve.rest, curve.low, curve.high)


@dataclass(frozen=True, eq=False)
class Bend(Change):
    """z becomes the rest of a curve, and ReLU's z besides, if the curve follows that.

    Attributes:
        name: of the curve.
        drop: bits of z below a place, dropped rounded down.
        lift: bits that the rest is shifted to the left; below 0 they are dropped, rounded down.
    """

    name: str
    drop: int
    lift: int


def bent(wire: Wire, name: str) -> Wire:
    """A curve's values.

    Raises:
        UnknownError: numbers far beyond those that it bends.
    """
    own, curve, pieces = wire.computed(), CURVES[name], pieces_named(name)
    most = ldexp(float(np.abs(pieces.table[:, 0]).max()), pieces.unit)
    bounds = own.bounds * curve.follows + most
    own = own.above(least_unit(float(bounds.max()), ROOM))
    drop = pieces.width - PLACE_BITS - own.unit
    if drop < 0:
        raise UnknownError("its input may be as large as 2^28")
    return own.after(Bend(name, min(drop, 63), pieces.unit - own.unit), own.unit, bounds)


@changed.register
def _bend_in_integers(operation: Bend, z: IntArray, memory: Slots) -> IntArray:
    pieces, lift = pieces_named(operation.name), operation.lift
    rest = pieces.at((z >> operation.drop) - pieces.begin)
    rest = rest << lift if lift >= 0 else rest >> min(-lift, 63)
    return rest + np.maximum(z, 0) if CURVES[operation.name].follows else rest


@change_in_c.register
def _bend_in_c(operation: Bend, writer: Writer, name: str) -> list[str]:
    pieces, lift = pieces_named(operation.name), operation.lift
    table = writer.table("int32_t", f"curve_{operation.name}", pieces.table.reshape(-1).tolist())
    places = f"(v >> {operation.drop}) - INT64_C({pieces.begin})"
    rest = f"bitq_pieces({places}, {table}, {len(pieces.table) - 2})"
    rest = f"bitq_left({rest}, {lift})" if lift >= 0 else f"({rest} >> {min(-lift, 63)})"
    return [f"v = {rest} + (v > 0 ? v : 0);" if CURVES[operation.name].follows else f"v = {rest};"]


@computes(*CURVES)
def _curve(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    name = str(lowering.node.target).split(".")[1].removesuffix("_")
    if given.get("approximate", "none") != "none":
        name = f"{name}_{given['approximate']}"
    usual = {"alpha": 1, "scale": 1, "input_scale": 1, "beta": 1, "threshold": 20}
    if any(given.get(each, value) != value for each, value in usual.items()):
        raise UnknownError(f"it has other constants than {name} has by default")
    flow: Flowing = given["self"]
    made = bent(lowering.wire(flow), name)
    return replace(flow, content=made.scaled(SELU, 0.0) if name == "selu" else made, flat=False, recipe=None)
