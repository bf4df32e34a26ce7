"""Blocks of summed integers, each with a scale of its own: all pairs of scales are tried.

Several pairs may be equally good, so it is the squared error that another implementation has to reach, not these bits.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from math import lcm

from bitq.formats.elements import Integer
from bitq.formats.format import Format
from bitq.formats.scales import FloatScale
from bitq.numerics.reference import floats

ScalePair = tuple[int, int]


def step(fmt: Format, unit: Fraction) -> Fraction:
    """What scales are multiples of, if the tensor shares `unit`."""
    assert isinstance(fmt.scale, FloatScale)
    return unit * floats.smallest(fmt.scale.number)


def pairs(fmt: Format) -> Iterator[ScalePair]:
    """All pairs of scales, in steps: |s1| >= |s2|."""
    assert isinstance(fmt.scale, FloatScale)
    number = fmt.scale.number
    codes = range(floats.code_below(number, floats.largest(number)) + 1)
    sizes = [int(floats.value(number, code) / floats.smallest(number)) for code in codes]
    scales = [*sizes, *(-size for size in sizes if size)]
    return ((a, b) for a, b in product(scales, scales) if abs(b) <= abs(a))


def sums(pair: ScalePair, fmt: Format) -> list[int]:
    """What elements under a pair of scales can be, in steps, ascending."""
    first, second = fmt.elements
    return sorted({pair[0] * a + pair[1] * b for a, b in product(_all_codes(first), _all_codes(second))})


def _all_codes(element: object) -> range:
    """Two's complement, the lowest too."""
    assert isinstance(element, Integer)
    return range(-(2 ** (element.bits - 1)), 2 ** (element.bits - 1))


def nearest(x: Fraction, ascending: list[int]) -> int:
    """The entry next to x; the lower one of two."""
    at = bisect_left(ascending, x)
    return min(ascending[max(at - 1, 0) : at + 1], key=lambda value: abs(value - x))


def squared_error(block: list[float], pair: ScalePair, fmt: Format, unit: Fraction) -> Fraction:
    """Of a block under a pair of scales."""
    table, each = sums(pair, fmt), step(fmt, unit)
    errors = (Fraction(x) - nearest(Fraction(x) / each, table) * each for x in block)
    return sum((error**2 for error in errors), Fraction(0))


def best(block: list[float], fmt: Format, unit: Fraction) -> ScalePair:
    """The pair of scales of least squared error.

    Args:
        block: finite numbers.
        fmt: of two elements.
        unit: what the tensor shares.
    """
    exact = [Fraction(x) / step(fmt, unit) for x in block]
    finer = lcm(*(x.denominator for x in exact))  # Python counts whole numbers faster than rational ones
    whole = [int(x * finer) for x in exact]
    found, least = (0, 0), sum(x * x for x in whole)
    for pair in pairs(fmt):
        table, error = [finer * value for value in sums(pair, fmt)], 0
        for x in whole:
            at = bisect_left(table, x)
            error += min(abs(value - x) for value in table[max(at - 1, 0) : at + 1]) ** 2
            if error >= least:
                break
        else:
            found, least = pair, error
    return found


def quantize_block(block: list[float], fmt: Format, unit: Fraction) -> list[Fraction]:
    """Values of a finite block under the best pair."""
    each = step(fmt, unit)
    table = sums(best(block, fmt, unit), fmt)
    return [nearest(Fraction(x) / each, table) * each for x in block]
