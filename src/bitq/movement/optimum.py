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

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitq.errors import BitqError
from bitq.layers import LOOPS, Layer
from bitq.movement._engine import ffi, lib
from bitq.movement.axis import Axis, axis_tiles
from bitq.movement.model import Footprint, Optimum, Tiling, Traffic, Widths


def optimize(layer: Layer, widths: Widths, capacity_bits: float) -> Optimum:
    """Least traffic of a layer between a buffer and what lies behind it, with a tiling that has it.

    Args:
        layer: groups are independent convolutions, done one after the other.
        widths: bits per element; any positive numbers.
        capacity_bits: what the buffer holds; the largest tile of each tensor must fit together.

    Returns:
        The optimum over all orders and all integer tile sizes (paper, Eq. 7, without its relaxation).

    Raises:
        BitqError: no tiling fits; says the least capacity that does.
    """
    triple = _triples([[widths.input, widths.weight, widths.output]])
    _, chosen, candidates = _solve(layer, triple, capacity_bits)
    return _optimum(layer, widths, candidates[chosen[0]])


def optimize_many(layer: Layer, widths: ArrayLike, capacity_bits: float) -> NDArray[np.float64]:
    """`optimize` for many width triples at once.

    Args:
        layer: as for `optimize`.
        widths: array (n, 3) of bits per element of input, weight, output.
        capacity_bits: what the buffer holds.

    Returns:
        Array (n,): least traffic in bits for each triple, equal to `optimize(...).bits`.

    Raises:
        BitqError: widths of another shape or not positive, or a triple that no tiling fits.
    """
    return _solve(layer, _triples(widths), capacity_bits)[0]


def optimal_tilings(
    layer: Layer, widths: ArrayLike, capacity_bits: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], tuple[Optimum, ...]]:
    """`optimize_many` with the tilings: bits (n,), the index (n,) of each triple's optimum, and the distinct optima.

    The `bits` of a returned optimum are those of the first triple that chose it.

    Raises:
        BitqError: as for `optimize_many`.
    """
    triples = _triples(widths)
    bits, chosen, candidates = _solve(layer, triples, capacity_bits)
    first = {int(index): position for position, index in reversed(list(enumerate(chosen)))}
    optima = []
    for index, candidate in enumerate(candidates):
        q_input, q_weight, q_output = triples[first[index]]
        optima.append(_optimum(layer, Widths(input=q_input, weight=q_weight, output=q_output), candidate))
    return bits, chosen, tuple(optima)


def _triples(widths: ArrayLike) -> NDArray[np.float64]:
    triples = np.ascontiguousarray(widths, dtype=np.float64)
    if triples.ndim != 2 or triples.shape[1] != 3 or not np.all(np.isfinite(triples) & (triples > 0)):
        raise BitqError(f"widths of shape {triples.shape} must be an array (n, 3) of positive bits per element")
    return triples


def _solve(
    layer: Layer, triples: NDArray[np.float64], capacity_bits: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], list[Any]]:
    if not capacity_bits > 0:
        raise BitqError(f"a capacity of {capacity_bits!r} bits holds nothing; it must be a positive number of bits")
    bits, chosen = np.empty(len(triples)), np.empty(len(triples), dtype=np.int64)
    if not len(triples):
        return bits, chosen, []
    found = ffi.new("bitq_candidate **")
    count = lib.bitq_optimize(
        _problem(layer)[0],
        ffi.from_buffer("double[]", triples),
        len(triples),
        capacity_bits,
        ffi.from_buffer("double[]", bits),
        ffi.from_buffer("int64_t[]", chosen),
        found,
    )
    if count < 0:
        raise MemoryError(f"layer {layer.name!r} has too many tilings for this machine's memory")
    if count == 0:
        needed = float(triples.sum(axis=1).max())
        raise BitqError(
            f"layer {layer.name!r} fits no tiling in {capacity_bits:g} bits; "
            f"one element of each tensor needs {needed!r}"
        )
    owner = ffi.gc(found[0], lib.bitq_free)
    return bits, chosen, [ffi.new("bitq_candidate *", owner[i]) for i in range(count)]


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
    outputs = layer.N * layer.K * layer.P * layer.Q
    writes = (int(candidate.output) + outputs) // 2
    traffic = Traffic(int(candidate.input), int(candidate.weight), writes, writes - outputs)
    held = Footprint(*(int(elements) for elements in candidate.footprint))
    return Optimum(traffic.bits(widths), tiling, traffic, held)


def _problem(layer: Layer) -> tuple[Any, Any, Any]:
    """The layer as the engine's struct, with the axis tables it points to (kept alive by the caller)."""
    one = layer.group
    rows, columns = axis_tiles(Axis.of(one, 0)), axis_tiles(Axis.of(one, 1))
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
