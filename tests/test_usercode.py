"""What is told of exceptions out of the user's own code: which, and where, in one sentence that is chained to it."""

import inspect
import traceback

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import tiny
from bitq.accuracy.evaluate import score
from bitq.accuracy.finetune import Training, finetune
from bitq.errors import BitqError
from bitq.usercode import UserCodeError, reason, users_own


def line_of(function, text):
    """The line of this file where a text stands in a function."""
    lines, first = inspect.getsourcelines(function)
    return first + next(place for place, line in enumerate(lines) if text in line)


def broken(*_):
    raise LookupError("mine")


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x[:, :3])


class BrokenGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise LookupError("mine")


class BrokenData(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise LookupError("mine")


def walked():
    yield torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.long)
    raise LookupError("mine")


BATCH = [(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.long))]


@pytest.mark.parametrize(
    ("use", "said", "function"),
    [
        (lambda: score(tiny.network(), BATCH, loss=broken), "the loss refuses output .* with target .*", broken),
        (lambda: score(tiny.network(), BATCH, metric=broken), "the metric failed", broken),
        (lambda: score(tiny.network(), walked()), "the data give no further batch", walked),
        (lambda: score(tiny.network(), DataLoader(BrokenData())), "the data give no further batch", BrokenData),
        (
            lambda: score(tiny.network(), DataLoader(BrokenData(), num_workers=1)),
            "the data give no further batch",
            BrokenData,
        ),
        (
            lambda: finetune(
                tiny.network(), BATCH, Training(steps=1), lambda y, target: BrokenGradient.apply(y).sum()
            ),
            "the loss cannot be differentiated",
            BrokenGradient,
        ),
    ],
)
def test_an_exception_of_the_users_is_told_with_its_line_and_chained(use, said, function):
    where = rf"\(.*test_usercode\.py, line {line_of(function, 'raise LookupError')}\)$"
    with pytest.raises(UserCodeError, match=rf"^{said}: LookupError: '?mine'? {where}") as told:
        use()
    assert isinstance(told.value.__cause__, LookupError)
    assert 'raise LookupError("mine")' in "".join(traceback.format_exception(told.value))


def test_a_networks_exception_is_told_by_the_users_line_before_pytorchs():
    line = line_of(Broken, "self.layer(x")
    said = rf"shape \(2, 4\): RuntimeError: mat1 .*\(.*test_usercode\.py, line {line}\)$"
    with pytest.raises(UserCodeError, match=said):
        score(Broken(), [(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long))])


def test_a_network_of_pytorchs_modules_alone_is_told_by_its_module():
    with pytest.raises(UserCodeError, match=r"^the network cannot run on .*: RuntimeError: .* \(in module '1\.0'\)$"):
        score(nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(4, 4))), BATCH)


def test_what_is_no_exception_of_the_users_passes():
    for error in (BitqError("ours"), MemoryError("much"), RuntimeError("CUDA error: launch failure"), SystemExit(3)):
        with pytest.raises(type(error)) as told, users_own(lambda: "never said"):
            raise error
        assert told.value is error


def test_an_exception_whose_text_fails_or_is_long_is_told():
    class Wordless(Exception):  # noqa: N818
        def __str__(self):
            raise ValueError("no words")

    assert reason(Wordless()) == "Wordless"
    assert len(reason(ValueError("x" * 10**6))) <= 200
    assert reason(ValueError("first\nsecond")) == "ValueError: first"


@pytest.mark.parametrize("value", [None, "much", torch.zeros(3)])
def test_a_metric_that_gives_no_number_is_told(value):
    with pytest.raises(BitqError, match=r"^the metric gave .*; it must be a number in \[0, 1\]"):
        score(tiny.network(), BATCH, metric=lambda *_: value)
