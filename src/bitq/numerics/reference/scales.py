"""Scales of blocks, and what whole tensors share."""

from __future__ import annotations

from fractions import Fraction
from math import inf, isfinite
from typing import NamedTuple

from bitq.formats.blocking import Whole
from bitq.formats.format import Format
from bitq.formats.scales import FloatScale, PowerOfTwo, ScaledExponent, SharedExponent
from bitq.numerics.reference import elements, floats
from bitq.numerics.reference.exact import ceil_log2, floor_log2, power, round_exact

LEAST_RESULT = power(-126)
"""The smallest positive result: a normal float32."""

Range = tuple[float, float]
"""Least and largest number, 0 between them."""


class BlockScale(NamedTuple):
    """Of one block.

    Attributes:
        step: what an element of 1 stands for.
        low: whether the block alone would have got a larger one, without bounds.
    """

    step: Fraction
    low: bool


def counting(block: list[float], fmt: Format | None) -> Fraction:
    """a = max|x| of a finite block, of which negative numbers do not count where the format has none."""
    floor = 0.0 if fmt is not None and elements.never_negative(fmt) else -inf
    return max(abs(Fraction(max(x, floor))) for x in block)


def counting_range(given: Range, fmt: Format) -> Fraction:
    """a of a range."""
    return counting(list(given), fmt)


def is_finite(block: list[float]) -> bool:
    """Whether a block counts in what the tensor shares."""
    return all(isfinite(x) for x in block)


# eN


def exponent(block: list[float], fmt: Format | None = None) -> int | None:
    """e of a block, -127 for subnormals as their exponent field says; None for zeros, NaN or infinity."""
    a = counting(block, fmt) if is_finite(block) else Fraction(0)
    return max(floor_log2(a), -127) if a else None


def top_code(fmt: Format) -> int:
    """The largest code of an exponent."""
    assert isinstance(fmt.scale, SharedExponent)
    return (1 << fmt.scale.bits) - 1


def default_bias(blocks: list[list[float]], fmt: Format) -> int:
    """The bias that gives the largest e of the finite, nonzero blocks the top code."""
    known = [e for block in blocks if (e := exponent(block, fmt)) is not None]
    return max(known, default=0) - top_code(fmt)


def code(e: int | None, fmt: Format, bias: int) -> int:
    """The stored code of a block's exponent; 0 for a block that has none."""
    return 0 if e is None else min(max(e - bias, 0), top_code(fmt))


def shared_power(block: list[float], fmt: Format, bias: int) -> BlockScale:
    """Of a finite block under one bias per tensor."""
    e, places = exponent(block, fmt), elements.top_exponent(fmt)
    c = max(bias + code(e, fmt, bias) - places, _least_exponent(fmt))
    return BlockScale(power(c), e is not None and e - places > c)


# eN*f32


def float_shared(a: Fraction, fmt: Format) -> Fraction:
    """t, for max|x| of the tensor's finite blocks."""
    wanted = floats.rounded(a / elements.largest(fmt), floats.FLOAT32)
    least = LEAST_RESULT / (elements.smallest(fmt) * power(_lowest(fmt)))
    return max(wanted, floats.rounded_up(least, floats.FLOAT32))


def scaled_power(a: Fraction, own: Fraction, fmt: Format, t: Fraction) -> BlockScale:
    """For an a, of a block that has `own`."""
    lowest = _lowest(fmt)

    def wanted(a: Fraction) -> int:
        return floor_log2(a / t) - elements.top_exponent(fmt) if a else lowest

    c = min(max(wanted(a), lowest), 0)
    return BlockScale(power(c) * t, wanted(own) > c)


def _lowest(fmt: Format) -> int:
    """The exponent of code 0; that of the largest code is 0."""
    assert isinstance(fmt.scale, ScaledExponent)
    return 1 - (1 << fmt.scale.bits)


# eXm0


def wanted_exponent(a: Fraction, fmt: Format) -> int:
    """The exponent for this a, however large or small; a is positive."""
    assert isinstance(fmt.scale, PowerOfTwo)
    places = elements.top_exponent(fmt)
    if fmt.scale.mode == "ceil":
        return ceil_log2(a) - places
    if fmt.scale.mode == "rceil":
        return ceil_log2(a / elements.largest(fmt))
    if fmt.scale.mode == "even":
        last = power(floor_log2(a) - elements.mantissa_bits(fmt.elements[0]))
        a = round_exact(a / last, "half_away") * last
    return floor_log2(a) - places


