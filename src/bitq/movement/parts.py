"""All tilings of one memory, with their traffic, where the outer memories have cut the layer into parts.

The tiles of the outer memories are the parts. This memory cuts every part with the same tile sizes, walks the tiles in
the same order, and starts each part with an empty buffer. Its traffic is that of `bitq.movement.expression` with parts:
the tiles of all steps, less what each step finds in the buffer because the step before left it there.

A step advances one loop. What it finds depends on which loops stand outside of that one, but not on their order, and so
does the sum over all parts. So an order, built from the outermost loop inward, is a path through the sets of loops,
from none to all, and every loop that is added finds its bits. The best order is the path on which most bits are found.
That takes 2^7 sets of loops instead of 7! orders, and counts all edge tiles of all parts exactly.

The compiled engine (`parts.c`) finds that path for every tile vector (tile sizes of all loops) that fits. What is found
is a product of one factor for each loop, or for the two loops of an image axis; this module makes their tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from bitq.layers import LOOPS, Layer
from bitq.movement._engine import ffi, lib
from bitq.movement.asking import UNWANTED, checked
from bitq.movement.axis import CURRENT, INNER, OUTER, Axis, largest_rows
from bitq.movement.expression import Parts, SpanEnds, Spans, elements, ends, kept_by_parts, repetitions
from bitq.movement.model import Tiling, Widths

CHANNELS = ("N", "K", "C")
IMAGE = (("P", "R"), ("Q", "S"))
STATES = (OUTER, CURRENT, INNER)

_RECORD = np.dtype([("tile", "i8", 5), ("order", "i8"), ("bits", "f8"), ("bound", "f8")])
"""The engine's `bitq_choice`."""

TriedSizes = tuple[tuple[int, ...], ...]
"""Tile sizes to try, a tuple for each of `LOOPS`, each from the largest down."""


@dataclass(frozen=True)
class InnerMemory:
    """A memory further in.

    Attributes:
        price: of one bit into it, such as its energy.
        least_bits: that move into it at least, whatever tiles it is given.
    """

    price: float
    least_bits: float


@dataclass(frozen=True)
class Question:
    """Which memory is to be tiled, and for what.

    Attributes:
        layer: what is computed; the traffic of all its groups is counted.
        problem: the largest part, as a layer of one group. Its tiles are the largest, so they have to fit.
        parts: what the outer memories cut one group of the layer into.
        capacity_bits: of the memory.
        price: of one bit into it, such as its energy.
        least_bits: that move into it at least, however it is tiled.
        inner: the memories further in, outermost first; none if this is the innermost.
    """

    layer: Layer
    problem: Layer
    parts: Parts
    capacity_bits: float
    price: float
    least_bits: float
    inner: tuple[InnerMemory, ...]


@dataclass(frozen=True)
class BoundedTiling:
    """A tiling of the memory asked about, and what it comes to.

    Attributes:
        tiling: tile sizes, and the order of least traffic for them.
        bits: traffic into the memory, for all parts and groups.
        bound: the price of that traffic, and a lower bound on that of the traffic into all memories further in.
    """

    tiling: Tiling
    bits: float
    bound: float


def every_size(problem: Layer) -> TriedSizes:
    """Every tile size of every loop."""
    return tuple(tuple(range(problem.extent(loop), 0, -1)) for loop in LOOPS)


