"""The allocated plans are the best of all plans, for one weight of movement, for all, and under budgets."""

from dataclasses import replace
from itertools import pairwise, product
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from bitq.errors import BitqError, Infeasible
from bitq.formats import BlockFormat
from bitq.layers import Layer
from bitq.tradeoff import knapsack
from bitq.tradeoff.allocate import allocate, front, predicted_loss
from bitq.tradeoff.budgets import ACCURACY_LOSS, Budgets
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.knapsack import Knapsack, non_dominated
from bitq.tradeoff.moved import Moved
from bitq.tradeoff.quantities import QUANTITIES
from bitq.tradeoff.records import Cost
from bitq.tradeoff.space import Space

FEW = tuple(BlockFormat(8, bits, 8) for bits in (2, 3))
PLANS = list(product(list(product(range(2), repeat=3)), repeat=2))


def moved(table):
    """What a module moves whose formats all have widths of their own."""
    return Moved(tuple(np.arange(extent) for extent in table.shape[:3]), table)


@st.composite
def spaces(draw, modules=2):
    """Two modules of two formats, with ties, zeros and large differences: where the bits come from does not matter."""
    values = st.lists(st.integers(0, 3) | st.integers(0, 10**9), min_size=16, max_size=16)
    tables = tuple(np.array(draw(values), dtype=float).reshape(2, 2, 2, 2) for _ in range(modules))
    names = tuple(f"module {i}" for i in range(modules))
    layers = tuple((Layer(name, K=draw(st.integers(1, 9)), C=3, module=name),) for name in names)
    fixed = np.array(draw(st.tuples(st.floats(1, 1e6), st.floats(0, 1e6))))
    bits, none = tuple(map(moved, tables)), Cost.of_levels((0.0, 0.0), 0.0, 0)
    return Space(tiny.DEVICE, names, layers, (), FormatSet(FEW), bits, fixed, none, 100)


def score_tables(modules=2):
    value = st.sampled_from([0.0, 0.0, 0.01]) | st.floats(-0.5, 1)
    table = st.lists(value, min_size=6, max_size=6).map(lambda values: np.array(values).reshape(3, 2))
    return st.lists(table, min_size=modules, max_size=modules)


def predicted(space, scores, alpha, plan):
    lost = sum(table[tensor, choice[tensor]] for table, choice in zip(scores, plan, strict=True) for tensor in range(3))
    return lost + alpha * space.cost(plan).movement_bits / space.movement_max


def spent(space, scores, plan):
    cost = space.cost(plan)
    return (predicted(space, scores, 0.0, plan), *(quantity.spent(cost) for quantity in QUANTITIES.values()))


alphas = st.sampled_from([0.0, 0.2, 5.0])
LIMITED = (ACCURACY_LOSS, *QUANTITIES)


@given(space=spaces(), scores=score_tables(), alpha=alphas)
def test_no_plan_is_better_than_the_allocated(space, scores, alpha):
    best = min(predicted(space, scores, alpha, plan) for plan in PLANS)
    assert predicted(space, scores, alpha, allocate(space, scores, alpha)) == pytest.approx(best, abs=1e-9)


@given(space=spaces(), scores=score_tables())
def test_what_weighs_nothing_does_not_count(space, scores):
    flat = replace(space, bits=tuple(moved(np.ones_like(each.bits)) for each in space.bits))
    assert allocate(flat, [np.zeros((3, 2))] * 2, 0.2) == ((0, 0, 0), (0, 0, 0))  # the first among equals
    most_accurate = [tuple(int(index) for index in table.argmin(axis=1)) for table in scores]
    assert allocate(flat, scores, 0.2) == tuple(most_accurate) or predicted(
        flat, scores, 0.2, allocate(flat, scores, 0.2)
    ) == pytest.approx(predicted(flat, scores, 0.2, most_accurate))


@given(space=spaces(), scores=score_tables(), alpha=st.floats(0, 10))
def test_the_front_holds_the_best_plan_for_every_weight(space, scores, alpha):
    points = front(space, scores)
    best = min(predicted(space, scores, alpha, plan) for plan in PLANS)
    mine = min(point.lost + alpha * point.movement_bits / space.movement_max for point in points)
    assert mine == pytest.approx(best, abs=1e-6)
    (chosen,) = [
        point
        for point, after in zip(points, (*points[1:], None), strict=True)
        if point.least_alpha <= alpha and (after is None or alpha < after.least_alpha)
    ]
    assert predicted(space, scores, alpha, chosen.choices) == pytest.approx(best, abs=1e-6)


@given(space=spaces(), scores=score_tables())
def test_the_front_falls_and_says_what_its_plans_are(space, scores):
    points = front(space, scores)
    for point in points:
        assert predicted_loss(scores, point.choices) == pytest.approx(point.lost, abs=1e-9)
        assert space.cost(point.choices).movement_bits == pytest.approx(point.movement_bits, rel=1e-9, abs=1e-6)
    for more, less in pairwise(points):
        assert more.movement_bits > less.movement_bits
        assert more.lost <= less.lost
        assert more.least_alpha < less.least_alpha


