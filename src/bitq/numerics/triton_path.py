"""Block quantization on a GPU in one pass over its memory: one read, one write, and one read more for a default bias.

The Triton twin of torch_path.py, bit for bit, for the tensors that kernel.c takes on a CPU. Elements are moved as bit
patterns. Products only scale by powers of two, so they are exact wherever it matters, and fusing one with an addition
changes no bit. Subnormal numbers do count: Triton does not flush them (no `.ftz` in its PTX, which the tests see to).
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from bitq.formats import BlockFormat
from bitq.numerics import blocks, torch_path
from bitq.numerics.blocks import Layout
from bitq.numerics.native_format import MOST_DIGITS
from bitq.numerics.recipe import ROUNDINGS, Axes, Recipe, Steps

PATTERNS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
DIGITS = {torch.float32: 24, torch.bfloat16: 8, torch.float16: 11}  # bits of a significand
KINDS = {dtype: kind for kind, dtype in enumerate(PATTERNS)}
TILE, LARGEST = 4096, 8192  # elements of a program, by whose size others are told, and at most
ACROSS = 16  # least neighbouring positions of a tile: whole sectors of memory

_SHIFT: tl.constexpr = tl.constexpr(1.5 * 2.0**23)  # added to numbers up to 2^22, it rounds them to whole ones
_INFINITE: tl.constexpr = tl.constexpr(blocks.INFINITE)


class Cut(NamedTuple):
    """Memory read as [outer, channels, inner], cut into tiles of [blocks, channels, positions]: a kernel's constants.

    A program has `STACKS` neighbouring blocks of `BLOCK` channels, at `WIDTH` neighbouring inner positions. All but
    `BLOCK` are powers of two; `DEPTH` is at least as large. `UNIT` divides the length of a row of memory: by it the
    compiler knows how rows are aligned. `WHOLE`: no block is short.
    """

    STACKS: int
    BLOCK: int
    DEPTH: int
    WIDTH: int
    UNIT: int
    WHOLE: bool


class Job(NamedTuple):
    """A cut, how many programs it takes, and the sizes that they are told."""

    cut: Cut
    programs: int
    sizes: tuple[int, int, int, int, int]


def warps(dtype: torch.dtype) -> int:
    """Of a program. A thread moves 16 bytes at a time: so its warp has as many rows of a tile, whatever is in them.

    With 4 warps for 16-bit numbers, too, neighbouring positions were quantized at 0.55 of a copy's speed on an H100,
    with 2 at 0.9.
    """
    return dtype.itemsize


def tile_size(dtype: torch.dtype, marked: bool, drawn: bool) -> int:
    """Elements of a program, such that what it computes for them stays in registers."""
    return TILE // 4 * warps(dtype) // (4 if drawn else 2 if marked else 1)


@lru_cache(4096)
def job(layout: Layout, tile: int) -> Job | None:
    """Tiles of about `tile` elements for a layout; None if a block is too large for one."""
    block, channels, inner = layout.block, layout.channels, layout.inner
    per_row, whole = ceil(channels / block), channels % block == 0
    count = layout.outer * per_row
    depth = triton.next_power_of_2(block)
    width = min(triton.next_power_of_2(inner), max(tile // depth, ACROSS))
    stacks = min(max(tile // (depth * width), 1), triton.next_power_of_2(count))
    reach = (stacks * block + (0 if whole else 2 * channels)) * inner  # of offsets within a tile
    if depth * width > LARGEST or reach >= 2**31:
        return None
    row = inner if inner > 1 else channels if not whole else count if block == 1 else 1
    strips = ceil(inner / width)
    cut = Cut(stacks, block, depth, width, min(row & -row, 16), whole)
    return Job(cut, ceil(count / stacks) * strips, (count, per_row, channels, inner, strips))


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
    """Values as the torch path gives them, and a bit for each element of memory that passes no gradient, if any could.

    `out`, which may be x, must have x's dtype and strides. The bits are uint8, lowest first, of ceil(numel/8) bytes.
    Nothing waits for the device. None where there is no `layout` of x.
    """
    at, uniform = layout(x.shape, x.stride(), recipe), recipe.steps(x.shape)
    if at is None or uniform is None:
        return None
    marked = with_clipped and uniform.can_clip
    work = job(at, tile_size(x.dtype, marked, key is not None))
    if work is None:
        return None
    y = torch.empty_like(x) if out is None else out
    top = torch.zeros(1, dtype=torch.int32, device=x.device) if uniform.exponent_bias is None else None
    marks = torch.zeros((x.numel() + 31) // 32, dtype=torch.int32, device=x.device) if marked else None
    pattern, kind = PATTERNS[x.dtype], KINDS[x.dtype]
    with torch.cuda.device_of(x):
        if top is not None:
            _largest[(work.programs,)](
                x.view(pattern), top, *work.sizes, *work.cut, kind, num_warps=warps(x.dtype)
            )
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
    return y, None if marks is None else marks.view(torch.uint8)[: (x.numel() + 7) // 8]


def numbers(uniform: Steps, dtype: torch.dtype) -> tuple[int, int, int, int, int]:
    """What a kernel is told of steps: bias, top code, lowest exponent, mantissa bits, largest mantissa in `dtype`.

    Only a clipped mantissa, 2^(m-1) - 1, can have more digits than `dtype`, which rounds it to 2^(m-1). To clip to that
    in the first place leaves nothing to round.
    """
    m = uniform.mantissa_bits
    limit = uniform.largest_mantissa + (m - 1 > DIGITS[dtype])
    return uniform.exponent_bias or 0, uniform.top_code, uniform.lowest_exponent, m, limit


def pass_gradient(grad: Tensor, clipped: Tensor) -> Tensor | None:
    """`grad`, dense and laid out as the bits `clipped` were, with zeros where they are set; None for others."""
    if grad.element_size() not in (2, 4) or not grad.numel():
        return None
    passed, pattern = torch.empty_like(grad), torch.int32 if grad.element_size() == 4 else torch.int16
    with torch.cuda.device_of(grad):
        _pass[(ceil(grad.numel() / TILE),)](grad.view(pattern), passed.view(pattern), clipped, grad.numel(), TILE // 8)
    return passed


def agrees(device: torch.device) -> bool:
    """Whether these kernels give the torch path's bits there, for a few numbers that go wrong first."""
    fmt, axes = BlockFormat(8, 4, 16), Axes(1)
    powers = 2.0 ** torch.arange(-24, 24, 3, dtype=torch.float64)
    rows = [powers * (1 - 2.0**-24), -powers, powers * 2.0**-126, powers.where(powers != 1, torch.nan), 0 * powers]
    x = torch.stack(rows).float().to(device)
    grad = torch.ones_like(x)
    for bias in (None, -8):  # the second clips
        recipe = Recipe(fmt, axes, bias)
        exact, over = torch_path.quantize(x, recipe, None, True)
        found = quantize(x, recipe, None, True)
        if found is None or not torch.equal(_one_nan(found[0]), _one_nan(exact)):
            return False
        if over is not None:
            passed = None if found[1] is None else pass_gradient(grad, found[1])
            if passed is None or not torch.equal(passed, grad.masked_fill(over, 0)):
                return False
    return True


