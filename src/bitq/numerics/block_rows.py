"""Blocks of any geometry as the rows of a matrix, and how much of it is worked on at a time."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from bitq.numerics.recipe import Recipe

AT_ONCE = 1 << 20
"""Elements that are computed at a time: some ten temporary tensors of float64 are alive then."""


def pieces(count: int, width: int) -> Iterator[slice]:
    """Neighbours among `count` of `width` elements each; all of them for a compiler, which fuses them."""
    if torch.compiler.is_compiling():
        yield slice(None)
        return
    size = max(AT_ONCE // min(width, AT_ONCE), 1)
    yield from (slice(start, start + size) for start in range(0, count, size))


def joined(parts: list[Tensor], axis: int) -> Tensor:
    """Along an axis."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


class BlockRows(NamedTuple):
    """How blocks of a tensor become rows of a matrix, with zeros where a block is short.

    Attributes:
        shape: of the tensor.
        counts: of blocks along every axis.
        lengths: of a block along every axis.
    """

    shape: tuple[int, ...]
    counts: tuple[int, ...]
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, recipe: Recipe, shape: tuple[int, ...]) -> BlockRows:
        """For a tensor that is not empty."""
        geometry, (dim, inner) = recipe.format.geometry, recipe.axes
        assert geometry is not None
        lengths = tuple(
            [min(size, n) for size, n in zip(geometry.lengths(shape, dim, inner), shape, strict=True)]
        )
        return cls(shape, tuple([-(-n // size) for n, size in zip(shape, lengths, strict=True)]), lengths)

    def arranged(self, x: Tensor) -> Tensor:
        """A row for each block."""
        short = [count * size - n for n, count, size in zip(self.shape, self.counts, self.lengths, strict=True)]
        if any(short):
            x = pad(x, [amount for missing in reversed(short) for amount in (0, missing)])
        axes = range(len(self.shape))
        split = [n for pair in zip(self.counts, self.lengths, strict=True) for n in pair]
        order = [2 * axis for axis in axes] + [2 * axis + 1 for axis in axes]
        return x.reshape(split).permute(order).reshape(prod(self.counts), prod(self.lengths))

    def restored(self, rows: Tensor) -> Tensor:
        """The inverse of `arranged`."""
        count = len(self.shape)
        order = [place for axis in range(count) for place in (axis, count + axis)]
        whole = [n * size for n, size in zip(self.counts, self.lengths, strict=True)]
        x = rows.reshape((*self.counts, *self.lengths)).permute(order).reshape(whole)
        for axis, n in enumerate(self.shape):
            x = x.narrow(axis, 0, n)
        return x
