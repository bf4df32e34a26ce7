"""How little any plan of all memories could move: into each of them, for many widths at once, and into all together.

Whatever tiles it is given, a memory moves at least its optimum for the whole layer, with one exception that is
conceded:

1. *Parts.* The outer memories cut every loop into parts, and these into tiles of at most T iterations. Take one loop
   of D and its parts of at most T (a share s of the loop) apart from the others. In the former the loop may as well
   stand still, outermost: in more than one tile they move no less. A tensor that the loop does not index is moved as
   often as there are tiles, or parts if it stays. Undivided, with tiles of size T, that is ceil(D/T) times, or once.
   The former parts number at least sD/T, the others at least 1 and have at least 2 tiles each, and s ceil(D/T) + 1 - s
   <= sD/T + 1. So the plan moves at least s times what the undivided loop does when it is outermost, and 1 - s times
   what it does in its own place: no less than the lesser of the two. One loop after the other becomes whole.
2. *Rows.* Neighbouring tiles of an image axis share h rows at their boundary. With b tiles in a parts, all tiles
   have X + (b - 1)h rows, X those that there are; a step along the axis keeps h. When another loop advances, the
   axis goes from the last tile of a part to its first, and only where a part has few tiles do these share rows: at
   most h. The whole layer has many tiles and keeps nothing there, parts of two tiles do. So here every such step
   may keep h. With that, rows add up as in 1. Where padding takes rows from a boundary, X is less by what all
   boundaries lack.
3. *Taps.* Let P outputs of stride d be cut into b = ceil(P/t) tiles of t, and a window of R taps into ones of r. With v
   taps at a time, tiles read at least f(v) = P min(v, d) + b max(v - d, 0) rows: those between taps that lie apart are
   left out, so that no smaller tiles read less. It is concave, and so least in sum with as many windows of r taps as
   there are and one of what is left. That much moves where nothing stays, f(R) where rows stay while the taps
   advance, and what f says for b = 1 where they stay while the outputs do. If both walk and rows stay, every row moves
   once at least. What another loop repeats finds min(R, d)(t - 1) rows of a tile whose taps begin anew and h for each
   window whose outputs do; where both begin anew in a part of several tiles of each, nothing, for there the last tile
   begins behind the first one. All this is linear in P and b, or in R and the number of windows, so that it adds up as
   in 1.; but where both begin anew parts of one tile along P keep tR rows, and rounding b up costs (1 - 1/t)R of
   them. The other parts have more than t outputs, so that a share of (1 - 1/t)/(t + 1) of their rows makes up for that;
   for windows of one tile likewise, with 1 - 1/r for what the other windows number less.
   This goes through one axis at a time. Where both axes have cut windows and stand between each other's loops, it is
   held by tests alone.
4. Where rows are left out between those that a tile uses (dilation, spread inputs), inputs are read once for each
   time that a loop which does not index them repeats them, at least.

The outermost memory's problem is the whole layer, so there it is the true optimum.

That leaves out what the tiles of an outer memory cost the inner one. `least_chained` counts it. Let a memory's tiles
have at most T iterations of a loop of D, the parts that it is given at most U, and let m outer memories cut the loop.

5. *Parts.* Let n parts have more than T iterations and k at most T, so that nU + kT >= D. The latter are what is left
   over where an outer tile is cut. The first memory leaves over at most one part for each whole one. Each further one
   leaves over one more for each whole part that it is given, and one for each that was left over: k <= mn. With a share
   s of the loop in them, 1. leaves for the undivided loop (n + k - s ceil(D/T))/(1 - s) parts. That is least for s =
   kT/D, (nD - k(T ceil(D/T) - D))/(D - kT), and grows with k. So of every n the least k counts, none if n = ceil(D/U),
   and the undivided loop may be replaced by one of as many parts as the least of these, or of one part, whichever is
   more.
6. *Chains.* All this holds for any T and U that are no less than those of the plan, so each memory moves at least an
   amount for its own tile and the next outer one, both as large as they may be. Make the outermost tile of a plan
   larger until it can grow along no loop, then the next one in that, and so on: the chain of these has no
   greater sum than the plan. So the least sum is a shortest path, as in `bitq.movement.chain`, through the tiles that
   cannot grow inside of the one before them. A tile without rows between its taps takes less room; with them it keeps
   no less, so that they are one more way to grow. Sizes that hardly differ count as one: as the largest of them for
   what moves, as the smallest for what fits. Where the engine's budget ends first, the limit stands that no path is
   below.
7. *Few taps.* A tile of less than d taps fetches the rows between them, unless the part that it is cut from has less
   than d taps, too. So a tile without such rows stands in one of less than d taps, and along less than d taps no tile
   grows: rows that it then had would be between the taps of those further in.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, product
from math import ceil, floor, prod
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

MOST_ORDERS, MOST_VECTORS = 1_000_000, 100_000
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
    for capacity in inner:
        bits.append(np.maximum(least_traffic(layer, table, capacity, _least_rows), once))
    return np.stack(bits, axis=1)


def least_chained(layer: Layer, widths: Widths, capacities: Sequence[float], prices: Sequence[float]) -> float:
    """A price that no plan of all memories comes below, memories and the tiles they are given taken together.

    Args:
        layer: any layer.
        widths: bits per element.
        capacities: of the memories in bits, the outermost first.
        prices: of one bit into each of them.
    """
    one = layer.group
    axes = [Axis.of(one, axis) for axis in (0, 1)]
    cells = _cells(tuple(one.extent(loop) for loop in LOOPS), layer.stride)
    tables = [_tables(axis, cells[3 + place], cells[5 + place]) for place, axis in enumerate(axes)]
    asked, _held = chain_question(
        layer,
        widths,
        capacities,
        prices,
        [[top for top, _ in own] for own in cells],
        [[bottom for _, bottom in own] for own in cells],
        [count for count, _, _ in tables],
        rows=[spans for _, spans, _ in tables],
        kept=[kept for _, _, kept in tables],
        shared=[_boundaries(axis)[1] for axis in axes],
    )
    least = ffi.new("double *")
    checked(lib.bitq_chain_least(asked, MOST_ORDERS, UNWANTED, least), f"layer {layer.name!r}")
    return float(least[0])


SizeCell = tuple[int, int]
"""Tile sizes that count as one: the largest, by which they move, and the smallest, by which they fit."""

CellsOfLoop = tuple[SizeCell, ...]


@lru_cache(maxsize=1024)
def _cells(extents: tuple[int, ...], strides: tuple[int, int]) -> tuple[CellsOfLoop, ...]:
    """Those of every loop, the largest first: sizes of one number of tiles, and of a ratio that leaves few.

    Numbers of taps below the stride (7. of this module) are apart from the others.
    """
    for ratio in RATIOS:
        apart = dict(zip("RS", strides, strict=True))
        found = [_cells_of(extent, ratio, apart.get(loop, 1)) for loop, extent in zip(LOOPS, extents, strict=True)]
        if prod(len(own) for loop, own in zip(LOOPS, found, strict=True) if loop != "K") <= MOST_VECTORS:
            break
    return tuple(found)


def _cells_of(extent: int, ratio: float, apart: int) -> CellsOfLoop:
    cells, top = [], extent
    while top > 0:
        bottom = max(-(-extent // -(-extent // top)), ceil(top / ratio))
        bottom = max(bottom, apart) if top >= apart else bottom
        cells.append((top, bottom))
        top = bottom - 1
    return tuple(cells)


@lru_cache(maxsize=1024)
def _tables(axis: Axis, outs: CellsOfLoop, taps: CellsOfLoop) -> tuple[int, Any, Any]:
    """The engine's `gaps`, `rows` and `kept` of an axis."""
    pairs = [_windows(axis, out, tap) for out, tap in product(outs, taps)]
    gaps = max(map(len, pairs))
    found = [windows[min(number, len(windows) - 1)] for number in range(gaps) for windows in pairs]
    spans, kept = zip(*found, strict=True)
    return gaps, ffi.new("int64_t[]", spans), ffi.new("double[]", list(chain.from_iterable(kept)))


