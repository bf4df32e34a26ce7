"""Exact arithmetic on a GPU: quotients that lose nothing, and rounding to a grid by comparison, not by a quotient.

The first are those of doubles.py. None of it may be fused: kernels that use it are compiled without `enable_fp_fusion`.
"""

from __future__ import annotations

import triton
import triton.language as tl

# quotients, of float64


@triton.jit
def power(exponent):
    """2^exponent, -1022..1023."""
    return ((exponent.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)


@triton.jit
def quotient(a, b):
    """a/b of positive numbers, or of 0, rounded to odd; b has at most 48 bits."""
    near = a / b
    left = near * b
    rest, error = a - left, _lacking(left, near, b)
    return _odd(near, rest < error, rest != error)


@triton.jit
def product(a, b):
    """a*b of numbers that are not negative, rounded to odd; b has at most 48 bits."""
    near = a * b
    error = _lacking(near, a, b)
    return _odd(near, error < 0, error != 0)


@triton.jit
def total(a, b):
    """a + b of numbers that are not negative, rounded to odd."""
    near = a + b
    second = near - a
    error = (a - (near - second)) + (b - second)
    return _odd(near, error < 0, error != 0)


@triton.jit
def _lacking(near, a, b):
    """What a*b is more than it is rounded to (Dekker, 1971)."""
    a_high, b_high = _high(a), _high(b)
    a_low, b_low = a - a_high, b - b_high
    return a_low * b_low - (((near - a_high * b_high) - a_low * b_high) - a_high * b_low)


@triton.jit
def _high(a):
    return (a.to(tl.int64, bitcast=True) & -134217728).to(tl.float64, bitcast=True)  # without 27 bits


@triton.jit
def _odd(size, larger, inexact):
    bits = size.to(tl.int64, bitcast=True) - larger.to(tl.int64)
    return (bits | inexact.to(tl.int64)).to(tl.float64, bitcast=True)


@triton.jit
def integer(number):
    """An argument that is a whole number in float32."""
    return tl.full([1], number, tl.float32).to(tl.int32)


@triton.jit
def scale_of(wanted, digits, least_exponent, up):
    """A float with so many bits below its leading one, next to or, if `up`, not below a float64; int32 arguments."""
    exponent = ((wanted.to(tl.int64, bitcast=True) >> 52) - 1023).to(tl.int32)
    exponent = tl.maximum(exponent, least_exponent)
    k = wanted * power(digits - exponent)
    whole = (k + 6755399441055744.0) - 6755399441055744.0
    whole = tl.where((up > 0) & (whole < k), whole + 1.0, whole)
    return whole * power(exponent - digits)


# grids, of float32 or float64
#
# A grid has the multiples of `least` and, from `least` / `fine` on, floats whose last digit is worth `fine` times their
# leading one. Whole numbers are such a grid that ends before its floats begin.


@triton.jit
def on_grid(size, k, step, least, fine, draws, ROUNDING: tl.constexpr, EXACT: tl.constexpr, BARE: tl.constexpr):
    """`size` / `step` on a grid that has no end. Neither is negative.

    k is the quotient if it is `EXACT`, else at most that and less by no more than 2^-24 of a distance of the grid. It
    only tells two neighbours, below 2^22 distances: which of them it is, tells how much `size` is above the lower one,
    in float64 without an error. `BARE`: of floats without mantissa, codes and so ties are even as their exponents are.
    """
    spacing = tl.maximum(_leading(k) * fine, least).to(k.dtype)
    shift = spacing * _shift(k)
    even = (k + shift) - shift
    if EXACT and ROUNDING == 0 and not BARE:
        found = even
    else:
        below = tl.where(even > k, even - spacing, even)
        if EXACT:
            left, distance = k - below, spacing
        else:
            left, distance = size - below * step, spacing * step
        if ROUNDING == 0:
            if BARE:
                odd = (below > 0) & (_exponent(below) % 2 == _exponent(least + k * 0) % 2)
            else:
                odd = ((below + 2 * shift) - 2 * shift) != below
            up = (left > 0.5 * distance) | ((left == 0.5 * distance) & odd)
        elif ROUNDING == 1:
            up = left >= 0.5 * distance
        elif ROUNDING == 2:
            up = left >= distance
        else:
            up = left > draws * distance
        found = tl.where(up, below + spacing, below)
    return found


@triton.jit
def _leading(k):
    """2^floor(log2 k), 0 of 0 and of subnormal numbers."""
    if k.dtype == tl.float64:
        bits = k.to(tl.int64, bitcast=True) & 0x7FF0000000000000
    else:
        bits = k.to(tl.int32, bitcast=True) & 0x7F800000
    return bits.to(k.dtype, bitcast=True)


@triton.jit
def _exponent(k):
    """floor(log2 k) of a normal number, more by an even number."""
    return k.to(tl.int64, bitcast=True) >> 52 if k.dtype == tl.float64 else k.to(tl.int32, bitcast=True) >> 23


@triton.jit
def _shift(k):
    """Added to numbers below a third of it, it rounds them to whole ones."""
    return 6755399441055744.0 if k.dtype == tl.float64 else 12582912.0
