"""How whole numbers are rounded, as exported C does it, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
Reals = NDArray[np.float64]


def rounded(z: IntArray, shifts: IntArray, most: int) -> IntArray:
    """z·2^-shift to nearest, ties to even; what is beyond `most` by far is only told to be beyond it."""
    right = np.clip(shifts, 0, 62)
    tie = np.where(right > 0, (np.int64(1) << np.maximum(right - 1, 0)) - 1 + ((z >> right) & 1), 0)
    down = (z + tie) >> right
    left = np.clip(-shifts, 0, 31)
    near = np.clip(z, -most - 1, most + 1)
    found: IntArray = np.where(shifts > 62, 0, np.where(shifts >= 0, down, near << left))
    return found


def scaled(z: IntArray, gain: Any, shift: Any) -> IntArray:
    """round(z·gain·2^-shift), halves up, for a shift of 33..95."""
    high, low = (z >> 32) * gain, (z & 0xFFFFFFFF) * gain
    found: IntArray = (high + (low >> 32) + (np.int64(1) << (np.asarray(shift, np.int64) - 33))) >> (
        np.asarray(shift, np.int64) - 32
    )
    return found


def top_bit(size: IntArray) -> IntArray:
    """floor(log2) of whole numbers from 0 to 2^62; -63 of 0."""
    high, low = size >> 31, size & 0x7FFFFFFF
    found = np.where(high > 0, np.frexp(high.astype(np.float64))[1] + 30, np.frexp(low.astype(np.float64))[1] - 1)
    return np.where(size > 0, found, -63).astype(np.int64)


def wide(z: IntArray) -> IntArray:
    """What is left of numbers that are stored without a format: 25 bits, rounded to nearest, ties to even."""
    drop = np.maximum(top_bit(np.abs(z)) - 24, 0)
    return rounded(z, drop, 1 << 25) << drop
