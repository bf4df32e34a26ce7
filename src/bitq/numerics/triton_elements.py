"""The kernels of triton_grids.py: steps of blocks, what elements become, and how they are written."""

from __future__ import annotations

import triton
import triton.language as tl

from bitq.numerics.triton_rounding import integer, on_grid, power, product, quotient, scale_of, total
from bitq.numerics.triton_tiles import INFINITE, SIZES, peaks_of, tile, uniforms, widened

POWER, FLOAT, ZERO_POINT = (tl.constexpr(kind) for kind in range(3))
"""Kinds of scales."""

INVERSE, COMPARED, QUOTIENT = (tl.constexpr(how) for how in range(3))
"""How numbers are divided by a step: by an exact product with its inverse; by one that is near and tells between which
two elements to decide; by a quotient rounded to odd, where float64 has too few digits to decide by comparing."""


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
    low,
    grid,
    table,
    draws,
    ROUNDING: tl.constexpr,
    DIVISION: tl.constexpr,
    BARE: tl.constexpr,
    NEVER_NEGATIVE: tl.constexpr,
):
    """Values of numbers before they are rounded to float32, and which of them pass no gradient, if blocks whose steps
    are `low` have too small ones."""
    size = tl.abs(wide).to(step.dtype)
    if NEVER_NEGATIVE:
        size = tl.where(wide < 0, 0.0, size)
    if table is not None:
        q = quotient(size, step.to(tl.float64))
        y, over = _leveled(tl.where(wide < 0, -q, q), table, draws, ROUNDING)
        size = product(tl.abs(y), step.to(tl.float64))
        y = tl.where(y < 0, -size, size)
    elif DIVISION == QUOTIENT:
        k = tl.minimum(quotient(size, step), 2.0 * grid.most)
        rounded = on_grid(k, k, 1.0, grid.least, grid.fine, draws, ROUNDING, True, BARE)
        size, over = product(tl.minimum(rounded, grid.most), step), rounded > grid.most
        y = tl.where(wide < 0, -size, size)
    else:
        k = tl.minimum(size * inverse, 2.0 * grid.most)
        rounded = on_grid(size, k, step, grid.least, grid.fine, draws, ROUNDING, DIVISION == INVERSE, BARE)
        size, over = tl.minimum(rounded, grid.most) * step, rounded > grid.most
        y = tl.where(wide < 0, -size, size)
    over = over & low
    if NEVER_NEGATIVE:
        over = (wide < 0) | over
    return y, over


@triton.jit
def _leveled(q, table, draws, ROUNDING: tl.constexpr):
    """The levels that numbers are rounded to, as by general.py, and which of them are beyond the last ones."""
    below = tl.zeros(q.shape, tl.int32)
    last = integer(table.last)
    for place in range(8):  # of at most 256 levels
        further = below + (128 >> place)
        fits = further < last
        below = tl.where(fits & (tl.load(table.levels + further, fits, other=0.0) <= q), further, below)
    low, high = tl.load(table.levels + below), tl.load(table.levels + below + 1)
    if ROUNDING == 2:
        up = (q < 0) & (q > low)
    elif ROUNDING == 3:
        part = draws.to(tl.float64) * (high - low)
        up = tl.where(q < 0, high - q <= part, part < q - low)
    else:
        middle = tl.load(table.middles + below)
        away = below % 2 == 1 if ROUNDING == 0 else q > 0
        up = (q > middle) | ((q == middle) & away)
    found = tl.where((up | (q >= high)) & (q > low), high, low)
    return found, (q > tl.load(table.levels + last)) | (q < tl.load(table.levels))


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
def quantize_tiles(
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
    table,
    STACKS: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
    UNIT: tl.constexpr,
    WHOLE: tl.constexpr,
    KIND: tl.constexpr,
    ROUNDING: tl.constexpr,
    SCALE: tl.constexpr,
    DIVISION: tl.constexpr,
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
    if SCALE == ZERO_POINT:
        least = tl.minimum(tl.min(wide, 1, keep_dims=True), 0.0)
        most = tl.maximum(tl.max(wide, 1, keep_dims=True), 0.0)
        span = total(most.to(tl.float64), -least.to(tl.float64))
        step, _, low = _floats_of(quotient(span, grid.most + span * 0.0), 1.0, scale)
        zero = _zero_point(least.to(tl.float64), step, grid)
        value, over = _unsigned(wide, step, zero, low, least, most, grid, draws, ROUNDING)
    else:
        if SCALE == POWER:
            step, inverse, low = _powers_of(peaks, shared, scale, WIDE)
        else:
            own = peaks.to(tl.float32, bitcast=True).to(tl.float64)
            second = own * 0.0 + 1.0
            if shared is not None:
                second = own * 0.0 + tl.load(shared)
            step, inverse, low = _floats_of(quotient(own, grid.most * second), second, scale)
        value, over = _elements(
            wide, step, inverse, low, grid, table, draws, ROUNDING, DIVISION, BARE, NEVER_NEGATIVE
        )
    tl.store(y + at, _narrowed(value, finite, KIND), exists)
    if marks is not None:
        _mark(marks, at, over & finite & exists)


@triton.jit(do_not_specialize=["each"])
def quantize_pieces(
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
    table,
    SIZE: tl.constexpr,
    KIND: tl.constexpr,
    ROUNDING: tl.constexpr,
    DIVISION: tl.constexpr,
    BARE: tl.constexpr,
    NEVER_NEGATIVE: tl.constexpr,
):
    """The same for `SIZE` elements of a block of `length`, each block with as many programs as it takes.

    Blocks have steps (float64), NaN if they are not finite, and are `low` if they alone would have got a larger one;
    with zero points (float64) also the least and the largest number that they were made for.
    """
    block = tl.program_id(0) // each
    within = (tl.program_id(0) - block * each).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    at, exists = block.to(tl.int64) * length + within, within < length
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
        value, over = _elements(
            wide, step, inverse, low, grid, table, draws, ROUNDING, DIVISION, BARE, NEVER_NEGATIVE
        )
    tl.store(y + at, _narrowed(value, finite, KIND), exists)
    if marks is not None:
        _mark(marks, at, over & finite & exists)


@triton.jit
def cast(
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
