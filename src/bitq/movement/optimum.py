"""The exact least data movement of a layer through one buffer, over all loop orders and all integer tiles.

The search is small because of four facts, each held against brute force by the tests:

1. Inputs read = (sum over all steps of the tile) - (what each step keeps), and what the advance of one loop keeps
   depends on the *set* of loops outside of it, not on their order. The best order is a longest path in the lattice of
   sets of loops, not one of 7! permutations.
2. Weights stay only while loops of N, P, Q run innermost, outputs only while C, R, S do. So one tile vector offers at
   most 15 different (input, weight, output) traffics: one per set of loops run innermost.
3. N, K and C matter through their number of tiles alone, so the smallest tile of each number is enough. Along the image
   axes padding and strides can favour other tiles of the same number; those not dominated are kept.
4. More tiles of K never move less, so with the other tiles given the largest K tile that fits is best.

For many width triples the candidates are found once; then the triples are divided into boxes of similar widths, and
each box drops the candidates that another one beats everywhere in it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt, prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitq.errors import BitqError, Infeasible
from bitq.layers import LOOPS, Layer
from bitq.movement._engine import ffi, lib
from bitq.movement.asking import UNWANTED, checked
from bitq.movement.axis import Axis, axis_tiles
from bitq.movement.model import Footprint, Optimum, Tiling, Traffic, Widths

MOST_MACS = 1 << 53
"""Of a layer: up to here the engine, which counts in double precision, is exact."""

MOST_VECTORS, MOST_CANDIDATES = 10**9, 1 << 21
"""Combinations of tile sizes to look at, which takes some minutes; and of those, the ones to compare at once."""

AxisTiles = Callable[[Axis], Any]
"""Gives the engine's table of what pairs of tile sizes of an axis move."""

Table = NDArray[np.float64]
"""Widths as an array (n, 3) or (n, 4) of bits per element: input, weight, output and, if set apart, partial sum."""


def optimize(layer: Layer, widths: Widths, capacity_bits: float) -> Optimum:
    """Least traffic of a layer between a buffer and what lies behind it, with a tiling that has it.

    Args:
        layer: groups are independent convolutions, done one after the other.
        widths: bits per element; any positive numbers.
        capacity_bits: what the buffer holds; the largest tile of each tensor must fit together.

    Returns:
        The optimum over all orders and all integer tile sizes (paper, Eq. 7, without its relaxation).

    Raises:
        Infeasible: no tiling fits; says the least capacity that does.
        BitqError: a capacity that is not positive, or a layer of more tilings than can be looked at.
    """
    table = width_table([[widths.input, widths.weight, widths.output, widths.accumulated]])
    _, chosen, candidates = _solve(layer, table, capacity_bits)
    return _optimum(layer, widths, candidates[chosen[0]])


def optimize_many(layer: Layer, widths: ArrayLike, capacity_bits: float) -> NDArray[np.float64]:
    """`optimize` for many widths at once.

    Args:
        layer: as for `optimize`.
        widths: array (n, 3) of bits per element of input, weight, output; or (n, 4) with those of partial sums.
        capacity_bits: what the buffer holds.

    Returns:
        Array (n,): least traffic in bits for each row, equal to `optimize(...).bits`.

    Raises:
        BitqError: widths of another shape or not positive, partial sums narrower than their outputs, or a capacity
            that is not positive.
        Infeasible: a row of widths with which no tiling fits.
    """
    return _solve(layer, width_table(widths), capacity_bits)[0]


def least_traffic(layer: Layer, table: Table, capacity_bits: float, tiles: AxisTiles) -> NDArray[np.float64]:
    """`optimize_many` where pairs of tile sizes move what another table says."""
    return _solve(layer, table, capacity_bits, tiles)[0]


