"""How little any plan of all memories could move: into each of them, for many widths at once, and into all together.

Whatever tiles it is given, a memory moves at least its optimum for the whole layer, with one exception that is
conceded:

1. *Parts.* The outer memories cut every loop into parts, and these into tiles of at most the memory's size. Take
   one loop and its parts of one tile each (a share s of the loop) apart from the others. In the former the loop
   stands still, so it may as well be outermost. A tensor that the loop does not index is moved as often as there
   are tiles, or parts if it stays. Undivided, with tiles of size T along D iterations, that is ceil(D/T) times, or
   once. Parts of one tile number at least sD/T, the others at least 1 and have at least 2 tiles each, and s
   ceil(D/T) + 1 - s <= sD/T + 1. So the plan moves at least s times what the undivided loop does when it is
   outermost, and 1 - s times what it does in its own place: no less than the lesser of the two. One loop after the
   other becomes whole.
2. *Rows.* Neighbouring tiles of an image axis share h rows at their boundary. With b tiles in a parts, all tiles
   have X + (b - 1)h rows, X those that there are; a step along the axis keeps h. When another loop advances, the
   axis goes from the last tile of a part to its first, and only where a part has few tiles do these share rows: at
   most h. The whole layer has many tiles and keeps nothing there, parts of two tiles do. So here every such step
   may keep h. With that, rows add up as in 1. Where padding takes rows from a boundary, X is less by what all
   boundaries lack.
3. *Taps.* If a kernel window is cut, every row of the uncut window is still read, so inputs count as if it were
   not.
4. Where rows are left out between those that a tile uses (dilation, spread inputs), inputs are read once for each
   time that a loop which does not index them repeats them, at least.

The outermost memory's problem is the whole layer, so there it is the true optimum.

That leaves out what the tiles of an outer memory cost the inner one. `least_chained` counts it. Let a memory's tiles
have at most T iterations of a loop of D, the parts that it is given at most U, and let m outer memories cut the loop.

5. *Parts* number at least D/U. Those of one tile are what is left over where an outer tile is cut; there are at most m
   for each part of U iterations, so with a share s of the loop, s/(1 - s) <= mT/U. In 1., the parts then number at
   least sD/T + (1 - s)D/U, and s ceil(D/T) + (1 - s)(D - mT)/U is no more than that: s <= (1 - s)mT/U. So the undivided
   loop may be replaced by one of (D - mT)/U parts, or of one part, whichever is more.
6. *Chains.* So each memory moves at least an amount that depends on its own tile and the next outer one alone, and
   less the larger either is: the least sum is a shortest path, as in `bitq.movement.chain`. Sizes that hardly
   differ count as one: as the largest of them for what moves, as the smallest for what fits. Where the engine's
   budget ends first, the limit stands that no path is below.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import product
from math import ceil, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitq.layers import LOOPS, Layer
from bitq.movement._engine import ffi, lib
from bitq.movement.asking import UNWANTED, checked
from bitq.movement.axis import Axis, kept_rows, largest_rows
from bitq.movement.bound import compulsory
from bitq.movement.chain import chain_question
from bitq.movement.model import Widths
from bitq.movement.optimum import Table, least_traffic, optimize_many, priced

RATIOS = (1.06, 1.12, 1.25, 1.5, float("inf"))
"""Of the largest to the smallest size that count as one: the first that leaves no more than `MOST_VECTORS`."""

MOST_ORDERS, MOST_VECTORS = 30_000, 100_000
"""To find for one bound; and combinations of sizes to look at for each memory."""


def least_bits(layer: Layer, table: Table, capacities: Sequence[float]) -> NDArray[np.float64]:
    """Bits that move into each memory at least, however all of them are tiled.

    Args:
        layer: any layer.
        table: widths, checked.
        capacities: of the memories in bits, the outermost first.

    Returns:
        Array (n, memories).

    Raises:
        BitqError, Infeasible: as for `optimize_many`.
    """
    outermost, *inner = capacities
    once = priced(table, compulsory(layer))
    bits = [optimize_many(layer, table, outermost)]
    for cuts, capacity in enumerate(inner, 1):
        bits.append(np.maximum(least_traffic(layer, table, capacity, partial(_least_rows, cuts)), once))
    return np.stack(bits, axis=1)


def least_chained(layer: Layer, widths: Widths, capacities: Sequence[float], prices: Sequence[float]) -> float:
    """A price that no plan of all memories comes below, memories and the tiles they are given taken together.

    Args:
        layer: any layer.
        widths: bits per element.
        capacities: of the memories in bits, the outermost first.
        prices: of one bit into each of them.
    """
    one, levels = layer.group, len(capacities)
    axes = [Axis.of(one, axis) for axis in (0, 1)]
    cells = list(_cells(tuple(one.extent(loop) for loop in LOOPS)))
    for place, axis in enumerate(axes, LOOPS.index("R")):
        cells[place] = tuple(cell for cell in cells[place] for _ in _windows(axis, (1, 1), cell, 0))
    tables = [_tables(axis, cells[3 + place], cells[5 + place], levels) for place, axis in enumerate(axes)]
    asked, _held = chain_question(
        layer,
        widths,
        capacities,
        prices,
        [[top for top, _ in own] for own in cells],
        [[bottom for _, bottom in own] for own in cells],
        rows=[spans for spans, _ in tables],
        kept=[kept for _, kept in tables],
        shared=[_boundaries(axis)[1] for axis in axes],
    )
    least = ffi.new("double *")
    checked(lib.bitq_chain_least(asked, MOST_ORDERS, UNWANTED, least), f"layer {layer.name!r}")
    return float(least[0])


SizeCell = tuple[int, int]
"""Tile sizes that count as one: the largest, by which they move, and the smallest, by which they fit."""

CellsOfLoop = tuple[SizeCell, ...]


@lru_cache(maxsize=1024)
def _cells(extents: tuple[int, ...]) -> tuple[CellsOfLoop, ...]:
    """CellsOfLoop of every loop, the largest first: sizes of one number of tiles, and of a ratio that leaves few."""
    for ratio in RATIOS:
        found = [_cells_of(extent, ratio) for extent in extents]
        if prod(len(own) for loop, own in zip(LOOPS, found, strict=True) if loop != "K") <= MOST_VECTORS:
            break
    return tuple(found)


def _cells_of(extent: int, ratio: float) -> CellsOfLoop:
    cells, top = [], extent
    while top > 0:
        bottom = max(-(-extent // -(-extent // top)), ceil(top / ratio))
        cells.append((top, bottom))
        top = bottom - 1
    return tuple(cells)


@lru_cache(maxsize=1024)
def _tables(axis: Axis, outs: CellsOfLoop, taps: CellsOfLoop, levels: int) -> tuple[Any, Any]:
    """The engine's `rows` and, for each memory, `kept` of an axis."""
    pairs = list(product(outs, dict.fromkeys(taps)))
    found = [[each for out, tap in pairs for each in _windows(axis, out, tap, cuts)] for cuts in range(levels)]
    spans = [span for span, _ in found[0]]
    kept = [value for own in found for _, each in own for value in each]
    return ffi.new("int64_t[]", spans * 2), ffi.new("double[]", kept)


