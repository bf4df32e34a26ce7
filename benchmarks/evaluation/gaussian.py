"""Plans for networks whose weights cannot be had: every tensor is taken for one of independent normal numbers.

A tensor's perturbation is then the share of its power that a format loses. In all else a plan comes about as in a
search before anything was measured: scores are powers of perturbations, add up, and a prior curve tells what accuracy
they cost. So such a plan depends on shapes alone, and says nothing of what a trained network would lose.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from bitq.accuracy.sensitivity import probed
from bitq.accuracy.sensitivity import scores as scores_of
from bitq.formats import TENSORS, Format
from bitq.numerics import quantize
from bitq.tradeoff.allocate import Scores, front
from bitq.tradeoff.predict import RECOVERED, Curve
from bitq.tradeoff.space import Choices, Space

ROWS, LONGEST = 256, 192
"""Numbers are drawn for so many rows of at most so many channels."""


def scores(space: Space) -> Scores:
    """For each module the scores of its tensors in the space's formats, all of them tensors of normal numbers."""
    found = []
    for module in range(len(space.modules)):
        layer, extents = space.layers[module][0], space.extents(module)
        table = np.empty((len(TENSORS), len(space.formats)))
        for row, tensor in zip(table, TENSORS, strict=True):
            window = layer.R * layer.S if tensor == "weight" else 1
            row[:] = RECOVERED[tensor] * _scores(space.formats, min(extents[tensor], LONGEST), min(window, 9))
        found.append(table)
    return found


def least_objective(space: Space, alpha: float) -> Choices:
    """The plan of least predicted O."""
    curve = Curve()

    def objective(lost: float, bits: float) -> float:
        return curve.lost(lost) + alpha * bits / space.movement_max

    return min(front(space, scores(space)), key=lambda each: objective(each.lost, each.movement_bits)).choices


@cache
def _scores(formats: tuple[Format, ...], extent: int, window: int) -> np.ndarray:
    x = torch.randn(ROWS, extent, window, generator=torch.Generator().manual_seed(0))
    lost = {fmt: _lost(x, fmt) for fmt in probed(formats, extent)}
    return scores_of(formats, lost, extent)


def _lost(x: torch.Tensor, fmt: Format) -> float:
    return float((quantize(x, fmt, 1, inner_dims=(2,)) - x).square().sum() / x.square().sum())
