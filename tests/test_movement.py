"""The movement model: what is moved, how little can be, and what is refused."""

import csv
import math
import os
import re
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bitq.errors import BitqError, Infeasible
from bitq.formats import BlockFormat, TensorFormats, grid
from bitq.layers import LOOPS, Layer
from bitq.movement import (
    Tiling,
    Traffic,
    Widths,
    footprint,
    optimal_tilings,
    optimize,
    optimize_many,
    simulate,
    traffic,
)
from bitq.movement import axis as axis_module
from bitq.movement import optimum as optimum_module
from bitq.movement.asking import answered, heard
from bitq.movement.axis import Axis, axis_tiles, largest_rows
from bitq.movement.expression import MOST_PARTS, split, whole
from bitq.movement.network import traffic_bits
from bitq.movement.widths import widths as widths_of
from movement_twins import all_tilings, count_elements, least_bits, simulate_parts
from strategies import few_loops, layers, one_axis, table, tilings, widths

ORACLE = "BITQ_MOVEMENT_ORACLE"

LONG = Layer("long", K=4, C=4, Q=2_000_000, S=5, padding=(0, 2), input_size=(1, 2_000_000))
"""Takes a minute to tile."""

FLOAT = Widths(32.0, 32.0, 32.0)


@given(st.data())
@settings(max_examples=150)
def test_the_simulation_counts_elements(data):
    layer = data.draw(layers(most={"N": 2, "K": 2, "C": 2, "P": 4, "Q": 3, "R": 3, "S": 2}))
    tiling = data.draw(tilings(layer))
    assert (simulate(layer, tiling), footprint(layer, tiling)) == count_elements(layer, tiling)


@given(st.data())
@settings(max_examples=400)
def test_the_expression_equals_the_simulation(data):
    layer = data.draw(layers())
    tiling = data.draw(tilings(layer))
    assert traffic(layer, tiling) == simulate(layer, tiling)


@given(st.data())
@settings(max_examples=150)
def test_loops_of_one_tile_may_be_left_out_of_a_tiling(data):
    layer = data.draw(layers())
    tiling = data.draw(tilings(layer))
    several = [loop for loop in LOOPS if tiling.tiles[loop] < layer.extent(loop)]
    short = Tiling(
        [loop for loop in tiling.permutation if loop in several],
        {loop: size for loop, size in tiling.tiles.items() if loop in several},
    )
    assert traffic(layer, short) == simulate(layer, short) == simulate(layer, tiling)
    assert footprint(layer, short) == footprint(layer, tiling)


@given(st.data())
@settings(max_examples=150)
def test_parts_add_up(data):
    layer = data.draw(layers(most={"N": 2, "K": 2, "C": 3, "P": 6, "Q": 3, "R": 3, "S": 2}))
    parts = whole(layer)
    for _ in range(data.draw(st.integers(1, 2))):
        parts = split(parts, data.draw(tilings(layer)))
    longest = {loop: max(map(len, parts[loop])) for loop in LOOPS}
    inner = data.draw(tilings(Layer("tile", **longest)))
    assert traffic(layer, inner, parts) == simulate_parts(layer, inner, parts)


@given(few_loops() | one_axis(), st.lists(widths(), min_size=1, max_size=3), st.floats(1, 2000))
@settings(max_examples=300)
def test_the_optimum_is_the_least_of_all_tilings(layer, several, anything):
    for q in several:
        assert_least(layer, q, anything)


def along(stride, dilation, padding, size, spread=1, **loops):
    pairs = {"stride": stride, "dilation": dilation, "input_dilation": spread, "input_size": size}
    return Layer("axis", **loops, **{name: (value, 1) for name, value in pairs.items()}, padding=(padding, 0))


# Layers on which other tiles than the smallest of their number win: larger ones that use fewer rows in all, ...
LARGER_TILES = [
    (along(4, 4, 6, 4, P=4, R=4, C=2), Widths(input=32, output=1, weight=1)),
    (along(2, 4, 8, 28, 2, P=6, R=5), Widths(input=1, output=1, weight=1)),
    (along(1, 4, 8, 17, P=11, R=5, K=2, C=2), Widths(input=4, output=9, weight=1)),
]
# ... and smaller ones that keep fewer rows in common, but fit.
SMALLER_TILES = [
    (along(1, 4, 6, 8, 3, P=11, C=2), Widths(input=8, output=1, weight=1)),
    (along(2, 3, 8, 23, P=7, R=5, K=2), Widths(input=1, output=1, weight=1)),
    (along(3, 4, 8, 21, P=7, R=4, C=2), Widths(input=8, output=1, weight=1)),
]


