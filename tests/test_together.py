"""Plans of all memories at once against every plan there is, counted part by part."""

import json
import math
from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitq.devices import Device, Memory, load_device
from bitq.errors import BitqError, Infeasible
from bitq.layers import LOOPS, Layer
from bitq.movement import Tiling, Widths, footprint
from bitq.movement.exact import improved
from bitq.movement.expression import split, traffic, whole
from bitq.movement.least import least_bits, least_chained
from bitq.movement.levels import movement, movement_many, plan, plan_many
from bitq.movement.onebyone import plan_one_by_one
from bitq.movement.tiled import CountedTilings, interior
from bitq.planning import Minimize, Planning
from movement_twins import simulate_parts
from strategies import devices, layers, table, widths

SMALL = {"N": 2, "K": 3, "C": 3, "P": 5, "Q": 3, "R": 3, "S": 2}
OLD = {"planned": Planning.one_by_one}


def every_tile(problem):
    for sizes in product(*(range(1, problem.extent(loop) + 1) for loop in LOOPS)):
        yield dict(zip(LOOPS, sizes, strict=True))


def least_of_all(layer, q, memories, problem, parts):
    """The least price of all integer tiles in all orders of these (capacity, price), one after the other."""
    (capacity, price), *further = memories
    least = math.inf
    for tiles in every_tile(problem):
        if footprint(problem, Tiling(LOOPS, tiles)).bits(q) > capacity:
            continue
        several = [loop for loop in LOOPS if any(len(span) > tiles[loop] for span in parts[loop])]
        found = price * min(traffic(layer, Tiling(order, tiles), parts).bits(q) for order in permutations(several))
        if further and found < least:
            tiling = Tiling(LOOPS, tiles)
            found += least_of_all(layer, q, further, interior(problem, tiling), split(parts, tiling))
        least = min(least, found)
    return least


def memories_of(device):
    return [(memory.capacity_bits, price) for (memory, _), price in zip(device.boundaries, device.prices, strict=True)]


@st.composite
def tiny_problems(draw):
    """A layer of few tilings, a device of two to four memories that cannot hold it at once, and widths."""
    longer = draw(st.lists(st.sampled_from(LOOPS), min_size=1, max_size=3, unique=True))
    levels = draw(st.integers(2, 4))
    most = ({1: 9, 2: 5, 3: 3}, {1: 7, 2: 3, 3: 2}, {1: 6, 2: 3, 3: 2})[levels - 2][len(longer)]
    layer = draw(layers(most={loop: most if loop in longer else 1 for loop in LOOPS}))
    q = draw(widths())
    least = q.input + q.partial_sum + q.weight
    capacities = sorted(least * draw(st.floats(1 + 1e-9, 8)) for _ in range(levels))  # beyond how sums are rounded
    energies = [draw(st.sampled_from([0.16, 1.0, 20.0])) for _ in range(levels)]
    memories = [
        Memory(f"level {i}", bits, 0.16 if i == 0 else energies[i - 1], "") for i, bits in enumerate(capacities)
    ]
    outer = Memory("DRAM", math.inf, energies[-1], "")
    minimize = draw(st.sampled_from(Minimize))
    return layer, q, Device("tiny", "Tiny", "", (*memories, outer), minimize=minimize)


@given(tiny_problems())
@settings(max_examples=1000, deadline=None)
def test_no_plan_of_all_integer_tiles_and_orders_takes_less(problem):
    layer, q, device = problem
    found = plan(layer, q, device)
    assert found.lower_bound == pytest.approx(found.price, rel=1e-11)
    least = least_of_all(layer, q, memories_of(device), layer.group, whole(layer))
    assert found.price == pytest.approx(least, rel=1e-11)


@given(tiny_problems())
@settings(max_examples=600, deadline=None)
def test_no_plan_moves_less_into_a_memory_than_its_bound(problem):
    layer, q, device = problem
    capacities = [memory.capacity_bits for memory, _ in device.boundaries]
    bounds = least_bits(layer, table([q]), capacities)[0]
    for level, bound in enumerate(bounds):
        memories = [(capacity, float(place == level)) for place, capacity in enumerate(capacities[: level + 1])]
        least = least_of_all(layer, q, memories, layer.group, whole(layer))
        assert bound <= least * (1 + 1e-12)
    least = least_of_all(layer, q, memories_of(device), layer.group, whole(layer))
    assert least_chained(layer, q, capacities, device.prices) <= least * (1 + 1e-12)


