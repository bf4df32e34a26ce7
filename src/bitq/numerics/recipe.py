"""How a tensor becomes block floating point, said once: what every path of quantization and packing takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from math import frexp, isfinite
from struct import pack, unpack
from typing import NamedTuple

import torch
from torch import Tensor

from bitq.errors import BitqError, shortened
from bitq.formats import ROUNDINGS as ROUNDINGS
from bitq.formats import Format
from bitq.formats.blocking import LARGEST_BLOCK, Along, Channel, Whole
from bitq.formats.elements import Integer
from bitq.formats.scales import PowerOfTwo, SharedExponent

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LEAST_BIAS = -512  # far below every float32: all blocks are at the format's lowest exponent


class Axes(NamedTuple):
    """Where blocks lie in a tensor: along `dim`, with the whole of `inner`. Distinct axes, counted from the first."""

    dim: int
    inner: tuple[int, ...] = ()


class Steps(NamedTuple):
    """Uniform steps under powers of two in blocks along one axis: what the kernels of block floating point take.

    Attributes:
        mantissa_bits: m, sign included.
        top_code: largest code of an exponent.
        exponent_bias: exponent of code 0; None: the largest e of the tensor's finite, nonzero blocks gets the top code.
        never_negative: whether negative numbers count as 0, and no sign is stored.
        axes: of the blocks.
        block_size: elements along `axes.dim`, perhaps more than there are.
    """

    mantissa_bits: int
    top_code: int
    exponent_bias: int | None
    never_negative: bool
    axes: Axes
    block_size: int

    @property
    def lowest_exponent(self) -> int:
        """Least shared exponent: below it the step 2^(E+2-m) would not be a normal float32."""
        return -126 + self.mantissa_bits - 2

    @property
    def largest_mantissa(self) -> int:
        """Largest magnitude of a mantissa: 2^(m-1) - 1."""
        return (1 << (self.mantissa_bits - 1)) - 1

    @property
    def can_clip(self) -> bool:
        """Whether an element may pass no gradient: the default bias leaves no block above the top code."""
        reach = None if self.exponent_bias is None else self.exponent_bias + self.top_code
        return self.never_negative or (reach is not None and reach < 127)


@dataclass(frozen=True)
class Recipe:
    """A number format, where its blocks lie, what the tensor shares and how elements are rounded.

    They are independent of each other: another kind of format, of blocks or of rounding is another value here, and
    the signatures stay.

    Attributes:
        format: of elements, scales and blocks.
        axes: `dim` and `inner_dims` of the tensor, from which the format's geometry makes blocks.
        exponent_bias: of a format `eN`, exponent of code 0; None: the largest e of the tensor's finite, nonzero blocks
            gets the top code.
        rounding: one of `ROUNDINGS`.
        tensor_range: of other formats, least and largest number, 0 between them, that stand for the tensor's own in
            what the whole of it shares; None: its own.
    """

    format: Format
    axes: Axes
    exponent_bias: int | None = None
    rounding: str = "nearest"
    tensor_range: tuple[float, float] | None = None
    _alike: Steps | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_alike", self._uniform())  # asked for at every call

    def steps(self, shape: tuple[int, ...]) -> Steps | None:
        """What it comes to for a tensor of this shape, if the format is one of uniform steps under powers of two."""
        found = self._alike
        if found is None or not isinstance(self.format.geometry, Whole):
            return found
        return found._replace(axes=Axes(self.axes.dim, self._others(shape)))

    def _uniform(self) -> Steps | None:
        """The same, but for the axes of blocks that are the whole tensor."""
        element, scale = self.format.elements[0], self.format.scale
        if not isinstance(element, Integer) or len(self.format.elements) > 1 or self.tensor_range is not None:
            return None
        if isinstance(scale, SharedExponent):
            bias, top = self.exponent_bias, scale.top_code
        elif isinstance(scale, PowerOfTwo) and scale.mode == "floor":
            bias, top = scale.exponents[0], scale.exponents[1] - scale.exponents[0]
        else:
            return None
        found = self.blocks(())
        if found is None:
            return None
        return Steps(element.bits + (not element.signed), top, bias, not element.signed, *found)

    def blocks(self, shape: tuple[int, ...]) -> tuple[Axes, int] | None:
        """Axes and size of blocks that run along one axis, others wholly inside; None of blocks of another kind.

        The size is perhaps more than there are elements.
        """
        geometry, (dim, inner) = self.format.geometry, self.axes
        if isinstance(geometry, Along) and geometry.patch is None:
            return Axes(dim, inner if geometry.window else ()), geometry.size
        if isinstance(geometry, Channel):
            return self.axes, LARGEST_BLOCK
        if isinstance(geometry, Whole):
            return Axes(dim, self._others(shape)), LARGEST_BLOCK
        return None

    def _others(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple([axis for axis in range(len(shape)) if axis != self.axes.dim])


def magnitude(tensor_range: tuple[float, float], fmt: Format) -> float:
    """The largest magnitude that counts within a range."""
    low, high = tensor_range
    return high if fmt.never_negative else max(-low, high)


def exponent_bias_of(largest: float, fmt: Format) -> int:
    """The exponent bias with which a block of this largest magnitude, 0 or more, gets the top code of an `eN`.

    Raises:
        BitqError: a format of another scale.
    """
    if not isinstance(fmt.scale, SharedExponent):
        raise BitqError(f"{shortened(fmt.text)} has no exponent bias; formats with a scale eN have, such as 8:e4:b16")
    return (max(frexp(largest)[1] - 1, -127) if largest else 0) - fmt.scale.top_code


def recipe_for(
    x: Tensor,
    fmt: Format,
    dim: int,
    inner_dims: tuple[int, ...] = (),
    exponent_bias: int | None = None,
    tensor_range: tuple[float, float] | None = None,
    rounding: str | None = None,
) -> Recipe:
    """The checked recipe for a tensor; arguments are those of `bitq.quantize`.

    Raises:
        BitqError: x is no float32, bfloat16 or float16 tensor, an axis is missing or named twice, the bias is given for
            a format that has none or lets block values leave the range of x's dtype, the range is none or comes with a
            bias, or the rounding is unknown.
    """
    known = _resolve if torch.compiler.is_compiling() else _known
    given = None if tensor_range is None else tuple(tensor_range)
    return known(fmt, x.ndim, x.dtype, dim, tuple(inner_dims), exponent_bias, given, rounding)


def _resolve(
    fmt: Format,
    ndim: int,
    dtype: torch.dtype,
    dim: int,
    inner_dims: tuple[int, ...],
    exponent_bias: int | None,
    tensor_range: tuple[float, ...] | None,
    rounding: str | None,
) -> Recipe:
    if dtype not in DTYPES:
        raise BitqError(f"block quantization takes float32, bfloat16 or float16, not {dtype}; convert with .float()")
    axes = (dim, *inner_dims)
    if min(axes) < -ndim or max(axes) >= ndim:
        raise BitqError(
            f"dim={dim}, inner_dims={inner_dims} do not fit a tensor of {ndim} axes, which are 0 to the last or, "
            "counted from it, -1 to the first"
        )
    resolved = tuple([d % ndim for d in axes])
    if len(set(resolved)) != len(resolved):
        raise BitqError(f"dim={dim}, inner_dims={inner_dims} name an axis twice")
    if rounding is None:
        rounding = fmt.rounding
    if rounding not in ROUNDINGS:
        raise BitqError(f"rounding {rounding!r} is unknown; it must be one of {', '.join(ROUNDINGS)}")
    if len(fmt.elements) > 1 and rounding != "nearest":
        raise BitqError(f"a sum such as {shortened(fmt.text)} is rounded to nearest, not {rounding}")
    given = None if tensor_range is None else _range(tensor_range, dtype)
    if exponent_bias is None:
        if given is not None and isinstance(fmt.scale, SharedExponent):
            exponent_bias, given = exponent_bias_of(magnitude(given, fmt), fmt), None
    else:
        _check_bias(exponent_bias, fmt, dtype, given)
    needed = given if fmt.needs_range else None
    return Recipe(fmt, Axes(resolved[0], resolved[1:]), exponent_bias, rounding, needed)


def _check_bias(
    exponent_bias: int, fmt: Format, dtype: torch.dtype, tensor_range: tuple[float, float] | None
) -> None:
    if not isinstance(fmt.scale, SharedExponent):
        raise BitqError(f"exponent_bias is of formats with a scale eN, such as 8:e4:b16, not of {shortened(fmt.text)}")
    if tensor_range is not None:
        raise BitqError("exponent_bias and tensor_range both say what the tensor shares; give one of them")
    most = 15 if dtype == torch.float16 else 127
    allowed = range(LEAST_BIAS, most + 1)
    if isinstance(exponent_bias, float) or exponent_bias not in allowed:
        raise BitqError(
            f"exponent_bias is {exponent_bias}; for {dtype} it must be whole and lie in {LEAST_BIAS}..{most}"
        )


def _range(tensor_range: tuple[float, ...], dtype: torch.dtype) -> tuple[float, float]:
    """Around 0, rounded to float32, within the reach of x's dtype."""
    low, high = tensor_range if len(tensor_range) == 2 else (1.0, 0.0)
    if not (isfinite(low) and isfinite(high) and low <= high):
        raise BitqError(
            f"tensor_range is {shortened(repr(tensor_range))}; it must be two finite numbers, the least and the largest"
        )
    largest = torch.finfo(dtype).max
    return max(_single(min(low, 0.0)), -largest), min(_single(max(high, 0.0)), largest)


def range_patterns(low: float, high: float) -> tuple[int, int]:
    """A range as the bit patterns of two float32 numbers, for the state of modules.

    `torch.compile` takes an int that it finds there for a constant, a float for a variable, which formats are not.
    """
    first, second = unpack("ii", pack("ff", low, high))
    return first, second


def range_of(patterns: tuple[int, int]) -> tuple[float, float]:
    """The inverse of `range_patterns`, in arithmetic that compilers follow."""
    return _float_of(patterns[0]), _float_of(patterns[1])


def _float_of(pattern: int) -> float:
    field, fraction = (pattern & 0x7FFFFFFF) >> 23, pattern & 0x7FFFFF
    size = (fraction + (0x800000 if field else 0)) * 2.0 ** (max(field, 1) - 150)
    return -size if pattern < 0 else size


def _single(value: float) -> float:
    """The nearest float32, ties to even, without a bound; in arithmetic that compilers follow."""
    fraction, exponent = frexp(value)
    place = 24 - max(exponent, -125)
    return round(fraction * 2.0 ** min(place + exponent, 24)) * 2.0**-place


_known = lru_cache(4096, typed=True)(_resolve)  # a training step quantizes many small tensors, always the same ways
