"""Every other format of one element on a grid on a GPU, and plain floats: general.py in one pass, bit for bit.

What a whole tensor shares is computed by PyTorch from one number, max|x|, and so are the scales of blocks that are
longer than a tile. Under a power of two elements are rounded in float32, which is exact there; under a float in float64.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple, TypeVar

import torch
import triton
import triton.language as tl
from torch import Tensor

from bitq.formats.blocking import Whole
from bitq.formats.elements import Float
from bitq.formats.scales import FloatScale, SharedExponent
from bitq.numerics import blocks, general
from bitq.numerics.blocks import Layout
from bitq.numerics.grid_format import MOST_DIGITS, described
from bitq.numerics.recipe import ROUNDINGS, Axes, Recipe
from bitq.numerics.triton_rounding import integer, on_grid, power, quotient, scale_of, total
from bitq.numerics.triton_tiles import (
    INFINITE,
    KINDS,
    PATTERNS,
    SIZES,
    TILE,
    Job,
    as_bits,
    job,
    largest_peak,
    no_marks,
    peaks_of,
    tile,
    uniforms,
    warps,
    widened,
)

_POWER, _FLOAT, _ZERO_POINT = (tl.constexpr(kind) for kind in range(3))

DOUBLE_DIGITS = 53


class Grid(NamedTuple):
    """Of elements; floats, since of such arguments no value compiles anything new.

    Attributes:
        most: the largest.
        least: the smallest, and the distance of the first ones.
        fine: what the last digit of one is worth, as a part of its leading one.
    """

    most: float
    least: float
    fine: float


class Powers(NamedTuple):
    """Powers of two as scales: which exponents of max|x| they may count, as whole numbers.

    Attributes:
        lowest: of code 0.
        reach: how many more there are.
        floor: the least that is used.
        ceiling: the largest.
        bump: added to the pattern of max|x|, whose exponent then counts.
        to_unit: from an exponent to that of the step.
    """

    lowest: float
    reach: float
    floor: float
    ceiling: float
    bump: float
    to_unit: float


class Floats(NamedTuple):
    """Floats as scales.

    Attributes:
        smallest, largest: between them they are brought.
        digits: below the leading one; whole.
        least_exponent: of the smallest normal one; whole.
        up: 1 if they are rounded up, else 0.
    """

    smallest: float
    largest: float
    digits: float
    least_exponent: float
    up: float


_Numbers = TypeVar("_Numbers", Grid, Powers, Floats)


class Told(NamedTuple):
    """What kernels are told of a recipe: numbers, and constants that are compiled.

    Attributes:
        kind: of the scale, `_POWER`, `_FLOAT` or `_ZERO_POINT`.
        wide: whether elements are rounded in float64.
        bare: whether they are floats without mantissa.
        can_clip: whether an element may pass no gradient.
    """

    grid: Grid
    scale: Powers | Floats
    kind: int
    wide: bool
    bare: bool
    can_clip: bool


@lru_cache(4096)
def told(recipe: Recipe) -> Told | None:
    """None of tables and sums, and of more digits than float64 has for an element times its scales."""
    found, fmt = described(recipe), recipe.format
    if found is None:
        return None
    f, scale = found.fields, fmt.scale
    grid, bare = _floats(Grid, f["most"], f["least"], 2.0 ** -f["mantissa"]), f["mantissa"] == 0
    if isinstance(scale, FloatScale):
        number = scale.number
        floats = _floats(Floats, f["smallest"], f["largest"], number.mantissa_bits, number.least_exponent, scale.up)
        kind = _ZERO_POINT if fmt.has_zero_point else _FLOAT
        return Told(grid, floats, kind.value, True, bare, found.can_clip) if _exact(recipe, scale) else None
    ceiling = 127 + (f.get("bump", 0) > 0)
    reach = f["highest"] - f["lowest"] if f["has_bias"] else f["top_code"]
    powers = _floats(Powers, f.get("lowest", 0), reach, f["floor"], ceiling, f.get("bump", 0), f["to_unit"])
    wide = f["bits"] >= MOST_DIGITS or ceiling + f["to_unit"] > 127
    return Told(grid, powers, _POWER.value, wide, bare, found.can_clip)


def _floats(kind: type[_Numbers], *numbers: float) -> _Numbers:
    """Python's own floats: Triton looks at the types of what it is given."""
    return kind(*map(float, numbers))


