"""Trials: what plans lose as they are on a part of the validation data, and which of them deserve all of it."""

from types import SimpleNamespace

import pytest
import torch

import bitq
import tiny
from bitq.accuracy.evaluate import score
from bitq.files import RunFolder
from bitq.progress import Silent
from bitq.store import Store
from bitq.tracing import trace
from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.contenders import Candidate, Contender, Trial
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.ledger import Ledger
from bitq.tradeoff.measure import Data, Subject, Task
from bitq.tradeoff.opening import opened
from bitq.tradeoff.predict import Curve
from bitq.tradeoff.records import Cost
from bitq.tradeoff.search import search
from bitq.tradeoff.space import space_of
from bitq.tradeoff.study import Proposed, Study
from bitq.tradeoff.trials import ALONG, LIKELY, better, most_trials, nearer, tried, worth_trying

ROOM = 0.05


@pytest.fixture(scope="module")
def easy():
    """A trained network with validation data whose first batch it gets right."""
    model = tiny.trained()
    images, labels = tiny.images(300, 2)
    with torch.no_grad():
        right = model(images).argmax(1) == labels
    order = torch.argsort(right.int(), descending=True, stable=True)
    images, labels = images[order], labels[order]
    assert 100 <= int(right.sum()) < 300
    return model, [(images[at : at + 100], labels[at : at + 100]) for at in (0, 100, 200)]


@pytest.fixture
def study(easy, tmp_path):
    """A study that tries plans on the first batch alone."""
    model, validation = easy
    space = space_of(model, trace(model, torch.zeros(1, 1, 8, 8)), tiny.DEVICE, 8)
    settings = tiny.settings(screened_inputs=100, budgets=Budgets(accuracy_loss=ROOM))
    folder = RunFolder(tmp_path)
    subject = Subject("tiny", model, Data(tiny.loaders()[0], validation, validation), Task())
    with Store(folder.results) as store:
        yield Study.opened(subject, space, settings, Ledger(folder, store))


def test_what_a_trial_loses_is_told_beside_float32_on_the_same_data(study, easy):
    model, validation = easy
    uniforms = [Candidate.of(study, study.space.uniform(index)) for index in range(len(study.space.formats))]
    trials = tried(study, uniforms, uniforms[:1])
    worth = worth_trying(study, uniforms)
    assert len(trials) == len(worth) + 1 <= most_trials(study)
    float32, part = score(model, validation).accuracy, validation[:1]
    assert score(model, part).accuracy == 1.0 > float32
    for each in (trials[0], trials[-1]):
        own = tiny.trained()
        bitq.apply(own, study.tensor_formats(each.candidate.choices), study.ranges)
        assert each.lost == 1.0 - score(own, part).accuracy
        expected = 1 - (float32 - each.lost) + 0.2 * each.candidate.cost.movement_bits / study.space.movement_max
        assert each.objective == each.merit == pytest.approx(expected)
        assert each.excess == pytest.approx(max(each.lost / ROOM - 1, 0))
    assert trials[0].excess == 0 < trials[-1].excess
    assert list(trials) == sorted(trials, key=lambda each: (each.excess, each.objective, each.plan.label))


def test_the_curve_is_guessed_from_what_trials_lose(study, monkeypatch):
    class HeardError(Exception):
        pass

    def guessed(untuned, left):
        raise HeardError(untuned)

    monkeypatch.setattr(Curve, "guessed", guessed)
    with pytest.raises(HeardError) as caught:
        search(study)
    uniform = study.space.uniform(0)
    found = {lost for score, lost in caught.value.args[0] if score == Candidate.of(study, uniform).score}
    own = tiny.trained()
    bitq.apply(own, study.tensor_formats(uniform), study.ranges)
    assert found == {1.0 - score(own, study.subject.data.validation[:1]).accuracy}


def trial(label, objective, lost=0.0, bits=1.0, proposer="plan", excess=0.0):
    plan = Proposed(label, label, proposer, tune=False)
    return Trial(Candidate(label, 1.0, Cost.of_levels((bits,), 0.0, 0)), plan, lost, objective, excess, objective)


def contender(label, objective, proposer="plan", excess=0.0, measured=None):
    return Contender(Proposed(label, label, proposer), 1.0, measured, objective, excess, objective)


def test_the_best_trials_of_uniform_formats_and_of_all_deserve_all_data():
    trials = [trial("a", 0.1), trial("b", 0.2), trial("c", 0.3, proposer="uniform")]

    def chosen(*contenders):
        found = better(trials, contenders)
        return found and found.plan.label

    uniform, plan = contender("c", 0.35, "uniform"), contender("a", 0.3)
    assert chosen() == "c"
    assert chosen(uniform) == "a"
    assert chosen(uniform, plan) is None  # whatever all data made of them, they are known
    assert chosen(contender("e", 0.05), uniform) is None
    assert chosen(contender("e", 0.05)) == "c"
    assert chosen(contender("e", 0.05, excess=0.1), uniform) == "a"
    assert chosen(contender("e", 0.25, "uniform")) == "a"
    assert better([], [uniform]) is None


