"""Traffic through all memories of a device, against the same tiles counted part by part."""

import math
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitq.devices import device_names, load_device
from bitq.errors import Infeasible
from bitq.formats import TensorFormats, grid
from bitq.layers import LOOPS, Layer
from bitq.movement import Widths, footprint, optimize, simulate
from bitq.movement.expression import split, whole
from bitq.movement.levels import movement, movement_many
from bitq.movement.network import layer_movement, level_totals, traffic_bits
from bitq.planning import Planning
from movement_twins import simulate_parts
from strategies import devices, few_loops, layers, one_axis, table, widths

ONE_BY_ONE = {"planned": Planning.one_by_one}
SMALL = {"N": 2, "K": 3, "C": 3, "P": 5, "Q": 3, "R": 3, "S": 2}


@given(st.data())
@settings(max_examples=100)
def test_every_level_moves_what_its_parts_move(data):
    layer, device, q = data.draw(layers(most=SMALL)), data.draw(devices()), data.draw(widths())
    device = replace(device, **ONE_BY_ONE)
    parts = whole(layer)
    levels = movement(layer, q, device)
    q = q.with_partial_sums(device.partial_sum_bits)
    assert [(level.memory, level.source) for level in levels] == [
        (memory.name, source.name) for memory, source in device.boundaries
    ]
    assert levels[0].bits == optimize(layer, q, device.boundaries[0][0].capacity_bits).bits
    for level, (memory, source) in zip(levels, device.boundaries, strict=True):
        assert level.traffic == simulate_parts(layer, level.tiling, parts)
        assert level.bits == level.traffic.bits(q)
        assert level.energy_pj == level.bits * source.energy_pj_per_bit
        parts = split(parts, level.tiling)
        held = [math.prod(max(map(len, parts[loop])) for loop in loops) for loops in ("KCRS", "NKPQ")]
        assert q.weight * held[0] + q.partial_sum * held[1] <= memory.capacity_bits


@given(st.data())
@settings(max_examples=60)
def test_many_widths_at_once_give_what_each_gives_alone(data):
    layer, device = data.draw(layers() | few_loops() | one_axis()), replace(data.draw(devices()), **ONE_BY_ONE)
    several = data.draw(st.lists(widths(), max_size=12))
    several += several[::2]
    alone = np.array([[level.bits for level in movement(layer, q, device)] for q in several])
    assert movement_many(layer, table(several), device).tolist() == alone.reshape(-1, len(device.boundaries)).tolist()


@pytest.mark.parametrize("name", device_names())
def test_real_devices_and_formats(name):
    layer = Layer("conv", K=32, C=16, P=14, Q=14, R=3, S=3, stride=(2, 2), padding=(1, 1), input_size=(28, 28))
    device = load_device(name)
    one_by_one = replace(device, **ONE_BY_ONE)
    formats = [TensorFormats(*three) for three in product(grid(8)[::9], repeat=3)]
    several = [layer_movement(layer, own, one_by_one) for own in formats]
    triples = np.array([(one.widths.input, one.widths.weight, one.widths.output) for one in several])
    before = movement_many(layer, triples, one_by_one)
    assert before.tolist() == [[level.bits for level in one.levels] for one in several]
    assert np.all(movement_many(layer, triples, device).sum(axis=1) <= before.sum(axis=1) * (1 + 1e-12))
    original = layer_movement(layer, TensorFormats(), device)
    for own in formats[::20]:
        one = layer_movement(layer, own, device)
        assert one.energy_pj < original.energy_pj
        assert one.bits == sum(sum(traffic_bits(level.traffic, one.widths).values()) for level in one.levels)
        assert sum(one.energy_by_tensor.values()) == pytest.approx(one.energy_pj, rel=1e-12)


def test_a_memory_that_holds_all_passes_on_each_element_once():
    layer = Layer("product", N=10, K=40, C=60)
    levels = movement(layer, Widths(input=8, output=16, weight=4), load_device("i7-10700f"))
    once = 8 * 600 + 4 * 2400 + 16 * 400
    assert [level.bits for level in levels[:-1]] == [once] * 3
    assert levels[-1].bits > once  # the registers hold 4096 bits
    assert [level.energy_pj for level in levels] == [20 * once, *(0.16 * level.bits for level in levels[1:])]


def test_totals_add_up_memory_by_memory():
    device = load_device("stm32h743")
    network = [
        layer_movement(Layer(f"layer {k}", K=k, C=8, P=7, Q=7, R=3, S=3), TensorFormats(), device) for k in (4, 9)
    ]
    totals = level_totals(network)
    assert [(total.memory, total.source) for total in totals] == [
        ("AXI SRAM", "external"),
        ("DTCM", "AXI SRAM"),
        ("registers", "DTCM"),
    ]
    assert [total.bits for total in totals] == [network[0].levels[i].bits + network[1].levels[i].bits for i in range(3)]
    assert sum(total.energy_pj for total in totals) == pytest.approx(sum(layer.energy_pj for layer in network))


def test_a_memory_too_small_for_one_element_of_each_says_so():
    with pytest.raises(Infeasible, match=r"'huge' fits no tiling in 416 bits; .* needs 600"):
        movement(Layer("huge"), Widths(200, 200, 200), load_device("stm32f103c8"))


def test_the_tiles_of_a_level_fit_into_its_memory():
    device = load_device("i7-10700f")
    layer = Layer("conv", K=64, C=64, P=28, Q=28, R=3, S=3, padding=(1, 1))
    q = Widths(16, 16, 16)
    levels = movement(layer, q, device)
    assert footprint(layer, levels[0].tiling).bits(q) <= device.boundaries[0][0].capacity_bits
    for outer, inner in pairwise(levels):
        assert all(inner.tiling.tiles[loop] <= outer.tiling.tiles[loop] for loop in LOOPS)


@given(st.data())
@settings(max_examples=60)
def test_an_inner_memory_is_tiled_best_for_the_interior_tile(data):
    """A tile that is cut from an axis has neighbours on both sides, so no padding; a whole axis keeps its own."""
    layer, device, q = data.draw(layers(most=SMALL)), replace(data.draw(devices()), **ONE_BY_ONE), data.draw(widths())
    levels = movement(layer, q, device)
    q = q.with_partial_sums(device.partial_sum_bits)
    problem = layer.group
    for level, (memory, _) in zip(levels, device.boundaries, strict=True):
        best = optimize(problem, q, memory.capacity_bits)
        assert simulate(problem, level.tiling).bits(q) == best.bits
        tiles = dict(level.tiling.tiles)
        cut = [any(tiles[loop] < problem.extent(loop) for loop in loops) for loops in (("P", "R"), ("Q", "S"))]
        interior = Layer(
            "interior",
            **tiles,
            stride=layer.stride,
            dilation=layer.dilation,
            input_dilation=layer.input_dilation,
        )
        problem = replace(
            interior,
            padding=tuple(0 if cut[axis] else problem.padding[axis] for axis in range(2)),
            input_size=tuple((interior if cut[axis] else problem).size[axis] for axis in range(2)),
        )