def _exact(recipe: Recipe, scale: FloatScale) -> bool:
    """Whether float64 has all digits of elements, or of draws, times a block's scales."""
    scales = scale.number.mantissa_bits + 1 + (24 if scale.second else 0)
    digits = 24 if recipe.rounding == "stochastic" else general.precision(recipe.format.elements[0]) + 2
    return scales + digits <= DOUBLE_DIGITS


def layout(shape: torch.Size, stride: tuple[int, ...], recipe: Recipe) -> Layout | None:
    """How the kernels read memory with these strides.

    Returns:
        None where they cannot: they have no such format, blocks lie scattered or are larger than a tile and do not
        lie one behind the other, or draws have another order than memory.
    """
    if recipe.format.scale is None:
        found = blocks.layout(shape, stride, Axes(recipe.axes.dim), 1) if len(recipe.format.elements) == 1 else None
    else:
        found = None if told(recipe) is None else blocks.layout_for(shape, stride, recipe)
    if found is None or (recipe.rounding == "stochastic" and not found.in_order):
        return None
    return found if job(found, TILE) is not None or _in_rows(found) else None


def _in_rows(at: Layout) -> bool:
    """Whether blocks are whole and lie one behind the other."""
    return at.inner == 1 and at.channels % at.block == 0


def quantize(
    x: Tensor, recipe: Recipe, key: Tensor | None, with_clipped: bool, out: Tensor | None = None
) -> tuple[Tensor, Tensor | None] | None:
    """As `triton_path.quantize`."""
    at, known = layout(x.shape, x.stride(), recipe), told(recipe)
    if at is None:
        return None
    y = torch.empty_like(x) if out is None else out
    call = _Call(x, y, recipe, None if key is None else key.to(x.device))
    with torch.cuda.device_of(x):
        if known is None:
            call.cast()
            return y, None
        marks = no_marks(x) if with_clipped and known.can_clip else None
        work = None if isinstance(recipe.format.geometry, Whole) else job(at, size_of(x.dtype, known.wide))
        if work is None:
            call.pieces(at, known, marks)
        else:
            call.tiles(work, known, marks)
    return y, None if marks is None else as_bits(marks, x)


def size_of(dtype: torch.dtype, wide: bool) -> int:
    """Elements of a program, such that what it computes for them stays in registers."""
    return TILE // (16 if wide else 8) * warps(dtype)


