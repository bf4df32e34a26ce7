"""Rational numbers, their logarithms and their roundings."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import floor

HALF = Fraction(1, 2)


@cache
def power(exponent: int) -> Fraction:
    """2^exponent."""
    return Fraction(2) ** exponent


def floor_log2(value: Fraction) -> int:
    """Largest e with 2^e <= value, for a positive value."""
    e = value.numerator.bit_length() - value.denominator.bit_length()
    return e if power(e) <= value else e - 1


def ceil_log2(value: Fraction) -> int:
    """Least e with 2^e >= value, for a positive value."""
    e = floor_log2(value)
    return e if power(e) == value else e + 1


def goes_away(part: Fraction, even: bool, rounding: str, uniform: float) -> bool:
    """Whether a number between two others becomes the one farther from 0.

    Args:
        part: where it lies: 0 at the one nearer to 0, 1 at the other.
        even: whether the code of the one nearer to 0 is even.
        rounding: one of `ROUNDINGS`, or "up".
        uniform: in (0, 1), decides the stochastic one.
    """
    if rounding == "nearest":
        return part > HALF or (part == HALF and not even)
    if rounding == "half_away":
        return part >= HALF
    if rounding == "stochastic":
        return Fraction(uniform) < part
    return part > 0 if rounding == "up" else False


def round_exact(value: Fraction, rounding: str, uniform: float = 0.5) -> int:
    """`value` as a whole number."""
    below = floor(abs(value))
    size = below + goes_away(abs(value) - below, below % 2 == 0, rounding, uniform)
    return size if value > 0 else -size
