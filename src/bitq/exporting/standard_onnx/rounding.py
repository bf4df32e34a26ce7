"""What `bitq.quantize` does to an activation, as a function of standard ONNX operators.

Uniform steps under powers of two take float32, in which all that they need is exact. Other formats take float64: a
quotient of float32 numbers, or of one and a product with a scale of few bits, rounded to float64 lies on the same side
of every tie between elements as the exact one, because it is farther from ties than float64 is fine unless it is one.

A power of two is found without logarithms, which round: starting from the least one, it is doubled as often as the
number is not below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from bitq.errors import BitqError
from bitq.exporting.whole_numbers import NOTHING, calibrated_step
from bitq.formats import Format
from bitq.formats.blocking import Whole
from bitq.formats.elements import Element, Float, Integer, Levels
from bitq.formats.float32 import LARGEST, floor_log2
from bitq.formats.scales import FloatScale, PowerOfTwo, ScaledExponent, SharedExponent
from bitq.numerics import general
from bitq.numerics.recipe import Recipe, Steps

OPSET = 21
"""Of the standard operators: the first with blocked DequantizeLinear."""

_DIGITS = 53  # of float64
_LOWEST, _HIGHEST = -126, 127
"""Exponents of normal float32 numbers."""

Length = int | None
"""Elements along an axis; None, if that is known when the network runs."""


class UnsayableError(BitqError):
    """A format that standard operators do not express; says why, as "…, which …"."""


class Emitter:
    """Emits operators on tensors of one type.

    Args:
        dtype: of floating point numbers.
    """

    def __init__(self, dtype: ir.DataType) -> None:
        self.tape = Tape()
        self.dtype = dtype

    def __call__(self, name: str, *inputs: ir.Value | float, **attributes: Any) -> ir.Value:
        """The result of an operator; numbers become constants of the type."""
        values = [each if isinstance(each, ir.Value) else self.constant(each) for each in inputs]
        return self.tape.op(name, values, attributes or None)

    def constant(self, value: Any, dtype: ir.DataType | None = None) -> ir.Value:
        """A number or a list of them."""
        held = ir.Tensor(np.asarray(value, dtype=(dtype or self.dtype).numpy()))
        return self.tape.op("Constant", [], {"value": held})

    def whole(self, values: Sequence[int]) -> ir.Value:
        """Sizes or axes."""
        return self.constant(list(values), ir.DataType.INT64)


@dataclass(frozen=True)
class Blocks:
    """How a tensor is laid out so that each block reaches over axes of its own.

    Attributes:
        target: shape of what blocks are taken from, as Reshape has it; None, if it is the tensor's own.
        reduced: the axes that blocks reach over.
        missing: zeros behind each axis.
        shape: of the tensor.
    """

    target: tuple[int, ...] | None
    reduced: tuple[int, ...]
    missing: tuple[int, ...]
    shape: tuple[Length, ...]

    @classmethod
    def of(cls, recipe: Recipe, shape: Sequence[Length]) -> Blocks:
        """Those of a recipe in a tensor.

        Raises:
            UnsayableError: blocks reach over a part of an axis whose length is not known.
        """
        geometry, (dim, inner) = recipe.format.geometry, recipe.axes
        assert geometry is not None
        lengths = geometry.lengths(tuple(1 if n is None else n for n in shape), dim, inner)
        target: list[int] = []
        reduced, missing, split, unknown = [], [], False, 0
        for n, length, whole in zip(shape, lengths, _whole(recipe, shape), strict=True):
            if whole or (n is not None and length >= n):
                reduced.append(len(target))
                target.append(0 if not split else _told(n))
                missing.append(0)
            elif length == 1:
                target.append(0 if not split else _told(n))
                missing.append(0)
            elif n is None:
                raise UnsayableError("whose blocks reach over a part of the batch, which has no fixed size in the file")
            else:
                split = True
                reduced.append(len(target) + 1)
                target += [-(-n // length), length]
                missing.append(-n % length)
            unknown += target[-1] == -1
        if unknown > 1:
            raise UnsayableError("whose blocks lie in several axes that have no fixed size in the file")
        return cls(tuple(target) if split else None, tuple(reduced), tuple(missing), tuple(shape))

    def apart(self, op: Emitter, x: ir.Value) -> ir.Value:
        """A tensor laid out so."""
        if any(self.missing):
            ends = [0] * len(self.missing) + list(self.missing)
            x = op("Pad", x, op.whole(ends))
        return x if self.target is None else op("Reshape", x, op.whole(self.target))

    def together(self, op: Emitter, y: ir.Value, x: ir.Value) -> ir.Value:
        """The inverse, for what was made of x."""
        if self.target is None:
            return y
        axes = [axis for axis, n in enumerate(self.missing) if n]
        if not axes:
            return op("Reshape", y, op("Shape", x))
        padded = op("Add", op("Shape", x), op.whole(self.missing))
        y = op("Reshape", y, padded)
        ends = op.whole([n for axis, n in enumerate(self.shape) if axis in axes and n is not None])
        return op("Slice", y, op.whole([0] * len(axes)), ends, op.whole(axes))


def _whole(recipe: Recipe, shape: Sequence[Length]) -> list[bool]:
    """By axis, whether a block reaches over all of it, however long it is."""
    geometry = recipe.format.geometry
    assert geometry is not None
    longer = [2 if n is None else n + 1 for n in shape]
    lengths = geometry.lengths(tuple(longer), *recipe.axes)
    return [length >= n for length, n in zip(lengths, longer, strict=True)]


def _told(extent: Length) -> int:
    return -1 if extent is None else extent


def function_of(recipe: Recipe, shape: Sequence[Length], name: str) -> ir.Function:
    """A function of one float32 tensor of this shape that gives its values in a format; for finite numbers.

    Args:
        recipe: whose `quantize` it is; rounds to nearest, half away or toward zero.
        shape: of the tensor; None stands for lengths that are known when the network runs.
        name: of the function.

    Raises:
        UnsayableError: a format that this cannot express.
    """
    fmt = recipe.format
    if recipe.rounding == "stochastic":
        raise UnsayableError("which draws random numbers as it rounds")
    if len(fmt.elements) > 1:
        raise UnsayableError("which tries all pairs of scales for every block")
    steps = recipe.steps(tuple(n or 1 for n in shape))
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT))
    if steps is not None:
        op = Emitter(ir.DataType.FLOAT)
        y = _uniform(op, x, steps, Blocks.of(recipe, shape), recipe.rounding)
    else:
        op = Emitter(ir.DataType.DOUBLE)
        y = op("Cast", _wide(op, op("Cast", x, to=op.dtype), recipe, shape), to=ir.DataType.FLOAT)
    y.name = "y"
    graph = ir.Graph([x], [y], nodes=op.tape.nodes, opset_imports={"": OPSET}, name=name)
    return ir.Function(DOMAIN, name, graph=graph, attributes=[])


DOMAIN = "bitq"
"""Of the functions that a file brings; it has no other operators than standard ones."""


def _power(op: Emitter, size: ir.Value, low: int, high: int) -> ir.Value:
    """2^floor(log2 size), but at least 2^low and at most 2^high."""
    found, doublings = op.constant(2.0**low), _doublings(high - low)
    for step in doublings:
        larger = op("Mul", found, 2.0**step)
        found = op("Where", op("GreaterOrEqual", size, larger), larger, found)
    return found if sum(doublings) == high - low else op("Min", found, 2.0**high)


def _doublings(count: int) -> list[int]:
    """Whole numbers, the largest first, whose sums are all from 0 to at least `count`; none leaves float32."""
    found = []
    for place in reversed(range(count.bit_length())):
        step = 1 << place
        found += [min(step, 64)] * max(step // 64, 1)
    return found


def _peaks(op: Emitter, x: ir.Value, blocks: Blocks) -> ir.Value:
    """max|x| of every block."""
    if not blocks.reduced:
        return op("Abs", x)
    return op("ReduceMax", op("Abs", x), op.whole(blocks.reduced), keepdims=1)


def _rounded(op: Emitter, size: ir.Value, rounding: str) -> ir.Value:
    """Magnitudes as whole numbers."""
    if rounding == "nearest":
        return op("Round", size)
    below = op("Floor", size)
    if rounding == "up":
        return op("Ceil", size)
    if rounding == "toward_zero":
        return below
    return op("Add", below, op("Cast", op("GreaterOrEqual", op("Sub", size, below), 0.5), to=op.dtype))


def _signed(op: Emitter, x: ir.Value, size: ir.Value) -> ir.Value:
    """Magnitudes with the signs of x."""
    return op("Mul", size, op("Sign", x))


# Uniform steps under powers of two


def _uniform(op: Emitter, x: ir.Value, steps: Steps, blocks: Blocks, rounding: str) -> ir.Value:
    wide = blocks.apart(op, op("Relu", x) if steps.never_negative else x)
    lowest = steps.lowest_exponent
    if steps.exponent_bias is None:  # the largest block gets the top code
        power = _power(op, _peaks(op, wide, blocks), _LOWEST, _HIGHEST)
        top = _power(op, op("ReduceMax", op("Abs", x), keepdims=0), _LOWEST, _HIGHEST)
        least = op("Max", op("Mul", top, 2.0**-steps.top_code), op.constant(2.0**lowest))
        power = op("Max", power, least)
    else:
        low = max(steps.exponent_bias, lowest)
        high = max(min(steps.exponent_bias + steps.top_code, _HIGHEST), low)
        power = _power(op, _peaks(op, wide, blocks), low, high)
    step = op("Mul", power, 2.0 ** (2 - steps.mantissa_bits))
    k = op("Div", wide, step)
    limit = float(steps.largest_mantissa)
    if rounding == "nearest":
        whole = op("Round", op("Clip", k, -limit, limit))
    else:
        whole = _signed(op, k, _rounded(op, op("Min", op("Abs", k), limit), rounding))
    return blocks.together(op, op("Mul", whole, step), x)


# Any other format


def _wide(op: Emitter, x: ir.Value, recipe: Recipe, shape: Sequence[Length]) -> ir.Value:
    fmt, element = recipe.format, recipe.format.elements[0]
    if isinstance(element, Float) and not element.mantissa_bits:
        raise UnsayableError("whose elements are powers of two alone")
    if fmt.scale is None:
        return _cast(op, x, element, recipe.rounding)
    blocks = Blocks.of(recipe, shape)
    wide = blocks.apart(op, op("Max", x, 0.0) if fmt.never_negative else x)
    step, zero = _steps(op, wide, blocks, recipe)
    q = op("Div", wide, step)
    if zero is not None:
        limit = element.largest(False)
        code = op("Add", _signed(op, q, _rounded(op, op("Abs", q), recipe.rounding)), zero)
        k = op("Sub", op("Clip", code, 0.0, limit), zero)
    elif isinstance(element, Levels):
        _check_ties(element, fmt)
        k = _on_levels(op, q, element, recipe.rounding)
    else:
        size = op("Abs", q)
        if isinstance(element, Float):
            size, limit = _on_grid(op, size, element, recipe.rounding), element.largest()
        else:
            assert isinstance(element, Integer)
            size, limit = _rounded(op, size, recipe.rounding), float(element.most)
        k = _signed(op, q, op("Min", size, limit))
    return blocks.together(op, op("Clip", op("Mul", k, step), -LARGEST, LARGEST), x)


def _steps(op: Emitter, x: ir.Value, blocks: Blocks, recipe: Recipe) -> tuple[ir.Value, float | None]:
    """What an element of 1 stands for in every block, and the zero point."""
    fmt, scale = recipe.format, recipe.format.scale
    if recipe.tensor_range is not None and isinstance(fmt.geometry, Whole):
        step, zero = calibrated_step(recipe)
        return op.constant(step), zero
    if fmt.has_zero_point:
        raise UnsayableError("whose blocks have zero points that are not known before")
    peaks = _peaks(op, x, blocks)
    if isinstance(scale, FloatScale):
        return _float_steps(op, peaks, recipe), None
    if isinstance(scale, ScaledExponent):
        return _scaled_steps(op, peaks, recipe, scale), None
    top, unit = fmt.top_exponent, general.unit_exponent(fmt.elements[0])
    least = general.least_exponent(fmt)
    if isinstance(scale, SharedExponent):
        bias = recipe.exponent_bias
        if bias is None:
            raise UnsayableError("whose exponent bias is not known before")
        low, high = bias - top, bias - top + scale.top_code
    else:
        assert isinstance(scale, PowerOfTwo)
        low, high = scale.exponents
    low = max(low, least)
    high = max(high, low)
    power = _power(op, peaks, low + top - 1, high + top)
    if isinstance(scale, PowerOfTwo) and scale.mode != "floor":
        fraction = op("Div", peaks, power)
        larger = {
            "ceil": lambda: op("Greater", fraction, 1.0),
            "even": lambda: op("GreaterOrEqual", fraction, 2 - 2.0 ** -(1 + general.precision(fmt.elements[0]))),
            "rceil": lambda: op("Greater", fraction, fmt.largest * 2.0**-top),
        }[scale.mode]()
        power = op("Where", larger, op("Mul", power, 2.0), power)
    exponent = op("Clip", op("Mul", power, 2.0**-top), 2.0**low, 2.0**high)
    return op("Mul", exponent, 2.0**unit), None


def _scaled_steps(op: Emitter, peaks: ir.Value, recipe: Recipe, scale: ScaledExponent) -> ir.Value:
    top, t = recipe.format.top_exponent, _second(recipe)
    return op("Mul", _power(op, op("Div", peaks, t * 2.0**top), -scale.top_code, 0), t)


def _second(recipe: Recipe) -> float:
    """What the tensor stores once beside its blocks' scales."""
    if recipe.tensor_range is None:
        raise UnsayableError("whose second scale is not known before")
    shared = general.shared_by(NOTHING, NOTHING, recipe)
    assert shared is not None
    return float(shared)


