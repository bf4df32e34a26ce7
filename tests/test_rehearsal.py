"""What cannot come to a result is told before anything is measured, and trying it changes nothing."""

import copy
import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import bitq
import tiny
from bitq.accuracy.evaluate import Labels, Score, cross_entropy, doubt, score, top1
from bitq.errors import BitqError
from bitq.formats import grid
from bitq.randomness import random_states_kept
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.measure import Data, Subject, Task
from bitq.tradeoff.rehearsal import rehearse
from bitq.usercode import UserCodeError


class Measuring(Exception):  # noqa: N818
    """Something was measured."""


@pytest.fixture
def unmeasured(tmp_path, monkeypatch):
    """A search in which nothing may be measured or written."""

    def measure(*_):
        raise Measuring

    def search(model=None, data=None, **options):
        monkeypatch.setattr("bitq.tradeoff.study.evaluate", measure)
        monkeypatch.setattr("bitq.tradeoff.opening.space_of", measure)
        options = {"device": tiny.DEVICE, "settings": tiny.settings(), "listener": tiny.Silent(), **options}
        try:
            bitq.search(model or tiny.trained(), *(data or tiny.loaders()), run=tmp_path / "run", **options)
        finally:
            assert not (tmp_path / "run").exists()

    return search


def test_what_is_right_comes_as_far_as_measuring(unmeasured):
    with pytest.raises(Measuring):
        unmeasured()


def in_training(model, change):
    """A network that changes what it gives while it is trained."""
    model.register_forward_hook(lambda module, _, y: change(y) if module.training else y)
    return model


def fails(y):
    raise LookupError("late")


class ByName(nn.Linear):
    """A layer that names its input in its own way."""

    def forward(self, features):
        return super().forward(features)


class CallsByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 8), ByName(8, tiny.CLASSES)

    def forward(self, x):
        return self.last(features=self.first(x.flatten(1)))


def parametrized():
    model = tiny.trained()
    weight_norm(model[8])
    return model


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass


def uncopied():
    model = tiny.trained()
    model.kept = model[8].weight * 2
    return model


def labelled(labels):
    return DataLoader(TensorDataset(tiny.images(len(labels), 1)[0], labels), 10, shuffle=True)


WRONG_LABEL = torch.arange(200) % tiny.CLASSES
WRONG_LABEL[137] = tiny.CLASSES


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": parametrized}, r"has no '8\.weight'; a parametrized weight .*remove_parametrizations"),
        ({"model": lambda: nn.Sequential(nn.Flatten(), Extra(64, 4))}, r"'1\._extra_state' .* is a dict"),
        ({"model": uncopied}, "the network cannot be copied"),
        ({"model": CallsByName}, r"module 'last', a ByName, cannot compute in a format: .*what Linear\.forward takes"),
        ({"model": lambda: in_training(tiny.trained(), fails)}, r"cannot run on .*LookupError: late \(.*rehearsal\.py"),
        ({"model": lambda: in_training(tiny.trained(), lambda y: (y, y))}, "the loss refuses output tuple"),
        ({"model": lambda: tiny.trained().requires_grad_(False)}, "no parameter of the network requires a gradient"),
        ({"loss": lambda y, _: y.detach().sum()}, "does not depend on the network's parameters"),
        ({"loss": lambda y, t: cross_entropy(y, t) * float("nan")}, "the loss is nan on training data before the fir"),
        ({"metric": lambda model, batches: fails(0)}, r"the metric failed: LookupError: late \(.*rehearsal\.py"),
        ({"metric": lambda *_: 97.5}, r"the metric gave 97.5; it must be a number in \[0, 1\]"),
        ({"loss": nn.functional.mse_loss, "data": [[(torch.ones(2, 1, 8, 8), torch.ones(2, 4))]] * 3}, "own$"),
        ({"data": [labelled(WRONG_LABEL), *tiny.loaders()[1:]]}, "label 4 in a batch's target"),
        ({"data": [list(labelled(WRONG_LABEL)), *tiny.loaders()[1:]]}, "label 4 in a batch's target"),
    ],
)
def test_a_mistake_is_told_before_anything_is_measured(unmeasured, changes, said):
    changes = {**changes, "model": changes.get("model", tiny.trained)()}
    with pytest.raises(BitqError, match=said):
        unmeasured(**changes)