@pytest.mark.parametrize(("layer", "q"), LARGER_TILES + SMALLER_TILES)
def test_the_smallest_tiles_are_not_always_best(layer, q):
    assert_least(layer, q)


def assert_least(layer, q, *capacities):
    """At these capacities and wherever one more tiling begins to fit."""
    held = all_tilings(layer)[1]
    needed = np.unique(q.input * held[:, 0] + q.weight * held[:, 1] + q.partial_sum * held[:, 2])
    just = needed[:: 1 + len(needed) // 200].tolist()
    for capacity in (*just, *(math.nextafter(bits, 0) for bits in just), *capacities):
        expected = least_bits(layer, q, capacity)
        if expected == math.inf:
            with pytest.raises(Infeasible):
                optimize(layer, q, capacity)
        else:
            best = optimize(layer, q, capacity)
            assert best.bits == expected
            assert_certified(layer, q, capacity, best)


def assert_certified(layer, q, capacity, best):
    assert simulate(layer, best.tiling) == best.traffic
    assert footprint(layer, best.tiling) == best.footprint
    assert best.traffic.bits(q) == best.bits
    assert best.footprint.bits(q) <= capacity


@given(st.data())
@settings(max_examples=60)
def test_every_optimum_carries_its_proof(data):
    layer = data.draw(layers(most={"N": 3, "K": 9, "C": 7, "P": 11, "Q": 9, "R": 5, "S": 4}))
    q = data.draw(widths())
    least = q.input + q.weight + q.partial_sum
    capacity = data.draw(st.floats(1, 400)) * least
    best = optimize(layer, q, capacity)
    assert_certified(layer, q, capacity, best)
    for _ in range(20):
        tiling = data.draw(tilings(layer))
        if footprint(layer, tiling).bits(q) <= capacity:
            assert simulate(layer, tiling).bits(q) >= best.bits


@given(st.data())
@settings(max_examples=60)
def test_many_widths_at_once_give_what_each_gives_alone(data):
    layer = data.draw(layers(most={"N": 2, "K": 16, "C": 12, "P": 9, "Q": 9, "R": 3, "S": 3}))
    several = data.draw(st.lists(widths(), min_size=1, max_size=40))
    several += several[::3]
    rows = table(several)
    capacity = data.draw(st.floats(1, 100)) * rows[:, [0, 1, 3]].sum(axis=1).max()
    alone = [optimize(layer, q, capacity).bits for q in several]
    assert optimize_many(layer, rows, capacity).tolist() == alone
    bits, chosen, optima = optimal_tilings(layer, rows, capacity)
    assert bits.tolist() == alone
    for q, index, expected in zip(several, chosen, alone, strict=True):
        assert optima[index].traffic.bits(q) == expected
        assert optima[index].footprint.bits(q) <= capacity
        assert simulate(layer, optima[index].tiling) == optima[index].traffic


@pytest.mark.parametrize("capacity", [1024, 32768, 10**6])
@pytest.mark.parametrize("bits", [8, 16])
def test_the_whole_grid_at_once(bits, capacity):
    layer = Layer("conv", K=24, C=20, P=14, Q=14, R=3, S=3, padding=(1, 1))
    uniform = [widths_of(layer, TensorFormats(a, b, c)) for a, b, c in product(grid(bits)[::3], repeat=3)]
    triples = np.array([(q.input, q.weight, q.output) for q in uniform])
    found = optimize_many(layer, triples, capacity)
    for i in range(0, len(uniform), 61):
        assert found[i] == optimize(layer, uniform[i], capacity).bits


def test_what_fits_whole_moves_once():
    layer = Layer("conv", N=2, K=4, C=3, P=5, Q=5, R=3, S=3, stride=(2, 2), padding=(1, 1), input_size=(9, 9), groups=2)
    best = optimize(layer, Widths(input=3.0, output=5.0, weight=7.0), math.inf)
    assert best.traffic == Traffic(2 * 6 * 9 * 9, 4 * 3 * 9, 2 * 4 * 25, 0)
    assert best.bits == 3 * 972 + 7 * 108 + 5 * 200


# Small enough to follow by hand: (layer, capacity in elements of one bit, least traffic, how).
BY_HAND = [
    # One element of each, the sums in place: every product reads both factors, every sum is written once.
    (Layer("product", N=4, K=3, C=5), 3, 60 + 60 + 12),
    # Room for a row of sums: inputs are read once, and all weights again for each of the 4 rows.
    (Layer("product", N=4, K=3, C=5), 1 + 3 + 3, 20 + 60 + 12),
    # All weights and sums of a row of outputs fit beside one input.
    (Layer("product", N=4, K=3, C=5), 1 + 15 + 3, 20 + 15 + 12),
    # A sliding window held whole keeps its halo: each input once, although every one has three uses.
    (Layer("window", P=6, R=3), 3 + 3 + 1, 8 + 3 + 6),
    # A kernel that moves by its own size shares nothing and needs nothing shared.
    (Layer("pooling", P=4, R=3, stride=(3, 1)), 3, 12 + 12 + 4),
    # Two outputs, one tap: inputs slide under the taps, weights are read for each of the three pairs.
    (Layer("window", P=6, R=3), 2 + 1 + 2, 8 + 9 + 6),
    # Rows that a stride skips do not exist.
    (Layer("skipping", P=4, stride=(5, 1)), 3, 4 + 1 + 4),
    # Groups are done one after the other, each with the buffer to itself.
    (Layer("depthwise", K=7, P=6, R=3, groups=7), 7, 7 * (8 + 3 + 6)),
]


@pytest.mark.parametrize(("layer", "capacity", "least"), BY_HAND)
def test_layers_that_can_be_followed_by_hand(layer, capacity, least):
    best = optimize(layer, Widths(input=1.0, output=1.0, weight=1.0), capacity)
    assert best.bits == least == least_bits(layer.group, Widths(1.0, 1.0, 1.0), capacity) * layer.groups
    assert count_elements(layer, best.tiling) == (best.traffic, best.footprint)


def convolution(K, C, P, R, stride):
    return Layer("conv", K=K, C=C, P=P, Q=P, R=R, S=R, stride=(stride, stride))


# Layers of ResNet-18 without padding, found by an exhaustive search written apart from this one.
KNOWN = [
    (convolution(64, 3, 112, 7, 2), 8192, Widths(8, 8, 8), 33230336.0),
    (convolution(64, 3, 112, 7, 2), 32768, Widths(5.125, 9.125, 4.02), 9116911.91),
]


@pytest.mark.parametrize(("layer", "capacity", "q", "least"), KNOWN)
def test_known_optima(layer, capacity, q, least):
    assert optimize(layer, q, capacity).bits == least


@pytest.mark.skipif(ORACLE not in os.environ, reason=f"{ORACLE} names no table of known optima")
def test_a_table_of_known_optima():
    with Path(os.environ[ORACLE]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        layer = Layer(row["layer"], **{loop: int(row[loop]) for loop in "KCPQRS"}, stride=(int(row["stride"]),) * 2)
        q = Widths(*(float(row[name]) for name in ("q_input", "q_output", "q_weight")))
        capacity = float(row["capacity_bits"])
        best = optimize(layer, q, capacity)
        assert best.bits == float(row["least_bits"]), row
        assert_certified(layer, q, capacity, best)
        tiling = Tiling(row["permutation_outer_to_inner"], {loop: int(row[f"tile_{loop}"]) for loop in "KCPQRS"})
        assert simulate(layer, tiling).bits(q) == best.bits, row


@given(st.data())
@settings(max_examples=40)
def test_what_fits_nowhere_says_how_much_would_do(data):
    layer = data.draw(layers())
    q = Widths(*(data.draw(st.integers(1, 256)) / 8 for _ in range(3)))
    needed = q.input + q.weight + q.output
    needed -= 0 if simulate(layer, Tiling((), {})).input_reads else q.input  # all padding
    assert optimize(layer, q, needed).footprint.bits(q) <= needed
    for call in (optimize, lambda *args: optimize_many(args[0], [[q.input, q.weight, q.output]], args[2])):
        with pytest.raises(Infeasible, match=rf"'random'.*{needed - 0.0625:g} bits") as caught:
            call(layer, q, needed - 0.0625)
        named = float(re.search(r"needs ([0-9.e+]+)$", str(caught.value))[1])
        assert optimize(layer, q, named)


@pytest.mark.parametrize(
    "rows", [[1, 2, 3], [[1, 2]], [[1, 2, 0]], [[1, 2, -3]], [[1, math.nan, 3]], [[1, math.inf, 3, 4]], [[1] * 5], 5]
)
def test_widths_that_are_none_are_refused(rows):
    with pytest.raises(BitqError, match=r"array \(n, 3\) or \(n, 4\) of positive bits"):
        optimize_many(Layer("x"), rows, 1000)


@pytest.mark.parametrize("width", [0, -1, math.nan, math.inf])
@pytest.mark.parametrize("name", ["input", "output", "weight", "partial_sum"])
def test_a_width_is_a_positive_number(name, width):
    with pytest.raises(BitqError, match=f"width of {name}"):
        Widths(**{"input": 8, "output": 8, "weight": 8, name: width})


def test_no_widths_need_no_bits():
    assert optimize_many(Layer("x"), np.empty((0, 3)), 1000).shape == (0,)


def test_partial_sums_are_as_wide_as_outputs_unless_told_otherwise():
    q = Widths(5, 9, 4)
    assert q == Widths(5, 9, 4, partial_sum=9) == q.with_partial_sums(8)
    assert q.with_partial_sums(9.5).partial_sum == 9.5
    layer, rows = Layer("conv", K=6, C=8, P=5, R=3), np.array([[5, 4, 9], [5.125, 4.02, 7.9]])
    for capacity in (60, 400, math.inf):
        alone = optimize_many(layer, rows, capacity)
        assert optimize_many(layer, np.column_stack([rows, rows[:, 2]]), capacity).tobytes() == alone.tobytes()


def test_a_partial_sum_is_no_narrower_than_its_output():
    with pytest.raises(BitqError, match=r"partial_sum is 8 bits; it must be at least the output's 9"):
        Widths(5, 9, 4, partial_sum=8)
    with pytest.raises(BitqError, match=r"fourth column, must be at least those of outputs"):
        optimize_many(Layer("x"), [[5, 4, 9, 8]], 1000)


@given(st.data())
@settings(max_examples=100)
def test_all_writes_but_the_last_and_all_reads_of_an_output_are_partial_sums(data):
    """Followed element by element, each tile a set of those it holds."""
    layer = data.draw(layers(most={"N": 2, "K": 2, "C": 3, "P": 4, "Q": 2, "R": 3, "S": 2}))
    tiling, q = data.draw(tilings(layer)), data.draw(widths())
    writes = Counter()
    for tile in output_tiles(layer, tiling):
        writes.update(tile)
    spilled = sum(2 * (times - 1) for times in writes.values())
    moved = simulate(layer.group, tiling)
    by_hand = q.input * moved.input_reads + q.weight * moved.weight_reads
    by_hand += q.output * len(writes) + q.partial_sum * spilled
    assert moved.bits(q) == pytest.approx(by_hand, rel=1e-14)
    assert moved.scaled(layer.groups).bits(q) == pytest.approx(by_hand * layer.groups, rel=1e-14)
    assert sum(traffic_bits(moved, q).values()) == pytest.approx(by_hand, rel=1e-14)
    assert traffic_bits(moved, q)["output_reads"] == pytest.approx(q.partial_sum * spilled / 2, rel=1e-14)


def output_tiles(layer, tiling):
    """Each output tile of one group in turn, until it is left."""
    starts = [range(0, layer.extent(loop), tiling.tiles[loop]) for loop in tiling.permutation]
    held = None
    for step in product(*starts):
        at = dict(zip(tiling.permutation, step, strict=True))
        ends = {loop: min(at[loop] + tiling.tiles[loop], layer.extent(loop)) for loop in "NKPQ"}
        tile = set(product(*(range(at[loop], ends[loop]) for loop in "NKPQ")))
        if tile != held:
            yield tile
        held = tile


def test_wider_partial_sums_are_spilled_less():
    layer = Layer("conv", K=16, C=32, P=14, Q=14, R=3, S=3)
    narrow, wide = (optimize(layer, Widths(5, 5, 4, partial_sum=bits), 4096) for bits in (5, 32))
    assert narrow.traffic.output_reads >= wide.traffic.output_reads
    assert wide.footprint.output < narrow.footprint.output
    assert wide.bits > narrow.bits


@pytest.mark.parametrize(
    ("permutation", "tiles", "reason"),
    [
        ("K", {"K": 5}, "tile K=5 .* 1..4"),
        ("K", {"K": 0}, "tile K=0"),
        ("C", {"K": 2}, "loop K .* no place"),
        ("KK", {}, "may name nothing but .* each once"),
        ("X", {}, "may name nothing but"),
        ("K", {"X": 1}, "may name nothing but"),
    ],
)
def test_tilings_that_do_not_fit_are_refused(permutation, tiles, reason):
    for count in (simulate, traffic, footprint):
        with pytest.raises(BitqError, match=reason):
            count(Layer("x", K=4), Tiling(permutation, tiles))


def test_widths_follow_the_formats_of_the_tensors():
    fmt = BlockFormat(8, 3, 16)
    layer = Layer("conv", K=40, C=17, R=3, S=3, groups=2)
    both = widths_of(layer, TensorFormats(fmt, fmt, fmt))
    assert both == Widths(input=5 + 3 * 3 / 34, weight=5 + 3 * 2 / (17 * 9), output=5 + 3 * 3 / 40)
    assert widths_of(layer, TensorFormats(weight=fmt)) == Widths(32.0, 32.0, both.weight)
    product = Layer("attention", K=40, C=17, groups=2, weight_is_parameter=False)
    assert widths_of(product, TensorFormats(fmt, fmt, fmt)) == Widths(5 + 3 * 2 / 17, 5 + 3 * 2 / 20, 5 + 3 * 2 / 17)


def test_widths_of_too_many_tilings_are_solved_in_pieces(monkeypatch):
    layer = Layer("pieces", N=4, K=24, C=24, P=14, Q=14, R=3, S=3, padding=(1, 1), input_size=(14, 14))
    rows = np.array(list(product((2.0, 4.5, 8.0, 31.0), repeat=3)))
    bits, chosen, optima = optimal_tilings(layer, rows, 20_000.0)
    monkeypatch.setattr(optimum_module, "MOST_CANDIDATES", 2000)
    pieces, solve = [], optimum_module._solve_by_halves
    monkeypatch.setattr(optimum_module, "_solve_by_halves", lambda *args: pieces.append(1) or solve(*args))
    again, chosen_again, optima_again = optimal_tilings(layer, rows, 20_000.0)
    assert pieces
    assert np.array_equal(bits, again)
    assert [optima[i].tiling for i in chosen] == [optima_again[i].tiling for i in chosen_again]
    assert len(optima) == len(optima_again)
    monkeypatch.setattr(optimum_module, "MOST_CANDIDATES", -1)
    with pytest.raises(BitqError, match=r"layer 'pieces' has over -1 tilings to compare, which take .* smaller input"):
        optimal_tilings(layer, np.ones((2, 3)), 1e4)


@settings(max_examples=300)
@given(
    out=st.integers(1, 80),
    window=st.tuples(st.integers(1, 7), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3)),
    edges=st.tuples(st.integers(0, 24), st.integers(0, 24)),
    tile=st.tuples(st.integers(1, 80), st.integers(1, 7)),
)
def test_the_largest_tile_of_an_axis_is_that_of_a_shorter_one(out, window, edges, tile):
    (taps, stride, dilation, spread), (before, after) = window, edges
    padding = min(before, (taps - 1) * dilation)
    stored = (out - 1) * stride + (taps - 1) * dilation + 1 - padding - min(after, (taps - 1) * dilation)
    assume(stored > 0)
    axis = Axis(out, taps, stride, dilation, padding, (stored - 1) // spread + 1, spread)
    tile_out, tile_tap = min(tile[0], out), min(tile[1], taps)
    whole = axis_module._summed(axis, tile_out, tile_tap)
    assert largest_rows(axis, tile_out, tile_tap) == whole.span


def test_a_long_axis_with_padding_is_tiled_soon():
    """Tiles at its ends, whose first row is padding, are not looked through."""
    start = time.process_time()
    tiles = axis_tiles(Axis(out=20_011, taps=5, stride=1, dilation=1, padding=2, size=20_011, spread=1))
    assert time.process_time() - start < 0.8  # it took 6 seconds
    assert tiles[len(tiles) - 1].kept[0] == 20_011


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (replace(LONG, Q=20_000_000, input_size=(1, 20_000_000)), "an axis of 20000000 outputs.* 1.6 GiB to tile"),
        (Layer("flat", Q=1, S=1, input_size=(1, 10**12)), "an axis of 1 outputs, 1 taps and 10{12} inputs takes 7450"),
        (Layer("all", N=10**6, K=10**6, C=10**6), "layer 'all' has 1e.18 multiply-accumulates, more than"),
        (Layer("many", N=10**5, C=10**5, P=200, Q=200, R=3, S=3), "layer 'many' has .* combinations of tile sizes"),
    ],
)
def test_what_takes_too_much_is_refused_before_it_starts(layer, reason):
    start = time.process_time()
    with pytest.raises(BitqError, match=reason):
        optimize(layer, FLOAT, 1e6)
    assert time.process_time() - start < 1


