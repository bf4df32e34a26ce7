"""How long the stored tensors of a network live, and in whose formats they are."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import tiny
from bitq.tracing import record


class Net(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(8, 8, 1) for _ in range(3))
        self.norm, self.linear = nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.does = forward

    def forward(self, x):
        return self.does(self, x)


def lives(forward):
    """(name, first, last, [(elements, layer and tensor, or bits)]) of every activation."""
    traced = record(Net(forward), torch.empty(1, 8, 4, 4, device="meta"))
    return [
        (
            each.name,
            each.first,
            each.last,
            [(part.elements, f"{part.layer.name} {part.tensor}" if part.layer else part.width) for part in each.parts],
        )
        for each in traced.activations
    ]


def own(name, first, last, elements=128, part=None):
    return name, first, last, [(elements, part or f"{name} output")]


INPUT = own("input", 0, 0, part="a input")


def test_a_chain_holds_two_tensors_at_a_time_and_norms_none():
    def forward(net, x):
        return net.b(torch.relu(net.norm(net.a(x))))

    assert lives(forward) == [INPUT, own("a", 0, 1), own("b", 1, 1)]


def test_a_skip_lives_until_its_sum_which_lies_where_the_last_layer_wrote():
    def forward(net, x):
        y = torch.relu(net.a(x))
        return net.c(y + net.b(y))

    assert lives(forward) == [INPUT, own("a", 0, 1), own("b", 1, 2), own("c", 2, 2)]
    assert lives(lambda net, x: net.c(x + net.b(net.a(x)))) == [
        own("input", 0, 1, part="a input"), own("a", 0, 1), own("b", 1, 2), own("c", 2, 2)
    ]


def test_a_gate_that_is_multiplied_on_the_way_in_lives_as_long_as_what_it_gates():
    """What is stored is what the gate is computed from, not the product."""

    def forward(net, x):
        y = torch.relu(net.a(x))
        return net.c(y * torch.sigmoid(net.b(y.mean((2, 3), keepdim=True))))

    assert lives(forward) == [
        INPUT,
        own("a", 0, 3),
        own("mean", 1, 2, 8, "b input"),
        own("b", 2, 3, 8),
        own("c", 3, 3),
    ]


def test_a_gate_that_is_multiplied_before_it_is_stored_does_not():
    """The gate comes first, so the gated layer stores the product."""

    def forward(net, x):
        gate = torch.sigmoid(net.b(x.mean((2, 3), keepdim=True)))
        return net.c(net.c(net.a(x) * gate))

    assert [each[:3] for each in lives(forward)] == [
        ("input", 0, 2), ("mean", 0, 1), ("b", 1, 2), ("a", 2, 3), ("c", 3, 4), ("c#2", 4, 4)
    ]


def test_what_only_chooses_keeps_formats_and_what_computes_takes_floats():
    def forward(net, x):
        y = net.a(x)
        pooled = functional.max_pool2d(y, 2)
        return torch.cat([pooled, functional.avg_pool2d(y, 2)], 1)

    assert lives(forward) == [
        INPUT,
        own("a", 0, 2),
        own("max_pool2d_with_indices", 1, 3, 32, "a output"),
        own("avg_pool2d", 2, 3, 32, 32.0),
        ("cat", 3, 3, [(32, "a output"), (32, 32.0)]),
    ]


def test_what_is_chosen_for_a_layer_has_its_format():
    def forward(net, x):
        return net.a(functional.pad(x, (1, 1)))

    assert lives(forward)[:2] == [
        own("input", 0, 0, part="a input"), own("constant_pad_nd", 0, 1, 192, "a input")
    ]


def test_views_lie_where_their_tensor_lies():
    def forward(net, x):
        left, right = net.a(x).chunk(2, 1)
        return net.linear(torch.cat([right, left], 1).mean((2, 3)).flatten(1))

    assert [each[:3] for each in lives(forward)] == [
        ("input", 0, 0), ("a", 0, 1), ("cat", 1, 2), ("mean", 2, 3), ("linear", 3, 3)
    ]


def test_what_a_network_returns_lives_to_the_end_and_what_nothing_reads_is_not_kept():
    def forward(net, x):
        early = net.a(x)
        values, _ = functional.max_pool2d(early, 2, return_indices=True)
        return {"early": early, "last": net.b(values)}

    assert [each[:3] for each in lives(forward)] == [
        ("input", 0, 0), ("a", 0, 2), ("max_pool2d_with_indices", 1, 2), ("b", 2, 2)
    ]


def test_products_of_activations_read_both():
    class Scores(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return (torch.matmul(self.q(x), self.k(x).mT) * 0.5).softmax(-1)

    traced = record(Scores(), torch.empty(2, 4, 8, device="meta"))
    assert [(each.name, each.first, each.last) for each in traced.activations] == [
        ("input", 0, 1), ("q", 0, 2), ("k", 1, 2), ("matmul", 2, 3), ("softmax", 3, 3)
    ]
    assert traced.steps == (0, 1, 2)


def test_each_layer_has_its_step():
    traced = record(tiny.network(), torch.empty(1, 1, 8, 8, device="meta"))
    named = {each.name: each.first for each in traced.activations}
    assert [named[layer.name] for layer in traced.layers] == list(traced.steps)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_integers_that_no_layer_takes_stay_as_they_are(dtype):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, x, mask):
            return self.a(x).masked_fill(mask[:, None] > 0, 0.0)

    example = torch.empty(2, 8, device="meta"), torch.empty(2, dtype=dtype, device="meta")
    inputs = [each for each in record(Masked(), example).activations if each.name == "input"]
    widths = {part.width for each in inputs for part in each.parts if part.layer is None}
    assert widths == {8.0 * torch.empty(0, dtype=dtype).element_size()}
