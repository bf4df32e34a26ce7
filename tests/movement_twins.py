"""Twins of the movement model that only count, element by element, order by order, tile by tile."""

import math
from functools import cache
from itertools import permutations, product

import numpy as np

from bitq.layers import LOOPS, Layer
from bitq.movement import Footprint, Tiling, Traffic, Widths, footprint, simulate


def count_elements(layer: Layer, tiling: Tiling) -> tuple[Traffic, Footprint]:
    """Traffic and footprint of one group times the groups, with every tile a set of the elements it holds."""
    spans = {}
    for loop in LOOPS:
        size, extent = tiling.tiles[loop], layer.extent(loop)
        spans[loop] = [range(at, min(at + size, extent)) for at in range(0, extent, size)]

    def rows(axis, outs, taps):
        found = set()
        for p, r in product(outs, taps):
            place = p * layer.stride[axis] + r * layer.dilation[axis] - layer.padding[axis]
            stored, between = divmod(place, layer.input_dilation[axis])
            if between == 0 and 0 <= stored < layer.size[axis]:
                found.add(stored)
        return found

    exist = rows(0, range(layer.P), range(layer.R)), rows(1, range(layer.Q), range(layer.S))

    def box(axis, outs, taps):
        used = rows(axis, outs, taps)
        return {row for row in exist[axis] if used and min(used) <= row <= max(used)}

    inputs = weights = outputs = frozenset()
    written = set()
    input_reads = weight_reads = output_writes = output_reads = 0
    largest = [0, 0, 0]
    order = (*tiling.permutation, *(set(LOOPS) - set(tiling.permutation)))
    for step in product(*(spans[loop] for loop in order)):
        tile = dict(zip(order, step, strict=True))
        n, k, c, p, q, r, s = (tile[loop] for loop in LOOPS)
        new = frozenset(product(n, c, box(0, p, r), box(1, q, s)))
        input_reads += len(new - inputs)
        inputs = new
        new = frozenset(product(k, c, r, s))
        weight_reads += len(new) if new != weights else 0
        weights = new
        new = frozenset(product(n, k, p, q))
        if new != outputs:
            output_writes += len(outputs)
            written |= outputs
            output_reads += len(new & written)
        outputs = new
        largest = [max(pair) for pair in zip(largest, map(len, (inputs, weights, outputs)), strict=True)]
    return (
        Traffic(input_reads, weight_reads, output_writes + len(outputs), output_reads).scaled(layer.groups),
        Footprint(*largest),
    )


def part_of(layer: Layer, spans: dict[str, range]) -> Layer:
    """Some consecutive iterations of one group as a layer of their own."""
    padding, size = [], []
    for axis, (out, tap) in enumerate((("P", "R"), ("Q", "S"))):
        outs, taps, spread = spans[out], spans[tap], layer.input_dilation[axis]
        first = outs.start * layer.stride[axis] + taps.start * layer.dilation[axis] - layer.padding[axis]
        low = -(-max(first, 0) // spread)  # the first stored row that may be used
        if low < layer.size[axis]:
            padding.append(low * spread - first)
            size.append(layer.size[axis] - low)
        else:  # nothing is stored here: put the only row behind all that is used
            reach = (len(outs) - 1) * layer.stride[axis] + (len(taps) - 1) * layer.dilation[axis]
            padding.append(reach + 1)
            size.append(1)
    return Layer(
        "part",
        **{loop: len(spans[loop]) for loop in LOOPS},
        stride=layer.stride,
        dilation=layer.dilation,
        padding=tuple(padding),
        input_size=tuple(size),
        input_dilation=layer.input_dilation,
    )


def tiling_for(part: Layer, tiling: Tiling) -> Tiling:
    return Tiling(
        tiling.permutation, {loop: min(size, part.extent(loop)) for loop, size in tiling.tiles.items()}
    )


def simulate_parts(layer: Layer, tiling: Tiling, parts) -> Traffic:
    """Sum over the parts, each a layer of its own; only the first visit to an output reads nothing back."""
    counted = []
    for spans in product(*(parts[loop] for loop in LOOPS)):
        part = part_of(layer, dict(zip(LOOPS, spans, strict=True)))
        counted.append(simulate(part, tiling_for(part, tiling)))
    inputs, weights, writes = (
        sum(getattr(one, field) for one in counted)
        for field in ("input_reads", "weight_reads", "output_writes")
    )
    outputs = math.prod(layer.extent(loop) for loop in "NKPQ")
    return Traffic(inputs, weights, writes, writes - outputs).scaled(layer.groups)


@cache
def all_tilings(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Elements (input, weight, output) moved and held by every order with every integer tile, no doubles."""
    found = set()
    for sizes in product(*(range(1, layer.extent(loop) + 1) for loop in LOOPS)):
        tiles = dict(zip(LOOPS, sizes, strict=True))
        several = [loop for loop in LOOPS if tiles[loop] < layer.extent(loop)]
        held = footprint(layer, Tiling(several, tiles))
        for order in permutations(several):
            moved = simulate(layer, Tiling(order, tiles))
            found.add(
                (
                    (moved.input_reads, moved.weight_reads, moved.output_writes + moved.output_reads),
                    (held.input, held.weight, held.output),
                )
            )
    moved, held = zip(*sorted(found), strict=True)
    return np.array(moved, dtype=float), np.array(held, dtype=float)


def least_bits(layer: Layer, q: Widths, capacity: float) -> float:
    """The least traffic of all tilings that fit, in bits; infinite if none does."""
    moved, held = all_tilings(layer)
    bits = q.input * moved[:, 0] + q.weight * moved[:, 1] + q.partial_sum * moved[:, 2]
    bits += (q.output - q.partial_sum) * (layer.N * layer.K * layer.P * layer.Q)
    needed = q.input * held[:, 0] + q.weight * held[:, 1] + q.partial_sum * held[:, 2]
    return min(bits[needed <= capacity], default=math.inf)
