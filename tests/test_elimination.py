"""Tied tensors are solved exactly: formats that are left out are worth nothing, no plan is better than what stays."""

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from bitq.errors import BitqError
from bitq.formats import BlockFormat
from bitq.layers import Layer
from bitq.tradeoff import allocate as allocating
from bitq.tradeoff import elimination
from bitq.tradeoff.allocate import allocate, front, predicted_loss
from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.elimination import least, marginals, steps
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.knapsack import Knapsack
from bitq.tradeoff.moved import Moved
from bitq.tradeoff.priced import relaxed
from bitq.tradeoff.problem import Problem
from bitq.tradeoff.quantities import SUMS
from bitq.tradeoff.records import Cost
from bitq.tradeoff.space import Space

FORMATS = tuple(BlockFormat(8, bits, 8) for bits in (2, 3, 4))
ENDS = list(product(range(3), range(3)))
NONE = Cost.of_levels((0.0, 0.0), 0.0, 0)


@st.composite
def bound(draw):
    """Three modules of three formats, few widths among them, whose tensors are tied at random, within modules and over
    many; scores are infinite here and there, but of one format at least all tensors have finite ones."""
    moved, scores = [], []
    bits = st.integers(0, 3) | st.integers(0, 10**6)
    for _ in range(3):
        places = tuple(np.array(draw(st.lists(st.integers(0, 1), min_size=3, max_size=3))) for _ in range(3))
        moved.append(Moved(places, np.array(draw(st.lists(bits, min_size=16, max_size=16)), float).reshape(2, 2, 2, 2)))
        values = st.sampled_from([0.0, 0.0, 0.01, np.inf]) | st.floats(-0.5, 1)
        scores.append(np.array(draw(st.lists(values, min_size=9, max_size=9))).reshape(3, 3))
    finite = draw(st.integers(0, 2))
    for table in scores:
        table[:, finite] = np.where(np.isinf(table[:, finite]), 0.3, table[:, finite])
    labels = draw(st.lists(st.integers(0, 5), min_size=9, max_size=9))
    groups = [tuple(end for end, label in zip(ENDS, labels, strict=True) if label == each) for each in range(6)]
    layers = tuple((Layer(f"m{i}", K=draw(st.integers(1, 9)), C=3, module=f"m{i}"),) for i in range(3))
    space = Space(
        tiny.DEVICE, ("m0", "m1", "m2"), layers, (), FormatSet(FORMATS), tuple(moved), np.array([5.0, 1.0]), NONE, 0,
        tuple(group for group in groups if len(group) > 1),
    )  # fmt: skip
    return space, scores


def plans(space, scores):
    """All plans that keep the ties and may be had, as an array of formats (plans, 3, 3), their scores and movement."""
    groups = Problem.of(space, [np.zeros((3, 3))] * 3).groups
    allowed = [
        [f for f in range(3) if all(np.isfinite(scores[module][tensor, f]) for module, tensor in group)]
        for group in groups
    ]
    taken = np.array(list(product(*allowed)))
    found = np.empty((len(taken), 3, 3), dtype=int)
    for number, group in enumerate(groups):
        for module, tensor in group:
            found[:, module, tensor] = taken[:, number]
    lost = sum(scores[module][tensor, found[:, module, tensor]] for module, tensor in ENDS)
    moved = space.fixed_bits.sum() + sum(
        each.bits[tuple(each.places[tensor][found[:, module, tensor]] for tensor in range(3))].sum(axis=-1)
        for module, each in enumerate(space.bits)
    )
    return found, lost, moved


def keeps(space, plan):
    return all(len({plan[module][tensor] for module, tensor in group}) == 1 for group in space.ties)


def objective(space, scores, alpha, plan):
    return predicted_loss(scores, plan) + alpha * space.cost(plan).movement_bits / space.movement_max


alphas = st.sampled_from([0.0, 0.2, 5.0]) | st.floats(0, 10)


@settings(max_examples=200)
@given(bound(), alphas)
def test_no_plan_that_keeps_the_ties_is_better(given_space, alpha):
    space, scores = given_space
    plan = allocate(space, scores, alpha)
    assert keeps(space, plan)
    _, lost, moved = plans(space, scores)
    best = (lost + alpha * moved / space.movement_max).min()
    assert objective(space, scores, alpha, plan) == pytest.approx(best, abs=1e-9)


