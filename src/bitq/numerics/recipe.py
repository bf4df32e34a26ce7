"""How a tensor becomes block floating point, said once: what every path of quantization and packing takes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from bitq.errors import BitqError
from bitq.formats import BlockFormat

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROUNDINGS = ("nearest", "half_away", "toward_zero", "stochastic")
LEAST_BIAS = -512  # far below every float32: all blocks are at the format's lowest exponent


class Axes(NamedTuple):
    """Where blocks lie in a tensor: along `dim`, with the whole of `inner`. Distinct axes, counted from the first."""

    dim: int
    inner: tuple[int, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A number format, where its blocks lie, how their scales are coded and how elements are rounded.

    The four are independent of each other: another kind of format, of blocks or of rounding is another value here, and
    the signatures stay.

    Attributes:
        format: of elements and shared exponents.
        axes: of the blocks.
        exponent_bias: exponent of code 0; None: the largest e of the tensor's finite, nonzero blocks gets the top code.
        rounding: one of `ROUNDINGS`.
    """

    format: BlockFormat
    axes: Axes
    exponent_bias: int | None = None
    rounding: str = "nearest"


def recipe_for(
    x: Tensor,
    fmt: BlockFormat,
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
    fmt: BlockFormat,
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