@st.composite
def cut_windows(draw):
    """Layers whose kernel windows memories may have to cut: along one axis, and short ones along both."""
    rows = {"P": draw(st.integers(2, 12)), "R": draw(st.integers(2, 7))}
    columns = {"Q": draw(st.integers(2, 5)), "S": draw(st.integers(2, 3))} if draw(st.integers(0, 4)) == 0 else {}
    others = {loop: draw(st.sampled_from([1, 1, 2, 3, 5])) for loop in "NKC"}
    stride, padding = (draw(st.tuples(each, each)) for each in (st.integers(1, 3), st.integers(0, 2)))
    size = tuple(
        max((out - 1) * step + taps - 2 * pad, 1)
        for out, taps, step, pad in zip(
            (rows["P"], columns.get("Q", 1)), (rows["R"], columns.get("S", 1)), stride, padding, strict=True
        )
    )
    return Layer("cut", **rows, **columns, **others, stride=stride, padding=padding, input_size=size)


UNEQUAL_WIDTHS = st.builds(Widths, *(st.sampled_from(each) for each in ((1, 4, 20), (0.2, 1, 4), (0.1, 1, 8, 20))))


@given(cut_windows(), UNEQUAL_WIDTHS, st.data())
@settings(max_examples=400, deadline=None)
def test_no_plan_moves_less_than_the_bounds_for_memories_that_it_just_fills(layer, q, data):
    parts, problem, capacities, bits = whole(layer), layer.group, [], []
    for _ in range(data.draw(st.integers(1, 3))):
        extents = {loop: problem.extent(loop) for loop in LOOPS}
        tiles = {loop: data.draw(st.just(extent) | st.integers(1, extent)) for loop, extent in extents.items()}
        several = [loop for loop in LOOPS if any(len(span) > tiles[loop] for span in parts[loop])]
        tilings = [Tiling(data.draw(st.permutations(several)), tiles) for _ in range(4)]
        capacities.append(footprint(problem, tilings[0]).bits(q))
        bits.append(min(traffic(layer, tiling, parts).bits(q) for tiling in tilings))
        problem, parts = interior(problem, tilings[0]), split(parts, tilings[0])
    assert np.all(least_bits(layer, table([q]), capacities)[0] <= np.array(bits) * (1 + 1e-12))
    for prices in ([1.0] * len(bits), [0.0] * (len(bits) - 1) + [1.0]):
        assert least_chained(layer, q, capacities, prices) <= np.dot(bits, prices) * (1 + 1e-12)


@given(st.integers(3, 8), st.integers(2, 5), st.integers(1, 3), st.integers(0, 1), UNEQUAL_WIDTHS, st.data())
@settings(max_examples=300, deadline=None)
def test_no_plan_that_cuts_the_kernel_window_moves_less_than_the_bound(P, R, stride, padding, q, data):
    layer = Layer("cut", P=P, R=R, stride=(stride, 1), padding=(padding, 0))
    room = st.floats(1, 4 if R < 4 else 3)
    capacities = sorted(((q.input + q.output + q.weight) * data.draw(room) for _ in range(2)), reverse=True)
    prices = data.draw(st.sampled_from([(0.0, 1.0), (0.1, 1.0), (1.0, 1.0)]))
    least = least_of_all(layer, q, list(zip(capacities, prices, strict=True)), layer.group, whole(layer))
    assert least_chained(layer, q, capacities, prices) <= least * (1 + 1e-12)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_plan_is_what_its_tiles_move_part_by_part(data):
    layer, device, q = data.draw(layers(most=SMALL)), data.draw(devices()), data.draw(widths())
    device = replace(device, minimize=data.draw(st.sampled_from(Minimize)))
    found = plan(layer, q, device)
    before = plan(layer, q, replace(device, **OLD))
    q = q.with_partial_sums(device.partial_sum_bits)
    assert found.lower_bound <= found.price <= before.price * (1 + 1e-12)
    parts, problem = whole(layer), layer.group
    for level, (memory, source) in zip(found.levels, device.boundaries, strict=True):
        assert (level.memory, level.source) == (memory.name, source.name)
        assert level.traffic == simulate_parts(layer, level.tiling, parts)
        assert level.bits == level.traffic.bits(q)
        assert level.energy_pj == level.bits * source.energy_pj_per_bit
        assert footprint(problem, level.tiling).bits(q) <= memory.capacity_bits
        parts, problem = split(parts, level.tiling), interior(problem, level.tiling)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_what_a_plan_holds_is_what_the_slow_twin_counts(data):
    layer, device, q = data.draw(layers(most=SMALL)), data.draw(devices()), data.draw(widths())
    tilings = tuple(level.tiling for level in movement(layer, q, device))
    problem = layer.group
    for tiling, held in zip(tilings, CountedTilings.of(layer, tilings).held, strict=True):
        assert held == footprint(problem, tiling)
        problem = interior(problem, tiling)