def test_a_loop_of_more_parts_than_can_be_looked_at_is_refused():
    layer = Layer("long", K=MOST_PARTS + 1)
    tiling = Tiling((), dict.fromkeys(LOOPS, 1))
    with pytest.raises(BitqError, match=f"loop K of {MOST_PARTS + 1} iterations is cut into {MOST_PARTS + 1} tiles"):
        split(whole(layer), tiling)
    assert len(split(whole(replace(layer, K=1000)), tiling)["K"]) == 1000


def test_long_work_is_heard_of_and_ends_where_nobody_wants_it():
    def leave():
        calls.append(1)
        if len(calls) == 2:
            raise KeyError("enough")

    calls = []
    with pytest.raises(KeyError, match="enough"), heard(leave):
        optimize(LONG, FLOAT, 1e5)
    assert len(calls) == 2
    optimize(Layer("short", K=2), FLOAT, 1e5)  # nothing of it is left


def test_threads_answer_in_the_order_of_the_questions():
    asked, told = [Layer(f"layer {k}", K=k, C=8, P=9, Q=9) for k in (40, 3, 27, 1)], []

    def least(layer):
        threads.add(threading.get_ident())
        return optimize(layer, FLOAT, 1e5).bits

    for most in (1, 3):
        threads = set()
        assert answered(least, asked, most, told.append) == tuple(map(least, asked))
        assert len(threads) <= most + 1  # and this one
        assert list(dict.fromkeys(told)) == [0, 1, 2, 3, 4]
    assert answered(least, [], 2, told.append) == ()


