"""The paper's own way to a tiling (Eq. 3-5 and 7): tile sizes as real numbers, solved with IPOPT, rounded down.

It stands here to be compared with: `bitq.movement.optimize` finds the true optimum. Where the paper leaves something
open, the choice made here is:

- A loop of extent N with tiles of T has N/T trips, whatever the remainder.
- What a tensor reuses is decided by the innermost loop. If it does not index the tensor, the tile stays (full reuse)
  and the next loop decides in turn. If it moves the sliding window of the inputs (P, Q, R, S), a whole sweep of it
  reads the rows or columns of the whole loop once (partial reuse). Otherwise each step reads the whole tile (no reuse).
- Outputs count twice for each time their tile is entered: once read, once written, on the first visit too. If partial
  sums have a width of their own, all of that is theirs but each output's last write.
- Input tiles are boxes of (T_P - 1) stride + (T_R - 1) dilation + 1 rows; padding and rows that a stride skips count
  as if they were stored and used.
- Of all orders only eight differ and are not worse than another throughout (`CLASSES`). Each is solved by itself, in
  the logarithms of the tile sizes, from two starts, as the problem is not convex; the least relaxed traffic wins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import exp, floor, inf, log, prod
from typing import Any

from bitq.errors import BitqError, Infeasible
from bitq.layers import LOOPS, Layer
from bitq.movement.expression import traffic
from bitq.movement.model import Tiling, Traffic, Widths
from bitq.movement.simulate import footprint

CLASSES: tuple[tuple[str, ...], ...] = tuple(
    map(tuple, ("NCQRSPK", "NCPRSQK", "NCPQSRK", "NCPQRSK", "KCRSNQP", "KCRSNPQ", "NKPQCSR", "NKPQCRS"))
)
"""An order, outermost first, for each class: inputs stay and slide along P, Q, R or S; weights stay and inputs slide
along P or Q; outputs stay and inputs slide along R or S."""

MARGIN = 1e-7  # of the capacity, relative: wider than the solver's tolerance
STARTS = (0.95, 0.4)  # where between one element and what fits the solver starts, in logarithms

RealSizes = Mapping[str, Any]
"""Tile size of each loop: real numbers, or CasADi's symbols for them."""


@dataclass(frozen=True)
class RelaxedOptimum:
    """What the relaxed problem answers, and what that is worth.

    Attributes:
        bits: relaxed optimum, in bits; neither a bound of the true optimum nor always reachable.
        sizes: its real tile sizes.
        tiling: the same order with tiles rounded down, which fits the capacity.
        traffic: true traffic of `tiling`, in elements.
        floored_bits: the same in bits.
    """

    bits: float
    sizes: Mapping[str, float]
    tiling: Tiling
    traffic: Traffic
    floored_bits: float


def optimize_relaxed(layer: Layer, widths: Widths, capacity_bits: float) -> RelaxedOptimum:
    """The paper's optimum of a layer: real tile sizes by IPOPT, then integers.

    Args:
        layer: groups are independent convolutions, done one after the other.
        widths: bits per element.
        capacity_bits: what the buffer holds.

    Raises:
        Infeasible: not even one element of each tensor fits.
        BitqError: CasADi is not installed, or IPOPT fails on an order from every start.
    """
    ones = dict.fromkeys(LOOPS, 1.0)
    needed = relaxed_footprint(layer, ones, widths)
    if not needed <= capacity_bits:
        raise Infeasible(
            f"layer {layer.name!r} fits no tiling in {capacity_bits:g} bits; "
            f"one element of each tensor needs {needed!r}"
        )
    bits, order, sizes = inf, CLASSES[0], ones
    for candidate in CLASSES:
        for found in (ones, *_solutions(layer, widths, capacity_bits, candidate)):
            moved = relaxed_bits(layer, candidate, found, widths)
            if moved < bits and relaxed_footprint(layer, found, widths) <= capacity_bits:
                bits, order, sizes = moved, candidate, found
    tiling = _floored(layer, order, sizes, widths, capacity_bits)
    moved = traffic(layer, tiling)
    return RelaxedOptimum(bits, sizes, tiling, moved, moved.bits(widths))


def relaxed_traffic(layer: Layer, order: tuple[str, ...], sizes: RealSizes) -> tuple[Any, Any, Any]:
    """Elements of input, weight and output that move (paper, Eq. 3-5), outputs twice, all groups.

    Args:
        layer: any layer.
        order: all loops, outermost first.
        sizes: tile size of every loop of one group, real.
    """
    trips = {loop: layer.extent(loop) / sizes[loop] for loop in LOOPS}

    def walked(index: str) -> tuple[str, ...]:
        last = max(position for position, loop in enumerate(order) if loop in index)
        return order[: last + 1]

    *outer, sliding = walked("NCPQRS")
    swept = {**sizes, sliding: layer.extent(sliding)} if sliding in "PQRS" else sizes
    slides = trips[sliding] if sliding in "NC" else 1
    inputs = _input_box(layer, swept) * slides * prod(trips[loop] for loop in outer)
    weights = prod(sizes[loop] for loop in "KCRS") * prod(trips[loop] for loop in walked("KCRS"))
    outputs = prod(sizes[loop] for loop in "NKPQ") * prod(trips[loop] for loop in walked("NKPQ"))
    return layer.groups * inputs, layer.groups * weights, 2 * layer.groups * outputs


