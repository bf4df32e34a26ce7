"""The compiled path of `quantize` for dense float32 tensors on the CPU; the torch path is its twin."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import prod
from threading import Thread
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from bitq.formats import BlockFormat
from bitq.numerics.blocks import INFINITE, Axes

try:
    import bitq.numerics._kernel as _kernel
except ImportError:  # a source tree that was not built: the torch path does everything
    _kernel = None

PARALLEL = 1 << 20  # elements; a smaller tensor is done before another thread has started


class _Layout(NamedTuple):
    """Memory read as [outer, channels, inner], of which `block` channels at one inner position make a
    block."""

    order: tuple[int, ...]  # the axes of the tensor as memory has them, outermost first
    outer: int
    channels: int
    inner: int
    block: int


def quantize(
    x: Tensor, fmt: BlockFormat, axes: Axes, exponent_bias: int | None, want_clipped: bool
) -> tuple[Tensor, Tensor | None] | None:
    """Values and mask of clipped elements as the torch path gives them, rounded to nearest.

    None where the torch path has to do it: not built, no plain float32 CPU memory, blocks scattered in
        memory, or a default bias that has to pass over blocks with NaN or infinity.
    """
    if (
        _kernel is None
        or x.dtype != torch.float32
        or x.device.type != "cpu"
        or type(x) not in (Tensor, Parameter)
        or torch.compiler.is_compiling()
    ):
        return None
    layout = _layout(x, axes, fmt.block_size)
    if layout is None:
        return None
    ffi, lib = _kernel.ffi, _kernel.lib
    source = ffi.cast("float *", x.data_ptr())
    if exponent_bias is None:
        peak = lib.bitq_peak(source, x.numel())
        if peak >= INFINITE:
            return None
        exponent_bias = (peak >> 23) - 127 - fmt.top_code  # of zeros, any bias makes zeros
        want_clipped = False  # no block lies above the top code
    bias = exponent_bias
    y = torch.empty_like(x)
    target = ffi.cast("float *", y.data_ptr())
    # numpy takes zero pages from the system: they cost nothing until a clipped element is marked in them
    mask = np.zeros(x.numel() if want_clipped else 0, np.bool_)
    marks = ffi.cast("uint8_t *", mask.ctypes.data)
    clipped: list[int] = []

    def part(first: int, last: int) -> None:
        at = first * layout.channels * layout.inner
        found = lib.bitq_quantize(
            source + at,
            target + at,
            marks + at if want_clipped else ffi.NULL,
            last - first,
            layout.channels,
            layout.inner,
            layout.block,
            fmt.mantissa_bits,
            bias,
            bias + fmt.top_code,
        )
        clipped.append(found)

    _in_parts(part, layout.outer, torch.get_num_threads() if x.numel() >= PARALLEL else 1)
    if not any(clipped):
        return y, None
    laid_out = torch.from_numpy(mask).view([x.shape[d] for d in layout.order])
    return y, laid_out.permute(*np.argsort(layout.order).tolist())


def _layout(x: Tensor, axes: Axes, block_size: int) -> _Layout | None:
    dim, inside = axes
    block_size = min(block_size, x.shape[dim])
    others = tuple(d for d in range(x.ndim) if d != dim and d not in inside)
    rows = (*others, dim, *inside)
    if x.permute(rows).is_contiguous():
        window = prod(x.shape[d] for d in inside)
        outer, row = prod(x.shape[d] for d in others), x.shape[dim] * window
        if block_size * window == 1:
            return _Layout(rows, outer, 1, row, 1)
        return _Layout(rows, outer, row, 1, block_size * window)
    if not inside and x.is_contiguous():
        return _Layout(
            tuple(range(x.ndim)), prod(x.shape[:dim]), x.shape[dim], prod(x.shape[dim + 1 :]), block_size
        )
    return None


def _in_parts(work: Callable[[int, int], None], count: int, threads: int) -> None:
    """Calls work(first, last) on about equal parts of range(count), each in a thread."""
    threads = min(threads, count)
    bounds = [count * t // threads for t in range(threads + 1)]
    (first, last), *rest = pairwise(bounds)
    others = [Thread(target=work, args=part) for part in rest]
    for thread in others:
        thread.start()
    work(first, last)
    for thread in others:
        thread.join()