@settings(max_examples=60)
@given(bound(), alphas)
def test_elimination_and_the_integer_program_agree(given_space, alpha):
    space, scores = given_space
    by_program = Knapsack(space, scores, Budgets()).solved(alpha)
    assert keeps(space, by_program)
    eliminated = objective(space, scores, alpha, allocate(space, scores, alpha))
    assert objective(space, scores, alpha, by_program) == pytest.approx(eliminated, abs=1e-6)


@settings(max_examples=60)
@given(bound(), alphas, st.floats(0, 1))
def test_no_plan_within_a_budget_is_better(given_space, alpha, share):
    space, scores = given_space
    _, lost, moved = plans(space, scores)
    limit = moved.min() + share * (moved.max() - moved.min())
    plan = allocate(space, scores, alpha, Budgets(movement_bits=limit))
    assert keeps(space, plan)
    assert space.cost(plan).movement_bits <= limit * (1 + 1e-8) + 1e-8
    best = (lost + alpha * moved / space.movement_max)[moved <= limit].min()
    assert objective(space, scores, alpha, plan) <= best + 1e-6


@settings(max_examples=200)
@given(bound())
def test_the_front_is_the_lower_hull_of_all_plans(given_space):
    space, scores = given_space
    points = front(space, scores)
    for point in points:
        assert keeps(space, point.choices)
        assert predicted_loss(scores, point.choices) == pytest.approx(point.lost, abs=1e-9)
        assert space.cost(point.choices).movement_bits == pytest.approx(point.movement_bits, rel=1e-12)
    for more, fewer in pairwise(points):
        assert more.movement_bits > fewer.movement_bits
        assert more.lost <= fewer.lost
        assert more.least_alpha < fewer.least_alpha
    _, lost, moved = plans(space, scores)
    weights = [0.0, *(point.least_alpha for point in points), 1e-3, 0.1, 0.7, 3.0, 100.0]
    for alpha in weights:
        best = (lost + alpha * moved / space.movement_max).min()
        mine = [point.lost + alpha * point.movement_bits / space.movement_max for point in points]
        assert min(mine) == pytest.approx(best, abs=1e-9, rel=1e-9)
        chosen = [each for each, point in zip(mine, points, strict=True) if point.least_alpha <= alpha][-1]
        assert chosen == pytest.approx(best, abs=1e-9, rel=1e-9)


@settings(max_examples=100)
@given(bound())
def test_formats_that_are_left_out_are_beaten_whatever_the_others_take(given_space):
    """What stays holds a plan that is nowhere behind each plan that there is, in all quantities."""
    space, scores = given_space
    names = tuple(SUMS)
    problem = Problem.of(space, scores, names)
    left = [set(formats.tolist()) for formats in problem.formats]
    of_end = {end: number for number, group in enumerate(problem.groups) for end in group}
    found, lost, _ = plans(space, scores)
    stays = np.array([all(int(plan[end]) in left[of_end[end]] for end in ENDS) for plan in found])
    spent = np.stack(
        [lost, *(
            sum(
                SUMS[name].table(space, module)[
                    tuple(each.places[tensor][found[:, module, tensor]] for tensor in range(3))
                ]
                for module, each in enumerate(space.bits)
            )
            for name in names
        )],
        axis=1,
    )  # fmt: skip
    kept = spent[stays]
    slack = 1e-9 * (1 + np.abs(spent))
    assert all((kept <= row + own).all(axis=1).any() for row, own in zip(spent, slack, strict=True))


@settings(max_examples=30)
@given(bound(), alphas)
def test_tables_that_are_too_large_are_left_to_the_integer_program(given_space, alpha):
    space, scores = given_space
    _, lost, moved = plans(space, scores)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elimination, "MOST_CELLS", 0)
        assert steps(Problem.of(space, scores)) is None
        plan = allocate(space, scores, alpha)
        points = front(replace(space, ties=(((0, 0), (1, 0)),)), [np.zeros((3, 3))] * 3)
    best = (lost + alpha * moved / space.movement_max).min()
    assert objective(space, scores, alpha, plan) == pytest.approx(best, abs=1e-6)
    assert len(points) == 1


@given(bound())
def test_weights_of_movement_alone_and_of_scores_alone_are_the_ends(given_space):
    space, scores = given_space
    problem = Problem.of(space, scores)
    _, lost, moved = plans(space, scores)
    order = steps(problem)
    fewest, best = (problem.choices(least(problem, order, *weights)) for weights in ((1.0, 0.0), (0.0,)))
    assert space.cost(fewest).movement_bits == pytest.approx(moved.min())
    assert predicted_loss(scores, best) == pytest.approx(lost.min(), abs=1e-12)


