"""All tilings of one memory whose problem comes in parts, as the tiles of an outer memory are, with their traffic.

What the advance of a loop keeps depends on the set of loops outside of it, for every tensor and summed over any parts.
For one width triple the best order of a tile vector is therefore one longest path in the lattice of sets of loops, edge
tiles of all parts included. The compiled engine walks it for every tile vector that fits; this module makes its tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from bitq.layers import LOOPS, Layer
from bitq.movement._engine import ffi, lib
from bitq.movement.axis import CURRENT, INNER, OUTER, Axis, largest_rows
from bitq.movement.expression import Parts, Spans, elements, ends, kept_by_parts, repetitions
from bitq.movement.model import Tiling, Widths

CHANNELS = ("N", "K", "C")
IMAGE = (("P", "R"), ("Q", "S"))
STATES = (OUTER, CURRENT, INNER)

CHOICE = np.dtype([("tile", "i8", 5), ("order", "i8"), ("bits", "f8"), ("bound_pj", "f8")])
"""The engine's `bitq_choice`."""

Ends = tuple[tuple[int, int], ...]
Sizes = tuple[tuple[int, ...], ...]
"""Tile sizes to try, a tuple for each of `LOOPS`, each from the largest down."""


@dataclass(frozen=True)
class Inner:
    """A memory further in: energy of one bit into it (pJ), and bits below which its traffic cannot come."""

    energy_pj_per_bit: float
    least_bits: float


@dataclass(frozen=True)
class Question:
    """What is asked of one memory.

    Attributes:
        layer: all groups of it are counted.
        problem: the largest part as a layer of one group; decides what a tile needs of the capacity.
        parts: the partition of one group of the layer that the outer memories make.
        capacity_bits: of the memory.
        energy_pj_per_bit: of one bit into it, in pJ.
        least_bits: below which its traffic cannot come.
        inner: the memories further in.
    """

    layer: Layer
    problem: Layer
    parts: Parts
    capacity_bits: float
    energy_pj_per_bit: float
    least_bits: float
    inner: tuple[Inner, ...]


@dataclass(frozen=True)
class Choice:
    """A tiling with its best order, its traffic (bits), and its energy plus the least of the inner memories' (pJ)."""

    tiling: Tiling
    bits: float
    bound_pj: float


def every_size(problem: Layer) -> Sizes:
    """All integer tiles."""
    return tuple(tuple(range(problem.extent(loop), 0, -1)) for loop in LOOPS)


def smallest_sizes(problem: Layer) -> Sizes:
    """The smallest tile of each number of tiles."""
    extents = [problem.extent(loop) for loop in LOOPS]
    return tuple(tuple(sorted({-(-e // trips) for trips in range(1, e + 1)}, reverse=True)) for e in extents)


def few_sizes(problem: Layer) -> Sizes:
    """The smallest tile of 1, 2, 4, ... tiles, and 1."""
    extents = [problem.extent(loop) for loop in LOOPS]
    return tuple(tuple(sorted({1, *(-(-e // 2**i) for i in range(e.bit_length()))}, reverse=True)) for e in extents)


def choices(
    question: Question, widths: Widths, sizes: Sizes, limit_pj: float, most: int
) -> tuple[int, Iterator[Choice] | None]:
    """Tilings that fit and whose bound is below a limit, the lowest bound first; of an innermost memory only the best.

    Returns:
        The number of tile vectors whose orders were solved, and the tilings; None if `most` did not suffice.

    Raises:
        MemoryError: more tilings than this machine can hold.
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
    inner_pj = ffi.new("double[]", [memory.energy_pj_per_bit for memory in question.inner])
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
            "energy_pj": question.energy_pj_per_bit,
            "least_bits": question.least_bits,
            "inner": len(question.inner),
            "inner_pj": inner_pj,
            "inner_bits": inner_bits,
        },
    )
    found, solved = ffi.new("bitq_choice **"), ffi.new("int64_t *")
    prices = [widths.input, widths.weight, widths.accumulated, widths.output]
    count = lib.bitq_parts_choices(asked, prices, limit_pj, most, solved, found)
    if count == -2:
        return solved[0], None
    if count < 0:
        raise MemoryError(f"layer {question.layer.name!r} has too many tilings for this machine's memory")
    return solved[0], _sorted(ffi.gc(found[0], lib.bitq_free), count, loops, axes)


def _sorted(found: Any, count: int, loops: Sequence[Any], axes: Sequence[Any]) -> Iterator[Choice]:
    if not count:
        return
    bounds = np.frombuffer(ffi.buffer(found, count * CHOICE.itemsize), dtype=CHOICE)["bound_pj"]
    for index in np.argsort(bounds, kind="stable"):
        choice = found[int(index)]
        N, K, C = (table[i].size for table, i in zip(loops, choice.tile[0:3], strict=True))
        rows, columns = (table[i] for table, i in zip(axes, choice.tile[3:5], strict=True))
        tiles = (N, K, C, rows.out.size, columns.out.size, rows.tap.size, columns.tap.size)
        order = tuple(LOOPS[choice.order >> 3 * place & 7] for place in range(len(LOOPS)))
        yield Choice(Tiling(order, dict(zip(LOOPS, tiles, strict=True))), choice.bits, choice.bound_pj)


LoopTile = tuple[int, tuple[int, ...], tuple[int, ...]]


def _loop_tile(spans: Spans, size: int) -> LoopTile:
    element, repeat = elements(spans, size), repetitions(spans, size)
    return size, tuple(element[(state,)] for state in STATES), tuple(repeat[(state,)] for state in STATES)


@lru_cache(maxsize=4096)
def _loop_tiles(spans: Spans, sizes: tuple[int, ...], smallest: bool) -> Any:
    """Tables of one loop; `smallest` keeps, of the tiles that move the same, only the smallest."""
    tiles = [_loop_tile(spans, size) for size in sizes]
    if smallest:
        tiles = list({tile[1:]: tile for tile in tiles}.values())
    return ffi.new("bitq_loop_tile[]", tiles)


@lru_cache(maxsize=4096)
def _pair_tiles(
    axis: Axis,
    largest: Axis,
    outs: Ends,
    taps: Ends,
    out_sizes: tuple[int, ...],
    tap_sizes: tuple[int, ...],
    undominated: bool,
) -> Any:
    """Tables of one image axis; `undominated` leaves out pairs that another one of as many tiles replaces."""
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
    """Of as many tiles, not larger, and never moves more: see `dominates` in axis.c."""
    (out, tap, span, kept, _), (other_out, other_tap, other_span, other_kept, _) = smaller, pair
    not_larger = out[0] <= other_out[0] and tap[0] <= other_tap[0] and span <= other_span
    keeps = all(a >= b for a, b in zip(kept[1:], other_kept[1:], strict=True))
    return not_larger and keeps and bool(kept[0] <= other_kept[0])


def _alone(axis: Axis, outs: Ends, taps: Ends, tile_out: int, tile_tap: int) -> int:
    """Rows that all tiles read as problems of their own: no gap that only a neighbour fills is among them."""

    def cut(spans: Ends, size: int) -> Ends:
        return tuple((at, min(at + size, stop)) for start, stop in spans for at in range(start, stop, size))

    return kept_by_parts(axis, cut(outs, tile_out), cut(taps, tile_tap), tile_out, tile_tap)[OUTER, OUTER]