def optimal_tilings(
    layer: Layer, widths: ArrayLike, capacity_bits: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], tuple[Optimum, ...]]:
    """`optimize_many` with the tilings: bits (n,), the index (n,) of each row's optimum, and the distinct optima.

    The `bits` of a returned optimum are those of the first row that chose it.

    Raises:
        BitqError, Infeasible: as for `optimize_many`.
    """
    table = width_table(widths)
    bits, chosen, candidates = _solve(layer, table, capacity_bits)
    first = {int(index): position for position, index in reversed(list(enumerate(chosen)))}
    optima = []
    for index, candidate in enumerate(candidates):
        row = table[first[index]].tolist()
        width = Widths(input=row[0], weight=row[1], output=row[2], partial_sum=row[-1])
        optima.append(_optimum(layer, width, candidate))
    return bits, chosen, tuple(optima)


def width_table(widths: ArrayLike) -> Table:
    """Rows of widths, checked.

    Raises:
        BitqError: widths of another shape or not positive, or partial sums narrower than their outputs.
    """
    table = np.ascontiguousarray(widths, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] not in (3, 4) or not np.all(np.isfinite(table) & (table > 0)):
        raise BitqError(f"widths of shape {table.shape} must be an array (n, 3) or (n, 4) of positive bits per element")
    if np.any(table[:, -1] < table[:, 2]):
        raise BitqError("widths of partial sums, the fourth column, must be at least those of outputs, the third")
    return table


def priced(table: Table, traffic: Traffic) -> NDArray[np.float64]:
    """`Traffic.bits` for every row of a table of widths, an array (n,)."""
    elements = (traffic.input_reads, traffic.weight_reads, traffic.output_writes + traffic.output_reads)
    products = held_widths(table) * np.array(elements, dtype=np.float64)
    bits: NDArray[np.float64] = products[:, 0] + products[:, 1] + products[:, 2] + finishing(table, traffic.outputs)
    return bits


def held_widths(table: Table) -> Table:
    """Widths in the buffer, an array (n, 3): outputs are partial sums there."""
    return np.ascontiguousarray(table[:, [0, 1, -1]])


def finishing(table: Table, outputs: int) -> NDArray[np.float64]:
    """What the last writes of all outputs add, for they are as wide as outputs and not as partial sums (bits)."""
    bits: NDArray[np.float64] = (table[:, 2] - table[:, -1]) * outputs
    return bits


def _solve(
    layer: Layer, table: Table, capacity_bits: float, tiles: AxisTiles = axis_tiles
) -> tuple[NDArray[np.float64], NDArray[np.int64], list[Any]]:
    if not capacity_bits > 0:
        raise BitqError(f"a capacity of {capacity_bits!r} bits holds nothing; it must be a positive number of bits")
    bits, chosen, held = np.empty(len(table)), np.empty(len(table), dtype=np.int64), held_widths(table)
    if not len(table):
        return bits, chosen, []
    problem = _problem(layer, tiles)
    _check_work(layer, *problem)
    found = ffi.new("bitq_candidate **")
    count = lib.bitq_optimize(
        problem[0],
        ffi.from_buffer("double[]", held),
        len(held),
        capacity_bits,
        MOST_CANDIDATES,
        UNWANTED,
        ffi.from_buffer("double[]", bits),
        ffi.from_buffer("int64_t[]", chosen),
        found,
    )
    if count == lib.BITQ_TOO_MANY and len(np.unique(held, axis=0)) > 1:
        return _solve_by_halves(layer, table, capacity_bits, tiles)
    gib = MOST_CANDIDATES * ffi.sizeof("bitq_candidate") / 2**30
    too_many = f"has over {MOST_CANDIDATES} tilings to compare, which take {gib:.1f} GiB; give a smaller input shape"
    checked(count, f"layer {layer.name!r}", too_many)
    if count == 0:
        needed = float(held.sum(axis=1).max())
        raise Infeasible(
            f"layer {layer.name!r} fits no tiling in {capacity_bits:g} bits; "
            f"one element of each tensor needs {needed!r}"
        )
    owner = ffi.gc(found[0], lib.bitq_free)
    bits += finishing(table, outputs_of(layer))  # the same for all tilings, so the least stays the least
    return bits, chosen, [ffi.new("bitq_candidate *", owner[i]) for i in range(count)]


