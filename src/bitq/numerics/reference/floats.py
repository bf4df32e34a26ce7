"""Small floats: what their codes stand for, and which a number becomes."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import floor

from bitq.formats.elements import Float
from bitq.numerics.reference.exact import floor_log2, goes_away, power

FLOAT32 = Float(8, 23, "i")


def value(number: Float, code: int) -> Fraction:
    """Of a code without its sign; codes beyond the last one go on as if the exponent had more bits."""
    exponent, mantissa = divmod(code, 2**number.mantissa_bits)
    bias = 2 ** (number.exponent_bits - 1) - 1
    part = Fraction(mantissa, 2**number.mantissa_bits)
    return (1 + part) * power(exponent - bias) if exponent else part * power(1 - bias)


@cache
def largest(number: Float) -> Fraction:
    """Of the last code that is a number."""
    codes = 2 ** (number.exponent_bits + number.mantissa_bits)
    not_numbers = {"f": 0, "n": 1, "i": 2**number.mantissa_bits}[number.kind]
    return value(number, codes - not_numbers - 1)


@cache
def smallest(number: Float) -> Fraction:
    """The smallest positive number."""
    return value(number, 1)


def code_below(number: Float, size: Fraction) -> int:
    """The largest code whose value is at most `size`, which is not negative."""
    least = 2 - (1 << (number.exponent_bits - 1))  # exponent of the smallest normal number and of all below it
    exponent = max(floor_log2(size), least) if size else least
    return ((exponent - least) << number.mantissa_bits) + floor(size / power(exponent - number.mantissa_bits))


def rounded(size: Fraction, number: Float, rounding: str = "nearest", uniform: float = 0.5) -> Fraction:
    """`size`, which is not negative, as a float without a largest one."""
    code = code_below(number, size)
    below, above = value(number, code), value(number, code + 1)
    away = goes_away((size - below) / (above - below), code % 2 == 0, rounding, uniform)
    return above if away else below


def rounded_up(size: Fraction, number: Float) -> Fraction:
    """The smallest float that is at least `size`."""
    return rounded(size, number, "up")