def _float_steps(op: Emitter, peaks: ir.Value, recipe: Recipe) -> ir.Value:
    fmt, scale = recipe.format, recipe.format.scale
    assert isinstance(scale, FloatScale)
    smallest, largest = scale.reach(fmt.smallest)
    second = None
    if scale.second:
        if scale.bits > 16:
            raise UnsayableError("whose two scales have more digits together than float64 multiplies exactly")
        second = _second(recipe)
    divisor = fmt.largest if second is None else fmt.largest * second
    found = _on_grid(op, op("Div", peaks, divisor), scale.number, "up" if scale.up else "nearest")
    found = op("Clip", found, smallest, largest)
    return found if second is None else op("Mul", found, second)


def _on_grid(op: Emitter, size: ir.Value, number: Float, rounding: str) -> ir.Value:
    """Magnitudes as those of a type of floats that they are rounded to, ties to the even code."""
    top = floor_log2(number.largest())
    unit = op("Mul", _power(op, size, number.least_exponent, top), 2.0**-number.mantissa_bits)
    return op("Mul", _rounded(op, op("Div", size, unit), rounding), unit)


def _on_levels(op: Emitter, q: ir.Value, element: Levels, rounding: str) -> ir.Value:
    """The levels that numbers are rounded to, ties to the even index."""
    values = element.values
    found = op.constant(values[0])
    for index, (low, high) in enumerate(pairwise(values)):
        middle = (abs(low) + abs(high)) / 2  # one of them is 0, or both have one sign
        if rounding == "toward_zero":
            up = op("Greater", q, low) if low < 0 else op("GreaterOrEqual", q, high)
        else:
            away = index % 2 == 1 if rounding == "nearest" else high > 0
            up = op("GreaterOrEqual" if away else "Greater", q, middle if high > 0 else -middle)
        found = op("Where", up, op.constant(high), found)
    return found


