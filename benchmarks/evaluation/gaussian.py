"""Plans for networks whose weights cannot be had: every tensor is taken for one of independent normal numbers.

A tensor's perturbation is then the share of its power that a format loses. As in a search before anything was measured,
scores are powers of perturbations, add up, and a prior curve tells what accuracy they cost. Movement is exact where it
is told; to choose, it is taken for linear in the widths, between the narrowest and the widest formats of a grid. So
such a plan depends on shapes alone, and says nothing of what a trained network would lose.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from bitq.accuracy.sensitivity import probed
from bitq.accuracy.sensitivity import scores as scores_of
from bitq.formats import TENSORS, Format, TensorFormats
from bitq.layers import Layer
from bitq.movement.levels import movement_many
from bitq.movement.widths import Widths, widths
from bitq.numerics import quantize
from bitq.tradeoff.allocate import FrontPoint
from bitq.tradeoff.predict import RECOVERED, Curve
from bitq.tradeoff.space import Choices, Space

ROWS, LONGEST, WINDOW = 256, 192, 9
"""Numbers are drawn for so many rows of at most so many channels, with at most so many taps."""

PRICES = (0.0, *(2.0 ** np.arange(-20, 10)))
"""Sums of scores that moving all there is to move, in the widest formats, is worth."""

NARROWEST, WIDEST = 0, 1
"""Places of the two formats that a space for `front` has."""


def ends(formats: Sequence[Format]) -> tuple[Format, Format]:
    """The narrowest and the widest of a grid for tensors of any shape: of those of equal width in blocks of one, the
    one with the most mantissa is the widest where a kernel window lies in each block."""

    def width(fmt: Format) -> tuple[float, int]:
        return fmt.mantissa_bits + fmt.exponent_bits / fmt.block_size, fmt.mantissa_bits

    return min(formats, key=width), max(formats, key=width)


def front(space: Space, formats: Sequence[Format]) -> tuple[FrontPoint, ...]:
    """Plans for all `PRICES`, from the most movement on; their choices are places in `formats`, their movement is
    estimated.

    Args:
        space: of the `ends` of these formats.
        formats: that each tensor of each layer chooses from.
    """
    tables = [_Table.of(space, module, tuple(formats)) for module in range(len(space.modules))]
    fixed = float(space.fixed_bits.sum())
    points = []
    for price in PRICES:
        places = [table.best(price / space.movement_max) for table in tables]
        lost = sum(table.at(table.scores, own) for table, own in zip(tables, places, strict=True))
        bits = fixed + sum(table.at(table.bits, own) for table, own in zip(tables, places, strict=True))
        points.append(FrontPoint(tuple(places), lost, bits, price))
    return tuple(points)


def least_objective(points: Sequence[FrontPoint], alpha: float, movement_max: float) -> Choices:
    """Of a front the plan of least predicted O."""
    curve = Curve()
    return min(points, key=lambda each: curve.lost(each.lost) + alpha * each.movement_bits / movement_max).choices


def level_bits(space: Space, formats: Sequence[Format], choices: Choices) -> np.ndarray:
    """Array (boundaries,): what a plan moves, exactly, outermost first, in bits."""

    @cache
    def moved(layer: Layer, own: TensorFormats) -> np.ndarray:
        q = widths(layer, own)
        return movement_many(layer, [[q.input, q.weight, q.output]], space.device)[0]

    found = space.fixed_bits
    for layers, (i, w, o) in zip(space.layers, choices, strict=True):
        own = TensorFormats(formats[i], formats[w], formats[o])
        found = found + sum(moved(layer.unnamed, own) for layer in layers)
    return found


class _Table:
    """Of one module, arrays (tensors, formats): scores, and the bits that its movement is estimated at."""

    def __init__(self, scores: np.ndarray, bits: np.ndarray) -> None:
        self.scores, self.bits = scores, bits

    @classmethod
    def of(cls, space: Space, module: int, formats: tuple[Format, ...]) -> _Table:
        """That of a module of a space of two formats."""
        layer, corner = space.layers[module][0], [NARROWEST] * len(TENSORS)
        own = [widths(layer, TensorFormats(fmt, fmt, fmt)) for fmt in formats]
        least, most = (widths(layer, TensorFormats(fmt, fmt, fmt)) for fmt in ends(formats))
        low, high = _bits(space, module, corner), _bits(space, module, [WIDEST] * len(TENSORS))
        rises = []
        for tensor in range(len(TENSORS)):
            wider = corner.copy()
            wider[tensor] = WIDEST
            rises.append(_bits(space, module, wider) - low)
        scale = (high - low) / max(sum(rises), 1e-300)
        bits = np.stack(
            [
                low / len(TENSORS) + scale * rise * _share(tensor, own, least, most)
                for tensor, rise in zip(TENSORS, rises, strict=True)
            ]
        )
        return cls(_scores_of(layer, formats), bits)

    def best(self, weight: float) -> tuple[int, int, int]:
        """The places of the best formats for a weight of bits beside scores."""
        i, w, o = (int(place) for place in np.argmin(self.scores + weight * self.bits, axis=1))
        return i, w, o

    def at(self, table: np.ndarray, places: tuple[int, int, int]) -> float:
        """The sum of a table at one format for each tensor."""
        return float(sum(row[place] for row, place in zip(table, places, strict=True)))


def _bits(space: Space, module: int, choice: Sequence[int]) -> float:
    i, w, o = choice
    return float(space.bits[module].at((i, w, o)).sum())


def _share(tensor: str, own: Sequence[Widths], least: Widths, most: Widths) -> np.ndarray:
    """How far between the narrowest and the widest each format lies; nowhere for a tensor that all keep as wide."""
    low, high = getattr(least, tensor), getattr(most, tensor)
    return (np.array([getattr(each, tensor) for each in own]) - low) / ((high - low) or 1.0)


def _scores_of(layer: Layer, formats: tuple[Format, ...]) -> np.ndarray:
    rows = []
    for tensor in TENSORS:
        window = layer.R * layer.S if tensor == "weight" else 1
        own = _scores(formats, min(layer.extents[tensor], LONGEST), min(window, WINDOW))
        rows.append(RECOVERED[tensor] * own)
    return np.stack(rows)


@cache
def _scores(formats: tuple[Format, ...], extent: int, window: int) -> np.ndarray:
    x = torch.randn(ROWS, extent, window, generator=torch.Generator().manual_seed(0))
    lost = {fmt: _lost(x, fmt) for fmt in probed(formats, extent)}
    return scores_of(formats, lost, extent)


def _lost(x: torch.Tensor, fmt: Format) -> float:
    return float((quantize(x, fmt, 1, inner_dims=(2,)) - x).square().sum() / x.square().sum())
