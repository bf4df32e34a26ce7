"""What results depend on is told apart: functions by what they do, data by what they hold, in every process alike."""

import functools
import json
import os
import sqlite3
import subprocess
import sys
import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bitq
import tiny
from bitq.accuracy.evaluate import cross_entropy, top1
from bitq.errors import BitqError
from bitq.tradeoff.functions import identity_of, name_of
from bitq.tradeoff.identity import first_batches


def text(function):
    found = identity_of(function)
    assert not found.unknown
    return found.text


# Functions


def within(model, batches, k):
    """Top-k accuracy."""
    hits = total = 0
    for inputs, target in batches:
        best = model(inputs).topk(k).indices
        hits += int((best == target[:, None]).any(1).sum())
        total += len(target)
    return hits / total


K = 1


def reads_a_global(model, batches):
    return within(model, batches, K)


def reads_a_global_within(model, batches):
    return next(within(model, batches, k) for k in (K,))


def closing_over(k):
    return lambda model, batches: within(model, batches, k)


def with_default(k):
    def metric(model, batches, k=k):
        return within(model, batches, k)

    return metric


def with_keyword(k):
    def metric(model, batches, *, k=k):
        return within(model, batches, k)

    return metric


@dataclass
class Metric:
    k: int

    def __call__(self, model, batches):
        return within(model, batches, self.k)

    def method(self, model, batches):
        return within(model, batches, self.k)


class Slotted:
    __slots__ = ("k",)

    def __init__(self, k):
        self.k = k

    def __call__(self, *_):
        return self.k