@given(tiny_problems(), st.data())
@settings(max_examples=200, deadline=None)
def test_narrower_widths_larger_and_cheaper_memories_never_make_the_least_larger(problem, data):
    layer, q, device = problem
    price = plan(layer, q, device).price
    shrink = st.floats(0.3, 1)
    narrower = Widths(
        q.input * data.draw(shrink), q.output * (by := data.draw(shrink)), q.weight * data.draw(shrink),
        q.partial_sum * by,
    )
    memories = [
        replace(
            memory,
            capacity_bits=memory.capacity_bits * data.draw(st.floats(1, 3)),
            energy_pj_per_bit=memory.energy_pj_per_bit * data.draw(shrink),
        )
        for memory in device.memories
    ]
    better = replace(device, memories=tuple(memories))
    assert plan(layer, narrower, device).price <= price * (1 + 1e-11)
    assert plan(layer, q, better).price <= price * (1 + 1e-11)


@given(st.data())
@settings(max_examples=10, deadline=None)
def test_in_a_table_narrower_widths_never_take_more(data):
    layer = Layer("conv", K=24, C=40, P=13, Q=9, R=3, S=3, padding=(1, 1))
    device = replace(load_device("i7-10700f"), minimize=data.draw(st.sampled_from(Minimize)))
    rows = np.array(list(product((3.0, 4.5, 5.25, 9.0), repeat=3)))
    price = (movement_many(layer, rows, device) @ device.prices).reshape(4, 4, 4)
    for axis in range(3):
        assert np.all(np.diff(price, axis=axis) >= -1e-9 * price.max())


def test_a_row_of_a_large_table_is_a_plan_that_fits_and_near_the_one_it_has_alone():
    layer = Layer("conv", K=24, C=40, P=13, Q=9, R=3, S=3, padding=(1, 1))
    device = load_device("i7-10700f")
    rows = np.array(list(product((3.0, 4.5, 5.25, 9.0, 16.5), repeat=3)))
    found = plan_many(layer, rows, device)
    for row in range(0, len(rows), 7):
        q = Widths(rows[row, 0], rows[row, 2], rows[row, 1])
        tilings = found.plans[found.chosen[row]]
        parts, problem = whole(layer), layer.group
        for tiling, bits, (memory, _) in zip(tilings, found.bits[row], device.boundaries, strict=True):
            assert traffic(layer, tiling, parts).bits(q) == bits
            assert footprint(problem, tiling).bits(q) <= memory.capacity_bits
            parts, problem = split(parts, tiling), interior(problem, tiling)
        assert found.bits[row].sum() <= 1.03 * plan(layer, q, device).price


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_bounds_of_any_budget_hold_for_the_best_plan_known(data):
    layer, device, q = data.draw(layers(most=SMALL)), data.draw(devices()), data.draw(widths())
    capacities = [memory.capacity_bits for memory, _ in device.boundaries]
    q = q.with_partial_sums(device.partial_sum_bits)
    before = plan_one_by_one(layer, table([q]), capacities)
    price = float(before.bits[0] @ device.prices)
    bounds = least_bits(layer, table([q]), capacities)[0].tolist()
    searched = [improved(layer, q, device, before.plans[0], price, bounds, n) for n in (0, 10_000, 100_000)]
    best = min(one.price for one in searched)
    for one in searched:
        assert one.least <= best * (1 + 1e-11)
        assert one.price <= price


def test_a_tile_that_costs_dram_more_can_suit_the_inner_memory_better():
    layer = Layer("conv", K=4, C=3, P=5, Q=4, R=3)
    memories = Memory("registers", 200.0, 0, ""), Memory("L1", 600.0, 1.0, ""), Memory("DRAM", math.inf, 20.0, "")
    device = Device("small", "Small", "", memories, minimize=Minimize.energy)
    q = Widths(5.1, 9.2, 4.02)
    before, found = plan(layer, q, replace(device, **OLD)), plan(layer, q, device)
    assert found.lower_bound == pytest.approx(found.price)
    assert found.price < 0.98 * before.price
    assert found.levels[0].bits >= before.levels[0].bits


