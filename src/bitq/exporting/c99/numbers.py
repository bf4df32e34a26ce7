"""Numbers in memory as integers: k·2^(lowest + code)·scale, with one code for each block of channels.

All arithmetic of exported C is defined here and in `steps`, and computed by `integers` and by the C alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import frexp, ldexp

from bitq.errors import BitqError
from bitq.exporting.whole_numbers import calibrated_step
from bitq.formats.blocking import Along, Channel, Whole
from bitq.formats.elements import Integer
from bitq.formats.scales import FloatScale, PowerOfTwo, ScaledExponent, SharedExponent
from bitq.numerics import general
from bitq.numerics.recipe import Recipe

UNDER_A_FLOAT = "whose blocks have exponents under a float; give eN in place of eN*f32"
"""Why formats `eN*f32` are refused."""

MOST_CODE = 31
"""Largest code of an exponent in memory. Where a format has more, the lowest are left out: 2^-31 of the largest."""

BEYOND = 2
"""By what power of two a format with exponents of its own reaches beyond what calibration met."""

_BYTES = ("int8_t", "uint8_t")

WIDE_BITS = 32
"""That numbers without a format are stored in: m of 26 above s of 6, which stand for m·2^s."""


def _ctype(least: int, most: int) -> str:
    for name, low, high in (("int8_t", -128, 127), ("uint8_t", 0, 255), ("int16_t", -32768, 32767)):
        if low <= least and most <= high:
            return name
    return "int64_t"


class NotIntegersError(BitqError):
    """A format or operator that the integers of exported C do not express; says why, as "which …" or "whose …"."""


@dataclass(frozen=True)
class Numbers:
    """What integers in memory stand for.

    Attributes:
        low, high: of k.
        lowest: exponent of a step of code 0.
        top: largest code; 0: none is stored.
        block: channels that share a code.
        scale: that all share.
    """

    low: int
    high: int
    lowest: int
    top: int
    block: int
    scale: float = 1.0

    @property
    def most(self) -> int:
        """Largest |k|."""
        return max(-self.low, self.high)

    @property
    def highest(self) -> int:
        """Exponent of the largest step."""
        return self.lowest + self.top

    @property
    def ctype(self) -> str:
        """The type in C that holds k."""
        return _ctype(self.low, self.high)

    @property
    def wide(self) -> bool:
        """Whether they are of no format, but fixed-point numbers as they come."""
        return self.ctype == "int64_t"

    @property
    def bits(self) -> int:
        """That a k is stored in: its lowest, which tell it within `low` and `high`; of wide ones `WIDE_BITS`."""
        return WIDE_BITS if self.wide else (self.high - self.low).bit_length()

    @property
    def code_bits(self) -> int:
        """That the code of a block is stored in."""
        return self.top.bit_length()

    @property
    def magnitude_bits(self) -> int:
        """Of the largest k of a format with blocks, which is 2^bits - 1."""
        return self.high.bit_length()

    def as_read(self) -> Numbers:
        """What layers read: k·2^code without codes, where that takes 8 bits; else k and codes as they are."""
        whole = self.without_codes()
        return whole if self.top and whole.ctype in _BYTES else self

    def without_codes(self) -> Numbers:
        """k·2^code as one whole number."""
        return replace(self, low=self.low << self.top, high=self.high << self.top, top=0)

    def bound(self) -> float:
        """The largest magnitude that they stand for."""
        return ldexp(self.most * self.scale, self.highest)


def numbers_of(recipe: Recipe, channels: int, largest: float | None) -> Numbers:
    """An activation's format.

    Args:
        recipe: of its quantization.
        channels: of the activation.
        largest: magnitude that calibration met, of formats that do not fix their exponents.

    Raises:
        NotIntegersError: a format that this cannot express.
    """
    fmt, element = recipe.format, recipe.format.elements[0]
    if len(fmt.elements) > 1 or not isinstance(element, Integer):
        raise NotIntegersError("whose elements are no integers; block floating point, mxint8 or int8-tensor are")
    if recipe.rounding != "nearest":
        raise NotIntegersError(f"which rounds {recipe.rounding.replace('_', ' ')}; nearest is what the C does")
    if element.bits > 15:
        raise NotIntegersError("whose elements have more than 15 bits")
    if isinstance(fmt.scale, ScaledExponent):
        raise NotIntegersError(UNDER_A_FLOAT)
    if isinstance(fmt.scale, FloatScale):
        return _constant(recipe, channels)
    if isinstance(fmt.geometry, Along) and fmt.geometry.patch is None:
        block = min(fmt.geometry.size, channels)
    elif isinstance(fmt.geometry, Channel):
        block = channels
    else:
        raise NotIntegersError("whose blocks do not lie along channels alone")
    lowest, highest = _reach(recipe, largest)
    lowest = max(lowest, general.least_exponent(fmt), highest - MOST_CODE)
    unit = 1 + element.signed - element.bits
    least = -element.most if element.signed else 0
    return Numbers(least, element.most, lowest + unit, max(highest - lowest, 0), block)


def _reach(recipe: Recipe, largest: float | None) -> tuple[int, int]:
    """The least and the largest exponent of a block."""
    scale = recipe.format.scale
    if isinstance(scale, SharedExponent):
        if recipe.exponent_bias is None:
            raise NotIntegersError("whose exponent bias is not known before; calibrate the network")
        return recipe.exponent_bias, recipe.exponent_bias + scale.top_code
    assert isinstance(scale, PowerOfTwo)
    if scale.mode != "floor":
        raise NotIntegersError("whose exponents are rounded up; .floor is what the C does")
    if not largest:
        raise NotIntegersError("whose exponents are bounded by calibration alone; calibrate the network")
    low, high = scale.exponents
    return low, max(low, min(high, frexp(largest)[1] - 1 + BEYOND))


def _constant(recipe: Recipe, channels: int) -> Numbers:
    """Integers with one float scale, known before."""
    fmt, element = recipe.format, recipe.format.elements[0]
    assert isinstance(element, Integer)
    if recipe.tensor_range is None or not isinstance(fmt.geometry, Whole):
        raise NotIntegersError("whose float scales are found as the network runs; int8-tensor's are known before")
    step, point = calibrated_step(recipe)
    zero, least = int(point or 0), -element.most if element.signed else 0
    if not 2.0**-30 <= step <= 2.0**30:
        raise NotIntegersError(f"whose scale is {step:.2g}; the C takes those of 2^-30..2^30")
    return Numbers(least - zero, element.most - zero, 0, 0, channels, step)
