"""The paper's relaxed tilings: the expression against the true traffic, the solver against all integer tiles."""

import math
import sys
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitq.errors import BitqError, Infeasible
from bitq.layers import LOOPS, Layer
from bitq.movement import Tiling, Widths, footprint, optimize, simulate
from bitq.movement.relaxed import CLASSES, optimize_relaxed, relaxed_bits, relaxed_footprint, relaxed_traffic
from strategies import layers, widths

SMALL = {"N": 2, "K": 4, "C": 4, "P": 6, "Q": 4, "R": 3, "S": 3}
Q8 = Widths(8, 8, 8)


def divisors(extent):
    return [size for size in range(1, extent + 1) if extent % size == 0]


@given(st.data())
@settings(max_examples=300)
def test_tiles_that_divide_their_loops_move_what_the_expression_says(data):
    """Edges, padding and reuse between sweeps can only make inputs fewer; weights and outputs are exact."""
    layer = data.draw(layers(most=SMALL))
    tiles = {loop: data.draw(st.sampled_from(divisors(layer.extent(loop)))) for loop in LOOPS}
    several = tuple(loop for loop in data.draw(st.permutations(LOOPS)) if tiles[loop] < layer.extent(loop))
    single = tuple(loop for loop in LOOPS if loop not in several)
    moved = simulate(layer, Tiling(several, tiles))
    inputs, weights, outputs = relaxed_traffic(layer, single + several, tiles)
    assert moved.input_reads <= inputs * (1 + 1e-12)
    assert moved.weight_reads == round(weights)
    assert 2 * moved.output_writes == round(outputs)


def test_a_sliding_window_is_exact_without_edges():
    layer = Layer("conv", K=4, C=2, P=12, Q=6, R=3, S=3)
    tiles = {"N": 1, "K": 2, "C": 1, "P": 3, "Q": 6, "R": 3, "S": 3}
    for order in (tuple("NQRSKCP"), tuple("NQRSCPK")):
        assert relaxed_traffic(layer, order, tiles)[0] == simulate(layer, Tiling(order, tiles)).input_reads


@given(layers(most=SMALL), widths(), st.data())
@settings(max_examples=150)
def test_a_relaxed_tile_takes_no_less_room_than_the_true_one(layer, q, data):
    tiles = {loop: data.draw(st.integers(1, layer.extent(loop))) for loop in LOOPS}
    assert footprint(layer, Tiling(LOOPS, tiles)).bits(q) <= relaxed_footprint(layer, tiles, q) * (1 + 1e-12)


def test_the_classes_stand_for_all_orders():
    """Some class moves no more of any tensor than a given order does, and no class stands for another."""
    layer = Layer("any", N=8, K=16, C=32, P=20, Q=24, R=5, S=7, stride=(2, 1), dilation=(1, 2))
    draw = np.random.default_rng(0).uniform
    sizes = {loop: layer.extent(loop) ** draw(size=200) for loop in LOOPS}
    classes = [np.array(relaxed_traffic(layer, order, sizes)) for order in CLASSES]
    for order in permutations(LOOPS):
        moved = np.array(relaxed_traffic(layer, order, sizes)) * (1 + 1e-12)
        assert any((least <= moved).all() for least in classes), order
    for one, other in permutations(classes, 2):
        assert (one > other * (1 + 1e-9)).any()


@pytest.fixture(scope="module")
def ipopt():
    return pytest.importorskip("casadi")


SOLVED = [
    Layer("conv", K=6, C=5, P=6, Q=4, R=3, S=2),
    Layer("strided", N=2, K=6, C=4, P=5, Q=1, R=3, S=1, stride=(2, 1), padding=(1, 0)),
    Layer("depthwise", K=4, groups=4, P=12, Q=12, R=3, S=3),
    Layer("matmul", N=12, K=16, C=10),
]


