"""All memories of a device tiled at once: the plan of least movement by a model that leaves out what edges do to edges.

The traffic into a memory depends on the tiles it is given, on its own and, through edge tiles alone, on those
further out. Without the latter the sum over all memories is a path: from the layer through one tile of each memory
inward. The engine (`chain.c`) finds the shortest:

1. *Tiles.* Of two tiles of which one holds the other, the larger never moves more, neither into its own memory nor
   into those further in. So of each memory only the tiles that can grow along no loop count, and where the outer
   memory's tile is smaller, what that leaves of them. Of the sizes with the same number of tiles, the smallest is
   enough.
2. *Bounds.* A tile moves at least what it would if the whole layer were its memory's problem. With these sums, from
   the innermost memory outward, no tile is looked at that cannot be on a path below a limit; the limit begins at
   the sum of the least and grows until there is a path. What lies further in than a tile is found once.
3. *Traffic* from one tile to the next is that of the best order, exactly, edge tiles of both counted (`parts.c`).

Such a plan is counted as it is, edge tiles of all memories, before it is compared with others
(`bitq.movement.together`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from math import isqrt, prod
from typing import Any

from bitq.layers import LOOPS, Layer
from bitq.movement._engine import ffi, lib
from bitq.movement.asking import UNWANTED, checked
from bitq.movement.axis import Axis, largest_rows
from bitq.movement.model import Tiling, Widths
from bitq.movement.tiled import Tilings

MOST_ORDERS = 200_000
"""To find for one plan, which takes about a second: more than nearly all need."""

MOST_VECTORS = 200_000
"""Combinations of tile sizes to look at for each memory; of loops that have more sizes, every other one is tried."""


def chained(
    layer: Layer, widths: Widths, capacities: Sequence[float], prices: Sequence[float], halves: bool = False
) -> Tilings | None:
    """A plan of all memories at once, or None if the engine's budget ended before there was one.

    Args:
        layer: any layer.
        widths: bits per element.
        capacities: of the memories in bits, the outermost first; each holds one element of each tensor.
        prices: of one bit into each of them.
        halves: try only sizes that halve a loop again and again: few, and most tiles of one divide those of the next.
    """
    one, levels = layer.group, len(capacities)
    sizes = _sizes(tuple(one.extent(loop) for loop in LOOPS), halves)
    rows = [_rows(Axis.of(one, axis), sizes[3 + axis], sizes[5 + axis]) for axis in (0, 1)]
    asked, _kept = chain_question(layer, widths, capacities, prices, sizes, sizes, rows=rows)
    tiles, orders = ffi.new("int64_t[]", levels * len(LOOPS)), ffi.new("int64_t[]", levels)
    found = lib.bitq_chain_plan(asked, MOST_ORDERS, UNWANTED, tiles, orders)
    if not checked(found, f"layer {layer.name!r}"):
        return None
    at = [tiles[level * len(LOOPS) : (level + 1) * len(LOOPS)] for level in range(levels)]
    return tuple(_tiling(order, own, sizes) for order, own in zip(orders, at, strict=True))


def chain_question(
    layer: Layer,
    widths: Widths,
    capacities: Sequence[float],
    prices: Sequence[float],
    sizes: Sequence[Sequence[int]],
    held: Sequence[Sequence[int]],
    kinds: Sequence[int] = (1, 1),
    **tables: Any,
) -> tuple[Any, object]:
    """The engine's `bitq_chain`, and what has to be kept as long as it is asked.

    Args:
        layer, widths, capacities, prices: as for `chained`.
        sizes: of each loop's tiles, for what they move.
        held: of the same tiles, for what they take of a memory.
        kinds: of tiles that have the same sizes along an axis, for each axis.
        tables: its other fields, made by the engine's `ffi`.
    """
    one = layer.group
    integers = [[ffi.new("int64_t[]", list(own)) for own in each] for each in (sizes, held)]
    doubles = [ffi.new("double[]", list(values)) for values in (capacities, prices)]
    axes = [Axis.of(one, axis) for axis in (0, 1)]
    asked = ffi.new(
        "bitq_chain *",
        {
            "counts": [*map(len, sizes), *kinds],
            "sizes": integers[0],
            "held": integers[1],
            "axis": [[a.out, a.taps, a.stride, a.dilation, a.padding, a.size, a.spread] for a in axes],
            "levels": len(capacities),
            "capacity": doubles[0],
            "price": doubles[1],
            "widths": [widths.input, widths.weight, widths.accumulated, widths.output],
            "outputs": one.N * one.K * one.P * one.Q,
            "scale": layer.groups,
            **tables,
        },
    )
    return asked, (integers, doubles, tables)


def _tiling(order: int, tile: Any, sizes: Sequence[Sequence[int]]) -> Tiling:
    permutation = tuple(LOOPS[order >> 3 * place & 7] for place in range(len(LOOPS)))
    return Tiling(permutation, {loop: own[at] for loop, own, at in zip(LOOPS, sizes, tile, strict=True)})


@lru_cache(maxsize=1024)
def _sizes(extents: tuple[int, ...], halves: bool) -> tuple[tuple[int, ...], ...]:
    """Tile sizes to try of every loop, from the largest down."""
    if halves:
        return tuple(tuple(sorted({-(-e // 2**i) for i in range(e.bit_length() + 1)}, reverse=True)) for e in extents)
    sizes = [tuple(sorted({-(-e // trips) for trips in _trips(e)}, reverse=True)) for e in extents]
    while prod(len(own) for loop, own in zip(LOOPS, sizes, strict=True) if loop != "K") > MOST_VECTORS:
        longest = max((place for place in range(len(LOOPS)) if LOOPS[place] != "K"), key=lambda at: len(sizes[at]))
        sizes[longest] = (*sizes[longest][:-1:2], 1)
    return tuple(sizes)


def _trips(extent: int) -> Sequence[int]:
    """Numbers of tiles that between them have all smallest sizes: few tiles, and those of every small size."""
    few = range(1, min(isqrt(extent) + 1, extent) + 1)
    return [*few, *(-(-extent // size) for size in few)]


@lru_cache(maxsize=1024)
def _rows(axis: Axis, outs: tuple[int, ...], taps: tuple[int, ...]) -> Any:
    """Rows of the largest tile of each pair of sizes, where the axis is not cut; then where it is, without padding."""
    reach = (axis.out - 1) * axis.stride + (axis.taps - 1) * axis.dilation
    inside = replace(axis, padding=0, size=reach // axis.spread + 1)
    return ffi.new("int64_t[]", [largest_rows(each, o, t) for each in (axis, inside) for o in outs for t in taps])
