"""The compiled path of packing and unpacking; the numpy path in packing.py is its twin."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import prod
from threading import Thread
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bitq.numerics.recipe import Recipe

try:
    import bitq.numerics._packing as _packing
except ImportError:  # a source tree that was not built: the numpy path does everything
    _packing = None

Bytes = NDArray[np.uint8]

PARALLEL = 1 << 18  # elements; fewer are done before another thread has started
ROW = 1 << 13  # elements of a row that may be of any length
GROUP = 8  # mantissas that fill whole bytes, whatever their width: threads write from one such place on


class Bands(NamedTuple):
    """Row-major memory read as [outer, depth, length], `size` elements in all: the last row may be short.

    A block is `block` consecutive rows times `run` consecutive elements of a row.
    """

    size: int
    depth: int
    length: int
    block: int
    run: int

    @property
    def number(self) -> int:
        """Rows of one block, `block` of them or the rest, make a band; this is how many there are."""
        whole, rest = divmod(-(-self.size // self.length), self.depth)
        return whole * -(-self.depth // self.block) + -(-rest // self.block)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        missing = -self.size % self.length  # of the last row
        return self.number * -(-self.length // self.run) - missing // self.run

    def first_element(self, band: int) -> int:
        """Where a band begins."""
        outer, within = divmod(band, -(-self.depth // self.block))
        return (outer * self.depth + within * self.block) * self.length


def bands(shape: tuple[int, ...], recipe: Recipe) -> Bands | None:
    """How a contiguous tensor lies in memory; None if it is empty, its blocks are scattered or nothing was built."""
    dim, inside = recipe.axes
    last = range(len(shape) - len(inside), len(shape))
    size = prod(shape)
    if _packing is None or not size or set(inside) != set(last):
        return None
    channels, between, window = shape[dim], prod(shape[dim + 1 : last.start]), prod(shape[d] for d in inside)
    block = min(recipe.format.block_size, channels)
    if between > 1:
        return Bands(size, channels, between * window, block, window)
    length, run = channels * window, block * window
    if channels % block == 0:  # any number of whole blocks is as good a row
        length = min(run * GROUP * -(-ROW // (run * GROUP)), size)
    return Bands(size, 1, length, 1, run)


def peaks(x: NDArray[np.float32], at: Bands) -> NDArray[np.uint32]:
    """Bit pattern of max|x| of every block, in row-major order; one of a NaN or infinity if the block has any."""
    result = np.empty(at.blocks, np.uint32)
    source, target = _pointer("float *", x), _pointer("uint32_t *", result)
    _in_threads(lambda a, b: _packing.lib.bitq_peaks(source, target, a, b, *at), at)
    return result


def codes(block_peaks: NDArray[np.uint32], recipe: Recipe) -> Bytes:
    """The exponent codes of blocks with these peaks."""
    result = np.empty(block_peaks.size, np.uint8)
    source, target = _pointer("uint32_t *", block_peaks), _pointer("uint8_t *", result)
    _packing.lib.bitq_codes(source, target, result.size, recipe.exponent_bias, recipe.format.top_code)
    return result


def write(x: NDArray[np.float32], block_codes: Bytes, recipe: Recipe, at: Bands) -> Bytes:
    """The payload: mantissas of x, then the codes."""
    m, se, bias = recipe.format.mantissa_bits, recipe.format.exponent_bits, recipe.exponent_bias
    result = np.empty(-(-(m * x.size + se * block_codes.size) // 8), np.uint8)
    source, told, target = _pointer("float *", x), _pointer("uint8_t *", block_codes), _pointer("uint8_t *", result)
    lib = _packing.lib
    _in_threads(lambda a, b: lib.bitq_write_mantissas(source, told, target, a, b, *at, m, bias), at, GROUP)
    lib.bitq_write_codes(told, target, m * x.size, block_codes.size, se)
    return result


def read_codes(payload: Bytes, recipe: Recipe, count: int, at: Bands) -> Bytes:
    """The codes of a payload of `count` mantissas."""
    result = np.empty(at.blocks, np.uint8)
    source, target = _pointer("uint8_t *", payload), _pointer("uint8_t *", result)
    start = recipe.format.mantissa_bits * count
    _packing.lib.bitq_read_codes(source, payload.size, start, target, result.size, recipe.format.exponent_bits)
    return result


def read(payload: Bytes, block_codes: Bytes, recipe: Recipe, count: int, at: Bands) -> NDArray[np.float32]:
    """The values of a payload of `count` mantissas."""
    result = np.empty(count, np.float32)
    source, told, target = (
        _pointer("uint8_t *", payload),
        _pointer("uint8_t *", block_codes),
        _pointer("float *", result),
    )
    size, m, bias, lib = payload.size, recipe.format.mantissa_bits, recipe.exponent_bias, _packing.lib
    _in_threads(lambda a, b: lib.bitq_read_values(source, size, told, target, a, b, *at, m, bias), at)
    return result


def _pointer(kind: str, array: NDArray[np.generic]) -> object:
    return _packing.ffi.cast(kind, array.ctypes.data)


def _in_threads(work: Callable[[int, int], None], at: Bands, group: int = 1) -> None:
    """Calls work(first band, last band) on about equal parts; each starts at a multiple of `group` elements."""
    threads = torch.get_num_threads() if at.size >= PARALLEL else 1
    starts = (at.number * thread // threads for thread in range(threads))
    aligned = (next((b for b in range(s, s + group) if not at.first_element(b) % group), at.number) for s in starts)
    bounds = sorted({0, at.number, *(min(band, at.number) for band in aligned)})
    (first, last), *rest = pairwise(bounds)
    others = [Thread(target=work, args=part) for part in rest]
    for other in others:
        other.start()
    work(first, last)
    for other in others:
        other.join()


def pack(x, recipe):
    return None

def unpack(payload, recipe, shape, dtype):
    return None
