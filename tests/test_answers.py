"""What a search answers: questions of the trade-off, limits as shares of plain formats, predictions that missed."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bitq
import tiny
from bitq.devices import load_device
from bitq.errors import BitqError, Infeasible
from bitq.formats import grid
from bitq.movement import Widths
from bitq.movement.levels import movement
from bitq.report.evidence import load_evidence
from bitq.tracing import trace
from bitq.tradeoff.answers import WITHIN, advice, answered, losses
from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.foretold import foretold
from bitq.tradeoff.knapsack import check
from bitq.tradeoff.predict import Curve
from bitq.tradeoff.records import Cost, Offer, Offers, References, Row
from bitq.tradeoff.references import reference_costs
from bitq.tradeoff.shares import REFERENCES, ShareOf
from bitq.tradeoff.space import space_of


def offer(label, lost, bits, energy=1.0):
    cost = Cost.of_levels((bits, 0.0), energy, 100)
    accuracy = 0.9 - lost
    objective = 1 - accuracy + 0.2 * bits / 100
    reached = {"lost": lost, "validation": accuracy, "test": accuracy, "objective": objective}
    return Offer(label=label, tuned=True, **reached, **dict(cost))


FLOAT = offer("float32", 0.0, 400.0)


# Questions


def test_each_question_has_the_best_of_what_was_measured():
    measured = [FLOAT, offer("near", 0.004, 90.0), offer("mid", 0.015, 60.0), offer("far", 0.2, 5.0)]
    found = answered(measured, Budgets(), WITHIN)
    assert [(each.within, each.label) for each in found] == [
        (None, "mid"),
        (0.005, "near"),
        (0.01, "near"),
        (0.02, "mid"),
    ]


@given(
    st.lists(st.tuples(st.integers(-20, 60), st.integers(1, 300), st.integers(1, 9)), max_size=12),
    st.none() | st.integers(1, 9),
)
def test_answers_are_what_looking_through_all_gives(rows, limit):
    measured = [FLOAT, *(offer("some", lost / 1000, float(bits), energy) for lost, bits, energy in rows)]
    budgets = Budgets(accuracy_loss=0.001, energy_pj=limit)
    free = [each for each in measured if limit is None or each.energy_pj <= limit]
    by_question = {each.within: each for each in answered(measured, budgets, WITHIN)}
    assert by_question[None].objective == min(each.objective for each in free)
    for loss in WITHIN:
        assert by_question[loss].movement_bits == min(each.movement_bits for each in free if each.lost <= loss + 1e-9)


def test_what_nothing_answers_is_told():
    found = answered([FLOAT, offer("far", 0.1, 5.0)], Budgets(movement_bits=50), WITHIN)
    assert [each.label for each in found] == ["far"]
    asked = Offers(offers=found, within=WITHIN).by_question
    assert [question for question, answer in asked if answer is None] == [
        "fewest bits within 0.5 points",
        "fewest bits within 1 point",
        "fewest bits within 2 points",
    ]


def test_a_budget_of_accuracy_is_a_question_too():
    assert losses(Budgets()) == WITHIN
    assert losses(Budgets(0.03)) == (*WITHIN, 0.03)
    assert losses(Budgets(0.01)) == losses(Budgets(1e3)) == WITHIN  # no accuracy is lower than 0


@pytest.mark.parametrize("name", ["lost", "objective", "energy_pj", "movement_bits"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e61])
def test_kept_answers_are_finite(name, value):
    with pytest.raises(ValueError, match=name if value != value or value > 1e300 else "beyond all"):
        Offers.model_validate({"offers": [{**dict(FLOAT), name: value}], "within": []})
    with pytest.raises(ValueError, match="energy_pj"):
        References.model_validate({"costs": {"int8": {**dict(FLOAT), "energy_pj": value}}})


# A plan that loses much


def row(role, accuracy, bits, energy):
    return Row(name=role, role=role, accuracy=accuracy, **dict(Cost.of_levels((bits, 0.0), energy, 100)))


def test_a_plan_that_loses_much_says_what_for_and_how_to_lose_less():
    float32, plan = row("float32", 0.93, 400.0, 80.0), row("plan", 0.901, 45.0, 6.0)
    found = Offers(offers=answered([FLOAT, offer("mid", 0.015, 60.0, 8.0)], Budgets(), WITHIN), within=WITHIN)
    assert advice(float32, plan, found, 0.2, "bitq search demo --seed 3") == (
        "at alpha 0.2 the plan gives up 2.90 points of accuracy, which buys 25 % fewer bits and 25 % less energy than "
        "the most sparing within 2 points (mid); for a milder plan: bitq search demo --seed 3 --within 2"
    )
    thirsty = row("plan", 0.901, 45.0, 8.8)
    assert "25 % fewer bits and 10 % more energy" in advice(float32, thirsty, found, 0.2, "bitq search demo")
    assert "accuracy_loss=0.02" in advice(float32, plan, found, 0.2, "bitq.search(...)")
    none = Offers(offers=(), within=WITHIN)
    assert "a smaller alpha, such as 0.1" in advice(float32, plan, none, 0.2, "bitq search demo")
    assert advice(float32, row("plan", 0.911, 45.0, 6.0), found, 0.2, "bitq search demo") == ""  # no more than 2 points
    assert advice(float32, plan, found.model_copy(update={"bounded": True}), 0.2, "bitq search demo") == ""


# Predictions


def test_a_prediction_is_told_with_its_error_and_that_it_missed():
    curve = Curve(linear=0.01, bend=0.0)  # loses 0.01 at a score of 1: 2 * (0.003 + 0.1 * 0.01) is the error
    assert foretold(curve, 1.0, 0.93, 0.9121) == " (predicted 92.00 % ± 0.80)"
    assert foretold(curve, 1.0, 0.93, 0.9119) == " (predicted 92.00 % ± 0.80: off by 0.81 points)"
    assert "off by 0.90 points" in foretold(curve, 1.0, 0.93, 0.929)


# Plain formats


class Attentive(torch.nn.Module):
    """A projection, and a product of two activations, which plans leave in float32 as it is traced here."""

    def __init__(self):
        super().__init__()
        self.project = torch.nn.Linear(12, 20)

    def forward(self, x):
        y = self.project(x)
        return y @ y.transpose(1, 2)


def spaces():
    device = load_device("stm32f103c8")
    return [
        space_of(model, trace(model, example), place, 8)
        for place in (tiny.DEVICE, replace(device, partial_sum_bits=24.0))
        for model, example in ((tiny.network(), torch.zeros(1, 1, 8, 8)), (Attentive(), torch.zeros(1, 6, 12)))
    ]


@pytest.mark.parametrize("space", spaces())
def test_plain_formats_cost_what_every_layer_moves_in_them(space):
    costs = reference_costs(space)
    for name, bits in REFERENCES.items():
        layers = [*sum(space.layers, ()), *space.fixed]
        levels = [movement(layer, Widths(input=bits, output=bits, weight=bits), space.device) for layer in layers]
        assert costs[name].movement_bits == pytest.approx(sum(level.bits for each in levels for level in each))
        assert costs[name].energy_pj == pytest.approx(sum(level.energy_pj for each in levels for level in each))
    assert costs["float32"].model_bytes == space.float_cost.model_bytes
    assert costs["float32"].figures() == pytest.approx(space.float_cost.figures())


@pytest.mark.parametrize("text", ["50%int8", "50 % int8", " 50.0%INT8 "])
def test_a_share_is_read(text):
    budgets = Budgets(movement_bits=text)
    assert budgets == Budgets(movement_bits=ShareOf(0.5, "int8"))
    known = budgets.beside(lambda: {"int8": Cost.of_levels((80.0, 0.0), 1.0, 1)})
    assert known.limit("movement_bits") == 40.0
    assert str(known) == "movement_bits at most 40 (50 % of int8)"
    assert known.with_loss(0.1).limit("movement_bits") == 40.0


@pytest.mark.parametrize("text", ["50%int4", "50", "%int8", "-1%int8", "nan%int8", "50%", "1e3%int8", "int8"])
def test_other_shares_are_refused(text):
    with pytest.raises(BitqError, match=r"energy_pj is .*; a share must be of int8, float16 or float32, such as"):
        Budgets(energy_pj=text)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: ShareOf(0.5, "int4"), "'int4'; it must be of one of int8, float16, float32"),
        (lambda: ShareOf(-0.5, "int8"), "share of int8 is -0.5; it must be"),
        (lambda: ShareOf(float("nan"), "int8"), "share of int8 is nan"),
        (lambda: Budgets("50%int8"), "the limit of accuracy_loss is '50%int8'; it must be a finite number"),
        (lambda: Budgets(energy_pj="50%int8").limit("energy_pj"), "says how much only beside a network and a device"),
        (lambda: bitq.Settings(fewest_bits=True), "fewest_bits needs a budget of accuracy"),
    ],
)
def test_what_is_no_limit_is_refused(make, reason):
    with pytest.raises(BitqError, match=reason):
        make()


def test_budgets_without_shares_ask_for_no_reference():
    budgets = Budgets(0.1, movement_bits=3.0)
    assert budgets.beside(lambda: pytest.fail("asked")) is budgets


def test_a_share_that_no_plan_keeps_is_told_in_its_own_terms():
    space = space_of(tiny.network(), trace(tiny.network(), torch.zeros(1, 1, 8, 8)), tiny.DEVICE, 8)
    costs = reference_costs(space)
    least = sum(float(space.movement(module).min()) for module in range(len(space.modules)))
    told = f"{100 * least / costs['int8'].movement_bits:.4g} % of int8"
    with pytest.raises(Infeasible, match=rf"at most \S+ \(1 % of int8\): the least of all plans is \S+ \({told}\)"):
        check(space, Budgets(movement_bits="1%int8").beside(lambda: costs))
    assert len(grid(8)) == len(space.formats)


# The whole


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    heard = tiny.Listening()
    few = tiny.settings(rounds=1, plans=1, uniforms=1, screened_inputs=100)
    result = bitq.search(tiny.trained(), *tiny.loaders(), device=tiny.DEVICE, run=folder, settings=few, listener=heard)
    return folder, result, heard


def test_a_search_answers_from_all_that_it_measured(searched):
    folder, result, heard = searched
    run = load_evidence(folder)
    assert run.offers == result.offers
    assert run.references == result.references
    float32 = run.float32.validation
    kept = [each for each in run.measured if float32 - each.validation <= 0.02 + 1e-9]
    answer = {each.within: each for each in result.offers.offers}
    moved = min((each.movement_bits for each in kept), default=answer[0.02].movement_bits)
    assert answer[0.02].movement_bits == moved
    assert answer[None].movement_bits == result.plan.totals.movement_bits
    assert answer[None].test == result.plan.totals.accuracy
    assert [each.movement_bits for each in result.offers.offers[1:]] == sorted(
        (each.movement_bits for each in result.offers.offers[1:]), reverse=True
    )
    assert [note for note in heard.notes if "predicted" in note]
    assert all("not fine-tuned" not in note for note in heard.notes if "predicted" in note)


def test_the_fewest_bits_are_handed_over_if_they_are_looked_for(searched):
    folder, _, _ = searched
    few = tiny.settings(rounds=1, plans=1, uniforms=1, screened_inputs=100, fewest_bits=True, budgets=Budgets(0.05))
    found = bitq.search(
        tiny.trained(), *tiny.loaders(), device=tiny.DEVICE, run=folder, settings=few, listener=tiny.Listening()
    )
    run = load_evidence(folder)
    kept = [each for each in run.measured if run.float32.validation - each.validation <= 0.05 + 1e-9]
    assert found.plan.totals.movement_bits == min(each.movement_bits for each in kept)  # those of before, too
    assert found.within_budgets
