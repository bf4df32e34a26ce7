"""The truth about traffic: walk the tile loops and count, element by element of every box.

This is the slow twin of `bitq.movement.expression` and of the compiled engine; it knows no formula.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from bitq.layers import LOOPS, Layer
from bitq.movement.model import Footprint, Tiling, Traffic

Rows = frozenset[int]
Box = tuple[object, ...]


def _rows(layer: Layer, axis: int, outs: range, taps: range) -> set[int]:
    """Stored rows (axis 0) or columns (axis 1) that these outputs use with these kernel taps."""
    stride, dilation, padding = layer.stride[axis], layer.dilation[axis], layer.padding[axis]
    spread, size = layer.input_dilation[axis], layer.size[axis]
    places = {p * stride + r * dilation - padding for p in outs for r in taps}
    return {place // spread for place in places if place % spread == 0 and 0 <= place // spread < size}


def _box_rows(existing: set[int], used: set[int]) -> Rows:
    """All existing rows from the first to the last used one: what a block transfer fetches and keeps."""
    return frozenset(row for row in existing if min(used) <= row <= max(used)) if used else frozenset()


def _tiles(extent: int, size: int) -> list[range]:
    return [range(start, min(start + size, extent)) for start in range(0, extent, size)]


def _walk(layer: Layer, tiling: Tiling) -> Iterator[dict[str, int]]:
    order = [loop for loop in tiling.permutation if tiling.trips(layer, loop) > 1]
    rest = {loop: 0 for loop in LOOPS if loop not in order}
    for indices in product(*(range(tiling.trips(layer, loop)) for loop in order)):
        yield {**rest, **dict(zip(order, indices, strict=True))}


def simulate(layer: Layer, tiling: Tiling) -> Traffic:
    """Traffic of a tiling, counted step by step.

    Args:
        layer: all groups of it are counted.
        tiling: checked against the layer.

    Returns:
        Elements read and written over the whole walk. Inputs: what the new tile has and the held one lacks. Weights:
        the whole tile when it differs from the held one. Outputs: the whole tile when it is left, and again when it is
        met again.

    Raises:
        BitqError: a tile larger than its loop, or a loop of several tiles missing from the permutation.
    """
    tiling.check(layer)
    one = layer.group
    tiles = {loop: _tiles(one.extent(loop), tiling.size(one, loop)) for loop in LOOPS}
    loops = ("P", "R"), ("Q", "S")
    boxes = []
    for axis, (out, tap) in enumerate(loops):
        existing = _rows(one, axis, range(one.extent(out)), range(one.extent(tap)))
        boxes.append(
            {
                (i, j): _box_rows(existing, _rows(one, axis, outs, taps))
                for i, outs in enumerate(tiles[out])
                for j, taps in enumerate(tiles[tap])
            }
        )

    input_reads = weight_reads = output_writes = output_reads = 0
    held_input: tuple[int, int, Rows, Rows] | None = None
    held_weight: tuple[int, ...] | None = None
    held_output: tuple[int, ...] | None = None
    seen: set[tuple[int, ...]] = set()
    for at in _walk(one, tiling):
        length = {loop: len(tiles[loop][at[loop]]) for loop in LOOPS}

        rows, columns = boxes[0][at["P"], at["R"]], boxes[1][at["Q"], at["S"]]
        whole = length["N"] * length["C"] * len(rows) * len(columns)
        shared = 0
        if held_input is not None and held_input[:2] == (at["N"], at["C"]):
            shared = length["N"] * length["C"] * len(rows & held_input[2]) * len(columns & held_input[3])
        input_reads += whole - shared
        held_input = (at["N"], at["C"], rows, columns)

        weight = tuple(at[loop] for loop in "KCRS")
        if weight != held_weight:
            weight_reads += length["K"] * length["C"] * length["R"] * length["S"]
            held_weight = weight

        output = tuple(at[loop] for loop in "NKPQ")
        if output != held_output:
            elements = length["N"] * length["K"] * length["P"] * length["Q"]
            output_writes += elements  # it will be left once for each time it is entered
            output_reads += elements if output in seen else 0
            seen.add(output)
            held_output = output
    return Traffic(input_reads, weight_reads, output_writes, output_reads).scaled(layer.groups)


def footprint(layer: Layer, tiling: Tiling) -> Footprint:
    """The largest tile of each tensor over the walk, in elements (of one group, as the buffer holds one)."""
    tiling.check(layer)
    one = layer.group
    size = {loop: tiling.size(one, loop) for loop in LOOPS}
    spans = []
    for axis, (out, tap) in enumerate((("P", "R"), ("Q", "S"))):
        existing = _rows(one, axis, range(one.extent(out)), range(one.extent(tap)))
        spans.append(
            max(
                len(_box_rows(existing, _rows(one, axis, outs, taps)))
                for outs in _tiles(one.extent(out), size[out])
                for taps in _tiles(one.extent(tap), size[tap])
            )
        )
    return Footprint(
        input=size["N"] * size["C"] * spans[0] * spans[1],
        weight=size["K"] * size["C"] * size["R"] * size["S"],
        output=size["N"] * size["K"] * size["P"] * size["Q"],
    )
