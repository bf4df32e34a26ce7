"""Arithmetic of float64 that loses nothing which a coarser rounding after it would ask for.

What needs more digits than there are is rounded to odd: cut off, with the last bit set where something was left. That
is never the tie of a coarser rounding that follows, so it comes out as that of the exact number would.
"""

from __future__ import annotations

import torch
from torch import Tensor


def whole(k: Tensor, rounding: str, draws: Tensor | None) -> Tensor:
    """Magnitudes as whole numbers."""
    if rounding == "nearest":
        return k.round()
    if rounding == "up":
        return k.ceil()
    below = k.floor()
    if rounding == "half_away":
        return below + (k - below >= 0.5)
    return below if draws is None else below + (draws.double() < k - below)


def exponents_of(size: Tensor) -> Tensor:
    """floor(log2) of normal float64 magnitudes, which all float32 numbers are; -1023 of 0."""
    return (size.view(torch.int64) >> 52) - 1023


def powers(exponents: Tensor) -> Tensor:
    """2^exponents, -1022..1023."""
    return ((exponents + 1023) << 52).view(torch.float64)


def product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a·b and what it lacks (Dekker, 1971), for a b of at most 48 bits."""
    nearest = a * b
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    return nearest, a_low * b_low - (((nearest - a_high * b_high) - a_low * b_high) - a_high * b_low)


def _halves(a: Tensor) -> tuple[Tensor, Tensor]:
    high = (a.view(torch.int64) & -(1 << 27)).view(torch.float64)
    return high, a - high


def quotient(a: Tensor, b: Tensor) -> Tensor:
    """a/b of positive numbers, or of 0, rounded to odd; b has at most 48 bits, a as many as float64."""
    q = a / b
    nearest, error = product(q, b)
    left = a - nearest
    return odd(q, left < error, left != error)


def total(a: Tensor, b: Tensor) -> Tensor:
    """a + b of numbers that are not negative, rounded to odd."""
    nearest = a + b
    second = nearest - a
    error = (a - (nearest - second)) + (b - second)
    return odd(nearest, error < 0, error != 0)


def odd(size: Tensor, larger: Tensor, inexact: Tensor) -> Tensor:
    """Positive numbers, rounded to nearest, as rounded to odd: `larger` ones than the exact number, `inexact` ones."""
    return ((size.view(torch.int64) - larger.long()) | inexact.long()).view(torch.float64)
