"""Where the blocks of a tensor lie, and the exponent that each of them shares."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from bitq.formats import BlockFormat
from bitq.numerics.recipe import Axes, Recipe, Steps

INFINITE = 0x7F800000  # bit pattern of a float32 infinity; those above it are NaN

class Layout(NamedTuple):
    """Memory read as [outer, channels, inner], of which `block` channels at one inner position make a block."""

    outer: int
    channels: int
    inner: int
    block: int
    in_order: bool  # memory has the elements in the order of their indices


@lru_cache(4096)
def layout(shape: torch.Size, stride: tuple[int, ...], axes: Axes, block_size: int) -> Layout | None:
    """How a dense tensor's blocks lie in memory; None if memory has gaps, or its blocks are scattered over it."""
    dim, inside = axes
    order = sorted((d for d, n in enumerate(shape) if n != 1), key=lambda d: -stride[d])  # outermost first
    window = [d for d in order if d in inside]
    if shape[dim] == 1:
        order.insert(len(order) - len(window), dim)
    expected = 1
    for d in reversed(order):
        if shape[d] != 1 and stride[d] != expected:
            return None
        expected *= shape[d]
    size = prod(shape)
    block = min(block_size, shape[dim])
    at, longer = order.index(dim), [d for d in order if shape[d] != 1]
    in_order = longer == sorted(longer)
    if size and set(window) == set(order[at + 1 :]):
        inner = prod(shape[d] for d in window)
        row, block = shape[dim] * inner, block * inner
        row = row if row % block else size  # rows of whole blocks are one long row
        return Layout(size // row, row, 1, block, in_order)
    if size and not window:
        outer, inner = (prod(shape[d] for d in part) for part in (order[:at], order[at + 1 :]))
        return Layout(outer, shape[dim], inner, block, in_order)
    return None


def layout_for(shape: torch.Size, stride: tuple[int, ...], recipe: Recipe) -> Layout | None:
    """The same for the blocks of a format; None of plain floats, and of blocks that are short along several axes."""
    geometry, (dim, inner) = recipe.format.geometry, recipe.axes
    if geometry is None:
        return None
    lengths = geometry.lengths(shape, dim, inner)
    whole = [d for d, n in enumerate(shape) if 1 < n <= lengths[d]]
    partial = [d for d, n in enumerate(shape) if 1 < lengths[d] < n]
    if len(partial) > 1:
        return None
    if not partial:  # along the outermost of its axes, the others inside
        whole.sort(key=lambda d: -stride[d])
        partial = [whole.pop(0)] if whole else [dim]
    return layout(shape, stride, Axes(partial[0], tuple(whole)), lengths[partial[0]])


@lru_cache(4096)
def dense_strides(shape: torch.Size, axes: Axes) -> tuple[tuple[int, ...], ...]:
    """Strides of dense memory in the order of the indices, and of such in which each block lies together."""
    outer = [d for d in range(len(shape)) if d != axes.dim and d not in axes.inner]
    found = []
    for order in (range(len(shape)), (*outer, axes.dim, *axes.inner)):
        stride, step = [0] * len(shape), 1
        for d in reversed(order):
            stride[d], step = step, step * shape[d]
        found.append(tuple(stride))
    return tuple(found)


def peaks(x: Tensor, block_size: int, axes: Axes) -> Tensor:
    """Bit pattern of max|x| of every block of a float32 tensor, as int32.

    Shape: x's, with `dim` the number of blocks and the inner axes 1. A block with an infinity or NaN has a
        pattern of at least `INFINITE`: patterns of magnitudes are ordered as the magnitudes are, with NaN
        above all.
    """
    dim, inner = axes
    magnitudes = x.view(torch.int32) & 0x7FFFFFFF
    if inner:
        magnitudes = magnitudes.amax(inner, keepdim=True)
    block_size = min(block_size, x.shape[dim])
    missing = -x.shape[dim] % block_size
    if missing:
        magnitudes = pad(magnitudes, (0, 0) * (x.ndim - 1 - dim) + (0, missing))
    shape = (*magnitudes.shape[:dim], -1, block_size, *magnitudes.shape[dim + 1 :])
    return magnitudes.reshape(shape).amax(dim + 1)


def spread(blocks: Tensor, block_size: int, channels: int, dim: int) -> Tensor:
    """One value per block, repeated for every channel of its block."""
    block_size = min(block_size, channels)
    repeated = blocks.unsqueeze(dim + 1).expand(
        *blocks.shape[: dim + 1], block_size, *blocks.shape[dim + 1 :]
    )
    return repeated.flatten(dim, dim + 1).narrow(dim, 0, channels)


def exponents(block_peaks: Tensor) -> Tensor:
    """e of every block from its exponent field; 128 for a block with NaN or infinity.

    A subnormal peak counts as -127, like zero: every e below the lowest shared exponent gives the same
    result.
    """
    return (block_peaks >> 23) - 127


def default_bias(block_peaks: Tensor, fmt: BlockFormat | Steps) -> Tensor:
    """The bias (int32, 0-d) that gives the largest e of the finite, nonzero blocks the top code."""
    top = block_peaks.where(block_peaks < INFINITE, 0).amax()
    return exponents(top).where(top > 0, 0) - fmt.top_code


def shared_exponents(block_peaks: Tensor, fmt: BlockFormat | Steps, bias: Tensor | int) -> Tensor:
    """E of every block: its e within the reach of the codes, and never below the format's lowest exponent."""
    within = exponents(block_peaks).clamp(bias, bias + fmt.top_code)  # type: ignore[arg-type]
    return within.clamp(min=fmt.lowest_exponent)


def steps(shared: Tensor, fmt: BlockFormat | Steps) -> Tensor:
    """2^(E + 2 - m) as float32, assembled from its exponent field."""
    return ((shared + (2 - fmt.mantissa_bits + 127)) << 23).view(torch.float32)


def inverses(step: Tensor) -> Tensor:
    """1/step exactly; of 2^127 that is a subnormal number. NaN stays."""
    field = 254 - (step.view(torch.int32) >> 23)
    inverse = torch.where(field > 0, field << 23, 1 << 22).view(torch.float32)
    return inverse.masked_fill(step.isnan(), torch.nan)