@settings(max_examples=150)
@given(
    space=spaces(),
    scores=score_tables(),
    alpha=alphas,
    limits=st.tuples(*(st.none() | st.floats(0, 1) for _ in LIMITED)),
)
def test_no_plan_within_the_budgets_is_better(space, scores, alpha, limits):
    """Limits lie between the least and the most of all plans."""
    all_spent = np.array([spent(space, scores, plan) for plan in PLANS])
    least, most = all_spent.min(axis=0), all_spent.max(axis=0)
    budgets = Budgets(
        **{
            name: None if share is None else max(low + share * (high - low), 0.0)
            for name, share, low, high in zip(LIMITED, limits, least, most, strict=True)
        }
    )
    bounds = np.array([np.inf if (limit := budgets.limit(name)) is None else limit for name in LIMITED])
    slack = 1e-8 * (1 + np.abs(most))
    within = [plan for plan, each in zip(PLANS, all_spent, strict=True) if (each <= bounds).all()]
    try:
        plan = allocate(space, scores, alpha, budgets)
    except Infeasible:
        plan = None
    if plan is None:
        assert not within
        return
    assert (np.array(spent(space, scores, plan)) <= bounds + slack).all()
    best = min((predicted(space, scores, alpha, each) for each in within), default=np.inf)
    assert predicted(space, scores, alpha, plan) <= best + 1e-6


@given(space=spaces(), scores=score_tables())
def test_budgets_that_do_not_matter_change_nothing(space, scores):
    loose = Budgets(1e3, movement_bits=1e18, energy_pj=1e18, model_bytes=1e18)
    assert allocate(space, scores, 0.2, loose) == allocate(space, scores, 0.2)


TIES = [
    (((0, 2), (1, 0)),),
    (((0, 0), (1, 0)),),
    (((0, 2), (1, 0), (1, 2)),),
    (((0, 0), (0, 2)), ((1, 0), (1, 2))),
    (((0, 0), (0, 1), (0, 2)), ((1, 0), (1, 1), (1, 2))),
    (((0, 0), (0, 1), (0, 2), (1, 0)), ((1, 1), (1, 2))),
]


@settings(max_examples=150)
@given(spaces(), score_tables(), alphas, st.sampled_from(TIES), st.none() | st.floats(0, 1))
def test_no_plan_with_tied_tensors_is_better(space, scores, alpha, ties, share):
    tied = replace(space, ties=ties)
    allowed = [plan for plan in PLANS if all(len({plan[m][t] for m, t in group}) == 1 for group in ties)]
    moved = [space.cost(plan).movement_bits for plan in allowed]
    limit = None if share is None else min(moved) + share * (max(moved) - min(moved))
    plan = allocate(tied, scores, alpha, Budgets(movement_bits=limit))
    assert plan in allowed
    within = [each for each, bits in zip(allowed, moved, strict=True) if limit is None or bits <= limit]
    assert space.cost(plan).movement_bits <= (limit or np.inf) * (1 + 1e-8) + 1e-8
    best = min(predicted(space, scores, alpha, each) for each in within)
    assert predicted(space, scores, alpha, plan) <= best + 1e-6


def example():
    bits = np.arange(1.0, 9).reshape(2, 2, 2, 1) * np.array([1.0, 2.0])
    layers = ((Layer("a", K=4, C=3, module="a"),),)
    none = Cost.of_levels((0.0, 0.0), 0.0, 0)
    space = Space(tiny.DEVICE, ("a",), layers, (), FormatSet(FEW), (moved(bits),), np.zeros(2), none, 100)
    return space, [np.array([[0.3, 0.0], [0.2, 0.0], [0.1, 0.0]])]


@pytest.mark.parametrize(
    ("budgets", "reason"),
    [
        (Budgets(movement_bits=2.0), "movement_bits of at most 2: the least of all plans is 3"),
        (Budgets(model_bytes=1), "model_bytes of at most 1: the least of all plans is 1"),
        (Budgets(energy_pj=0.0), "energy_pj of at most 0"),
        (Budgets(accuracy_loss=0.05, movement_bits=5), "keeps accuracy_loss at most 0.05, movement_bits at most 5"),
    ],
)
def test_budgets_that_no_plan_keeps_are_told(budgets, reason):
    with pytest.raises(Infeasible, match=reason):
        allocate(*example(), 0.2, budgets)


@pytest.mark.parametrize("status", [1, 4])
def test_a_solver_that_fails_is_not_told_as_budgets_that_no_plan_keeps(monkeypatch, status):
    space, scores = example()
    budgets = Budgets(movement_bits=6)  # some plans keep it
    assert budgets.kept(space.cost(allocate(space, scores, 0.2, budgets)), 0.0)
    failed = SimpleNamespace(x=None, status=status, message="time is up")
    monkeypatch.setattr(knapsack, "milp", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match="time is up"):
        Knapsack(space, scores, budgets).solved(0.2)


def test_an_unknown_quantity_has_no_limit():
    with pytest.raises(BitqError, match="'latency' is nothing to limit; known are accuracy_loss, movement_bits"):
        Budgets(latency=1.0)


@pytest.mark.parametrize("limit", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", LIMITED)
def test_limits_that_are_none_are_refused(name, limit):
    with pytest.raises(BitqError, match=name):
        Budgets(**{name: limit})


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=30))
def test_rows_that_another_beats_are_left_out(rows):
    costs = np.array(rows, dtype=float)
    kept = set(non_dominated(costs).tolist())
    for i, row in enumerate(costs):
        beaten = [j for j, other in enumerate(costs) if (other <= row).all() and ((other < row).any() or j < i)]
        assert (i in kept) == (not beaten)
