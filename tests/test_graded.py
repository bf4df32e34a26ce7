"""Few rows with their gradients stand for a whole tensor."""

from math import isnan
from weakref import ref

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import bitq.accuracy.graded
from bitq import parse_format
from bitq.accuracy.graded import LEAST_ROWS, MET, Graded
from bitq.accuracy.sensitivity import perturbations
from bitq.formats import TENSORS


def graded(shape, axis, seed=0):
    """Values beside gradients of which few rows hold nearly all, as of images that a network gets wrong."""
    generator = torch.Generator().manual_seed(seed)
    values, gradients = torch.randn(2, *shape, generator=generator)
    rows = torch.ones(len(shape), dtype=torch.int).tolist()
    for place, extent in enumerate(shape):
        if place != axis % len(shape):
            rows[place] = extent
    return Graded(values, gradients * torch.randn(rows, generator=generator).exp().pow(3), axis)


@pytest.mark.parametrize(("shape", "axis"), [((6, 8, 40, 40), 1), ((6, 1600, 8), -1), ((9600, 8), 1)])
def test_sums_over_drawn_rows_are_those_over_all(shape, axis):
    off = []
    for seed in range(8):
        every = graded(shape, axis, seed)
        few = every.drawn(most=4096)
        assert few.values.shape[0] <= 512
        assert few.values.shape[1] == few.gradients.shape[1] == 8
        whole, part = (each.perturbation(each.values.round()) for each in (every, few))
        off.append(part / whole - 1)
    assert max(map(abs, off)) < 0.1
    assert abs(sum(off) / 8) < 0.03


def test_what_matters_is_drawn_where_little_else_does():
    every = Graded(torch.randn(100_000, 4), torch.full((100_000, 4), 1e-6), 1)
    place = 1000 * 100_000 // (MET * LEAST_ROWS)  # one of those that are looked at
    every.gradients[place] = 1.0
    few = every.drawn(most=1)
    assert few.values.shape[0] <= LEAST_ROWS
    assert (few.values == every.values[place]).all(1).any()


def test_a_small_tensor_is_taken_as_it_is():
    every = graded((2, 8, 5, 5), 1)
    assert every.drawn() is every


def test_no_gradient_is_nothing_and_no_number_stays_none():
    values = torch.randn(5000, 4)
    assert Graded(values, torch.zeros(5000, 4), 1).drawn(most=1).perturbation(torch.tensor(0.0)) == 0
    gradients = torch.ones(5000, 4)
    gradients[0, 0] = torch.nan
    few = Graded(values, gradients, 1).drawn(most=1)
    assert isnan(few.perturbation(torch.zeros_like(few.values)))


FORMATS = ("6:e3:b16", "i4:f32:tensor", "s4:e8m0:b4p3", "e4m3:f32:tensor", "s4:e8m0:t16x8", "i4:f32:channel")


def test_drawn_rows_score_as_all_do(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
        nn.Linear(128, 5)
    )  # fmt: skip
    batches = [(torch.randn(8, 3, 32, 32), torch.randint(5, (8,))) for _ in range(2)]
    formats = tuple(map(parse_format, FORMATS))

    def scored():
        return perturbations(model, ("0", "2", "6"), lambda *_: formats, {}, batches, cross_entropy)

    exact = scored()
    monkeypatch.setattr(bitq.accuracy.graded, "MOST_DRAWN", 4096)
    drawn = scored()
    for module, row in exact.items():
        assert drawn[module]["weight"] == row["weight"]
        for tensor in TENSORS:
            assert list(drawn[module][tensor].values()) == pytest.approx(list(row[tensor].values()), rel=0.1)
    assert drawn["2"] != exact["2"]
    reaching = [formats[2], formats[4]]  # over rows: these are measured on all of a tensor
    assert [drawn["2"]["output"][fmt] for fmt in reaching] == [exact["2"]["output"][fmt] for fmt in reaching]


class Counting(nn.Module):
    """Counts what is left of outputs as its gradient arrives."""

    def __init__(self, outputs, counts):
        super().__init__()
        self.outputs, self.counts = outputs, counts

    def __deepcopy__(self, memo):
        return self

    def forward(self, x):
        x.register_hook(lambda _: self.counts.append(sum(each() is not None for each in self.outputs)))
        return x


def test_backward_keeps_no_activation_that_was_looked_at():
    outputs, counts = [], []
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), Counting(outputs, counts)) for _ in range(4)))
    for each in model:
        each[0].register_forward_hook(lambda _, args, y: outputs.append(ref(y.untyped_storage())))
    batch = torch.randn(3, 4), torch.tensor([0, 1, 2])
    names = [f"{place}.0" for place in range(4)]
    perturbations(model, names, lambda *_: (parse_format("6:e3:b16"),), {}, [batch], cross_entropy)
    assert counts == [4, 3, 2, 1]
