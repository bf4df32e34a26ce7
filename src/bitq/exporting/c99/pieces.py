"""Functions of one number as cubic polynomials between knots, in whole numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import frexp

import numpy as np

from bitq.exporting.c99.fixed_point import IntArray, Reals

PLACE_BITS = 24
"""Of a place between two knots."""

ERROR = 2.0**-20
"""That the polynomials may have, times what the largest value exceeds 1 by, if it does."""

LEAST_WIDTH = -7
"""Of pieces: 2^-7."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """A function between two whole numbers, with what it is below and above.

    Attributes:
        table: int32 [pieces + 2, 4]; of each piece the coefficients of a polynomial in the place 0..1 within it, from
            the constant one on, in steps of 2^unit; the first and the last are for what lies outside.
        low: where the first piece begins.
        width: exponent of the pieces' width.
        unit: exponent.
        error: the largest that was met between the knots.
    """

    table: IntArray
    low: int
    width: int
    unit: int
    error: float

    @property
    def begin(self) -> int:
        """Where the first piece begins, as `places` of `at` count."""
        return self.low << (PLACE_BITS - self.width)

    def at(self, places: IntArray) -> IntArray:
        """Values in steps of 2^unit, at places from the begin, in 2^-24 of a piece."""
        where = np.clip(places, -1, (len(self.table) - 2) << PLACE_BITS)
        own, place = self.table[(where >> PLACE_BITS) + 1], where & ((1 << PLACE_BITS) - 1)
        found: IntArray = own[..., 3]
        for power in (2, 1, 0):
            found = own[..., power] + ((found * place) >> PLACE_BITS)
        return found


def pieces_of(function: Callable[[Reals], Reals], low: int, high: int) -> Pieces:
    """A function of float64 numbers, in the widest pieces that keep the error small.

    Args:
        function: smooth but at whole numbers.
        low, high: whole numbers, at and beyond which it is a constant, all but `ERROR`.
    """
    largest = float(np.abs(function(np.linspace(low, high, 1 + 64 * (high - low)))).max())
    unit = frexp(max(largest, 2.0**-20))[1] - 30
    ends = np.zeros((2, 4))
    ends[:, 0] = function(np.array([low, high], np.float64))
    for width in range(0, LEAST_WIDTH - 1, -1):
        own, error = _fitted(function, low, high, 2.0**width)
        if error <= ERROR * max(largest, 1):
            break
    table = np.rint(np.ldexp(np.concatenate([ends[:1], own, ends[1:]]), -unit)).astype(np.int64)
    assert np.abs(table).max() < 1 << 31
    return Pieces(table, low, width, unit, error)


def _fitted(function: Callable[[Reals], Reals], low: int, high: int, width: float) -> tuple[Reals, float]:
    """Polynomials through the function at Chebyshev's places of every piece, and how far they are off."""
    knots = low + width * np.arange(round((high - low) / width))
    nodes = (1 - np.cos((2 * np.arange(4) + 1) * np.pi / 8)) / 2
    dense = np.linspace(1e-9, 1 - 1e-9, 65)
    values = function(knots[:, None] + width * nodes)
    found = np.asarray(np.linalg.solve(np.vander(nodes, increasing=True), values.T).T, np.float64)
    made = found @ np.vander(dense, 4, increasing=True).T
    return found, float(np.abs(made - function(knots[:, None] + width * dense)).max())
