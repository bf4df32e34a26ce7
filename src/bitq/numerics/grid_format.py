"""A recipe as kernels take it: the numbers of the struct `bitq_format` in kernel.h, which says what they mean."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from bitq.formats import ROUNDINGS, Format
from bitq.formats.blocking import Whole
from bitq.formats.elements import Float, Integer
from bitq.formats.float32 import floor_log2
from bitq.formats.scales import FloatScale, PowerOfTwo, ScaledExponent, SharedExponent
from bitq.numerics.general import FLOAT32, precision
from bitq.numerics.recipe import Recipe, magnitude

MOST_DIGITS = 23
"""Of a whole number with its sign, for which roundings in float32 are exact."""


class Described(NamedTuple):
    """What kernels are told of a format.

    Attributes:
        fields: of `bitq_format`, by their names.
        can_clip: whether an element may pass no gradient.
    """

    fields: dict[str, float]
    can_clip: bool


@lru_cache(4096)
def described(recipe: Recipe) -> Described | None:
    """None of what is not one element under one scale: sums and plain floats."""
    fmt = recipe.format
    element, scale = fmt.elements[0], fmt.scale
    if len(fmt.elements) > 1 or scale is None:
        return None
    fields: dict[str, float] = {
        "never_negative": fmt.never_negative,
        "rounding": ROUNDINGS.index(recipe.rounding),
        "whole": isinstance(fmt.geometry, Whole),
        "magnitude": -1.0 if recipe.tensor_range is None else abs(magnitude(recipe.tensor_range, fmt)),  # not -0.0
    }
    if isinstance(element, Integer):
        fields |= {"most": element.most, "least": 1, "mantissa": MOST_DIGITS, "bits": element.most.bit_length()}
        unit = floor_log2(element.unit(fmt.power_of_two))
    elif isinstance(element, Float):
        digits = element.mantissa_bits
        fields |= {"most": element.largest(), "least": element.smallest(), "mantissa": digits, "bits": digits + 1}
        unit = 0
    else:  # of a table, the ends
        fields |= {"most": fmt.largest, "least": fmt.smallest, "mantissa": 0, "bits": 0}
        unit = 0
    if isinstance(scale, ScaledExponent):
        found = _under_scaled(fmt, scale)
    else:
        found = _under_float(recipe, scale) if isinstance(scale, FloatScale) else _under_power(recipe, unit)
    return Described(fields | found.fields, found.can_clip or fmt.never_negative or recipe.tensor_range is not None)


def _under_power(recipe: Recipe, unit: int) -> Described:
    """`unit`: floor(log2) of what k = 1 stands for under a scale of 1."""
    fmt, places = recipe.format, recipe.format.top_exponent
    element, scale = fmt.elements[0], fmt.scale
    floor = -126 - floor_log2(fmt.smallest) + places
    fields: dict[str, float] = {"floor": floor, "to_unit": unit - places}
    if isinstance(scale, SharedExponent):
        bias, top = recipe.exponent_bias, scale.top_code
        fields |= {"uniform": isinstance(element, Integer), "top_code": top, "has_bias": bias is not None}
        if bias is None:
            return Described(fields, False)
        return Described(fields | {"lowest": bias, "highest": bias + top}, bias + top < 127)
    assert isinstance(scale, PowerOfTwo)
    lowest, highest = (exponent + places for exponent in scale.exponents)
    bump = (1 << 23) - _least_fraction(fmt.largest, places, precision(element), scale.mode)
    fields |= {"uniform": isinstance(element, Integer) and not bump, "has_bias": True, "bump": bump}
    return Described(fields | {"lowest": lowest, "highest": highest}, highest < 127 + (bump > 0))


def _least_fraction(largest: float, places: int, digits: int, mode: str) -> int:
    """The bits of a float32 below its leading one from which on its exponent counts as one more; 2^23: from none on."""
    if mode == "floor":
        return 1 << 23
    if mode == "even":
        return (1 << 23) - (1 << 22 >> digits)
    over = Fraction(largest) / Fraction(2) ** places - 1 if mode == "rceil" else Fraction(0)
    return int(over * (1 << 23)) + 1


def _under_float(recipe: Recipe, scale: FloatScale) -> Described:
    fmt, number = recipe.format, scale.number
    smallest, largest = scale.reach(fmt.smallest)
    fields: dict[str, float] = {
        "is_float": True,
        "smallest": smallest,
        "largest": largest,
        "scale_least": number.smallest(),
        "digits": number.mantissa_bits,
        "up": scale.up,
        "least_second": FLOAT32.reach(fmt.smallest * smallest)[0] if scale.second else 0.0,
    }
    return Described(fields, True)


def _under_scaled(fmt: Format, scale: ScaledExponent) -> Described:
    """Floats without a mantissa, that are rounded down."""
    smallest, largest = scale.reach
    fields: dict[str, float] = {
        "is_float": True,
        "smallest": smallest,
        "largest": largest,
        "scale_least": smallest,
        "digits": 0,
        "up": -1,
        "least_second": FLOAT32.reach(fmt.smallest * smallest)[0],
    }
    return Described(fields, False)
