"""How the kernels for a GPU cut memory into tiles, and what all of them do there: find, widen, narrow, draw.

Elements are moved as bit patterns.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from bitq.numerics import blocks
from bitq.numerics.blocks import Layout

PATTERNS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
KINDS = {dtype: kind for kind, dtype in enumerate(PATTERNS)}
TILE, LARGEST = 4096, 8192  # elements of a program, by whose size others are told, and at most
ACROSS = 16  # least neighbouring positions of a tile: whole sectors of memory

INFINITE: tl.constexpr = tl.constexpr(blocks.INFINITE)


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

    @property
    def elements(self) -> int:
        """Of a program."""
        return self.STACKS * self.DEPTH * self.WIDTH


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


def largest_peak(x: Tensor, work: Job, never_negative: bool = False) -> Tensor:
    """Pattern (int32, of shape (1,)) of the largest magnitude in finite blocks; 0 if there is none."""
    top = torch.zeros(1, dtype=torch.int32, device=x.device)
    kind = KINDS[x.dtype]
    with torch.cuda.device_of(x):
        _largest[(work.programs,)](
            x.view(PATTERNS[x.dtype]), top, *work.sizes, *work.cut, kind, never_negative, num_warps=warps(x.dtype)
        )
    return top


def no_marks(x: Tensor) -> Tensor:
    """Room for a bit of each element of x, which kernels set in words of 32."""
    return torch.zeros((x.numel() + 31) // 32, dtype=torch.int32, device=x.device)


def as_bits(marks: Tensor, x: Tensor) -> Tensor:
    """Such marks of x as bytes, ceil(numel/8) of them."""
    return marks.view(torch.uint8)[: (x.numel() + 7) // 8]


# arguments whose values compile nothing new
SIZES = ["stacks", "per_row", "channels", "inner", "strips"]


@triton.jit
def tile(
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
def widened(raw, KIND: tl.constexpr):
    """float32 numbers of these patterns."""
    if KIND == 0:
        wide = raw.to(tl.float32, bitcast=True)
    elif KIND == 1:
        wide = (raw.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        wide = raw.to(tl.float16, bitcast=True).to(tl.float32)
    return wide


@triton.jit
def uniforms(at, key):
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
def peaks_of(wide, NEVER_NEGATIVE: tl.constexpr):
    """Patterns of the largest magnitude of every block; those of infinity and NaN are the largest of all.

    Where nothing is negative, finite negative numbers count as 0.
    """
    bits = wide.to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    if NEVER_NEGATIVE:
        size = tl.where((bits < 0) & (size < INFINITE), 0, size)
    return tl.max(size, 1, keep_dims=True)


@triton.jit(do_not_specialize=SIZES)
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
    NEVER_NEGATIVE: tl.constexpr,
):
    """Raises `top` to the peak of the largest finite block."""
    start, offsets, exists = tile(stacks, per_row, channels, inner, strips, STACKS, BLOCK, DEPTH, WIDTH, UNIT, WHOLE)
    peaks = peaks_of(widened(tl.load(x + start + offsets, exists, other=0), KIND), NEVER_NEGATIVE)
    finite = tl.where(peaks < INFINITE, peaks, 0)
    tl.atomic_max(top, tl.max(tl.reshape(finite, STACKS * WIDTH), 0), sem="relaxed")
