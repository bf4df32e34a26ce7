"""The time that is told before a search: it counts what the search does."""

import re
import time
from dataclasses import replace

import pytest
import torch

import tiny
from bitq.files import RunFolder
from bitq.progress import Silent
from bitq.store import Store
from bitq.tracing import trace
from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.forecast import Paces, forecast, time_needed, timed
from bitq.tradeoff.ledger import Ledger
from bitq.tradeoff.measure import Data, Subject, Task
from bitq.tradeoff.search import search
from bitq.tradeoff.space import space_of
from bitq.tradeoff.study import Study
from bitq.tradeoff.trials import ALONG, LIKELY
from bitq.tradeoff.workers import InProcess

NOTHING = Paces(scored=0.0, float_batch=1.0, batch=0.0, step=0.0, movement=0.0)


class Counted:
    """Batches that count how often they are taken."""

    def __init__(self, count, seed, size):
        images, labels = tiny.images(count, seed)
        self.batches = [(images[at : at + size], labels[at : at + size]) for at in range(0, count, size)]
        self.taken = 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            self.taken += 1
            yield batch


class Elsewhere:
    """Workers of another machine."""

    def measure(self, bench, jobs, listener):
        raise AssertionError("nothing is to be measured")


@pytest.fixture(scope="module")
def model():
    return tiny.trained()


@pytest.fixture
def opened(model, tmp_path):
    """Gives studies of data that are counted, with these settings."""
    stores = []

    def of(workers=None, **changes):
        data = Data(Counted(320, 1, 32), Counted(400, 2, 50), Counted(300, 3, 50))
        space = space_of(model, trace(model, torch.zeros(1, 1, 8, 8)), tiny.DEVICE, 8)
        folder = RunFolder(tmp_path / str(len(stores)))
        stores.append(Store(folder.results))
        settings = tiny.settings(**{"rounds": 1, "plans": 1, "uniforms": 1, "screened_inputs": 100, **changes})
        ledger = Ledger(folder, stores[-1].__enter__(), Silent(), workers or InProcess())
        study = Study.opened(Subject("tiny", model, data, Task()), space, settings, ledger)
        assert study.ranges
        assert study.float_accuracy
        return study

    yield of
    for store in stores:
        store.__exit__(None, None, None)


def taken(study):
    """Batches of validation and test data, and of training data."""
    data = study.subject.data
    return data.validation.taken + data.test.taken, data.train.taken


@pytest.mark.parametrize(
    "changes",
    [{}, {"budgets": Budgets(accuracy_loss=0.05), "fewest_bits": True}, {"without": "qat"}, {"without": "movement"}],
)
def test_what_a_search_does_is_counted_within_a_factor_of_two(opened, monkeypatch, changes):
    monkeypatch.setattr("bitq.tradeoff.search.time_needed", lambda study: "")  # takes batches of its own
    study = opened(**changes)
    told = forecast(study, replace(NOTHING, batch=1.0))
    steps = forecast(study, replace(NOTHING, step=1.0)).tuning
    scored = forecast(study, replace(NOTHING, scored=1.0)).scoring
    before = taken(study)
    search(study)
    measured, trained = (after - each for after, each in zip(taken(study), before, strict=True))
    assert measured / 2 <= told.screening + told.tuning <= 2 * measured
    assert told.screening >= 2 * (LIKELY + ALONG) or study.settings.alone  # of two batches each
    assert scored == 8  # 250 inputs in batches of 32
    assert trained == scored + steps
    assert steps == (0 if study.training is None else told.tuned * study.training.steps)


def test_plans_measured_on_all_data_and_the_report_are_counted(opened):
    study = opened()
    told = forecast(study, replace(NOTHING, batch=1.0))
    trials = LIKELY + ALONG + 28
    assert told.screening == 2 * trials + (2 + 3) * (8 + 6)  # the best of two kinds, and one for each loss
    assert forecast(study, replace(NOTHING, movement=1.0)).report == told.report + 20
    assert forecast(opened(without="movement"), replace(NOTHING, batch=1.0)).screening == 0


def test_the_sentence_has_the_sum_of_its_parts(opened, monkeypatch):
    study = opened()
    paces = Paces(scored=1.0, float_batch=0.1, batch=0.2, step=0.3, movement=0.1)
    monkeypatch.setattr("bitq.tradeoff.forecast.timed", lambda study: paces)
    found = forecast(study, paces)
    assert found.seconds == pytest.approx(found.scoring + found.screening + found.tuning + found.report)
    assert time_needed(study) == (
        "this will take about 70 s on this machine: 8 s to score formats, 35 s to measure them as they are, 21 s to "
        "fine-tune 2 of them, 6 s for the report"
    )
    told = time_needed(opened(workers=Elsewhere()))
    assert told.startswith("this would take about 70 s in one process of this machine: ")
    assert told.endswith("; other workers may need more time or less")
    assert re.search(r"s to measure 2 of them, ", time_needed(opened(without="qat")))


def test_what_is_timed_takes_time(opened):
    study = opened()
    start = time.perf_counter()
    paces = timed(study)
    spent = time.perf_counter() - start
    assert all(0 < each < spent for each in vars(paces).values())
    assert timed(opened(without="qat")).step == 0