@lru_cache(maxsize=1024)
def _least_rows(axis: Axis) -> Any:
    """For every pair of numbers of tiles the engine's `bitq_axis_tile` with the least rows (see this module)."""
    tiles = []
    for out in _smallest(axis.out):
        for tap in _smallest(axis.taps):
            trips = -(-axis.out // out), -(-axis.taps // tap)
            for span, kept in _windows(axis, (out, out), (tap, tap)):
                tiles.append((out, tap, *trips, span, kept))
    return ffi.new("bitq_axis_tile[]", tiles)


def _windows(axis: Axis, outs: SizeCell, taps: SizeCell) -> list[tuple[int, list[int]]]:
    """Rows that a tile takes, and the engine's `kept`: if there are rows between its taps, with and without them.

    With them it keeps no less and moves no more; where they fit, they are as good as none. See `_kept`.
    """
    (largest, smallest), (tap, least) = outs, taps
    span, kept = _least_span(axis, smallest, least), _kept(axis, largest, tap)
    if tap >= min(axis.stride, axis.taps) or _boundaries(axis)[1] < 0:
        return [(span, kept)]
    alone = kept_rows(axis, 1, tap)[0]
    without = [alone, *[0] * 5, alone if largest == axis.out else 0, 0, 0]
    with_gaps = min(largest_rows(axis, smallest, least), (smallest - 1) * min(axis.stride, axis.taps) + least)
    return [(with_gaps, kept), (span, without)]


def _kept(axis: Axis, out: int, tap: int) -> list[int]:
    """The engine's `kept` of tiles of at most these sizes, with the least rows."""
    rows, shared = _boundaries(axis)
    if tap < axis.taps and shared == max(axis.taps - axis.stride, 0):
        return _kept_of_cut_window(axis, out, tap)
    between = (-(-axis.out // out) - 1) * max(shared, 0)
    wraps = rows if out == axis.out or shared < 0 else shared
    return [of_out * of_tap for of_out in (rows + between, between, wraps) for of_tap in (1, 0, 1)]


def _kept_of_cut_window(axis: Axis, out: int, tap: int) -> list[int]:
    """The engine's `kept` where the kernel window is cut (3. of this module, whose letters these are)."""
    P, R, d = axis.out, axis.taps, axis.stride
    b, windows = -(-P // out), [tap] * (R // tap) + [R % tap]
    outside = P * R - kept_rows(axis, 1, tap)[0]

    def read(window: int, tiles: int = b) -> int:
        return P * min(window, d) + tiles * max(window - d, 0)

    everything, once = sum(map(read, windows)), read(R, 1)
    along_taps, outs_wrap = everything - read(R), read(R) - once
    taps_wrap = min(min(R, d) * (P - b), read(R) - outside)
    if b == 1:
        return [everything - outside, along_taps, taps_wrap, 0, 0, 0, everything - outside, along_taps, taps_wrap]
    along_outs = everything - (of_windows := sum(read(window, 1) for window in windows))
    again = 1 - (1 - 1 / out) / (out + 1)
    if d <= tap < R - 1:
        again -= max(1 - 1 / tap - again, 0) * (R - tap - 1) / (tap + 1)
    both_wrap = once - max(floor(again * min(R, d) * P), outside)
    shared = min(along_outs // (b - 1), of_windows - outside)
    first = [everything - outside, along_taps, taps_wrap]
    return [*first, along_outs, 0, outs_wrap, shared, of_windows - once, both_wrap]


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
