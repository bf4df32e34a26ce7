"""How a tensor becomes block floating point, said once: what every path of quantization and packing takes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from bitq.errors import BitqError
from bitq.formats import ROUNDINGS, Format
from bitq.formats.blocking import Along, Channel, Whole
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
        block_size: elements along `axes.dim`.
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

    def steps(self, shape: tuple[int, ...]) -> Steps | None:
        """What it comes to for a tensor of this shape, if the format is one of uniform steps under powers of two."""
        element, scale = self.format.elements[0], self.format.scale
        if not isinstance(element, Integer) or len(self.format.elements) > 1:
            return None
        if isinstance(scale, SharedExponent):
            bias, top = self.exponent_bias, scale.top_code
        elif isinstance(scale, PowerOfTwo) and scale.mode == "floor":
            bias, top = scale.exponents[0], scale.exponents[1] - scale.exponents[0]
        else:
            return None
        found = self._blocks(shape)
        m = element.bits + (not element.signed)
        return None if found is None else Steps(m, top, bias, not element.signed, *found)

    def _blocks(self, shape: tuple[int, ...]) -> tuple[Axes, int] | None:
        """Axes and size of blocks that run along one axis, others wholly inside."""
        geometry, (dim, inner) = self.format.geometry, self.axes
        if isinstance(geometry, Along) and geometry.patch is None:
            return Axes(dim, inner if geometry.window else ()), geometry.size
        if isinstance(geometry, Channel):
            return Axes(dim, inner), max(shape[dim], 1)
        if isinstance(geometry, Whole):
            return Axes(dim, tuple(axis for axis in range(len(shape)) if axis != dim)), max(shape[dim], 1)
        return None


def recipe_for(
    x: Tensor,
    fmt: Format,
    dim: int,
    inner_dims: tuple[int, ...] = (),
    exponent_bias: int | None = None,
    rounding: str = "nearest",
) -> Recipe:
    """The checked recipe for a tensor; arguments are those of `bitq.quantize`.

    Raises:
        BitqError: x is no float32, bfloat16 or float16 tensor, an axis is missing or named twice, the bias lets block
            values leave the range of x's dtype, or the rounding is unknown.
    """
    known = _resolve if torch.compiler.is_compiling() else _known
    return known(fmt, x.ndim, x.dtype, dim, tuple(inner_dims), exponent_bias, rounding)


def _resolve(
    fmt: Format,
    ndim: int,
    dtype: torch.dtype,
    dim: int,
    inner_dims: tuple[int, ...],
    exponent_bias: int | None,
    rounding: str,
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
    most = 15 if dtype == torch.float16 else 127
    allowed = range(LEAST_BIAS, most + 1)
    if exponent_bias is not None and (isinstance(exponent_bias, float) or exponent_bias not in allowed):
        raise BitqError(
            f"exponent_bias is {exponent_bias}; for {dtype} it must be whole and lie in {LEAST_BIAS}..{most}"
        )
    if rounding not in ROUNDINGS:
        raise BitqError(f"rounding {rounding!r} is unknown; it must be one of {', '.join(ROUNDINGS)}")
    return Recipe(fmt, Axes(resolved[0], resolved[1:]), exponent_bias, rounding)


_known = lru_cache(4096, typed=True)(_resolve)  # a training step quantizes many small tensors, always the same ways
