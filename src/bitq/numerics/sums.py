"""Blocks of summed elements, each with a scale of its own: of all pairs of scales that of the least squared error.

A block is s1·q1 + s2·q2 with |s1| >= |s2|; of equal errors the first pair counts, in the order of `_pairs`. Errors are
sums of float32 numbers, in multiples of what the tensor shares.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from bitq.formats import Format
from bitq.formats.elements import Integer
from bitq.formats.float32 import floor_log2
from bitq.formats.scales import FloatScale
from bitq.numerics import doubles
from bitq.numerics.recipe import Recipe

AT_ONCE = 1 << 20
"""Errors of elements under a pair of scales that are computed at a time."""

_BINS = 2048  # numbers of a table of errors
_LARGEST_TABLE = 2**25  # entries
_WORTH_IT = 64  # blocks
_FEW = 128  # pairs that a table leaves to be tried
_SLACK = 1e-5  # of float32 sums


def unit(least: Tensor, most: Tensor, recipe: Recipe) -> Tensor:
    """What the tensor shares, 0-d float64: a power of two, with which the scales reach its largest number."""
    fmt, scale = recipe.format, recipe.format.scale
    assert isinstance(scale, FloatScale)
    finite = least.isfinite() & most.isfinite()
    top = torch.maximum(-least, most).masked_fill(~finite, 0).amax().double()
    if recipe.tensor_range is not None:
        top = torch.full_like(top, max(-recipe.tensor_range[0], recipe.tensor_range[1]))
    exponent = doubles.exponents_of(top) - floor_log2(scale.number.largest())
    lowest = -126 - floor_log2(scale.number.smallest()) - floor_log2(fmt.smallest)
    return doubles.powers(exponent.clamp(lowest, 127))


def nearest(x: Tensor, fmt: Format, shared: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """What finite float32 numbers become, of which every row is a block.

    Returns:
        The scales, of shape (rows, 2), and q1 and q2 of x's shape; float32.
    """
    w = (x.double() / shared).float()
    scales = _pairs(fmt, x.device)
    find = _best if torch.compiler.is_compiling() or not _worth_a_table(w, scales) else _best_by_table
    best = torch.cat([find(part, scales, fmt) for part in torch.split(w, max(AT_ONCE // (64 * w.shape[1]), 1))])
    return scales[best], summands(x, scales[best], fmt, shared)


def values(scales: Tensor, summands: tuple[Tensor, Tensor], shared: Tensor) -> Tensor:
    """Values (float64, before they are rounded to float32) of what `nearest` gives."""
    return _sum(scales, summands).double() * shared


def _best(w: Tensor, scales: Tensor, fmt: Format) -> Tensor:
    """The pair for each row, all of them tried."""
    least = torch.full(w.shape[:1], torch.inf, device=w.device)
    best = torch.zeros(w.shape[:1], dtype=torch.int64, device=w.device)
    size = max(AT_ONCE // w.numel(), 1)
    for start in range(0, scales.shape[0], size):
        found, at = _errors(w.unsqueeze(1), scales[start : start + size], fmt).min(1)
        best = torch.where(found < least, at + start, best)
        least = torch.minimum(found, least)
    return best


def _worth_a_table(w: Tensor, scales: Tensor) -> bool:
    return w.shape[0] >= _WORTH_IT and _FEW < len(scales) <= _LARGEST_TABLE // _BINS


def _best_by_table(w: Tensor, scales: Tensor, fmt: Format) -> Tensor:
    """The same, of those pairs alone that can be the best, as a table of errors says.

    A row of numbers is rounded to a row of the table's, r away. The square root of an error is a distance, so it
    changes by r at most: pairs whose distance in the table is larger than the best one's by r are not the best.
    """
    table, step = _table(fmt, w.device)
    at = (w / step).round().clamp(-(_BINS // 2), _BINS // 2 - 1)
    near = torch.nn.functional.embedding_bag(at.long() + _BINS // 2, table, mode="sum").sqrt()
    distances, few = near.topk(_FEW + 1, 1, largest=False)
    few = few[:, :_FEW].sort(1)[0]
    found, place = _errors(w.unsqueeze(1), scales[few], fmt).min(1)
    away = (w - at * step).square().sum(1).sqrt()
    unsure = distances[:, _FEW] - away <= found.sqrt() * (1 + _SLACK) + _SLACK
    best = few.gather(1, place.unsqueeze(1)).squeeze(1)
    rows = unsure.nonzero().squeeze(1)
    for some in torch.split(rows, max(AT_ONCE // (64 * w.shape[1]), 1)):
        if len(some):
            best[some] = _best(w[some], scales, fmt)
    return best


@lru_cache(2)
def _table(fmt: Format, device: torch.device) -> tuple[Tensor, float]:
    """Squared errors of numbers, `step` apart around 0, under every pair of scales: float32, (numbers, pairs)."""
    assert isinstance(fmt.scale, FloatScale)
    step = 4 * 2.0 ** floor_log2(fmt.scale.number.largest()) / _BINS
    numbers = (torch.arange(_BINS, device=device) - _BINS // 2).unsqueeze(1) * step
    scales = _pairs(fmt, device)
    return torch.cat([_errors(part, scales, fmt) for part in torch.split(numbers.unsqueeze(1), 64)]), step


def _errors(w: Tensor, scales: Tensor, fmt: Format) -> Tensor:
    """Squared errors of numbers of shape (..., n) under pairs of scales of shape (..., 2), summed over n."""
    first, second = (_range(element) for element in fmt.elements)
    s1, s2 = scales[..., 0:1], scales[..., 1:2]
    inverse = torch.where(s2 == 0, 0, 1 / s2)
    least: Tensor | None = None
    for q in range(first[0], first[1] + 1):
        rest = w - s1 * q
        size = (rest - (rest * inverse).round_().clamp_(*second).mul_(s2)).abs_()
        least = size if least is None else torch.minimum(least, size)
    assert least is not None
    return least.square().sum(-1)


def summands(x: Tensor, scales: Tensor, fmt: Format, shared: Tensor) -> tuple[Tensor, Tensor]:
    """q1 and q2 of the sums nearest to finite float32 numbers, of which every row is a block, under scales of shape
    (rows, 2)."""
    w = (x.double() / shared).float()
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