class Once(IterableDataset):
    """A data set that hands out one generator."""

    def __init__(self):
        self.rest = (pair for pair in tiny.loader(100, 1, 10))

    def __iter__(self):
        return self.rest


class Anew:
    """Data whose iterator is the object itself, which starts anew."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        self.rest = iter(self.batches)
        return self

    def __next__(self):
        return next(self.rest)


@pytest.mark.parametrize(
    "once",
    [
        lambda: (pair for pair in tiny.loader(100, 1, 10)),
        lambda: iter(tiny.loader(100, 1, 10)),
        lambda: zip(*[[1, 2], [3, 4]], strict=True),
        lambda: itertools.islice(tiny.loader(100, 1, 10), 3),
        Once,
        lambda: DataLoader(Once(), batch_size=None),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_data_that_can_be_walked_once_are_told(unmeasured, once, place):
    data = [*tiny.loaders()]
    data[place] = once()
    name = ("training", "validation", "test")[place]
    with pytest.raises(BitqError, match=f"^the {name} data can be walked only once, being a .*; give a list, a Data"):
        unmeasured(data=data)


def test_data_that_start_anew_are_taken(unmeasured):
    with pytest.raises(Measuring):
        unmeasured(data=[Anew(each) for each in tiny.loaders()])
    with pytest.raises(Measuring):
        unmeasured(data=[list(each) for each in tiny.loaders()])


def ranked(model, batches):
    """A metric of all inputs: it has nothing to say of one batch."""
    batches = list(batches)
    if len(batches) < 2:
        raise ValueError("one batch is not enough")
    return top1(model, batches)


def test_a_metric_that_needs_more_than_a_batch_gets_all(unmeasured):
    with pytest.raises(Measuring):
        unmeasured(metric=ranked)


class Rare(nn.Module):
    """An expert that few inputs meet, and a layer that training skips at times."""

    def __init__(self):
        super().__init__()
        self.usual, self.expert = nn.Linear(64, 4), nn.Linear(64, 4)

    def forward(self, x):
        x = x.flatten(1)
        return self.usual(x) + (self.expert(x) if x.abs().max() > 1e6 or x.device.type == "meta" else 0)


def test_a_layer_that_one_batch_does_not_meet_is_no_mistake():
    data = [[next(iter(tiny.loader(20, 1, 20)))]] * 3
    batch = data[0][0]
    subject = Subject("", Rare(), Data(*data), Task())
    rehearse(subject, ["usual", "expert"], FormatSet(grid(8)), tiny.settings().training, batch)


class Scaled(nn.Module):
    """A loss that learns."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, y, target):
        self.calls += 1
        return self.scale * cross_entropy(y, target)


class Noisy(TensorDataset):
    """Images behind draws from every kind of generator, its own and the global ones."""

    def __init__(self, *tensors):
        super().__init__(*tensors)
        self.numpy, self.older, self.python = np.random.default_rng(1), np.random.RandomState(2), random.Random(3)
        self.torch = torch.Generator()

    def __getitem__(self, index):
        own = self.numpy.random() + self.older.rand() + self.python.random()
        own += float(torch.rand(1, generator=self.torch))
        assert own + random.random() + np.random.rand() + float(torch.rand(1))
        return super().__getitem__(index)

    def states(self):
        older = [(drawn[1].tolist(), drawn[2:]) for drawn in (self.older.get_state(), np.random.get_state())]
        others = self.numpy.bit_generator.state, self.python.getstate(), random.getstate()
        return repr((older, others, self.torch.get_state().tolist(), torch.get_rng_state().tolist()))


