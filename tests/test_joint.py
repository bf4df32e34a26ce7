"""The joint plan of all memories against every plan there is, counted part by part."""

import json
import math
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitq.devices import Device, Memory, load_device
from bitq.errors import BitqError, Infeasible
from bitq.layers import LOOPS, Layer
from bitq.movement import Tiling, Widths, footprint
from bitq.movement.expression import split, traffic, whole
from bitq.movement.joint import joint_movement
from bitq.movement.levels import interior, movement
from movement_twins import simulate_parts
from strategies import devices, layers, widths

SMALL = {"N": 2, "K": 3, "C": 3, "P": 5, "Q": 3, "R": 3, "S": 2}


def every_tile(problem):
    for sizes in product(*(range(1, problem.extent(loop) + 1) for loop in LOOPS)):
        yield dict(zip(LOOPS, sizes, strict=True))


def least_energy(layer, q, boundaries, problem, parts):
    """The least energy of all integer tiles in all orders at these boundaries, one after the other."""
    (memory, source), *further = boundaries
    least = math.inf
    for tiles in every_tile(problem):
        if footprint(problem, Tiling(LOOPS, tiles)).bits(q) > memory.capacity_bits:
            continue
        several = [loop for loop in LOOPS if any(len(span) > tiles[loop] for span in parts[loop])]
        bits = min(traffic(layer, Tiling(order, tiles), parts).bits(q) for order in permutations(several))
        energy = bits * source.energy_pj_per_bit
        if further:
            tiling = Tiling(LOOPS, tiles)
            energy += least_energy(layer, q, further, interior(problem, tiling), split(parts, tiling))
        least = min(least, energy)
    return least


@st.composite
def tiny_problems(draw):
    """A layer of few tilings, a device of two or three levels that cannot hold it at once, and widths."""
    longer = draw(st.lists(st.sampled_from(LOOPS), min_size=1, max_size=3, unique=True))
    levels = draw(st.integers(2, 3))
    most = {1: 9, 2: 5, 3: 3}[len(longer)] if levels == 2 else {1: 7, 2: 3, 3: 2}[len(longer)]
    layer = draw(layers(most={loop: most if loop in longer else 1 for loop in LOOPS}))
    q = draw(widths())
    least = q.input + q.partial_sum + q.weight
    capacities = [least * draw(st.floats(1, 8)) for _ in range(levels)]
    energies = [draw(st.sampled_from([0.16, 1.0, 20.0])) for _ in range(levels)]
    memories = [
        Memory(f"level {i}", bits, 0.16 if i == 0 else energies[i - 1], "") for i, bits in enumerate(capacities)
    ]
    outer = Memory("DRAM", math.inf, energies[-1], "")
    return layer, q, Device("tiny", "Tiny", "", (*memories, outer))


@given(tiny_problems())
@settings(max_examples=60, deadline=None)
def test_no_plan_of_all_integer_tiles_and_orders_takes_less(problem):
    layer, q, device = problem
    plan = joint_movement(layer, q, device)
    assert plan.proven
    assert plan.lower_bound_pj == plan.energy_pj
    least = least_energy(layer, q, device.boundaries, layer.group, whole(layer))
    assert plan.energy_pj == pytest.approx(least, rel=1e-11)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_plan_is_what_its_tiles_move_part_by_part(data):
    layer, device, q = data.draw(layers(most=SMALL)), data.draw(devices()), data.draw(widths())
    plan = joint_movement(layer, q, device, budget=data.draw(st.sampled_from([0, 20_000, 100_000])))
    greedy = sum(level.energy_pj for level in movement(layer, q, device))
    q = q.with_partial_sums(device.partial_sum_bits)
    assert plan.lower_bound_pj <= plan.energy_pj <= greedy * (1 + 1e-12)
    assert plan.energy_pj == sum(level.energy_pj for level in plan.levels)
    parts, problem = whole(layer), layer.group
    for level, (memory, source) in zip(plan.levels, device.boundaries, strict=True):
        assert (level.memory, level.source) == (memory.name, source.name)
        assert level.traffic == simulate_parts(layer, level.tiling, parts)
        assert level.bits == level.traffic.bits(q)
        assert level.energy_pj == level.bits * source.energy_pj_per_bit
        assert footprint(problem, level.tiling).bits(q) <= memory.capacity_bits
        parts, problem = split(parts, level.tiling), interior(problem, level.tiling)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_bounds_of_any_budget_hold_for_the_proven_optimum(data):
    layer, device, q = data.draw(layers(most=SMALL)), data.draw(devices()), data.draw(widths())
    plans = [joint_movement(layer, q, device, budget) for budget in (0, 10_000, 100_000)]
    best = min(plan.energy_pj for plan in plans)
    for plan in plans:
        assert plan.lower_bound_pj <= best * (1 + 1e-11)
        assert plan.gap == pytest.approx(1 - plan.lower_bound_pj / plan.energy_pj)
        assert plan.proven == (plan.gap == 0)