def test_what_is_minimized_is_the_least():
    layer, q, device = Layer("product", N=40, K=256, C=192), Widths(9, 17, 5), load_device("i7-10700f")
    by_bits, by_energy = (movement(layer, q, replace(device, minimize=each)) for each in Minimize)
    assert sum(level.bits for level in by_bits) <= sum(level.bits for level in by_energy)
    assert sum(level.energy_pj for level in by_energy) <= sum(level.energy_pj for level in by_bits)


def test_inner_memories_no_longer_take_tiles_that_cost_them_dearly():
    """Planning one by one, registers read every input 80 times: the last level takes 15 times as many bits."""
    layer = Layer("conv", K=80, C=256, P=20, Q=20, R=3, S=3, padding=(1, 1))
    device, q = load_device("i7-10700f"), Widths(16, 16, 16)
    before, found = plan(layer, q, replace(device, **OLD)), plan(layer, q, device)
    assert before.price > 15 * found.price
    assert found.lower_bound > 0.9 * found.price
    assert found.price <= plan(layer, q.with_partial_sums(32), device).price


def test_where_no_bit_takes_energy_bits_count():
    memories = Memory("registers", 200.0, 0, ""), Memory("L1", 600.0, 0, ""), Memory("DRAM", math.inf, 0, "")
    device = Device("free", "Free", "", memories, minimize=Minimize.energy)
    layer, q = Layer("conv", K=4, C=3, P=5, Q=4, R=3), Widths(5.1, 9.2, 4.02)
    assert plan(layer, q, device) == plan(layer, q, replace(device, minimize=Minimize.movement))


def test_a_memory_too_small_for_one_element_of_each_says_so():
    with pytest.raises(Infeasible, match="'huge' fits no tiling in 416 bits"):
        movement(Layer("huge"), Widths(200, 200, 200), load_device("stm32f103c8"))


def test_a_layer_of_very_many_tilings_is_planned():
    """800 billion tile vectors."""
    layer, device, q = Layer("product", N=50_000, K=4096, C=4096), load_device("i7-10700f"), Widths(8, 8, 8)
    found = plan(layer, q, device)
    assert found.lower_bound <= found.price < plan(layer, q, replace(device, **OLD)).price


DOUBLE = """
schema_version = 1
name = "toy"
title = "Toy"

[[memories]]
name = "buffer"
capacity_bytes = 256
double_buffered = true
source = "made up"

[[memories]]
name = "outside"
energy_pj_per_bit = 3.0
source = "made up"
"""


def test_a_double_buffered_memory_gives_half_of_itself_to_the_tiles_in_use(tmp_path):
    file = tmp_path / "device.toml"
    layer, q, plans = Layer("product", N=20, K=20, C=20), Widths(8, 8, 8), []
    for text in (DOUBLE, DOUBLE.replace("256\ndouble_buffered = true", "128"), DOUBLE.replace("true", "false")):
        file.write_text(text)
        plans.append(plan(layer, q, load_device(file)))
    assert plans[0] == plans[1]
    assert plans[0].price > plans[2].price


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("true", "1", "line 9: memories.0.double_buffered"),
        (
            "energy_pj_per_bit",
            "double_buffered = true\nenergy_pj_per_bit",
            "line 14: last memory 'outside' holds all: no double_buffered",
        ),
    ],
)
def test_a_wrong_double_buffered_is_named(tmp_path, old, new, reason):
    file = tmp_path / "device.toml"
    file.write_text(DOUBLE.replace(old, new))
    with pytest.raises(BitqError, match=reason):
        load_device(file)


def test_the_command_line_plans_together_or_one_by_one_and_says_how_near(bitq):
    def run(*more):
        code, out, _ = bitq("movement", "demo", "--device", "eyeriss", "--formats", "8:e3:b16", *more)
        assert code == 0
        return out

    found = {name: json.loads(run("--json", *words.split())) for name, words in {
        "default": "", "one by one": "--levels one-by-one", "energy": "--minimize energy",
    }.items()}
    totals = {name: each["totals"] for name, each in found.items()}
    assert totals["default"]["movement_bits"] <= totals["one by one"]["movement_bits"]
    assert totals["energy"]["energy_pj"] <= totals["default"]["energy_pj"] * (1 + 1e-9)
    assert found["energy"]["minimize"] == "energy"
    for layer in found["default"]["layers"]:
        assert 0 < layer["lower_bound"] <= layer["movement_bits"] * (1 + 1e-12)
        assert layer["gap"] == pytest.approx(1 - layer["lower_bound"] / layer["movement_bits"])
    assert "planned together: " in " ".join(run().split())
    assert "the least energy" in " ".join(run("--minimize", "energy").split())
