"""Plans that the memory of activations holds: what they take, the best that fits, and what is handed over."""

from itertools import product

import numpy as np
import pytest
import torch

import tiny
from bitq.accuracy.evaluate import top1
from bitq.errors import BitqError, Infeasible
from bitq.formats import BlockFormat
from bitq.layers import Layer
from bitq.placement import Buffer, alive
from bitq.tracing import record
from bitq.tracing.lifetimes import Activation, Portion
from bitq.tradeoff.allocate import allocate, predicted_loss
from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.moved import Moved
from bitq.tradeoff.records import Cost
from bitq.tradeoff.references import reference_costs
from bitq.tradeoff.space import Space, space_of
from bitq.tradeoff.stored import stored_as

FEW = tuple(BlockFormat(8, bits, 8) for bits in (2, 3))
"""6.25 and 5.375 bits an element."""

HARD = [(2, 3, 7), (2, 4, 7), (1, 1, 3), (1, 1, 2), (1, 2, 3), (2, 0, 0), (2, 0, 1), (1, 2, 2)]
"""Sizes and lifetimes that cannot be stacked as high as their fullest step."""

PLANS = list(product(list(product(range(2), repeat=3)), repeat=2))


def space(seed, ties=()):
    """Two modules whose four activations take, in the wider format, thousands of bytes as `HARD` has them."""
    draw = np.random.default_rng(seed)
    layers = [Layer(name, K=8, C=8, module=name) for name in ("a", "b")]
    ends = [(layer, tensor) for layer in layers for tensor in ("input", "output")]
    activations = [
        Activation(str(place), (Portion(1280 * size, *ends[draw.integers(4)]),), first, last)
        for place, (size, first, last) in enumerate(HARD)
    ]
    tables = [draw.integers(1, 1000, (2, 2, 2, 2)).astype(float) for _ in layers]
    bits = tuple(Moved(tuple(np.arange(2) for _ in range(3)), table) for table in tables)
    fixed, none = np.array([1.0, 2.0]), Cost.of_levels((0.0, 0.0), 0.0, 0)
    found = Space(
        tiny.DEVICE, ("a", "b"), tuple((each,) for each in layers), (), FormatSet(FEW), bits, fixed, none, 0, ties
    )
    return found.with_activations(activations), [draw.random((3, 2)) for _ in layers]


@pytest.mark.parametrize("ties", [(), (((0, 2), (1, 0)),)])
def test_no_plan_that_fits_is_better_than_the_allocated(ties):
    cut = 0
    for seed in range(12):
        given, scores = space(seed, ties)
        tied = [plan for plan in PLANS if not ties or plan[0][2] == plan[1][0]]
        peaks = {plan: given.cost(plan).ram_bytes for plan in tied}
        for plan in tied:
            assert given.cost(plan, placed=False).ram_bytes == max(alive(given.arena.buffers(plan))) <= peaks[plan]

        def worth(plan, given=given, scores=scores):
            return predicted_loss(scores, plan) + 0.5 * given.cost(plan).movement_bits / given.movement_max

        for limit in sorted(set(peaks.values())):
            best = min(worth(plan) for plan in tied if peaks[plan] <= limit)
            found = allocate(given, scores, 0.5, Budgets(ram_bytes=limit))
            assert peaks[found] <= limit
            assert worth(found) == pytest.approx(best, abs=1e-9)
            cut += any(max(alive(given.arena.buffers(plan))) <= limit < peaks[plan] for plan in tied)
        least = min(peaks.values())
        with pytest.raises(Infeasible, match=f"ram_bytes of at most .*: the least of all plans is {least}"):
            allocate(given, scores, 0.5, Budgets(ram_bytes=least - 1))
    assert cut, "no limit kept out a plan whose sums keep it"


def test_bytes_are_those_that_packing_stores():
    model, example = tiny.network(), torch.empty(1, 1, 8, 8, device="meta")
    traced = record(model, example)
    given = stored_as(space_of(model, traced.layers, tiny.DEVICE, FormatSet(FEW)), traced, "after-activation")
    assert given.arena.buffers(given.uniform(0)) == (
        Buffer(-(-FEW[0].num_bits((1, 1, 8, 8), 1) // 8), 0, 0),
        Buffer(-(-FEW[0].num_bits((1, 6, 4, 4), 1) // 8), 0, 1),
        Buffer(-(-FEW[0].num_bits((1, 6, 4, 4), 1) // 8), 1, 2),
        Buffer(-(-FEW[0].num_bits((1, 24), 1) // 8), 2, 3),
        Buffer(-(-FEW[0].num_bits((1, 4), 1) // 8), 3, 3),
    )
    assert given.float_cost.ram_bytes == 4 * 2 * 96
    assert reference_costs(given)["int8"].ram_bytes == 2 * 96


def test_the_plan_that_is_handed_over_fits(tmp_path):
    found = tiny.search(tmp_path, top1, rounds=1, plans=1, budgets=Budgets(ram_bytes="78%int8"))
    plan, limit = found.plan, 0.78 * found.references["int8"].ram_bytes
    assert found.within_budgets
    assert plan.totals.ram_bytes == plan.ram.bytes == found.rows[-1].ram_bytes <= limit
    assert plan.ram.lower_bound_bytes == plan.ram.bytes
    assert max(layer.ram_bytes for layer in plan.layers) <= plan.ram.bytes
    assert max(each.offset + each.bytes for each in plan.ram.activations) == plan.ram.bytes
    assert found.rows[0].ram_bytes == plan.totals.ram_bytes_float


def test_a_limit_that_nothing_keeps_is_told_before_the_search(tmp_path):
    with pytest.raises(BitqError, match="no plan has ram_bytes of at most 20: the least of all plans is "):
        tiny.search(tmp_path, top1, budgets=Budgets(ram_bytes=20))
    assert not list(tmp_path.iterdir())
