"""Quantized weights as the file holds them: integers of few bits under blocked scales, where that says them exactly."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.tape import Tape
from torch import Tensor

from bitq.exporting.whole_numbers import whole_numbers
from bitq.formats.blocking import Along, Channel, Whole
from bitq.numerics import paths
from bitq.numerics.recipe import Recipe

_TYPES = (
    (ir.DataType.INT4, -8, 7),
    (ir.DataType.UINT4, 0, 15),
    (ir.DataType.INT8, -128, 127),
    (ir.DataType.UINT8, 0, 255),
    (ir.DataType.INT16, -(1 << 15), (1 << 15) - 1),
    (ir.DataType.UINT16, 0, (1 << 16) - 1),
)
"""Integers that DequantizeLinear takes from opset 21 on, the narrowest first."""


class Integers(NamedTuple):
    """A weight as DequantizeLinear has it.

    Attributes:
        codes: integers, laid out so that those of a block follow each other along one axis.
        scale, zero: of each block, the latter None for 0.
        axis: that blocks lie along; None, if there is one for all.
        block: integers in one; 0 if each place of the axis has a scale of its own.
        order: of the weight's axes in `codes`, whose last ones may be one there; () for the weight's own.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray | None = None
    axis: int | None = None
    block: int = 0
    order: tuple[int, ...] = ()

    def values(self) -> np.ndarray:
        """What DequantizeLinear makes of them (float32)."""
        codes = self.codes if self.zero is None else self.codes - self.spread(self.zero)
        found: np.ndarray = codes.astype(np.float32) * self.spread(self.scale)
        return found

    def spread(self, each: np.ndarray) -> np.ndarray:
        """What is shared as it belongs to every integer, or is broadcast to it."""
        if self.axis is None:
            return each
        if self.block:
            return np.repeat(each, self.block, self.axis).take(range(self.codes.shape[self.axis]), self.axis)
        return each.reshape([-1 if place == self.axis else 1 for place in range(self.codes.ndim)])


class Held:
    """A weight in a file.

    Args:
        weight: float.
        recipe: that quantizes it.
        name: of what the file holds of it.

    Attributes:
        name: of what the file holds of it.
        values: quantized, float32.
        packed: whether integers stand for them.
    """

    def __init__(self, weight: Tensor, recipe: Recipe, name: str) -> None:
        self.values = paths.quantize(weight, recipe, None)[0]
        self.name = name
        found = _integers(weight, recipe)
        self.packed = found is not None and self._said_by(found)
        self._integers = found if self.packed else None

    def _said_by(self, own: Integers) -> bool:
        """Whether integers give the same numbers."""
        wanted = self.values.permute(*own.order) if own.order else self.values
        return bool((torch.from_numpy(own.values()).reshape(wanted.shape) == wanted).all())

    def emit(self, tape: Tape) -> ir.Value:
        """The operators that give the values; none for floats."""
        own = self._integers
        if own is None:
            return _initializer(tape, self.name, self.values.numpy())
        y = emitted(tape, own, self.name)
        shape = self.values.shape
        target = np.asarray([shape[axis] for axis in own.order or range(len(shape))], dtype=np.int64)
        if own.codes.shape != tuple(target):
            y = tape.op("Reshape", [y, _initializer(tape, f"{self.name}.shape", target)])
        if own.order and own.order != tuple(sorted(own.order)):
            y = tape.op("Transpose", [y], {"perm": _inverse(own.order)})
        return y

    def elementwise(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Integers, and for each its scale and its zero point, of the weight's shape; of a packed weight."""
        own = self._integers
        assert own is not None
        shape = self.values.shape
        ordered = [shape[axis] for axis in own.order or range(len(shape))]

        def placed(each: np.ndarray) -> np.ndarray:
            whole = np.broadcast_to(each, own.codes.shape).reshape(ordered)
            return whole.transpose(_inverse(own.order)) if own.order else whole

        zero = None if own.zero is None else placed(own.spread(own.zero))
        return placed(own.codes), placed(own.spread(own.scale)), zero


def emitted(tape: Tape, own: Integers, name: str) -> ir.Value:
    """DequantizeLinear of integers, in the narrowest type that has them."""
    kind = next(kind for kind, low, high in _TYPES if low <= own.codes.min() and own.codes.max() <= high)
    inputs = [_initializer(tape, f"{name}.codes", own.codes, kind), _initializer(tape, f"{name}.scale", own.scale)]
    if own.zero is not None:
        inputs.append(_initializer(tape, f"{name}.zero", own.zero, kind))
    given = {"axis": own.axis, "block_size": own.block or None}
    return tape.op("DequantizeLinear", inputs, {name: value for name, value in given.items() if value is not None})


def _initializer(tape: Tape, name: str, values: np.ndarray, kind: ir.DataType | None = None) -> ir.Value:
    held = np.ascontiguousarray(values if kind is None else values.astype(kind.numpy()))
    return tape.initializer(ir.Tensor(held, dtype=kind, name=name), name=name)


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def _integers(weight: Tensor, recipe: Recipe) -> Integers | None:
    """A weight in integers; None if its format is none of them in blocks along one axis."""
    fmt, geometry = recipe.format, recipe.format.geometry
    if len(fmt.elements) > 1 or not isinstance(geometry, Along | Channel | Whole) or not weight.numel():
        return None
    shape, (dim, inner) = tuple(weight.shape), recipe.axes
    found = whole_numbers(weight, recipe, 16)
    if found is None:
        return None
    codes, step = found.k.numpy().astype(np.int64), found.steps.float().numpy()
    zero = None if found.zeros is None else found.zeros.numpy().astype(np.int64)

    def shared(counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        return step.reshape(counts), None if zero is None else zero.reshape(counts)

    if isinstance(geometry, Whole):
        return Integers(codes, *shared(()))
    outer = tuple(axis for axis in range(len(shape)) if axis != dim and axis not in inner)
    order = (*outer, dim, *inner)
    within = prod(shape[axis] for axis in inner)
    if isinstance(geometry, Channel):
        rows_of = codes.transpose(order).reshape(-1, shape[dim] * within)
        return Integers(rows_of, *shared((-1,)), 0, 0, order)
    size, counts = min(geometry.size, shape[dim]), found.at.counts
    if geometry.patch is not None:
        return None
    if not geometry.window or not inner:
        return Integers(codes, *shared(counts), dim, size)
    runs = codes.transpose(order).reshape(*(shape[axis] for axis in outer), shape[dim] * within)
    return Integers(runs, *shared([counts[axis] for axis in (*outer, dim)]), len(outer), size * within, order)
