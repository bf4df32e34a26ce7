"""Blocks of summed elements, each with a scale of its own: of all pairs of scales that of the least squared error.

A block is s1·q1 + s2·q2 with |s1| >= |s2|; of equal errors the first pair counts, in the order of `_pairs`. Errors are
sums of float32 numbers, in multiples of what the tensor shares.
"""

from __future__ import annotations

from math import frexp

import torch
from torch import Tensor

from bitq.formats import Format
from bitq.formats.elements import Integer
from bitq.formats.scales import FloatScale
from bitq.numerics.recipe import Recipe

AT_ONCE = 1 << 20
"""Errors of elements under a pair of scales that are computed at a time."""


def unit(least: Tensor, most: Tensor, recipe: Recipe) -> Tensor:
    """What the tensor shares, 0-d float64: a power of two, with which the scales reach its largest number."""
    fmt, scale = recipe.format, recipe.format.scale
    assert isinstance(scale, FloatScale)
    finite = least.isfinite() & most.isfinite()
    top = torch.maximum(-least, most).masked_fill(~finite, 0).amax().double()
    if recipe.tensor_range is not None:
        top = torch.full_like(top, max(-recipe.tensor_range[0], recipe.tensor_range[1]))
    exponent = (top.view(torch.int64) >> 52) - 1023 - _floor_log2(scale.number.largest())
    lowest = -126 - _floor_log2(scale.number.smallest()) - _floor_log2(fmt.smallest)
    return ((exponent.clamp(lowest, 127) + 1023) << 52).view(torch.float64)


def nearest(x: Tensor, fmt: Format, shared: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """What finite float32 numbers become, of which every row is a block.

    Returns:
        The scales, of shape (rows, 2), and q1 and q2 of x's shape; float32.
    """
    w = (x.double() / shared).float()
    scales = _pairs(fmt, x.device)
    best = torch.cat([_best(part, scales, fmt) for part in torch.split(w, max(AT_ONCE // (64 * w.shape[1]), 1))])
    return scales[best], _summands(w, scales[best], fmt)


def values(scales: Tensor, summands: tuple[Tensor, Tensor], shared: Tensor) -> Tensor:
    """Values (float64, before they are rounded to float32) of what `nearest` gives."""
    return _sum(scales, summands).double() * shared


def _best(w: Tensor, scales: Tensor, fmt: Format) -> Tensor:
    """The pair for each row."""
    least = torch.full(w.shape[:1], torch.inf, device=w.device)
    best = torch.zeros(w.shape[:1], dtype=torch.int64, device=w.device)
    size = max(AT_ONCE // w.numel(), 1)
    for start in range(0, scales.shape[0], size):
        some, each = scales[start : start + size], w.unsqueeze(1)
        errors = (each - _sum(some, _summands(each, some, fmt))).square().sum(2)
        found, at = errors.min(1)
        best = torch.where(found < least, at + start, best)
        least = torch.minimum(found, least)
    return best


def _summands(w: Tensor, scales: Tensor, fmt: Format) -> tuple[Tensor, Tensor]:
    """q1 and q2 of the sums nearest to w under pairs of scales, of shape (..., 2)."""
    first, second = (_range(element) for element in fmt.elements)
    s1, s2 = scales[..., 0:1], scales[..., 1:2]
    inverse = torch.where(s2 == 0, 0, 1 / s2)
    y, q1, q2 = torch.full_like(w + s1, torch.inf), torch.zeros_like(w + s1), torch.zeros_like(w + s1)
    for q in range(first[0], first[1] + 1):
        rest = ((w - s1 * q) * inverse).round().clamp(*second)
        found = s1 * q + rest * s2
        better = (found - w).abs() < (y - w).abs()
        y, q1, q2 = torch.where(better, found, y), torch.where(better, q, q1), torch.where(better, rest, q2)
    return q1, q2


def _sum(scales: Tensor, summands: tuple[Tensor, Tensor]) -> Tensor:
    return scales[..., 0:1] * summands[0] + summands[1] * scales[..., 1:2]


def _range(element: object) -> tuple[int, int]:
    assert isinstance(element, Integer)
    return -element.most - 1, element.most


def _pairs(fmt: Format, device: torch.device) -> Tensor:
    """All pairs of scales, float32 of shape (pairs, 2), the largest of the first ones last."""
    assert isinstance(fmt.scale, FloatScale)
    number = fmt.scale.number
    codes = range(1 << (number.bits - 1))
    sizes = torch.tensor([value for value in map(number.value, codes) if value <= number.largest()], device=device)
    pairs = sizes[torch.tril_indices(len(sizes), len(sizes), device=device)].T
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], device=device)
    return (pairs.unsqueeze(1) * signs).flatten(0, 1)


def _floor_log2(value: float) -> int:
    return frexp(value)[1] - 1