def own_power(a: Fraction, own: Fraction, fmt: Format) -> BlockScale:
    """For an a, of a block that has `own`."""
    scale = fmt.scale
    assert isinstance(scale, PowerOfTwo)
    bias = 2 ** (scale.bits - 1) - 1
    first, last = {"f": (0, 2**scale.bits - 1), "n": (0, 2**scale.bits - 2), "i": (1, 2**scale.bits - 2)}[scale.kind]
    c = min(max(wanted_exponent(a, fmt), first - bias), last - bias) if a else first - bias
    c = max(c, _least_exponent(fmt))
    return BlockScale(power(c), own > 0 and wanted_exponent(own, fmt) > c)


def _least_exponent(fmt: Format) -> int:
    """Least c with 2^c·λ a normal float32."""
    return ceil_log2(LEAST_RESULT / elements.smallest(fmt))


# floats


def bounds(fmt: Format) -> tuple[Fraction, Fraction]:
    """The smallest and the largest scale of a block.

    The smallest is that of the type, or one that makes the smallest result a normal float32.
    """
    assert isinstance(fmt.scale, FloatScale)
    number = fmt.scale.number
    enough = floats.rounded_up(LEAST_RESULT / elements.smallest(fmt), number)
    return max(floats.smallest(number), enough), floats.largest(number)


def second_scale(a: Fraction, fmt: Format) -> Fraction:
    """t, for max|x| of the tensor's finite blocks."""
    least, last = bounds(fmt)
    wanted = floats.rounded(a / (elements.largest(fmt) * last), floats.FLOAT32)
    enough = floats.rounded_up(LEAST_RESULT / (elements.smallest(fmt) * least), floats.FLOAT32)
    return min(max(wanted, enough), floats.largest(floats.FLOAT32))


def float_scale(wanted: Fraction, own: Fraction, fmt: Format) -> BlockScale:
    """For a quotient, of a block that has `own`."""
    assert isinstance(fmt.scale, FloatScale)
    rounding = "up" if fmt.scale.up else "nearest"
    least, last = bounds(fmt)
    step = min(max(floats.rounded(wanted, fmt.scale.number, rounding), least), last)
    return BlockScale(step, floats.rounded(own, fmt.scale.number, rounding) > step)


def scale_of(block: list[float], fmt: Format, shared: int | Fraction | None, given: Range | None) -> BlockScale:
    """Of a finite block.

    Args:
        block: its numbers.
        fmt: the format, of one element that is not "u".
        shared: what `shared_by` gives.
        given: the range that stands for the tensor's own.
    """
    own = counting(block, fmt)
    a = counting_range(given, fmt) if given is not None and isinstance(fmt.geometry, Whole) else own
    if isinstance(fmt.scale, SharedExponent):
        assert isinstance(shared, int)
        return shared_power(block, fmt, shared)
    if isinstance(fmt.scale, ScaledExponent):
        assert isinstance(shared, Fraction)
        return scaled_power(a, own, fmt, shared)
    if isinstance(fmt.scale, PowerOfTwo):
        return own_power(a, own, fmt)
    second = Fraction(1 if shared is None else shared)
    divisor = elements.largest(fmt) * second
    step, low = float_scale(a / divisor, own / divisor, fmt)
    return BlockScale(step * second, low)


def shared_by(blocks: list[list[float]], fmt: Format, given: Range | None) -> int | Fraction | None:
    """What the tensor shares: the bias of `eN`, the second scale, or nothing."""
    if isinstance(fmt.scale, SharedExponent):
        return default_bias(blocks if given is None else [list(given)], fmt)
    if fmt.tensor_bits:
        finite = [counting(block, fmt) for block in blocks if is_finite(block)]
        a = max(finite, default=Fraction(0)) if given is None else counting_range(given, fmt)
        if isinstance(fmt.scale, ScaledExponent):
            return float_shared(a, fmt)
        assert isinstance(fmt.scale, FloatScale)
        return second_scale(a, fmt) if fmt.scale.second == "f32" else unit_of_sums(a, fmt)
    return None


def unit_of_sums(a: Fraction, fmt: Format) -> Fraction:
    """The power of two that all scales of sums are multiplied by."""
    assert isinstance(fmt.scale, FloatScale)
    number = fmt.scale.number
    least = ceil_log2(LEAST_RESULT / floats.smallest(number))
    wanted = floor_log2(a) - floor_log2(floats.largest(number)) if a else least
    return power(min(max(wanted, least), 127))
