"""The analytic expression of traffic (paper, Eq. 3-5), exact for every order, every integer tile and every edge.

Traffic of a tensor = (sum of its tile over all steps) - (what each step finds in the buffer). Step by step some loop
advances; those outside of it stand still, those inside wrap from their last tile to their first. What the new tile
shares with the held one is a product of one factor per loop (rows and columns join an output loop and a tap loop), and
summed over all such steps the product of the factors' sums. With three states of a loop (outside, advancing, inside)
that is one term per position of the order.

The same holds for a partition of the layer into parts that are problems of their own, as the tiles of an outer memory
are for an inner one: every factor is summed over the parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod

from bitq.errors import BitqError
from bitq.layers import LOOPS, Layer
from bitq.movement.axis import CURRENT, INNER, OUTER, Axis, kept_rows
from bitq.movement.model import Tiling, Traffic

MOST_PARTS = 1 << 20
"""That a loop may be cut into, each of which is looked at."""

Spans = tuple[range, ...]
"""What a loop runs over in each part, one span after the other."""

SpanEnds = tuple[tuple[int, int], ...]
"""First and past-the-last index of each span."""

Parts = Mapping[str, Spans]
"""Spans of each loop; every combination of one span from each is a part."""

Factor = Mapping[tuple[int, ...], int]
"""What one loop (or an output and a tap loop together) adds to a product, by its state (or the pair of states)."""


def whole(layer: Layer) -> Parts:
    """One part: all of one group of the layer."""
    return {loop: (range(layer.extent(loop)),) for loop in LOOPS}


def split(parts: Parts, tiling: Tiling) -> Parts:
    """The tiles of every part: the problems of the next inner memory.

    Raises:
        BitqError: a loop that is cut into more than can be looked at.
    """
    for loop, spans in parts.items():
        tiles = sum(-(-len(span) // tiling.tiles[loop]) for span in spans)
        if tiles > MOST_PARTS:
            raise BitqError(
                f"loop {loop} of {spans[-1].stop} iterations is cut into {tiles} tiles, more than the {MOST_PARTS} "
                "that can be looked at; give a smaller input shape, or a device of larger memories"
            )
    return {
        loop: tuple(
            range(start, min(start + tiling.tiles[loop], span.stop))
            for span in spans
            for start in range(span.start, span.stop, tiling.tiles[loop])
        )
        for loop, spans in parts.items()
    }


def traffic(layer: Layer, tiling: Tiling, parts: Parts | None = None) -> Traffic:
    """Traffic of a tiling by the analytic expression, in elements; equals `simulate` for the whole layer.

    Args:
        layer: all groups of it are counted.
        tiling: checked against the layer if no parts are given.
        parts: the partition of one group of the layer into problems that start with an empty buffer each; a part
            that goes on accumulating outputs of an earlier one reads them back. Default: one part.

    Raises:
        BitqError: a tiling that does not fit the layer.
    """
    if parts is None:
        tiling.check(layer)
        parts = whole(layer)
    one = layer.group
    size = {loop: tiling.size(one, loop) for loop in LOOPS}
    order = [loop for loop in tiling.permutation if any(len(span) > size[loop] for span in parts[loop])]

    element = {loop: elements(parts[loop], size[loop]) for loop in LOOPS}
    repeat = {loop: repetitions(parts[loop], size[loop]) for loop in LOOPS}
    rows = kept_by_parts(Axis.of(one, 0), ends(parts["P"]), ends(parts["R"]), size["P"], size["R"])
    columns = kept_by_parts(Axis.of(one, 1), ends(parts["Q"]), ends(parts["S"]), size["Q"], size["S"])

    def own(loop: str) -> tuple[tuple[str, ...], Factor]:
        return (loop,), element[loop]

    def other(loop: str) -> tuple[tuple[str, ...], Factor]:
        return (loop,), repeat[loop]

    inputs = _moved(order, [own("N"), other("K"), own("C"), (("P", "R"), rows), (("Q", "S"), columns)])
    weights = _moved(order, [own(loop) if loop in "KCRS" else other(loop) for loop in LOOPS])
    writes = _moved(order, [own(loop) if loop in "NKPQ" else other(loop) for loop in LOOPS])
    outputs = one.N * one.K * one.P * one.Q
    return Traffic(inputs, weights, writes, writes - outputs).scaled(layer.groups)


def _moved(order: Sequence[str], factors: Sequence[tuple[tuple[str, ...], Factor]]) -> int:
    state = dict.fromkeys(LOOPS, INNER)
    kept = 0
    for advancing in order:
        state[advancing] = CURRENT
        kept += prod(factor[tuple(state[loop] for loop in loops)] for loops, factor in factors)
        state[advancing] = OUTER
    return prod(factor[(OUTER,) * len(loops)] for loops, factor in factors) - kept


def elements(spans: Spans, size: int) -> Factor:
    """A loop that indexes the tensor: tiles are disjoint, so a wrap keeps something only where there is one tile."""
    return {
        (OUTER,): sum(map(len, spans)),
        (CURRENT,): 0,
        (INNER,): sum(len(span) for span in spans if len(span) <= size),
    }


def repetitions(spans: Spans, size: int) -> Factor:
    """A loop that does not index the tensor: every step of it meets the same elements."""
    trips = sum(-(-len(span) // size) for span in spans)
    return {(OUTER,): trips, (CURRENT,): trips - len(spans), (INNER,): len(spans)}


def ends(spans: Spans) -> SpanEnds:
    """The ends of spans, which caches look up ten times as fast as ranges."""
    return tuple((span.start, span.stop) for span in spans)


@lru_cache(maxsize=16384)
def kept_by_parts(
    axis: Axis,
    outs: SpanEnds,
    taps: SpanEnds,
    tile_out: int,
    tile_tap: int,
) -> Factor:
    """Rows (or columns) that stay, summed over all pairs of a part of the outputs and a part of the taps."""
    parts = Counter(axis.part(range(*out), range(*tap)) for out in outs for tap in taps)
    sums = [0] * 9
    for part, times in parts.items():
        kept = kept_rows(part, min(tile_out, part.out), min(tile_tap, part.taps))
        sums = [total + times * value for total, value in zip(sums, kept, strict=True)]
    return {(out, tap): sums[3 * out + tap] for out in range(3) for tap in range(3)}