class _Call(NamedTuple):
    """The tensors that a kernel reads and writes."""

    x: Tensor
    y: Tensor
    recipe: Recipe
    key: Tensor | None

    @property
    def memory(self) -> tuple[Tensor, Tensor]:
        """The patterns of x and y."""
        pattern = PATTERNS[self.x.dtype]
        return self.x.view(pattern), self.y.view(pattern)

    @property
    def constants(self) -> tuple[int, int]:
        """What all kernels are compiled for: the dtype and the rounding."""
        return KINDS[self.x.dtype], ROUNDINGS.index(self.recipe.rounding)

    def options(self, times: int = 1) -> dict[str, Any]:
        """How they are compiled, with so many times the usual number of warps."""
        return {"num_warps": min(warps(self.x.dtype) * times, 32), "enable_fp_fusion": False}

    def tiles(self, work: Job, known: Told, marks: Tensor | None) -> None:
        """Blocks of which a program has several."""
        never_negative = self.recipe.format.never_negative
        _tiles[(work.programs,)](
            *self.memory,
            marks,
            self._shared(work),
            self.key,
            *work.sizes,
            known.grid,
            known.scale,
            *work.cut,
            *self.constants,
            known.kind,
            known.wide,
            known.bare,
            never_negative,
            **self.options(work.cut.elements // size_of(self.x.dtype, known.wide) or 1),
        )

    def _shared(self, work: Job) -> Tensor | None:
        """The bias of `eN` if none is given (int64), or the second scale (float64), 0-d; None for neither."""
        x, recipe = self.x, self.recipe
        fmt = recipe.format
        derived = isinstance(fmt.scale, SharedExponent) and recipe.exponent_bias is None
        if not (derived or fmt.tensor_bits):
            return None
        if recipe.tensor_range is not None:
            top = torch.zeros(1, dtype=torch.float32, device=x.device)
        else:
            top = largest_peak(x, work, fmt.never_negative).view(torch.float32)
        return general.shared_by(-top, top, recipe)

    def pieces(self, at: Layout, known: Told, marks: Tensor | None) -> None:
        """Long blocks, of which a program has a piece."""
        x, recipe, size = self.x, self.recipe, size_of(self.x.dtype, True)
        rows = x.as_strided((x.numel() // at.block, at.block), (at.block, 1))
        least, most = (end.float() for end in rows.aminmax(dim=1, keepdim=True))
        scales = general.scales_of(least.double(), most.double(), recipe, general.shared_by(least, most, recipe))
        step = scales.step.masked_fill(~(least.isfinite() & most.isfinite()), torch.nan)
        each = ceil(at.block / size)
        _pieces[(rows.shape[0] * each,)](
            *self.memory,
            marks,
            step,
            scales.low.to(torch.int8),
            scales.zero,
            *(scales.reach or (None, None)),
            self.key,
            at.block,
            each,
            known.grid,
            size,
            min(at.block & -at.block, 16),
            *self.constants,
            known.bare,
            recipe.format.never_negative,
            **self.options(),
        )

    def cast(self) -> None:
        """Plain floats."""
        number, size = self.recipe.format.elements[0], size_of(self.x.dtype, True)
        assert isinstance(number, Float)
        _cast[(ceil(self.x.numel() / size),)](
            *self.memory,
            self.key,
            self.x.numel(),
            Grid(number.largest(), number.smallest(), 2.0**-number.mantissa_bits),
            size,
            *self.constants,
            number.mantissa_bits == 0,
            number.kind == "i",
            **self.options(),
        )


@triton.jit
def _powers_of(peaks, shared, scale, WIDE: tl.constexpr):
    """Steps of blocks with these peaks, their inverses, and whether a block alone would have got a larger one."""
    lowest = integer(scale.lowest)
    if shared is not None:
        lowest = integer(0) + tl.load(shared).to(tl.int32)
    least = tl.maximum(lowest, integer(scale.floor))
    most = tl.minimum(tl.maximum(lowest + integer(scale.reach), least), integer(scale.ceiling))
    own = ((peaks + integer(scale.bump)) >> 23 & 0xFF) - 127
    exponent = tl.minimum(tl.maximum(own, least), most)
    to_unit = integer(scale.to_unit)
    step = exponent + to_unit
    if WIDE:
        found, inverse = power(step), power(-step)
    else:
        found = ((step + 127) << 23).to(tl.float32, bitcast=True)
        inverse = tl.where(step < 127, (127 - step) << 23, 1 << 22).to(tl.float32, bitcast=True)  # or subnormal
    return found, inverse, own > exponent


@triton.jit
def _floats_of(wanted, second, scale):
    """The same of blocks that want these floats (float64), to be multiplied by a second scale."""
    near = scale_of(wanted, integer(scale.digits), integer(scale.least_exponent), integer(scale.up))
    found = tl.minimum(tl.maximum(near, scale.smallest), scale.largest)
    step = found * second
    return step, _below(1.0 / step), near > found


@triton.jit
def _below(inverse):
    """Less than the exact inverse, so that products with it are at most the exact quotients."""
    return inverse - inverse * 8.8817841970012523e-16  # 2^-50


@triton.jit
def _elements(
    wide,
    step,
    inverse,
    grid,
    draws,
    ROUNDING: tl.constexpr,
    EXACT: tl.constexpr,
    BARE: tl.constexpr,
    NEVER_NEGATIVE: tl.constexpr,
):
    """Values of numbers before they are rounded to float32, and which of them are rounded beyond the last element."""
    size = tl.abs(wide).to(step.dtype)
    if NEVER_NEGATIVE:
        size = tl.where(wide < 0, 0.0, size)
    k = tl.minimum(size * inverse, 2.0 * grid.most)
    rounded = on_grid(size, k, step, grid.least, grid.fine, draws, ROUNDING, EXACT, BARE)
    y = tl.minimum(rounded, grid.most) * step
    return tl.where(wide < 0, -y, y), rounded > grid.most


@triton.jit
def _unsigned(wide, step, zero, low, least, most, grid, draws, ROUNDING: tl.constexpr):
    """The same with a zero point, in blocks that were made for least..most and are of too small a step if `low`; which
    of them pass no gradient."""
    size = tl.abs(wide).to(tl.float64)
    k = tl.minimum(size * _below(1.0 / step), 2.0 * grid.most)
    rounded = on_grid(size, k, step, 1.0, grid.fine, draws, ROUNDING, False, False)
    code = tl.where(wide < 0, -rounded, rounded) + zero
    within = tl.minimum(tl.maximum(code, 0.0), grid.most)
    return (within - zero) * step, (code != within) & (low | (wide < least) | (wide > most))


@triton.jit
def _zero_point(least, step, grid):
    """That of blocks whose least number, 0 or less, is given."""
    size = -least
    k = tl.minimum(size * _below(1.0 / step), 2.0 * grid.most)
    return tl.minimum(on_grid(size, k, step, 1.0, grid.fine, k, 0, False, False), grid.most)


@triton.jit
def _narrowed(y, finite, KIND: tl.constexpr):
    """Patterns of float32 or float64 numbers, rounded to float32 and within its reach to this type; never -0."""
    y = tl.minimum(tl.maximum(y, -3.4028234663852886e38), 3.4028234663852886e38).to(tl.float32)
    if KIND == 0:
        raw = tl.where(finite, y.to(tl.int32, bitcast=True), 0x7FC00000)
    elif KIND == 1:
        bits = tl.minimum(tl.maximum(y, -3.3895313892515355e38), 3.3895313892515355e38).to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        raw = tl.where(finite, bits, 0x7FC0).to(tl.int16)
    else:
        half = tl.minimum(tl.maximum(y, -65504.0), 65504.0).to(tl.float16)
        raw = tl.where(finite, half.to(tl.int16, bitcast=True), 0x7E00).to(tl.int16)
    return tl.where((raw << 1).to(raw.dtype) == 0, 0, raw).to(raw.dtype)


@triton.jit
def _mark(marks, at, over):
    tl.atomic_or(marks + (at >> 5), 1 << (at & 31).to(tl.int32), over, sem="relaxed")


@triton.jit(do_not_specialize=SIZES)
def _tiles(
    x,
    y,
    marks,
    shared,
    key,
    stacks,
    per_row,
    channels,
    inner,
    strips,
    grid,
    scale,
    STACKS: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
    UNIT: tl.constexpr,
    WHOLE: tl.constexpr,
    KIND: tl.constexpr,
    ROUNDING: tl.constexpr,
    SCALE: tl.constexpr,
    WIDE: tl.constexpr,
    BARE: tl.constexpr,
    NEVER_NEGATIVE: tl.constexpr,
):
    """Writes to y what x becomes, and sets a bit of `marks` for each element that passes no gradient.

    `shared`, if given, is the bias of the powers of two or the second scale; `key`, if given, is what to draw from.
    """
    start, offsets, exists = tile(stacks, per_row, channels, inner, strips, STACKS, BLOCK, DEPTH, WIDTH, UNIT, WHOLE)
    at = start + offsets
    wide = widened(tl.load(x + at, exists, other=0), KIND)
    peaks = peaks_of(wide, NEVER_NEGATIVE)
    finite = peaks < INFINITE
    draws = wide
    if key is not None:
        draws = uniforms(at, tl.load(key))
    if SCALE == _ZERO_POINT:
        least = tl.minimum(tl.min(wide, 1, keep_dims=True), 0.0)
        most = tl.maximum(tl.max(wide, 1, keep_dims=True), 0.0)
        span = total(most.to(tl.float64), -least.to(tl.float64))
        step, _, low = _floats_of(quotient(span, grid.most + span * 0.0), 1.0, scale)
        zero = _zero_point(least.to(tl.float64), step, grid)
        value, over = _unsigned(wide, step, zero, low, least, most, grid, draws, ROUNDING)
    else:
        if SCALE == _POWER:
            step, inverse, low = _powers_of(peaks, shared, scale, WIDE)
        else:
            own = peaks.to(tl.float32, bitcast=True).to(tl.float64)
            second = own * 0.0 + 1.0
            if shared is not None:
                second = own * 0.0 + tl.load(shared)
            step, inverse, low = _floats_of(quotient(own, grid.most * second), second, scale)
        value, over = _elements(wide, step, inverse, grid, draws, ROUNDING, SCALE == _POWER, BARE, NEVER_NEGATIVE)
        over = over & low
        if NEVER_NEGATIVE:
            over = tl.where(wide < 0, True, over)
    tl.store(y + at, _narrowed(value, finite, KIND), exists)
    if marks is not None:
        _mark(marks, at, over & finite & exists)


@triton.jit(do_not_specialize=["length", "each"])
def _pieces(
    x,
    y,
    marks,
    steps,
    lows,
    zeros,
    leasts,
    mosts,
    key,
    length,
    each,
    grid,
    SIZE: tl.constexpr,
    UNIT: tl.constexpr,
    KIND: tl.constexpr,
    ROUNDING: tl.constexpr,
    BARE: tl.constexpr,
    NEVER_NEGATIVE: tl.constexpr,
):
    """The same for `SIZE` elements of a block of `length`, each block with as many programs as it takes.

    Blocks have steps (float64), NaN if they are not finite, and are `low` if they alone would have got a larger one;
    with zero points (float64) also the least and the largest number that they were made for.
    """
    block = tl.program_id(0) // each
    within = (tl.program_id(0) - block * each).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    at, exists = block.to(tl.int64) * (length // UNIT * UNIT) + within, within < length
    wide = widened(tl.load(x + at, exists, other=0), KIND)
    own = block + tl.arange(0, 1)
    step, low = tl.load(steps + own), tl.load(lows + own) != 0
    draws = wide
    if key is not None:
        draws = uniforms(at, tl.load(key))
    finite = step > 0.0
    if zeros is not None:
        zero, least, most = tl.load(zeros + own), tl.load(leasts + own), tl.load(mosts + own)
        value, over = _unsigned(wide, step, zero, low, least, most, grid, draws, ROUNDING)
    else:
        inverse = _below(1.0 / step)
        value, over = _elements(wide, step, inverse, grid, draws, ROUNDING, False, BARE, NEVER_NEGATIVE)
        over = over & low
        if NEVER_NEGATIVE:
            over = tl.where(wide < 0, True, over)
    tl.store(y + at, _narrowed(value, finite, KIND), exists)
    if marks is not None:
        _mark(marks, at, over & finite & exists)


@triton.jit(do_not_specialize=["count"])
def _cast(
    x,
    y,
    key,
    count,
    grid,
    SIZE: tl.constexpr,
    KIND: tl.constexpr,
    ROUNDING: tl.constexpr,
    BARE: tl.constexpr,
    ENDLESS: tl.constexpr,
):
    """Plain floats, of a type that has infinity if it is `ENDLESS`."""
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    wide = widened(tl.load(x + at, at < count, other=0), KIND)
    bits = wide.to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    k = tl.where(size < INFINITE, tl.abs(wide), 0.0).to(tl.float64)
    draws = wide
    if key is not None:
        draws = uniforms(at, tl.load(key))
    found = on_grid(k, k, 1.0, grid.least, grid.fine, draws, ROUNDING, True, BARE)
    last = tl.minimum(found, grid.most)
    raw = _narrowed(last, size < INFINITE, KIND).to(tl.int32)
    if KIND == 0:
        infinite, nan, sign = 0x7F800000, 0x7FC00000, bits & -0x80000000
    elif KIND == 1:
        infinite, nan, sign = 0x7F80, 0x7FC0, bits >> 16 & -0x8000
    else:
        infinite, nan, sign = 0x7C00, 0x7E00, bits >> 16 & -0x8000
    if ENDLESS:
        if ROUNDING != 2:
            raw = tl.where(found > grid.most, infinite, raw)
        raw = tl.where(size == INFINITE, infinite, raw)
    raw = tl.where(size > INFINITE, nan, raw | sign)
    if not ENDLESS:
        raw = tl.where(size == INFINITE, nan | sign, raw)
    tl.store(y + at, raw.to(tl.int32 if KIND == 0 else tl.int16), at < count)
