"""Uniform steps under powers of two on a GPU: one read, one write, and one read more for a default bias.

Products only scale by powers of two, so they are exact wherever it matters, and fusing one with an addition changes no
bit. Subnormal numbers do count: Triton does not flush them (no `.ftz` in its PTX, which the tests see to).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bitq.numerics import blocks
from bitq.numerics.blocks import Layout
from bitq.numerics.grid_format import MOST_DIGITS
from bitq.numerics.recipe import ROUNDINGS, Recipe, Steps
from bitq.numerics.triton_tiles import (
    INFINITE,
    KINDS,
    PATTERNS,
    SIZES,
    TILE,
    as_bits,
    job,
    largest_peak,
    no_marks,
    peaks_of,
    tile,
    tile_size,
    uniforms,
    warps,
    widened,
)

DIGITS = {torch.float32: 24, torch.bfloat16: 8, torch.float16: 11}  # bits of a significand

_SHIFT: tl.constexpr = tl.constexpr(1.5 * 2.0**23)  # added to numbers up to 2^22, it rounds them to whole ones


def layout(shape: torch.Size, stride: tuple[int, ...], recipe: Recipe) -> Layout | None:
    """How the kernels read memory with these strides.

    Returns:
        None where they cannot: steps are not uniform, blocks lie scattered or are larger than a tile, draws have
        another order than memory, or mantissas have more than 23 bits.
    """
    drawn, uniform = recipe.rounding == "stochastic", recipe.steps(shape)
    if uniform is None or uniform.never_negative or uniform.mantissa_bits > MOST_DIGITS:
        return None
    found = blocks.layout(shape, stride, uniform.axes, uniform.block_size)
    if found is None or (drawn and not found.in_order) or job(found, TILE) is None:
        return None
    return found


def quantize(
    x: Tensor, recipe: Recipe, key: Tensor | None, with_clipped: bool, out: Tensor | None = None
) -> tuple[Tensor, Tensor | None] | None:
    """As `triton_path.quantize`."""
    at, uniform = layout(x.shape, x.stride(), recipe), recipe.steps(x.shape)
    if at is None or uniform is None:
        return None
    marked = with_clipped and uniform.can_clip
    work = job(at, tile_size(x.dtype, marked, key is not None))
    if work is None:
        return None
    y = torch.empty_like(x) if out is None else out
    top = largest_peak(x, work) if uniform.exponent_bias is None else None
    marks = no_marks(x) if marked else None
    pattern, kind = PATTERNS[x.dtype], KINDS[x.dtype]
    with torch.cuda.device_of(x):
        _round[(work.programs,)](
            x.view(pattern),
            y.view(pattern),
            marks,
            top,
            None if key is None else key.to(x.device),
            *work.sizes,
            *numbers(uniform, x.dtype),
            *work.cut,
            kind,
            ROUNDINGS.index(recipe.rounding),
            num_warps=warps(x.dtype),
        )
    return y, None if marks is None else as_bits(marks, x)


def numbers(uniform: Steps, dtype: torch.dtype) -> tuple[int, int, int, int, int]:
    """What a kernel is told of steps: bias, top code, lowest exponent, mantissa bits, largest mantissa in `dtype`.

    Only a clipped mantissa, 2^(m-1) - 1, can have more digits than `dtype`, which rounds it to 2^(m-1). To clip to that
    in the first place leaves nothing to round.
    """
    m = uniform.mantissa_bits
    limit = uniform.largest_mantissa + (m - 1 > DIGITS[dtype])
    return uniform.exponent_bias or 0, uniform.top_code, uniform.lowest_exponent, m, limit


# arguments whose values compile nothing new
_NUMBERS = ["bias", "top_code", "lowest", "m", "limit"]


@triton.jit(do_not_specialize=SIZES + _NUMBERS)
def _round(
    x,
    y,
    marks,
    top,
    key,
    stacks,
    per_row,
    channels,
    inner,
    strips,
    bias,
    top_code,
    lowest,
    m,
    limit,
    STACKS: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
    UNIT: tl.constexpr,
    WHOLE: tl.constexpr,
    KIND: tl.constexpr,
    ROUNDING: tl.constexpr,
):
    """Writes to y what x is rounded to, and sets a bit of `marks` for each element that passes no gradient.

    `top`, if given, is what `_largest` found, from which the bias follows; `key`, if given, is what to draw from.
    """
    start, offsets, exists = tile(stacks, per_row, channels, inner, strips, STACKS, BLOCK, DEPTH, WIDTH, UNIT, WHOLE)
    wide = widened(tl.load(x + start + offsets, exists, other=0), KIND)
    peaks = peaks_of(wide, False)
    if top is not None:
        largest = tl.load(top)
        bias = tl.where(largest > 0, (largest >> 23) - 127, 0) - top_code
    # exponent fields of 2^E, of the step and of its inverse, which is subnormal for 2^127
    field = tl.minimum(tl.maximum(peaks >> 23, bias + 127), bias + top_code + 127)
    field = tl.maximum(field, lowest + 127)
    step = field + 2 - m
    inverse = tl.where(step < 254, (254 - step) << 23, 1 << 22).to(tl.float32, bitcast=True)
    step = (step << 23).to(tl.float32, bitcast=True)

    most = limit.to(tl.float32)
    k = wide * inverse
    draws = k  # of no use, yet the same type in every branch
    if key is not None:
        draws = uniforms(start + offsets, tl.load(key))
    if ROUNDING == 0:  # to even, and never -0
        whole = (tl.minimum(tl.maximum(k, -most), most) + _SHIFT) - _SHIFT
        y_bits = (whole * step).to(tl.int32, bitcast=True)
    else:
        size = _whole(tl.minimum(tl.abs(k), most), draws, ROUNDING) * step
        y_bits = size.to(tl.int32, bitcast=True) | (wide.to(tl.int32, bitcast=True) & -0x80000000)
    if KIND == 0:
        raw = tl.where(peaks < INFINITE, y_bits, 0x7FC00000)
    elif KIND == 1:
        raw = tl.where(peaks < INFINITE, y_bits >> 16, 0x7FC0).to(tl.int16)
    else:
        half = y_bits.to(tl.float32, bitcast=True).to(tl.float16).to(tl.int16, bitcast=True)
        raw = tl.where(peaks < INFINITE, half, 0x7E00).to(tl.int16)
    if ROUNDING != 0 or KIND == 2:
        raw = tl.where((raw << 1) == 0, 0, raw).to(raw.dtype)  # no -0
    tl.store(y + start + offsets, raw, exists)

    if marks is not None:
        above = (peaks >> 23 > field) & (peaks < INFINITE)
        if tl.max(tl.reshape(above.to(tl.int32), STACKS * WIDTH), 0) > 0:  # seldom
            last = ((1 << (m - 1)) - 1).to(tl.float32)
            if ROUNDING == 3:
                over = draws < tl.abs(k) - last
            elif ROUNDING == 2:
                over = tl.abs(k) >= last + 1.0
            else:  # the largest mantissa is odd, so a tie is beyond it
                over = tl.abs(k) >= last + 0.5
            at = start + offsets
            tl.atomic_or(marks + (at >> 5), 1 << (at & 31).to(tl.int32), exists & above & over, sem="relaxed")


@triton.jit
def _whole(k, draws, ROUNDING: tl.constexpr):
    """Magnitudes in steps, below 2^23, as whole numbers, by the roundings other than the nearest even one."""
    even = (k + 8388608.0) - 8388608.0
    below = tl.where(even > k, even - 1.0, even)
    if ROUNDING == 1:
        whole = tl.where(k - even == 0.5, even + 1.0, even)
    elif ROUNDING == 2:
        whole = below
    else:
        whole = tl.where(draws < k - below, below + 1.0, below)
    return whole