def smallest_sizes(problem: Layer) -> TriedSizes:
    """For every number of tiles that a loop can have, the smallest size that makes so many."""
    extents = [problem.extent(loop) for loop in LOOPS]
    return tuple(tuple(sorted({-(-e // trips) for trips in range(1, e + 1)}, reverse=True)) for e in extents)


def few_sizes(problem: Layer) -> TriedSizes:
    """For 1, 2, 4, ... tiles, the smallest size that makes no more; and size 1."""
    extents = [problem.extent(loop) for loop in LOOPS]
    return tuple(tuple(sorted({1, *(-(-e // 2**i) for i in range(e.bit_length()))}, reverse=True)) for e in extents)


def tilings_below(
    question: Question, widths: Widths, sizes: TriedSizes, limit: float, most: int
) -> tuple[int, Iterator[BoundedTiling] | None]:
    """The tilings that fit and have a bound below a limit, the lowest first; of an innermost memory only the best.

    Args:
        question: the memory and its problem.
        widths: bits per element.
        sizes: tile sizes to try.
        limit: tilings whose `bound` is not below this are left out.
        most: give up after finding the best order of so many tile vectors.

    Returns:
        For how many tile vectors the best order was found, and the tilings. None in their place if it gave up.

    Raises:
        BitqError: more tilings than this machine can hold.
    """
    innermost = not question.inner
    size = dict(zip(LOOPS, sizes, strict=True))
    parts = question.parts
    loops = [_loop_tiles(parts[loop], size[loop], innermost) for loop in CHANNELS]
    one = question.layer.group
    axes = [
        _pair_tiles(
            Axis.of(one, axis),
            Axis.of(question.problem, axis),
            ends(parts[out]),
            ends(parts[tap]),
            size[out],
            size[tap],
            innermost,
        )
        for axis, (out, tap) in enumerate(IMAGE)
    ]
    inner_price = ffi.new("double[]", [memory.price for memory in question.inner])
    inner_bits = ffi.new("double[]", [memory.least_bits for memory in question.inner])
    asked = ffi.new(
        "bitq_parts *",
        {
            "loops": loops,
            "tiles": list(map(len, loops)),
            "axes": axes,
            "pairs": list(map(len, axes)),
            "outputs": one.N * one.K * one.P * one.Q,
            "scale": question.layer.groups,
            "capacity": question.capacity_bits,
            "price": question.price,
            "least_bits": question.least_bits,
            "inner": len(question.inner),
            "inner_price": inner_price,
            "inner_bits": inner_bits,
        },
    )
    found, solved = ffi.new("bitq_choice **"), ffi.new("int64_t *")
    prices = [widths.input, widths.weight, widths.accumulated, widths.output]
    count = lib.bitq_parts_choices(asked, prices, limit, most, UNWANTED, solved, found)
    if count == lib.BITQ_TOO_MANY:
        return solved[0], None
    checked(count, f"layer {question.layer.name!r}")
    return solved[0], _sorted(ffi.gc(found[0], lib.bitq_free), count, loops, axes)


def _sorted(found: Any, count: int, loops: Sequence[Any], axes: Sequence[Any]) -> Iterator[BoundedTiling]:
    """The engine's answers, the lowest bound first; each is turned into a tiling when it is asked for."""
    if not count:
        return
    bounds = np.frombuffer(ffi.buffer(found, count * _RECORD.itemsize), dtype=_RECORD)["bound"]
    for index in np.argsort(bounds, kind="stable"):
        choice = found[int(index)]
        N, K, C = (table[i].size for table, i in zip(loops, choice.tile[0:3], strict=True))
        rows, columns = (table[i] for table, i in zip(axes, choice.tile[3:5], strict=True))
        tiles = (N, K, C, rows.out.size, columns.out.size, rows.tap.size, columns.tap.size)
        order = tuple(LOOPS[choice.order >> 3 * place & 7] for place in range(len(LOOPS)))
        yield BoundedTiling(Tiling(order, dict(zip(LOOPS, tiles, strict=True))), choice.bits, choice.bound)


LoopTile = tuple[int, tuple[int, ...], tuple[int, ...]]
"""A tile size; for each of `STATES` the loop's factor where it indexes the tensor; and where it does not."""


def _loop_tile(spans: Spans, size: int) -> LoopTile:
    element, repeat = elements(spans, size), repetitions(spans, size)
    return size, tuple(element[(state,)] for state in STATES), tuple(repeat[(state,)] for state in STATES)


@lru_cache(maxsize=4096)
def _loop_tiles(spans: Spans, sizes: tuple[int, ...], smallest: bool) -> Any:
    """The engine's table of one loop: a row for each tile size.

    With `smallest`, of sizes with the same factors only the smallest stays: they move the same, and it fits best.
    """
    tiles = [_loop_tile(spans, size) for size in sizes]
    if smallest:
        tiles = list({tile[1:]: tile for tile in tiles}.values())
    return ffi.new("bitq_loop_tile[]", tiles)


@lru_cache(maxsize=4096)
def _pair_tiles(
    axis: Axis,
    largest: Axis,
    outs: SpanEnds,
    taps: SpanEnds,
    out_sizes: tuple[int, ...],
    tap_sizes: tuple[int, ...],
    undominated: bool,
) -> Any:
    """The engine's table of one image axis: a row for each pair of tile sizes, of the output loop and the tap loop.

    Args:
        axis: of one group of the layer.
        largest: of the largest part; decides how many rows a tile needs in the memory.
        outs, taps: the parts, along the two loops.
        out_sizes, tap_sizes: to try.
        undominated: leave out pairs that another one replaces, and the rows read as problems of their own.
    """
    out_spans, tap_spans = ([range(*span) for span in spans] for spans in (outs, taps))
    pairs: list[tuple[Any, ...]] = []
    for out in map(_loop_tile, [tuple(out_spans)] * len(out_sizes), out_sizes):
        for tap in map(_loop_tile, [tuple(tap_spans)] * len(tap_sizes), tap_sizes):
            sizes = out[0], tap[0]
            kept = tuple(kept_by_parts(axis, outs, taps, *sizes).values())
            pairs.append((out, tap, largest_rows(largest, *sizes), kept, 0.0))
    if undominated:
        alike: dict[Any, list[tuple[Any, ...]]] = {}
        for pair in reversed(pairs):  # the smallest first
            same = alike.setdefault((pair[0][1:], pair[1][1:]), [])
            if not any(_replaces(other, pair) for other in same):
                same.append(pair)
        pairs = [pair for same in alike.values() for pair in same]
    else:
        pairs = [(*pair[:-1], _alone(axis, outs, taps, pair[0][0], pair[1][0])) for pair in pairs]
    return ffi.new("bitq_pair_tile[]", pairs)


def _replaces(smaller: tuple[Any, ...], pair: tuple[Any, ...]) -> bool:
    """Whether one pair makes another of as many tiles useless: it needs no more room, reads no more rows in all, and
    finds no fewer in the buffer in any state. See `dominates` in axis.c."""
    (out, tap, span, kept, _), (other_out, other_tap, other_span, other_kept, _) = smaller, pair
    not_larger = out[0] <= other_out[0] and tap[0] <= other_tap[0] and span <= other_span
    keeps = all(a >= b for a, b in zip(kept[1:], other_kept[1:], strict=True))
    return not_larger and keeps and bool(kept[0] <= other_kept[0])


def _alone(axis: Axis, outs: SpanEnds, taps: SpanEnds, tile_out: int, tile_tap: int) -> int:
    """Rows of all tiles, each taken as a problem of its own: what the next memory in has to read of them at least.

    This memory fetches all rows from the first to the last that a tile uses. With strides some between them may be used
    by other tiles of the part alone. The next memory, which is given this tile alone, does not read those.
    """

    def cut(spans: SpanEnds, size: int) -> SpanEnds:
        return tuple((at, min(at + size, stop)) for start, stop in spans for at in range(start, stop, size))

    return kept_by_parts(axis, cut(outs, tile_out), cut(taps, tile_tap), tile_out, tile_tap)[OUTER, OUTER]