def _check_ties(element: Levels, fmt: Format) -> None:
    """Refuse levels between which a quotient rounded to float64 may fall on the wrong side."""
    ties = (abs(Fraction(low)) + abs(Fraction(high)) for low, high in pairwise(element.values))
    digits = max(tie.numerator.bit_length() for tie in ties)
    scale = fmt.scale
    if isinstance(scale, FloatScale):
        digits += scale.number.mantissa_bits + 1 + (24 if scale.second else 0)
    elif isinstance(scale, ScaledExponent):
        digits += 24
    if digits > _DIGITS:
        raise UnsayableError("whose levels and scales have more digits together than float64")


def _cast(op: Emitter, x: ir.Value, number: Element, rounding: str) -> ir.Value:
    """Plain floats: as IEEE 754 converts them."""
    assert isinstance(number, Float)
    size, largest = _on_grid(op, op("Abs", x), number, rounding), number.largest()
    endless = number.kind == "i" and rounding != "toward_zero"
    beyond = op.constant(np.inf if endless else largest)
    return _signed(op, x, op("Where", op("Greater", size, largest), beyond, size))


def described(fmt: Format) -> str:
    """A format as names of functions have it: letters, digits and underscores."""
    return "".join(each if each.isalnum() else "_" for each in fmt.text)[:60]
