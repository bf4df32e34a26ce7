"""Maps in square windows, and how the tokens of a square lie to one another."""

from __future__ import annotations

import torch
from torch import Tensor


def split(x: Tensor, side: int) -> Tensor:
    """[n, h, w, width], height and width multiples of `side`, as windows [n * windows, side², width], row by row."""
    parts = torch.unflatten(torch.unflatten(x, 2, (-1, side)), 1, (-1, side))
    return parts.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def joined(windows: Tensor, side: int, size: tuple[int, int]) -> Tensor:
    """What `split` took apart, of this height and width."""
    rows, columns = (extent // side for extent in size)
    x = torch.unflatten(torch.unflatten(windows, 1, (side, side)), 0, (-1, rows, columns))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def ways(side: int) -> Tensor:
    """[side², side²] a number below (2·side - 1)² for each way from a token of a square to another."""
    across = torch.arange(side)
    row, column = across.repeat_interleave(side), across.repeat(side)
    return (row[:, None] - row + side - 1) * (2 * side - 1) + column[:, None] - column + side - 1
