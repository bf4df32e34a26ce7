"""What float32 holds, in which every result of a format lies."""

from __future__ import annotations

from math import frexp

LARGEST = 2.0**128 - 2.0**104
"""The largest number."""

LEAST_NORMAL = 2.0**-126
"""The smallest normal number; under a scale no result but 0 lies below it."""


def floor_log2(value: float) -> int:
    """The largest e with 2^e <= value, which is positive."""
    return frexp(value)[1] - 1