@given(bound(), alphas)
def test_marginals_are_the_best_plans_with_each_format(given_space, alpha):
    space, scores = given_space
    problem = Problem.of(space, scores)
    every, lost, moved = plans(space, scores)
    values = lost + alpha * (moved - space.fixed_bits.sum()) / space.movement_max
    left = {end: set(own.tolist()) for group, own in zip(problem.groups, problem.formats, strict=True) for end in group}
    stays = np.array([all(int(plan[end]) in left[end] for end in ENDS) for plan in every])
    for group, formats, found in zip(
        problem.groups, problem.formats, marginals(problem, steps(problem), alpha), strict=True
    ):
        own = every[:, group[0][0], group[0][1]]
        for fmt, value in zip(formats, found, strict=True):
            assert value == pytest.approx(values[stays & (own == fmt)].min(), abs=1e-9)


@settings(max_examples=100)
@given(bound(), alphas, st.tuples(st.floats(0, 1), st.none() | st.floats(0, 1)))
def test_formats_that_budgets_leave_out_are_in_no_best_plan(given_space, alpha, shares):
    space, scores = given_space
    problem = Problem.of(space, scores)
    _, lost, moved = plans(space, scores)
    added = moved - space.fixed_bits.sum()
    limit = added.min() + shares[0] * (added.max() - added.min())
    most_lost = np.inf if shares[1] is None else lost.min() + shares[1] * (lost.max() - lost.min())
    within = (added <= limit) & (lost <= most_lost)
    weights = np.array([1.0, alpha / space.movement_max])
    found = relaxed(problem, weights, np.array([most_lost, limit]))
    assert all(set(own) <= set(all_of) for own, all_of in zip(found.formats, problem.formats, strict=True))
    assert all(len(own) for own in found.formats) or not within.any()
    if within.any():
        left = {end: set(own.tolist()) for group, own in zip(found.groups, found.formats, strict=True) for end in group}
        every = plans(space, scores)[0]
        stays = np.array([all(int(plan[end]) in left[end] for end in ENDS) for plan in every])
        values = lost + weights[1] * added
        slack = 1e-9 * (1 + np.abs(added[within]).max())
        nearly = (added <= limit + slack) & (lost <= most_lost + 1e-9)
        assert values[stays & nearly].min() <= values[within].min() + 1e-7


def test_a_front_of_many_plans_is_cut_where_gaps_are_small(monkeypatch):
    monkeypatch.setattr(allocating, "MOST_SOLVES", 7)
    random = np.random.default_rng(0)
    widths = np.arange(3.0) + 1
    table = np.stack([np.add.outer(np.add.outer(widths, widths), widths)] * 2, axis=-1)
    places = (np.arange(3),) * 3
    count = 12
    layers = tuple((Layer(f"m{i}", K=3, C=3, module=f"m{i}"),) for i in range(count))
    ties = tuple(((i, 2), (i + 1, 0)) for i in range(count - 1))
    space = Space(
        tiny.DEVICE, tuple(f"m{i}" for i in range(count)), layers, (), FormatSet(FORMATS),
        tuple(Moved(places, table * (1 + random.random())) for _ in range(count)), np.zeros(2), NONE, 0, ties,
    )  # fmt: skip
    scores = [np.array([[4.0, 1.0, 0.0]] * 3) * (1 + random.random((3, 1))) for _ in range(count)]
    few = front(space, scores)
    assert 3 <= len(few) <= 7
    gaps = [more.movement_bits - fewer.movement_bits for more, fewer in pairwise(few)]
    assert max(gaps) <= 0.7 * (few[0].movement_bits - few[-1].movement_bits)
    for point in few:
        again = allocate(space, scores, point.least_alpha)
        assert objective(space, scores, point.least_alpha, again) <= objective(
            space, scores, point.least_alpha, point.choices
        )


def test_a_tensor_that_no_format_is_for_is_told():
    table = Moved((np.zeros(3, int),) * 3, np.ones((1, 1, 1, 2)))
    layers = ((Layer("conv", K=3, C=3, module="conv"),),)
    space = Space(tiny.DEVICE, ("conv",), layers, (), FormatSet(FORMATS), (table,), np.zeros(2), NONE, 0)
    scores = np.zeros((3, 3))
    scores[2] = np.inf
    with pytest.raises(BitqError, match="no format is left for the output of 'conv'"):
        allocate(space, [scores], 0.2)
