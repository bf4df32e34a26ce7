"""Unsigned integers with a zero point per block."""

from __future__ import annotations

from fractions import Fraction

from bitq.formats.blocking import Whole
from bitq.formats.elements import Integer
from bitq.formats.format import Format
from bitq.numerics.reference.elements import most
from bitq.numerics.reference.exact import round_exact
from bitq.numerics.reference.scales import Range, float_scale


def quantize_block(
    block: list[float], fmt: Format, given: Range | None, rounding: str, uniforms: list[float]
) -> tuple[list[Fraction], list[bool]]:
    """Values of a finite block, and which pass no gradient: beyond the range by which they saturate."""
    element, xs = fmt.elements[0], [Fraction(x) for x in block]
    assert isinstance(element, Integer)
    low, high = min(*xs, Fraction(0)), max(*xs, Fraction(0))
    if given is not None and isinstance(fmt.geometry, Whole):
        low, high = Fraction(min(given[0], 0.0)), Fraction(max(given[1], 0.0))
    last = most(element)
    quotient = (high - low) / last
    step, limited = float_scale(quotient, quotient, fmt)
    zero = min(round_exact(-low / step, "nearest"), last)
    codes = [round_exact(x / step, rounding, u) + zero for x, u in zip(xs, uniforms, strict=True)]
    within = [min(max(q, 0), last) for q in codes]
    stopped = [q != w and (limited or not low <= x <= high) for q, w, x in zip(codes, within, xs, strict=True)]
    return [(q - zero) * step for q in within], stopped
