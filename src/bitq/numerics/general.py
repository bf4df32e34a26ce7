"""Quantization in any number format, in plain PyTorch; torch_path.py has less to do for uniform steps.

Blocks are the rows of a matrix (`block_rows`), and arithmetic is that of float64, exact where it has to be (`doubles`).
No other product that is rounded feeds an addition: fused multiply-adds change no bit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bitq.formats import Format
from bitq.formats.blocking import Whole
from bitq.formats.elements import Element, Float, Integer, Levels
from bitq.formats.float32 import LARGEST, floor_log2
from bitq.formats.scales import FloatScale, PowerOfTwo, ScaledExponent, SharedExponent
from bitq.numerics import doubles, sums
from bitq.numerics.block_rows import BlockRows, joined, pieces
from bitq.numerics.recipe import Recipe, magnitude
from bitq.numerics.torch_path import laid_as, uniforms

FLOAT32 = FloatScale(Float(8, 23, "i"))
"""A second scale."""


class Scales(NamedTuple):
    """Of some blocks, of shape (blocks, 1), float64 unless another type is named.

    Attributes:
        step: what an element of 1 stands for.
        stored: the code (int64) of a power of two; a float itself.
        low: whether a block alone would have got a larger one; bool.
        zero: its zero point, for unsigned elements.
        reach: least and largest number that zero point and step were made for.
    """

    step: Tensor
    stored: Tensor
    low: Tensor
    zero: Tensor | None = None
    reach: tuple[Tensor, Tensor] | None = None


def quantize(
    x: Tensor, recipe: Recipe, key: Tensor | None, with_clipped: bool
) -> tuple[Tensor, Tensor | None]:
    """Values, and if wanted and there can be any the mask (bool) of elements that pass no gradient."""
    if not x.numel():
        return torch.empty_like(x), None
    draws = None if key is None else uniforms(x.shape, key.to(x.device))
    if recipe.format.scale is None:
        return laid_as(x, _cast(x, recipe, draws)), None
    at = BlockRows.of(recipe, tuple(x.shape))
    rows = at.arranged(x.float())
    drawn = None if draws is None else at.arranged(draws)
    least, most = rows.aminmax(dim=1, keepdim=True)
    if len(recipe.format.elements) > 1:
        finite, unit = least.isfinite() & most.isfinite(), sums.unit(least, most, recipe)
        y = sums.values(*sums.nearest(rows.masked_fill(~finite, 0), recipe.format, unit), unit)
        return laid_as(x, at.restored(finished(y, x.dtype).masked_fill(~finite, torch.nan))), None
    shared, marked = shared_by(least, most, recipe), with_clipped and _can_clip(recipe)
    values, masks = [], []
    for block in pieces(rows.shape[0], rows.shape[1]):
        scales = scales_of(least[block].double(), most[block].double(), recipe, shared)
        finite = least[block].isfinite() & most[block].isfinite()
        along, beyond = [], []
        for part in pieces(rows.shape[1], rows[block].shape[0]):
            piece = rows[block][:, part]
            y, over = _elements(piece, scales, recipe, None if drawn is None else drawn[block][:, part])
            along.append(finished(y, x.dtype).masked_fill(~finite, torch.nan))
            if marked:
                beyond.append(over & finite)
        values.append(joined(along, 1))
        if marked:
            masks.append(joined(beyond, 1))
    y = laid_as(x, at.restored(joined(values, 0)))
    return y, at.restored(joined(masks, 0)) if marked else None


# What blocks share


def shared_by(least: Tensor, most: Tensor, recipe: Recipe) -> Tensor | None:
    """What the whole tensor shares, 0-d: the exponent bias of `eN` (int64), the second scale (float64), or nothing."""
    scale, fmt = recipe.format.scale, recipe.format
    finite = least.isfinite() & most.isfinite()
    peaks = _largest(least.double(), most.double(), recipe).masked_fill(~finite, 0)
    if isinstance(scale, SharedExponent):
        if recipe.exponent_bias is not None:
            return torch.full((), recipe.exponent_bias, device=peaks.device)
        top = peaks.amax()
        return doubles.exponents_of(top).clamp(min=-127).where(top > 0, 0) - scale.top_code
    if not fmt.tensor_bits:
        return None
    assert isinstance(scale, FloatScale | ScaledExponent)
    smallest, largest = scale.reach(fmt.smallest) if isinstance(scale, FloatScale) else scale.reach
    given = recipe.tensor_range
    top = peaks.amax() if given is None else torch.full_like(peaks.amax(), magnitude(given, fmt))
    second = doubles.quotient(top, torch.full_like(top, fmt.largest * largest))
    return second.float().double().clamp(FLOAT32.reach(fmt.smallest * smallest)[0], LARGEST)


def _largest(least: Tensor, most: Tensor, recipe: Recipe) -> Tensor:
    """max|x| of blocks, of which negative numbers do not count where there are none."""
    return most.clamp(min=0) if recipe.format.never_negative else torch.maximum(-least, most)


def scales_of(least: Tensor, most: Tensor, recipe: Recipe, shared: Tensor | None) -> Scales:
    """Of blocks with these least and largest numbers."""
    fmt, scale = recipe.format, recipe.format.scale
    given = recipe.tensor_range if isinstance(fmt.geometry, Whole) else None
    own = peaks = _largest(least, most, recipe)
    if given is not None:
        peaks = torch.full_like(own, magnitude(given, fmt))
    if isinstance(scale, FloatScale):
        if fmt.has_zero_point:
            return _with_zero_point(least, most, scale, fmt.elements[0], given)
        return _float_scales(own, peaks, recipe, shared)
    if isinstance(scale, SharedExponent):
        assert shared is not None
        wanted = doubles.exponents_of(own).clamp(min=-127) - fmt.top_exponent
        codes = (wanted - (shared - fmt.top_exponent)).clamp(0, scale.top_code)
    elif isinstance(scale, ScaledExponent):
        assert shared is not None
        wanted = doubles.exponents_of(own / shared) - fmt.top_exponent  # no quotient of float32 is as near to another
        codes = (doubles.exponents_of(peaks / shared) - fmt.top_exponent + scale.top_code).clamp(0, scale.top_code)
    else:
        assert isinstance(scale, PowerOfTwo)
        wanted = _wanted(own, recipe)
        exponents = _wanted(peaks, recipe).clamp(*scale.exponents)
        codes = exponents.clamp(min=least_exponent(fmt)) + scale.bias
    codes = codes.masked_fill(peaks == 0, scale.codes[0] if isinstance(scale, PowerOfTwo) else 0)
    exponents = coded_exponents(codes, fmt, shared)
    return Scales(step_of(exponents, fmt, shared), codes, wanted > exponents)


def least_exponent(fmt: Format) -> int:
    """Of a power of two: below it the smallest result would not be a normal float32."""
    return -126 - floor_log2(fmt.smallest)


def coded_exponents(codes: Tensor, fmt: Format, shared: Tensor | None) -> Tensor:
    """Those of powers of two with these codes, raised to the least one; `shared` is the bias of `eN`."""
    if isinstance(fmt.scale, ScaledExponent):
        return codes - fmt.scale.top_code
    if isinstance(fmt.scale, SharedExponent):
        assert shared is not None
        exponents = codes + (shared - fmt.top_exponent)
    else:
        assert isinstance(fmt.scale, PowerOfTwo)
        exponents = codes - fmt.scale.bias
    return exponents.clamp(min=least_exponent(fmt))


def step_of(exponents: Tensor, fmt: Format, shared: Tensor | None) -> Tensor:
    """What an element of 1 stands for under powers of two; `shared` is t of `eN*f32`."""
    if isinstance(fmt.scale, ScaledExponent):
        assert shared is not None
        return doubles.powers(exponents) * shared
    return doubles.powers(exponents + unit_exponent(fmt.elements[0]))


def unit_exponent(element: Element) -> int:
    """That of what 1 stands for under a power of two of exponent 0."""
    return floor_log2(element.unit(True)) if isinstance(element, Integer) else 0


def _wanted(peaks: Tensor, recipe: Recipe) -> Tensor:
    """Exponents of own powers of two, before they are clipped to the codes."""
    fmt, scale = recipe.format, recipe.format.scale
    assert isinstance(scale, PowerOfTwo)
    exponents = doubles.exponents_of(peaks)
    fraction = peaks * doubles.powers(-exponents.clamp(min=-200))  # in [1, 2), or 0
    if scale.mode == "ceil":
        exponents = exponents + (fraction > 1)
    elif scale.mode == "even":
        exponents = exponents + (fraction >= 2 - 2.0 ** -(1 + precision(fmt.elements[0])))
    elif scale.mode == "rceil":
        exponents = exponents + (fraction > fmt.largest * 2.0**-fmt.top_exponent)
    return exponents - fmt.top_exponent


def _float_scales(own: Tensor, peaks: Tensor, recipe: Recipe, second: Tensor | None) -> Scales:
    scale, fmt = recipe.format.scale, recipe.format
    assert isinstance(scale, FloatScale)
    smallest, largest = scale.reach(fmt.smallest)
    rounding = "up" if scale.up else "nearest"
    divisor = torch.full_like(peaks, fmt.largest) if second is None else fmt.largest * second
    wanted = on_grid(doubles.quotient(own, divisor), scale.number, rounding)
    found = wanted if peaks is own else on_grid(doubles.quotient(peaks, divisor), scale.number, rounding)
    found = found.clamp(smallest, largest)
    return Scales(found if second is None else found * second, found, wanted > found)


def _with_zero_point(
    least: Tensor, most: Tensor, scale: FloatScale, element: Element, given: tuple[float, float] | None
) -> Scales:
    low, high = least.clamp(max=0), most.clamp(min=0)
    if given is not None:
        low, high = torch.full_like(low, given[0]), torch.full_like(high, given[1])
    count = element.largest(False)
    span = doubles.quotient(doubles.total(high, -low), torch.full_like(low, count))
    wanted = on_grid(span, scale.number, "up" if scale.up else "nearest")
    step = wanted.clamp(*scale.reach(1.0))
    zero = doubles.quotient(-low, step).round().clamp(max=count)
    return Scales(step, step, wanted > step, zero, (low, high))


# What elements become


def _elements(
    x: Tensor, scales: Scales, recipe: Recipe, draws: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Values of float32 numbers before they are rounded to float32, and which pass no gradient."""
    numbers, over = numbers_of(x, scales, recipe, draws)
    return products(numbers, scales.step, scales.zero, recipe.format), over