def test_trying_changes_nothing():
    noisy, validation = Noisy(*tiny.images(100, 1)), list(tiny.loaders()[1])
    train = DataLoader(noisy, 10, shuffle=True, generator=torch.Generator().manual_seed(7))
    model, task = tiny.trained().train(), Task(Scaled())
    model.zero_grad()
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    before = noisy.states(), train.generator.get_state().tolist()
    subject = Subject("", model, Data(train, validation, []), task)
    rehearse(subject, ["0", "3", "8"], FormatSet(grid(8)), tiny.settings().training, validation[0])
    assert (noisy.states(), train.generator.get_state().tolist()) == before
    next(iter(train))
    assert noisy.states() != before[0]  # so these are states that a batch changes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in (*model.parameters(), *task.loss.parameters()))
    assert task.loss.calls == 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_generator_is_kept_only_where_it_is_held():
    held, free = torch.Generator(), torch.Generator()
    states = held.get_state(), free.get_state()
    holder = type("Holder", (), {})()
    holder.generator = held
    with random_states_kept(holder):
        torch.rand(3, generator=held)
        torch.rand(3, generator=free)
    assert torch.equal(held.get_state(), states[0])
    assert not torch.equal(free.get_state(), states[1])


# Guessing


@pytest.mark.parametrize(
    ("accuracy", "labels", "asked"),
    [
        (0.102, Labels(10, 10000, 1000), True),
        (0.106, Labels(10, 10000, 1000), True),  # two standard deviations of such a share are 0.6 points
        (0.107, Labels(10, 10000, 1000), False),
        (0.93, Labels(10, 10000, 1000), False),
        (0.92, Labels(2, 1000, 920), True),  # most of the labels are one
        (0.95, Labels(2, 1000, 920), False),
        (0.4, Labels(4, 20, 6), True),
        (1.0, Labels(4, 20, 20), False),  # a single class: nothing can be told
        (0.1, None, False),
    ],
)
def test_a_network_that_guesses_is_asked_about(accuracy, labels, asked):
    question = doubt(Score(1.0, accuracy, labels))
    assert bool(question) == asked
    if asked:
        assert question.startswith(f"float32 reaches {100 * accuracy:.1f} % on {labels.classes} classes, ")
        assert question.endswith(": is this the trained checkpoint?")


def test_labels_are_counted_where_they_are_classes():
    pixels, labels = tiny.images(100, 2)
    labels = torch.cat([labels[:60] * 0 + 2, labels[60:]])
    batches = [(pixels[:30], labels[:30]), (pixels[30:], labels[30:])]
    most = int(torch.bincount(labels).max())
    assert score(tiny.network(), batches).labels == Labels(tiny.CLASSES, 100, most)
    assert score(tiny.network(), batches, metric=lambda *_: 0.5).labels is None
    left_out = [(pixels[:30], labels[:30].where(torch.arange(30) > 0, -100))]
    assert score(tiny.network(), left_out).labels == Labels(tiny.CLASSES, 30, 29)


@pytest.mark.parametrize(("model", "asked"), [(tiny.network, True), (tiny.trained, False)])
def test_an_untrained_network_is_asked_about_at_once(tmp_path, model, asked):
    listener = tiny.Listening()
    few = tiny.settings(rounds=1, plans=1, without="qat")
    bitq.search(model(), *tiny.loaders(), device=tiny.DEVICE, run=tmp_path, settings=few, listener=listener)
    assert [note.startswith("float32 reaches") for note in listener.notes].count(True) == asked
    if asked:
        assert listener.notes[0].endswith("is this the trained checkpoint?")


def test_an_exception_is_chained_to_the_users(unmeasured):
    with pytest.raises(UserCodeError) as told:
        unmeasured(metric=lambda *_: fails(0))
    assert isinstance(told.value.__cause__, LookupError)