@pytest.mark.parametrize("layer", SOLVED, ids=lambda layer: layer.name)
@pytest.mark.parametrize("q", [Q8, Widths(5.125, 9.125, 4.02), Widths(32, 1, 2)], ids=str)
def test_no_integer_tiles_are_better_than_the_relaxed_optimum(ipopt, layer, q):
    every = product(*(range(1, layer.extent(loop) + 1) for loop in LOOPS))
    grid = [np.array(column) for column in zip(*every, strict=True)]
    sizes = dict(zip(LOOPS, grid, strict=True))
    needed = relaxed_footprint(layer, sizes, q)
    bits = np.min([relaxed_bits(layer, order, sizes, q) for order in CLASSES], axis=0)
    for share in (0.1, 0.3, 0.6):
        capacity = needed.min() * (needed.max() / needed.min()) ** share
        found = optimize_relaxed(layer, q, capacity)
        assert found.bits <= bits[needed <= capacity].min() * (1 + 1e-4)
        assert relaxed_footprint(layer, found.sizes, q) <= capacity


@given(layers(most=SMALL), widths(), st.floats(0, 1.2))
@settings(max_examples=12, deadline=None)
def test_what_is_returned_fits_and_is_counted_truly(ipopt, layer, q, share):
    least = relaxed_footprint(layer, dict.fromkeys(LOOPS, 1), q)
    most = relaxed_footprint(layer, {loop: layer.extent(loop) for loop in LOOPS}, q)
    capacity = least * (most / least) ** share * (1 + 1e-12)
    found = optimize_relaxed(layer, q, capacity)
    assert footprint(layer, found.tiling).bits(q) <= capacity
    assert found.traffic == simulate(layer, found.tiling)
    assert found.floored_bits == found.traffic.bits(q)
    assert found.floored_bits >= optimize(layer, q, capacity).bits * (1 - 1e-12)
    assert found.bits == relaxed_bits(layer, found.tiling.permutation, found.sizes, q)
    assert all(1 <= found.sizes[loop] <= layer.extent(loop) for loop in LOOPS)
    assert all(found.tiling.tiles[loop] <= found.sizes[loop] + 1e-4 for loop in LOOPS)


def test_a_buffer_for_everything_moves_it_once(ipopt):
    layer = Layer("conv", K=64, C=64, P=56, Q=56, R=3, S=3)
    found = optimize_relaxed(layer, Q8, 1e9)
    once = simulate(layer, Tiling((), {}))
    assert found.traffic == once
    assert math.isclose(found.bits, once.bits(Q8) + 8 * once.output_writes, rel_tol=1e-5)


def test_a_buffer_of_one_element_of_each_is_the_least(ipopt):
    layer = SOLVED[0]
    assert set(optimize_relaxed(layer, Q8, 24).tiling.tiles.values()) == {1}
    with pytest.raises(Infeasible, match=r"one element of each tensor needs 24\.0"):
        optimize_relaxed(layer, Q8, 23.9)


def test_a_solver_that_fails_is_told_and_is_not_taken_for_a_memory_too_small(ipopt, monkeypatch):
    nlpsol = ipopt.nlpsol

    def without_iterations(name, solver, problem, options):
        return nlpsol(name, solver, problem, {**options, "ipopt": {**options["ipopt"], "max_iter": 0}})

    monkeypatch.setattr(ipopt, "nlpsol", without_iterations)
    with pytest.raises(BitqError, match=r"the solver finds no .* 'conv' in 400 bits .*Maximum_Iterations") as caught:
        optimize_relaxed(SOLVED[0], Q8, 400)
    assert not isinstance(caught.value, Infeasible)
    assert set(optimize_relaxed(SOLVED[0], Q8, 24).tiling.tiles.values()) == {1}  # there is nothing to solve


def test_without_casadi_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "casadi", None)
    with pytest.raises(BitqError, match=r"pip install 'bitq\[relaxed\]'"):
        optimize_relaxed(SOLVED[0], Q8, 1e4)
