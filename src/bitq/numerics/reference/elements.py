"""What elements stand for, and which a quotient by the scale becomes."""

from __future__ import annotations

from fractions import Fraction
from functools import cache

from bitq.formats.elements import Element, Float, Integer, Levels
from bitq.formats.format import Format
from bitq.numerics.reference import floats
from bitq.numerics.reference.exact import floor_log2, goes_away, power, round_exact


def never_negative(fmt: Format) -> bool:
    """Whether negative numbers count as 0."""
    element = fmt.elements[0]
    return isinstance(element, Integer) and element.kind == "n"


def most(element: Integer) -> int:
    """Largest k."""
    return (1 << (element.bits - (element.kind in ("s", "i")))) - 1


def unit(element: Element, power_of_two: bool) -> Fraction:
    """What k = 1 of an integer stands for."""
    assert isinstance(element, Integer)
    if not power_of_two:
        return Fraction(1)
    return power(1 - element.bits) if element.kind == "n" else power(2 - element.bits)


@cache
def largest(fmt: Format) -> Fraction:
    """M."""
    element = fmt.elements[0]
    if isinstance(element, Integer):
        return most(element) * unit(element, fmt.power_of_two)
    if isinstance(element, Float):
        return floats.largest(element)
    return max(abs(Fraction(level)) for level in _levels(element))


@cache
def smallest(fmt: Format) -> Fraction:
    """λ."""
    element = fmt.elements[0]
    if isinstance(element, Integer):
        return unit(element, fmt.power_of_two)
    if isinstance(element, Float):
        return floats.smallest(element)
    return min(abs(Fraction(level)) for level in _levels(element) if level)


def top_exponent(fmt: Format) -> int:
    """P."""
    return floor_log2(largest(fmt))


def mantissa_bits(element: Element) -> int:
    """Bits of the largest number below its leading one: those that the scale's mode "even" rounds to; 0 for levels."""
    if isinstance(element, Integer):
        return most(element).bit_length() - 1
    return element.mantissa_bits if isinstance(element, Float) else 0


def round_element(q: Fraction, fmt: Format, rounding: str, uniform: float) -> tuple[Fraction, bool]:
    """The element that a quotient becomes, and whether it was rounded beyond the largest one."""
    element = fmt.elements[0]
    if isinstance(element, Levels):
        return _round_level(q, _levels(element), rounding, uniform)
    if never_negative(fmt):
        q = max(q, Fraction(0))
    if isinstance(element, Integer):
        step = unit(element, fmt.power_of_two)
        found = round_exact(q / step, rounding, uniform) * step
    else:
        assert isinstance(element, Float)
        size = floats.rounded(abs(q), element, rounding, uniform)
        found = size if q > 0 else -size
    limit = largest(fmt)
    return min(max(found, -limit), limit), abs(found) > limit


def _levels(element: Element) -> list[Fraction]:
    assert isinstance(element, Levels)
    return [Fraction(level) for level in element.values]


def _round_level(q: Fraction, levels: list[Fraction], rounding: str, uniform: float) -> tuple[Fraction, bool]:
    if not levels[0] <= q <= levels[-1]:
        return (levels[0] if q < 0 else levels[-1]), True
    if q in levels:
        return q, False
    above = next(index for index, level in enumerate(levels) if level > q)
    inner, outer = (above - 1, above) if q > 0 else (above, above - 1)
    part = (q - levels[inner]) / (levels[outer] - levels[inner])
    return levels[outer if goes_away(part, inner % 2 == 0, rounding, uniform) else inner], False