def test_a_tile_that_costs_dram_more_can_suit_the_inner_memory_better():
    layer = Layer("conv", K=4, C=3, P=5, Q=4, R=3)
    memories = Memory("registers", 200.0, 0, ""), Memory("L1", 600.0, 1.0, ""), Memory("DRAM", math.inf, 20.0, "")
    device, q = Device("small", "Small", "", memories), Widths(5.1, 9.2, 4.02)
    greedy, plan = movement(layer, q, device), joint_movement(layer, q, device)
    assert plan.proven
    assert plan.energy_pj < 0.98 * sum(level.energy_pj for level in greedy)
    assert plan.levels[0].bits >= greedy[0].bits


def test_without_budget_it_is_the_plan_of_every_memory_for_itself():
    layer, device, q = Layer("conv", K=64, C=64, P=28, Q=28, R=3, S=3), load_device("i7-10700f"), Widths(8, 8, 8)
    plan = joint_movement(layer, q, device, budget=0)
    assert plan.levels == movement(layer, q, device)
    assert not plan.proven
    assert 0 < plan.gap < 1


def test_a_real_layer_on_two_levels_is_proven():
    layer = Layer("conv", K=32, C=32, P=14, Q=14, R=3, S=3, padding=(1, 1))
    plan = joint_movement(layer, Widths(8, 8, 8), load_device("eyeriss"))
    assert plan.proven


def test_a_memory_too_small_for_one_element_of_each_says_so():
    with pytest.raises(Infeasible, match="'huge' fits no tiling in 416 bits"):
        joint_movement(Layer("huge"), Widths(200, 200, 200), load_device("stm32f103c8"))


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
        plans.append(joint_movement(layer, q, load_device(file)))
    assert plans[0] == plans[1]
    assert plans[0].energy_pj > plans[2].energy_pj


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


def test_the_command_line_plans_jointly_and_says_how_near(bitq):
    def run(*more):
        code, out, _ = bitq("movement", "demo", "--device", "eyeriss", "--formats", "8:e3:b16", *more)
        assert code == 0
        return out

    plain, joint = json.loads(run("--json")), json.loads(run("--json", "--joint"))
    assert joint["totals"]["energy_pj"] <= plain["totals"]["energy_pj"]
    assert {layer["least_energy_pj"] for layer in plain["layers"]} == {None}
    for layer in joint["layers"]:
        assert 0 < layer["least_energy_pj"] <= layer["energy_pj"]
    assert "planned jointly: the least energy" in " ".join(run("--joint").split())


def test_the_budget_bounds_what_is_only_looked_at():
    """800 billion tile vectors, nearly all of them worse than known at first sight."""
    layer, device, q = Layer("product", N=50_000, K=4096, C=4096), load_device("i7-10700f"), Widths(8, 8, 8)
    plan = joint_movement(layer, q, device, budget=20_000)
    assert not plan.proven
    assert plan.energy_pj <= sum(level.energy_pj for level in movement(layer, q, device))