def _one_nan(x: Tensor) -> Tensor:
    """The bit patterns of float32 numbers, with one for every NaN: what PyTorch computes has another than ours."""
    return x.masked_fill(x.isnan(), torch.nan).view(torch.int32)


# arguments whose values compile nothing new
_SIZES = ["stacks", "per_row", "channels", "inner", "strips"]
_NUMBERS = ["bias", "top_code", "lowest", "m", "limit"]


@triton.jit
def _tile(
    stacks,
    per_row,
    channels,
    inner,
    strips,
    STACKS: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
    UNIT: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Where this program's tile starts in memory, where its elements lie from there, and which of them there are."""
    first = tl.program_id(0).to(tl.int64) * STACKS
    s = tl.arange(0, STACKS)[:, None, None]
    c = tl.arange(0, DEPTH)[None, :, None]
    w = tl.arange(0, WIDTH)[None, None, :]
    if WIDTH == 1:
        inner, across = 1, 0
        if WHOLE:
            stacks = stacks // UNIT * UNIT  # as in the other cases, the same, yet known to be a multiple
        else:
            channels = channels // UNIT * UNIT
    else:
        across = (first // STACKS % strips).to(tl.int32) * WIDTH
        first = first // STACKS // strips * STACKS
        inner = inner // UNIT * UNIT
    exists = (s < tl.where(stacks - first < STACKS, stacks - first, STACKS).to(tl.int32)) & (across + w < inner)
    if BLOCK < DEPTH:
        exists = exists & (c < BLOCK)
    if WHOLE:
        start = first * BLOCK
        channel = s * BLOCK + c
    else:
        row = first // per_row
        start = row * channels
        s += (first - row * per_row).to(tl.int32)
        within = s % per_row * BLOCK + c
        exists = exists & (within < channels)
        channel = s // per_row * channels + within
    return start * inner + across, channel * inner + w, exists


@triton.jit
def _widened(raw, KIND: tl.constexpr):
    """float32 numbers of these patterns."""
    if KIND == 0:
        wide = raw.to(tl.float32, bitcast=True)
    elif KIND == 1:
        wide = (raw.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        wide = raw.to(tl.float16, bitcast=True).to(tl.float32)
    return wide


@triton.jit
def _peaks(wide):
    """Patterns of the largest magnitude of every block; those of infinity and NaN are the largest of all."""
    return tl.max(wide.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 1, keep_dims=True)


@triton.jit(do_not_specialize=_SIZES)
def _largest(
    x,
    top,
    stacks,
    per_row,
    channels,
    inner,
    strips,
    STACKS: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
    UNIT: tl.constexpr,
    WHOLE: tl.constexpr,
    KIND: tl.constexpr,
):
    """Raises `top` to the peak of the largest finite block."""
    start, offsets, exists = _tile(stacks, per_row, channels, inner, strips, STACKS, BLOCK, DEPTH, WIDTH, UNIT, WHOLE)
    peaks = _peaks(_widened(tl.load(x + start + offsets, exists, other=0), KIND))
    finite = tl.where(peaks < _INFINITE, peaks, 0)
    tl.atomic_max(top, tl.max(tl.reshape(finite, STACKS * WIDTH), 0), sem="relaxed")


@triton.jit(do_not_specialize=_SIZES + _NUMBERS)
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
    start, offsets, exists = _tile(stacks, per_row, channels, inner, strips, STACKS, BLOCK, DEPTH, WIDTH, UNIT, WHOLE)
    wide = _widened(tl.load(x + start + offsets, exists, other=0), KIND)
    peaks = _peaks(wide)
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
        draws = _uniforms(start + offsets, tl.load(key))
    if ROUNDING == 0:  # to even, and never -0
        whole = (tl.minimum(tl.maximum(k, -most), most) + _SHIFT) - _SHIFT
        y_bits = (whole * step).to(tl.int32, bitcast=True)
    else:
        size = _whole(tl.minimum(tl.abs(k), most), draws, ROUNDING) * step
        y_bits = size.to(tl.int32, bitcast=True) | (wide.to(tl.int32, bitcast=True) & -0x80000000)
    if KIND == 0:
        raw = tl.where(peaks < _INFINITE, y_bits, 0x7FC00000)
    elif KIND == 1:
        raw = tl.where(peaks < _INFINITE, y_bits >> 16, 0x7FC0).to(tl.int16)
    else:
        half = y_bits.to(tl.float32, bitcast=True).to(tl.float16).to(tl.int16, bitcast=True)
        raw = tl.where(peaks < _INFINITE, half, 0x7E00).to(tl.int16)
    if ROUNDING != 0 or KIND == 2:
        raw = tl.where((raw << 1) == 0, 0, raw).to(raw.dtype)  # no -0
    tl.store(y + start + offsets, raw, exists)

    if marks is not None:
        above = (peaks >> 23 > field) & (peaks < _INFINITE)
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


@triton.jit
def _uniforms(at, key):
    """The draws of torch_path.uniforms, of the elements with these row-major indices."""
    counter = (at >> 6) * 16 + (at & 15)
    word = (at >> 4) & 3
    c0, c1 = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
    c2, c3 = c0 & 0, c0 & 0
    k0, k1 = key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF
    for _ in tl.static_range(10):
        p0, p1 = c0.to(tl.uint64) * 0xD2511F53, c2.to(tl.uint64) * 0xCD9E8D57
        c0, c1 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0.to(tl.uint32), p1.to(tl.uint32)
        c2, c3 = (p0 >> 32).to(tl.uint32) ^ c3 ^ k1.to(tl.uint32), p0.to(tl.uint32)
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    chosen = tl.where(word < 2, tl.where(word == 0, c0, c1), tl.where(word == 2, c2, c3))
    return ((chosen >> 8) | 1).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08  # 2^-24


@triton.jit
def _pass(grad, passed, clipped, count, OCTETS: tl.constexpr):
    """Copies `count` elements, with zeros where their bits are set."""
    octet = tl.program_id(0).to(tl.int64) * OCTETS + tl.arange(0, OCTETS)[:, None]
    bit = tl.arange(0, 8)[None, :]
    at = octet * 8 + bit
    blocked = (tl.load(clipped + octet, octet * 8 < count, other=0).to(tl.int32) >> bit) & 1
    raw = tl.load(grad + at, at < count, other=0)
    tl.store(passed + at, tl.where(blocked == 1, 0, raw).to(raw.dtype), at < count)