def _solve_by_halves(
    layer: Layer, table: Table, capacity_bits: float, tiles: AxisTiles
) -> tuple[NDArray[np.float64], NDArray[np.int64], list[Any]]:
    """The same as `_solve`: fewer candidates are worth comparing for widths that are more alike."""
    held = held_widths(table)
    order = np.argsort(held[:, np.argmax(held.max(axis=0) / held.min(axis=0))], kind="stable")
    bits, chosen = np.empty(len(table)), np.empty(len(table), dtype=np.int64)
    places: dict[tuple[int, ...], int] = {}
    candidates: list[Any] = []
    for rows in np.array_split(order, 2):
        bits[rows], own, found = _solve(layer, table[rows], capacity_bits, tiles)
        at = []
        for candidate in found:
            at.append(places.setdefault((*candidate.tile, *candidate.axis, candidate.stationary), len(candidates)))
            if at[-1] == len(candidates):
                candidates.append(candidate)
        chosen[rows] = np.array(at)[own]
    return bits, chosen, candidates


def _check_work(layer: Layer, problem: Any, rows: Any, columns: Any) -> None:
    """Refuse what cannot be counted exactly, or would take hours; of K the largest tile that fits is soon found."""
    macs = prod(getattr(layer, loop) for loop in LOOPS)
    if macs > MOST_MACS:
        raise BitqError(
            f"layer {layer.name!r} has {macs:.3g} multiply-accumulates, more than the {MOST_MACS:.3g} up to which "
            "traffic is counted exactly; give a smaller input shape"
        )
    vectors = len(rows) * len(columns) * _sizes(layer.N) * _sizes(layer.C)
    if vectors > MOST_VECTORS:
        raise BitqError(
            f"layer {layer.name!r} has {vectors:.3g} combinations of tile sizes, more than the {MOST_VECTORS:.3g} that "
            "can be looked at; give a smaller input shape"
        )


def _sizes(extent: int) -> int:
    """About how many different smallest tile sizes a loop has."""
    return 2 * isqrt(extent)


def outputs_of(layer: Layer) -> int:
    """Elements of its output."""
    return layer.N * layer.K * layer.P * layer.Q


def _optimum(layer: Layer, widths: Widths, candidate: Any) -> Optimum:
    problem, rows, columns = _problem(layer)
    order = ffi.new("int64_t[7]")
    lib.bitq_order(problem, candidate, order)
    row, column = rows[candidate.axis[0]], columns[candidate.axis[1]]
    sizes = (*candidate.tile, row.tile_out, column.tile_out, row.tile_tap, column.tile_tap)
    one_batch = layer.N == 1
    tiling = Tiling(
        permutation=tuple(LOOPS[i] for i in order if not (one_batch and LOOPS[i] == "N")),
        tiles=dict(zip(LOOPS, sizes, strict=True)),
    )
    outputs = outputs_of(layer)
    writes = (int(candidate.output) + outputs) // 2
    traffic = Traffic(int(candidate.input), int(candidate.weight), writes, writes - outputs)
    held = Footprint(*(int(elements) for elements in candidate.footprint))
    return Optimum(traffic.bits(widths), tiling, traffic, held)


def _problem(layer: Layer, tiles: AxisTiles = axis_tiles) -> tuple[Any, Any, Any]:
    """The layer as the engine's struct, with the axis tables it points to (kept alive by the caller)."""
    one = layer.group
    rows, columns = tiles(Axis.of(one, 0)), tiles(Axis.of(one, 1))
    extents = {loop: one.extent(loop) for loop in LOOPS}
    problem = ffi.new(
        "bitq_problem *",
        {
            **extents,
            "groups": layer.groups,
            "rows": rows,
            "columns": columns,
            "row_tiles": len(rows),
            "column_tiles": len(columns),
        },
    )
    return problem, rows, columns
