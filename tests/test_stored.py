"""Which layers meet the same stored tensor, and what unlike formats of it would move."""

from math import prod

import pytest
import torch
from torch import nn
from torch.nn import functional

import bitq
import tiny
from bitq.accuracy.kinds import quantizable
from bitq.formats import grid
from bitq.numerics import pack
from bitq.progress import Silent
from bitq.report.evidence import load_evidence
from bitq.tracing import record, trace
from bitq.tradeoff.space import build_space
from bitq.tradeoff.stored import reencoding, ties


class Block(nn.Module):
    """A residual block between two convolutions."""

    def __init__(self, project=False, after=lambda x: x):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.project = nn.Conv2d(8, 8, 1) if project else None
        self.after = after

    def forward(self, x):
        x = torch.relu(self.first(x))
        y = self.bn(self.b(functional.relu_(self.a(x))))
        y = y + (x if self.project is None else self.project(x))
        return self.last(self.after(functional.hardswish(y)))


def groups(model, *shape):
    return {frozenset(group) for group in record(model, torch.empty(shape, device="meta")).stored}


def ends(*pairs):
    return frozenset((module, "output" if end == "out" else "input") for module, end in pairs)


def test_what_is_elementwise_is_stored_in_place():
    assert groups(tiny.network(), 1, 1, 8, 8) == {ends(("0", "out"), ("3", "in"))}  # the pool makes a new tensor


def test_a_sum_is_stored_in_place_of_what_was_computed_last():
    inner = {ends(("first", "out"), ("a", "in")), ends(("a", "out"), ("b", "in"))}
    assert groups(Block(), 1, 3, 6, 6) == inner | {ends(("b", "out"), ("last", "in"))}
    projected = {
        ends(("first", "out"), ("a", "in"), ("project", "in")),
        ends(("a", "out"), ("b", "in")),
        ends(("project", "out"), ("last", "in")),
    }
    assert groups(Block(project=True), 1, 3, 6, 6) == projected


@pytest.mark.parametrize(
    "after",
    [
        lambda x: functional.max_pool2d(x, 3, 1, 1),
        lambda x: functional.avg_pool2d(x, 2),
        lambda x: functional.pad(x, (1, 1)),
        lambda x: torch.cat([x[:, 4:], x[:, :4]], 1),
        lambda x: x.softmax(1),
    ],
)
def test_all_else_makes_a_new_tensor(after):
    found = groups(Block(after=after), 1, 3, 6, 6)
    assert found == {ends(("first", "out"), ("a", "in")), ends(("a", "out"), ("b", "in"))}


def test_the_calls_of_one_module_join_their_tensors():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.b(torch.tanh(self.a(torch.tanh(self.b(x)))))

    both = ends(("b", "out"), ("a", "in")), ends(("a", "out"), ("b", "in"))
    assert groups(Twice(), 2, 8) == set(both)


def test_two_readers_of_the_networks_input_share_it():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 3), nn.Linear(8, 3)

        def forward(self, x):
            return self.a(x) * self.b(x).sigmoid()

    assert groups(Fork(), 2, 8) == {ends(("a", "in"), ("b", "in"))}


def test_one_run_of_the_network_tells_its_layers_and_its_stored_tensors():
    runs = []
    block = Block(after=lambda x: runs.append(1) or x)
    traced = record(block, torch.empty(1, 3, 6, 6, device="meta"))
    assert len(runs) == 1
    assert (len(traced.layers), len(traced.stored)) == (4, 3)
    assert traced.layers == trace(block, torch.empty(1, 3, 6, 6))


def test_reencoding_moves_the_tensor_once_in_either_format():
    model, example = Block(project=True), torch.empty(1, 3, 6, 6, device="meta")
    traced = record(model, example)
    weights = {name: model.get_submodule(name).weight.nbytes for name in quantizable(model)}
    space = build_space(traced.layers, weights, 0, tiny.DEVICE, grid(8)[::7])
    shared = ties(space, traced.stored)
    assert len(shared) == 3
    same = [(2, 0, 2)] * len(space.modules)
    assert reencoding(space, shared, same) == (3, 0, 0)
    unlike = dict(zip(space.modules, same, strict=True)) | {"a": (4, 0, 2), "project": (4, 1, 2)}
    found = reencoding(space, shared, [unlike[module] for module in space.modules])
    tensor = torch.ones(1, 8, 6, 6)
    bits = sum(pack(tensor, space.formats[index]).num_bits for index in (2, 4))
    assert found == (3, 1, pytest.approx(bits))
    assert bits > prod(tensor.shape)


def test_a_tied_search_gives_every_tensor_one_format(tmp_path):
    def search(**settings):
        data = tiny.loaders()
        options = {"device": tiny.DEVICE, "run": tmp_path, "listener": Silent()}
        return bitq.search(tiny.trained(), *data, settings=tiny.settings(rounds=1, **settings), **options).plan

    free = search(stored="paper")
    found = load_evidence(tmp_path).reencoding
    assert found.tensors == 1
    assert found.independent <= found.tied + 1e-9
    assert "id=\"stored\"" in (tmp_path / "report.html").read_text()
    stored = search()
    by_module = {layer.module: layer for layer in stored.layers}
    assert by_module["0"].output.format == by_module["3"].input.format
    assert stored.points().keys() == {"0", "3"}
    assert not free.points()
    assert load_evidence(tmp_path).reencoding is None
    assert "id=\"stored\"" not in (tmp_path / "report.html").read_text()
    assert search(stored="paper") == free