def numbers_of(
    x: Tensor, scales: Scales, recipe: Recipe, draws: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The elements (float64) that float32 numbers become, and which pass no gradient.

    Integers are k, with a zero point as they are stored.
    """
    fmt, element = recipe.format, recipe.format.elements[0]
    wide = x.double()
    size = wide.abs()
    q = size * (1 / scales.step) if fmt.power_of_two else doubles.quotient(size, scales.step)
    if scales.zero is not None:
        return _unsigned(wide, q, scales, element.largest(False), recipe.rounding, draws)
    if isinstance(element, Levels):
        q = torch.where(wide < 0, -q, q)
        over = (q > element.values[-1]) | (q < element.values[0])
        return on_levels(q, element, recipe.rounding, draws), over & scales.low
    if isinstance(element, Integer):
        rounded, limit = doubles.whole(q, recipe.rounding, draws), float(element.most)
    else:
        assert isinstance(element, Float)
        rounded, limit = on_grid(q, element, recipe.rounding, draws), element.largest()
    over = (rounded > limit) & scales.low
    negative = wide < 0
    if fmt.never_negative:
        over, rounded = over & ~negative | negative, rounded.masked_fill(negative, 0)
    within = rounded.clamp(max=limit)
    return torch.where(negative, -within, within), over


def products(numbers: Tensor, step: Tensor, zero: Tensor | None, fmt: Format) -> Tensor:
    """Values of elements before they are rounded to float32."""
    if not fmt.tensor_bits:
        return (numbers if zero is None else numbers - zero) * step
    size = numbers.abs()
    product, error = doubles.product(size, step)  # the step is a product itself
    product = doubles.odd(product, error < 0, error != 0)
    return torch.where(numbers < 0, -product, product)


def _unsigned(
    x: Tensor, q: Tensor, scales: Scales, most: float, rounding: str, draws: Tensor | None
) -> tuple[Tensor, Tensor]:
    assert scales.zero is not None
    assert scales.reach is not None
    size = doubles.whole(q, rounding, draws)
    code = torch.where(x < 0, -size, size) + scales.zero
    within = code.clamp(0, most)
    low, high = scales.reach
    over = (code != within) & (scales.low | (x < low) | (x > high))
    return within, over


def on_grid(size: Tensor, number: Float, rounding: str, draws: Tensor | None = None) -> Tensor:
    """Magnitudes as those of a type without bounds that they are rounded to, ties to the even code."""
    exponents = doubles.exponents_of(size).clamp(min=number.least_exponent)
    k = size * doubles.powers(number.mantissa_bits - exponents)
    whole = doubles.whole(k, rounding, draws)
    if number.mantissa_bits == 0 and rounding == "nearest":  # codes are those of the exponents alone
        whole = whole - ((k == 1.5) & ((exponents - number.least_exponent) % 2 == 1)).double()
    return whole * doubles.powers(exponents - number.mantissa_bits)


def on_levels(q: Tensor, element: Levels, rounding: str, draws: Tensor | None = None) -> Tensor:
    """The levels that numbers are rounded to, ties to the even index; beyond them the last one."""
    values = element.values
    levels = torch.tensor(values, dtype=torch.float64, device=q.device)
    below = (torch.searchsorted(levels, q.contiguous(), right=True) - 1).clamp(0, len(values) - 2)
    low, high = levels[below], levels[below + 1]
    if rounding == "toward_zero":
        up = (q < 0) & (q > low)
    elif rounding == "stochastic":
        assert draws is not None
        part = draws.double() * (high - low)
        up = torch.where(q < 0, ~(part < high - q), part < q - low)
    else:
        middle = middles(levels)[below]
        away = below % 2 == 1 if rounding == "nearest" else q > 0
        up = (q > middle) | ((q == middle) & away)
    return torch.where((up | (q >= high)) & (q > low), high, low)


def middles(levels: Tensor) -> Tensor:
    """Between neighbours of a table (float64), rounded to odd."""
    between = doubles.total(levels[:-1].abs(), levels[1:].abs()) / 2  # signs do not differ: one of the levels is 0
    return torch.where(levels[1:] > 0, between, -between)


def _cast(x: Tensor, recipe: Recipe, draws: Tensor | None) -> Tensor:
    """Plain floats: as IEEE 754 converts them."""
    number = recipe.format.elements[0]
    assert isinstance(number, Float)
    flat = x.float().reshape(-1)
    parts = []
    for part in pieces(flat.numel(), 1):
        y = cast_numbers(flat[part], number, recipe.rounding, None if draws is None else draws.reshape(-1)[part])
        parts.append(cast_finished(y, x.dtype))
    return joined(parts, 0).reshape(x.shape)


def cast_numbers(x: Tensor, number: Float, rounding: str, draws: Tensor | None) -> Tensor:
    """Float32 numbers as those (float64) of another type."""
    wide = x.double()
    size = wide.abs()
    y = on_grid(size, number, rounding, draws)
    endless = number.kind == "i" and rounding != "toward_zero"
    y = torch.where(y > number.largest(), torch.inf if endless else number.largest(), y)
    y = torch.where(size.isinf(), torch.inf if number.kind == "i" else torch.nan, y)
    return torch.copysign(y.masked_fill(size.isnan(), torch.nan), wide)


def cast_finished(y: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers of a type in `dtype`, within its reach unless they are infinite."""
    largest = torch.finfo(dtype).max
    return torch.where(y.isinf(), y, y.float().double().clamp(-largest, largest)).float().to(dtype)


def finished(y: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded to float32 and, within its reach, to `dtype`; never -0."""
    single = y.clamp(-LARGEST, LARGEST).float()
    if dtype != torch.float32:
        largest = torch.finfo(dtype).max
        single = single.clamp(-largest, largest)
    narrow = single.to(dtype)
    return narrow.masked_fill(narrow == 0, 0.0)


def _can_clip(recipe: Recipe) -> bool:
    """Whether anything but a block itself can make its scale too small, or an element's sign is lost."""
    fmt, scale = recipe.format, recipe.format.scale
    if fmt.never_negative or recipe.tensor_range is not None:
        return True
    if isinstance(scale, SharedExponent):
        return recipe.exponent_bias is not None
    if isinstance(scale, PowerOfTwo):
        return 127 + (scale.mode != "floor") - fmt.top_exponent > scale.exponents[1]
    if isinstance(scale, ScaledExponent):
        return False
    assert isinstance(scale, FloatScale)
    if scale.second:
        return scale.up or scale.number.mantissa_bits > 20 or fmt.largest * scale.number.largest() < 1
    widest = 2 * LARGEST if fmt.has_zero_point else LARGEST
    return fmt.largest * scale.number.largest() < widest


def precision(element: Element) -> int:
    """Bits of an element's largest number below its leading one; 0 for tables, of which no number counts alone."""
    if isinstance(element, Integer):
        return element.most.bit_length() - 1
    return element.mantissa_bits if isinstance(element, Float) else 0