@pytest.mark.parametrize("error", [KeyboardInterrupt, BitqError])
def test_what_ends_the_wait_for_threads_ends_their_work(error):
    def leave(done):
        if done:
            raise error("enough")

    def least(layer):
        begun.append(layer)
        return optimize(layer, FLOAT, 1e5)

    begun, running, start = [], threading.active_count(), time.process_time()
    questions = [Layer("short", K=2), LONG, replace(LONG, K=6), replace(LONG, K=7)]
    with pytest.raises(error, match="enough"):
        answered(least, questions, 2, leave)
    assert time.process_time() - start < 6
    assert questions[3] not in begun
    assert threading.active_count() == running
    optimize(Layer("short", K=2), FLOAT, 1e5)  # nothing of it is left


def test_the_first_question_without_an_answer_is_told():
    def least(layer):
        if layer.name == "first":
            time.sleep(0.1)  # until the others are refused
        return optimize(layer, FLOAT, 64)

    with pytest.raises(Infeasible, match="'first'"):
        answered(least, [Layer(name) for name in ("first", "second", "third")], 3, lambda done: None)


def test_a_signal_ends_long_work():
    def handle(*_):
        raise InterruptedError("now")

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        start = time.process_time()
        with pytest.raises(InterruptedError, match="now"):
            optimize(replace(LONG, K=5), FLOAT, 1e5)
        assert time.process_time() - start < 3
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