class Weighted(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.register_buffer("weight", torch.full((4,), float(k)))

    def forward(self, output, target):
        return nn.functional.cross_entropy(output, target, self.weight)


class Base:
    def __call__(self, *_):
        return self.value()


def class_with(k):
    class Derived(Base):
        def value(self):
            return k

    return Derived()


def wrapped(k):
    @functools.wraps(within)
    def other(model, batches):
        return within(model, batches, k)

    return other


MAKERS = {
    "partial": lambda k: functools.partial(within, k=k),
    "positional partial": lambda k: functools.partial(within, None, None, k),
    "closure": closing_over,
    "default": with_default,
    "keyword": with_keyword,
    "callable": Metric,
    "slots": Slotted,
    "method": lambda k: Metric(k).method,
    "module": lambda k: nn.CrossEntropyLoss(label_smoothing=k / 10),
    "buffer": Weighted,
    "inherited": class_with,
    "wrapped": wrapped,
    "no_grad": lambda k: torch.no_grad()(closing_over(k)),
    "cached": lambda k: functools.lru_cache(closing_over(k)),
    "array": lambda k: functools.partial(within, k=np.full(3, k)),
    "tensor": lambda k: functools.partial(within, k=torch.full((3,), k)),
    "nested": lambda k: functools.partial(within, k={"a": [(k, {k, 7, "x"})]}),
    "bound in C": lambda k: {"k": k}.get,
    "compiled": lambda k: eval(f"lambda model, batches: {k}"),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_functions_of_one_name_are_told_apart(make):
    assert text(make(1)) == text(make(1))
    assert text(make(1)) != text(make(3))


def test_lambdas_of_one_scope_are_told_apart():
    first, second, third = lambda y, t: y + t, lambda y, t: y - t, lambda y, t: t + y
    assert len({text(first), text(second), text(third)}) == 3


@pytest.mark.parametrize("function", [reads_a_global, reads_a_global_within])
def test_globals_are_part_of_a_function(function, monkeypatch):
    before = text(function)
    monkeypatch.setitem(globals(), "K", 3)
    assert text(function) != before
    monkeypatch.setitem(globals(), "K", 1)
    assert text(function) == before
    monkeypatch.setitem(globals(), "within", lambda *_: 0.5)
    assert text(function) != before


def test_what_is_known_has_its_name():
    assert text(cross_entropy) == "torch.nn.functional.cross_entropy"
    assert text(top1) == "bitq.accuracy.evaluate.top1"
    assert text(np.add) == text(np.add) != text(np.multiply)
    assert name_of(functools.partial(within, k=1)) == "partial of within"
    assert name_of(nn.MSELoss()) == "MSELoss"


def recursive(n):
    return n and recursive(n - 1)


def test_functions_that_meet_themselves_end():
    def inner(n):
        return n and inner(n - 1)

    holder = []
    holder.append(functools.partial(within, holder))
    for function in (recursive, inner, holder[0]):
        assert text(function) == text(function)


class Locked:
    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, model, batches):
        return top1(model, batches)


@pytest.mark.parametrize(
    "function",
    [Locked(), functools.partial(within, k=threading.Lock()), functools.partial(within, (each for each in [1]))],
)
def test_what_cannot_be_told_apart_is_like_nothing(function):
    first, second = identity_of(function), identity_of(function)
    assert first.text != second.text
    assert "cannot be taken apart" in first.unknown


def imports_unknown(*_):
    from no_such_module import value

    return value


def imports_known(*_):
    import math

    from tiny import CLASSES

    return math.pi * CLASSES


def reads_a_module(*_):
    return tiny.CLASSES


def test_what_is_imported_when_it_is_called(monkeypatch):
    assert "imports no_such_module" in identity_of(imports_unknown).unknown
    for function in (imports_known, reads_a_module):
        before = text(function)
        monkeypatch.setattr(tiny, "CLASSES", 7)
        assert text(function) != before
        monkeypatch.undo()
        assert text(function) == before


MODULE = """
import functools
import helper
import numpy as np
import torch
from torch import nn
{comment}
LEVELS = {{"a", "b", "c", "d"}}
class Own(nn.Module):
    weights = {{"x": torch.arange(3), "y": np.ones(2)}}
    def forward(self, output, target):
        return (output - target).abs().mean() if "a" in {{"a", "b"}} else helper.other({number})
loss = Own()
metric = functools.partial(lambda model, batches, k: helper.share(k) in LEVELS, k={{1: frozenset(("p", "q", "r"))}})
"""


def identities(folder, seed="0", number=1, comment="", helper=2):
    """What a module's functions are, in a process of its own."""
    (folder / "own.py").write_text(MODULE.format(comment=comment, number=number))
    (folder / "helper.py").write_text(f"def share(k): return {helper}\ndef other(k): return k\n")
    code = "import own; from bitq.tradeoff.functions import identity_of as i; print(i(own.loss)); print(i(own.metric))"
    path = os.pathsep.join([str(folder), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_functions_are_the_same_in_every_process_until_they_are_edited(tmp_path):
    loss, metric = identities(tmp_path)
    assert "unknown=''" in loss
    assert "unknown=''" in metric
    assert identities(tmp_path, seed="1", comment="# told\n\n\n# apart by what it does") == [loss, metric]
    edited = identities(tmp_path, number=2)
    assert edited[0] != loss
    assert edited[1] == metric
    helped = identities(tmp_path, helper=3)
    assert helped[0] == loss
    assert helped[1] != metric


# Data


def test_lists_of_batches_are_told_apart_wholly_and_others_by_their_first():
    x = torch.arange(6.0)
    batches = [({"x": x}, {"y": 1}), ({"x": x}, {"y": 2})]
    other = [batches[0], ({"x": x}, {"y": 3})]
    assert first_batches(batches) == first_batches(tuple(batches)) != first_batches(other)
    loader = DataLoader(TensorDataset(x, x), 2)
    assert first_batches(loader) == first_batches(DataLoader(TensorDataset(x[:4], x[:4]), 2))
    assert first_batches(loader) != first_batches(DataLoader(TensorDataset(x + 1, x), 2))


# Searches


def search(folder, metric=top1, data=None, **options):
    few = tiny.settings(rounds=1, plans=1)
    options = {"device": tiny.DEVICE, "formats": tiny.FORMATS, "listener": tiny.Listening(), "settings": few, **options}
    return bitq.search(tiny.trained(), *(data or tiny.loaders()), run=folder, metric=metric, **options)


@pytest.mark.parametrize("make", [lambda k: functools.partial(within, k=k), closing_over])
def test_another_metric_never_gets_the_old_ones_results(make, tmp_path):
    first = search(tmp_path / "run", make(1))
    assert search(tmp_path / "run", make(1)).plan == first.plan
    with pytest.raises(BitqError, match=r"was made with metric = .* not .*give another folder"):
        search(tmp_path / "run", make(3))
    third = search(tmp_path / "other", make(3))
    test = tiny.loaders()[2]
    assert third.plan.totals.accuracy == within(third.model, test, 3) > first.plan.totals.accuracy
    assert first.plan.totals.accuracy == within(first.model, test, 1)


@pytest.mark.parametrize("what", ["metric", "loss"])
def test_what_cannot_be_told_apart_is_not_reused_and_told(what, tmp_path):
    class Own(Locked):
        def __call__(self, *given):
            return (top1 if what == "metric" else cross_entropy)(*given)

    heard, own = tiny.Listening(), Own()
    search(tmp_path, **{what: own}, ablations=True, listener=heard)
    (note,) = (note for note in heard.notes if "cannot be told from others" in note)
    assert note.startswith(f"the {what} cannot be told from others (a lock cannot be taken apart): {tmp_path}")
    with pytest.raises(BitqError, match=rf"^the {what} cannot be told from the one that run folder .* was made with"):
        search(tmp_path, **{what: own})
    with pytest.raises(BitqError, match=f"was made with {what} = "):
        search(tmp_path)


def test_more_data_are_other_data(tmp_path):
    train, validation, test = tiny.loaders()
    search(tmp_path, data=(train, validation, test))
    fewer = DataLoader(TensorDataset(*validation.dataset[:400]), 250)  # of the same first batch
    with pytest.raises(BitqError, match="was made with data sizes"):
        search(tmp_path, data=(train, fewer, test))


def test_a_folder_that_told_less_apart_is_not_continued(tmp_path):
    search(tmp_path)
    with sqlite3.connect(tmp_path / "results.sqlite") as database:
        assert database.execute("SELECT value FROM run WHERE name = 'metric'").fetchone() == (
            json.dumps("bitq.accuracy.evaluate.top1"),
        )
        database.execute("DELETE FROM run WHERE name = 'identity'")
        database.execute("UPDATE run SET value = '\"top1\"' WHERE name = 'metric'")
    database.close()
    before = (tmp_path / "plan.json").read_bytes()
    with pytest.raises(BitqError, match="was made by a version of bitq that did not tell all data and functions apart"):
        search(tmp_path)
    assert (tmp_path / "plan.json").read_bytes() == before