@lru_cache(maxsize=1024)
def _least_rows(cuts: int, axis: Axis) -> Any:
    """For every pair of numbers of tiles the engine's `bitq_axis_tile` with the least rows (see this module)."""
    tiles = []
    for out in _smallest(axis.out):
        for tap in _smallest(axis.taps):
            trips = -(-axis.out // out), -(-axis.taps // tap)
            for span, kept in _windows(axis, (out, out), (tap, tap), cuts):
                tiles.append((out, tap, *trips, span, kept))
    return ffi.new("bitq_axis_tile[]", tiles)


def _windows(axis: Axis, outs: SizeCell, taps: SizeCell, cuts: int) -> list[tuple[int, list[int]]]:
    """Rows that a tile takes, and the engine's `kept`: if there are rows between its taps, with and without them.

    With them it keeps no less and moves no more; where they fit, they are as good as none. See `_kept`.
    """
    (largest, smallest), (tap, least) = outs, taps
    span, kept = _least_span(axis, smallest, least), _kept(axis, outs, tap, cuts)
    if tap >= min(axis.stride, axis.taps) or _boundaries(axis)[1] < 0:
        return [(span, kept)]
    alone = kept_rows(axis, 1, tap)[0]
    without = [alone, *[0] * 5, alone if largest == axis.out else 0, 0, 0]
    with_gaps = min(largest_rows(axis, smallest, least), (smallest - 1) * (least + 1) + least)
    return [(with_gaps, kept), (span, without)]


def _kept(axis: Axis, outs: SizeCell, tap: int, cuts: int) -> list[int]:
    """The engine's `kept` of a pair of tile sizes, with the least rows.

    Args:
        axis: of one group of the layer.
        outs: sizes of the output loop.
        tap: the size of the tap loop.
        cuts: how many outer memories cut the axis before.
    """
    rows, shared = _boundaries(axis)
    out, smallest = outs
    if shared >= 0 and tap < axis.taps:
        return _kept_of_cut_window(axis, rows, out, tap, min(axis.out, (cuts + 1) * axis.out // smallest + 1))
    between = (-(-axis.out // out) - 1) * max(shared, 0)
    wraps = rows if out == axis.out or shared < 0 else shared
    return [of_out * of_tap for of_out in (rows + between, between, wraps) for of_tap in (1, 0, 1)]


def _kept_of_cut_window(axis: Axis, rows: int, out: int, tap: int, most: int) -> list[int]:
    """The engine's `kept` where the kernel window is cut.

    A step from the last tile of a loop to its first keeps as much as one between neighbours. Where the stride is larger
    than what is left of the window, rows between its taps are read in vain, fewer the more tiles there are: `most`.
    """
    P, R, s = axis.out, axis.taps, axis.stride
    b, c = -(-P // out), -(-R // tap)
    outside = P * R - kept_rows(axis, 1, tap)[0]
    shared = (c - 1) * max(tap - s, 0) + max(R - (c - 1) * tap - s, 0)
    tile = s * (out - 1) + tap
    everything = c * s * P + min(b * (R - c * s), most * (R - c * s)) - outside
    if tap < s:
        everything = min(everything, P * R - outside)
    along_taps, tap_wraps = max(everything - max(s * P + b * (R - s) - outside, rows), 0), s * (P - b)
    if b == 1:
        return [everything, along_taps, tap_wraps, 0, 0, 0, everything, along_taps, tap_wraps]
    corner = (c - 1) * max(min(2 * tap - s, tile), 0)
    first = [everything, along_taps, tap_wraps]
    return [*first, (b - 1) * shared, 0, (b - 1) * max(min(R - s, tile), 0), shared, corner, max(tap - s, 0)]


def _smallest(extent: int) -> list[int]:
    """The smallest tile for each number of tiles, growing."""
    return sorted({-(-extent // trips) for trips in range(1, extent + 1)})


@lru_cache(maxsize=1024)
def _boundaries(axis: Axis) -> tuple[int, int]:
    """Rows there are, less what boundaries lack; and rows that tiles share at a boundary, -1 if that says nothing."""
    rows = kept_rows(axis, axis.out, axis.taps)[0]
    if (axis.dilation > 1 and axis.taps > 1) or axis.spread > 1:
        return rows, -1
    overlap = axis.taps - axis.stride
    firsts = np.arange(1, axis.out) * axis.stride - axis.padding
    found = np.clip(np.minimum(firsts + overlap, axis.size) - np.maximum(firsts, 0), 0, None)
    most = int(found.max(initial=0))
    left = rows - int((most - found).sum())
    return (left, most) if left > 0 else (rows, -1)


def _least_span(axis: Axis, out: int, tap: int) -> int:
    """Rows that a tile takes at least, wherever its axis is cut."""
    reach = (out - 1) * axis.stride + (tap - 1) * axis.dilation
    alone = Axis(out, tap, axis.stride, axis.dilation, 0, reach // axis.spread + 1, axis.spread)
    return min(largest_rows(axis, out, tap), kept_rows(alone, out, tap)[0])