def relaxed_bits(layer: Layer, order: tuple[str, ...], sizes: RealSizes, widths: Widths) -> Any:
    """`relaxed_traffic` in bits."""
    inputs, weights, outputs = relaxed_traffic(layer, order, sizes)
    moved = widths.input * inputs + widths.weight * weights + widths.accumulated * outputs
    return moved + (widths.output - widths.accumulated) * layer.N * layer.K * layer.P * layer.Q


def relaxed_footprint(layer: Layer, sizes: RealSizes, widths: Widths) -> Any:
    """Bits that one tile of each tensor takes (paper, Eq. 7)."""
    weights, outputs = (prod(sizes[loop] for loop in index) for index in ("KCRS", "NKPQ"))
    return widths.input * _input_box(layer, sizes) + widths.weight * weights + widths.accumulated * outputs


def _input_box(layer: Layer, sizes: RealSizes) -> Any:
    rows, columns = (
        (sizes[out] - 1) * layer.stride[axis] + (sizes[tap] - 1) * layer.dilation[axis] + 1
        for axis, (out, tap) in enumerate((("P", "R"), ("Q", "S")))
    )
    return sizes["N"] * sizes["C"] * rows * columns


def _solutions(layer: Layer, widths: Widths, capacity: float, order: tuple[str, ...]) -> Iterator[dict[str, float]]:
    """What IPOPT finds for one order from each start.

    Where not even one element of each tensor fits with a margin, it has nothing to find.
    """
    try:
        import casadi
    except ImportError:
        raise BitqError("the paper's relaxed tiling needs CasADi: pip install 'bitq[relaxed]'") from None
    free = [loop for loop in LOOPS if layer.extent(loop) > 1]
    if not free:
        return
    logs = casadi.SX.sym("log_size", len(free))
    sizes = {**dict.fromkeys(LOOPS, 1.0), **{loop: casadi.exp(logs[i]) for i, loop in enumerate(free)}}
    solver = casadi.nlpsol(
        "relaxed",
        "ipopt",
        {
            "x": logs,
            "f": casadi.log(relaxed_bits(layer, order, sizes, widths)),
            "g": casadi.log(relaxed_footprint(layer, sizes, widths) / capacity),
        },
        {"print_time": False, "ipopt": {"print_level": 0, "sb": "yes", "max_iter": 300}},
    )
    limits = [log(layer.extent(loop)) for loop in free]
    largest = _share_that_fits(layer, widths, capacity)
    solved = relaxed_footprint(layer, dict.fromkeys(LOOPS, 1.0), widths) > capacity * (1 - 2 * MARGIN)
    for start in STARTS:
        at = [start * largest * limit for limit in limits]
        result = solver(x0=at, lbx=0, ubx=limits, lbg=-inf, ubg=log(1 - MARGIN))
        values = [exp(float(value)) for value in result["x"].full().flat]
        inside = {loop: min(max(value, 1.0), layer.extent(loop)) for loop, value in zip(free, values, strict=True)}
        solved |= bool(solver.stats()["success"])
        yield {**dict.fromkeys(LOOPS, 1.0), **inside}
    if not solved:
        raise BitqError(
            f"the solver finds no relaxed tiling of layer {layer.name!r} in {capacity:g} bits for the order "
            f"{' '.join(order)} ({solver.stats()['return_status']}); compare with another capacity"
        )


def _share_that_fits(layer: Layer, widths: Widths, capacity: float) -> float:
    """The largest share x for which tiles of extent^x fit."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        sizes = {loop: layer.extent(loop) ** middle for loop in LOOPS}
        low, high = (middle, high) if relaxed_footprint(layer, sizes, widths) <= capacity else (low, middle)
    return low


def _floored(layer: Layer, order: tuple[str, ...], sizes: RealSizes, widths: Widths, capacity: float) -> Tiling:
    """Tiles rounded down; what lies a solver's tolerance below an integer is that integer, if it fits."""
    for tolerance in (1e-4, 0.0):
        tiling = Tiling(order, {loop: min(floor(sizes[loop] + tolerance), layer.extent(loop)) for loop in LOOPS})
        if footprint(layer, tiling).bits(widths) <= capacity:
            break
    return tiling