def test_trials_of_the_fewest_bits_near_float32_deserve_all_data():
    study = SimpleNamespace(settings=SimpleNamespace(budgets=Budgets()), float_accuracy=SimpleNamespace(validation=0.9))

    def measured(label, bits, validation):
        found = SimpleNamespace(movement_bits=bits, validation=validation)
        return contender(label, 0.0, measured=found)

    trials = [trial("a", 0.1, 0.004, 50.0), trial("b", 0.2, 0.009, 40.0), trial("c", 0.3, 0.03, 10.0)]

    def chosen(*contenders):
        found = nearer(study, trials, contenders)
        return found and found.plan.label

    a, b = measured("a", 50.0, 0.896), measured("b", 40.0, 0.85)
    assert chosen() == "a"
    assert chosen(a) == "b"
    assert chosen(a, b) is None
    assert chosen(measured("e", 45.0, 0.9)) == "b"
    assert chosen(measured("e", 39.0, 0.9)) is None
    assert chosen(measured("e", 39.0, 0.889)) == "a"
    trials.append(trial("d", 0.2, 0.003, 60.0))
    assert chosen(measured("a", 50.0, 0.891)) == "d"  # all data took from a what its part had promised


def uniform(index, score, bits):
    return Candidate(((index,) * 3,), score, Cost.of_levels((bits,), 0.0, 0))


def test_uniform_formats_that_no_other_beats_are_tried_the_likely_ones_first_of_all():
    study = SimpleNamespace(objective=lambda accuracy, bits: 1 - accuracy + 0.2 * bits / 100)
    chain = [uniform(place, 0.05 * place**2, 100.0 - place) for place in range(60)]
    beaten = [uniform(100 + place, each.score + 1e-6, each.cost.movement_bits) for place, each in enumerate(chain)]
    mixed = [each for pair in zip(beaten, chain, strict=True) for each in pair]
    chosen = worth_trying(study, mixed)
    places = [each.choices[0][0] for each in chosen]
    assert set(places) < set(range(60))
    assert len(places) == LIKELY + ALONG
    assert places == sorted(places)
    curve = Curve()

    def promise(place):
        return study.objective(1 - curve.lost(chain[place].score), chain[place].cost.movement_bits)

    assert set(sorted(range(60), key=promise)[:LIKELY]) < set(places)
    assert 59 in places  # of the least movement
    assert worth_trying(study, []) == []
    assert worth_trying(study, chain[:3]) == chain[:3]


def test_a_heavy_network_is_tried_on_fewer_inputs_but_an_eighth(easy, tmp_path, monkeypatch):
    model, validation = easy
    macs = sum(layer.macs for layer in trace(model, torch.zeros(1, 1, 8, 8)))
    subject = Subject("tiny", model, Data(tiny.loaders()[0], validation, validation), Task())

    told = []

    class Noting(Silent):
        def note(self, text):
            told.append(text)

    def seen(most):
        monkeypatch.setattr("bitq.tradeoff.settings.MACS", most)
        wanted = tiny.settings(scored_inputs=200, screened_inputs=300)
        with opened(subject, tiny.DEVICE, FormatSet.grid(8), wanted, RunFolder(tmp_path), Noting()) as (study, _):
            return study.settings.scored_inputs, study.settings.screened_inputs

    assert seen(300 * macs) == (200, 300)
    assert told == []
    assert seen(100.5 * macs) == (100, 100)
    assert seen(30 * macs) == (30, 38)
    assert seen(macs) == (25, 38)
    assert told[-1].endswith(
        "tensors are scored on at most 25 inputs instead of 200, plans are tried on at most 38 inputs instead of 300"
    )
    assert seen(250 * macs) == (200, 250)
    assert told[-1].endswith("for an input: plans are tried on at most 250 inputs instead of 300")


@pytest.mark.parametrize("scale", [1.0, 0.03, 0.001])
def test_the_guess_follows_scores_of_any_scale(scale):
    scores = [0.1 * step for step in range(1, 25)]
    untuned = [(scale * score, min(0.02 * score + 0.05 * score**2, 0.8)) for score in scores]
    guess = Curve.guessed(untuned, 1.0)
    assert all(abs(guess.lost(score) - lost) < 0.02 for score, lost in untuned if lost <= 0.3)


def test_a_few_trials_alone_do_not_decide():
    assert Curve.guessed([(0.001, 0.2), (0.002, 0.25)], 1.0).lost(0.002) < 0.05
