"""The search space counts what the movement model counts."""

from itertools import product
from random import Random

import pytest
import torch
from torch import nn

import tiny
from bitq.accuracy.kinds import quantizable
from bitq.devices import Device, Memory
from bitq.errors import BitqError
from bitq.formats import TensorFormats, grid
from bitq.layers import Layer
from bitq.movement.levels import movement
from bitq.movement.widths import widths
from bitq.numerics import pack
from bitq.tracing import trace
from bitq.tradeoff.records import objective
from bitq.tradeoff.space import build_space, stored_bytes

FORMATS = grid(8)[::7]


class Twice(nn.Module):
    """One convolution called twice, on inputs of two sizes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(nn.functional.max_pool2d(self.conv(x), 2))


class Attention(nn.Module):
    """Three projections, and two products of activations."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(12, 12, bias=False) for _ in range(3))

    def forward(self, x):
        return torch.softmax(self.q(x) @ self.k(x).transpose(1, 2), -1) @ self.v(x)


NETWORKS = {
    "convolutions": (tiny.network, (1, 1, tiny.SIDE, tiny.SIDE)),
    "called twice": (Twice, (1, 4, 6, 6)),
    "attention": (Attention, (1, 5, 12)),
    "transposed": (lambda: nn.ConvTranspose2d(6, 10, 3, stride=2, padding=1, groups=2), (1, 6, 4, 4)),
    "one axis": (lambda: nn.Sequential(nn.Conv1d(3, 7, 5, stride=2), nn.ConvTranspose1d(7, 2, 4)), (1, 3, 16)),
    "linear": (lambda: nn.Sequential(nn.Linear(50, 9), nn.ReLU(), nn.Linear(9, 9), nn.Linear(9, 9)), (1, 50)),
}


@pytest.fixture(scope="module", params=NETWORKS)
def traced(request):
    """A network, its layers and its space."""
    make, shape = NETWORKS[request.param]
    model = make()
    layers = trace(model, torch.empty(shape, device="meta"))
    return model, layers, space_of(model, layers)


def space_of(model, layers, formats=FORMATS, device=tiny.DEVICE):
    weights = {name: model.get_submodule(name).weight.nbytes for name in quantizable(model)}
    return build_space(layers, weights, stored_bytes(model), device, formats)


def random_plan(space, random):
    return [tuple(random.randrange(len(space.formats)) for _ in range(3)) for _ in space.modules]


def test_a_plan_costs_what_its_layers_move(traced):
    _, layers, space = traced
    for seed in range(4):
        choices = random_plan(space, Random(seed))
        chosen = space.tensor_formats(choices)
        moved = [
            movement(layer, widths(layer, chosen.get(layer.module, TensorFormats())), space.device) for layer in layers
        ]
        cost = space.cost(choices)
        per_level = [sum(level.bits for level in at) for at in zip(*moved, strict=True)]
        assert space.level_bits(choices) == pytest.approx(per_level)
        assert cost.energy_pj == pytest.approx(sum(level.energy_pj for levels in moved for level in levels))
        assert cost.dram_bits == pytest.approx(per_level[0])
        assert cost.on_chip_bits == pytest.approx(sum(per_level[1:]))
        assert cost.movement_bits == pytest.approx(cost.dram_bits + cost.on_chip_bits)


def test_float_costs_what_32_bit_elements_move(traced):
    model, layers, space = traced
    moved = [movement(layer, widths(layer, TensorFormats()), space.device) for layer in layers]
    per_level = [sum(level.bits for level in at) for at in zip(*moved, strict=True)]
    assert space.float_cost.dram_bits == pytest.approx(per_level[0])
    assert space.float_cost.on_chip_bits == pytest.approx(sum(per_level[1:]))
    assert space.float_cost.energy_pj == pytest.approx(sum(level.energy_pj for levels in moved for level in levels))
    tensors = model.state_dict().values()
    assert space.float_cost.model_bytes == sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_a_model_is_as_large_as_its_packed_weights_and_the_rest(traced):
    model, _, space = traced
    for seed in range(3):
        choices = random_plan(space, Random(seed))
        state, packed = model.state_dict(), 0
        for name, formats in space.tensor_formats(choices).items():
            weight = state.pop(f"{name}.weight" if name else "weight")
            shape, dim, inner = quantizable(model)[name].blocks(model.get_submodule(name), tuple(weight.shape))
            packed += pack(weight.reshape(shape), formats.weight, dim, inner).payload.numel()
        rest = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        assert space.cost(choices).model_bytes == packed + rest


def test_products_of_activations_stay_float(traced):
    _, layers, space = traced
    assert space.fixed == tuple(layer for layer in layers if not layer.weight_is_parameter)
    assert [layer for group in space.layers for layer in group] == [
        layer for layer in layers if layer.weight_is_parameter
    ]
    moved = [movement(layer, widths(layer, TensorFormats()), space.device) for layer in space.fixed]
    expected = [sum(level.bits for level in at) for at in zip(*moved, strict=True)] or [0, 0]
    assert list(space.fixed_bits) == pytest.approx(expected)


def test_the_networks_have_what_they_are_named_after():
    kinds = {name: trace(make(), torch.empty(shape, device="meta")) for name, (make, shape) in NETWORKS.items()}
    assert [layer.module for layer in kinds["called twice"]] == ["conv", "conv"]
    assert [layer.weight_is_parameter for layer in kinds["attention"]].count(False) == 2
    assert [layer.groups for layer in kinds["convolutions"]] == [1, 6, 1]
    assert kinds["transposed"][0].input_dilation == (2, 2)


def test_the_largest_movement_is_that_of_the_worst_plan():
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 1, stride=2))
    space = space_of(model, trace(model, torch.empty(1, 3, 7, 7, device="meta")), formats=grid(8)[3::16])
    choices = list(product(range(len(space.formats)), repeat=3))
    movements = [space.cost(plan).movement_bits for plan in product(choices, repeat=2)]
    assert space.movement_max == pytest.approx(max(movements))
    assert space.movement_max > min(movements)


def test_a_uniform_plan_has_one_format():
    model = tiny.network()
    space = space_of(model, trace(model, torch.empty(1, 1, 8, 8, device="meta")))
    fmt = space.formats[3]
    expected = TensorFormats(fmt, fmt, fmt)
    assert space.tensor_formats(space.uniform(3)) == dict.fromkeys(("0", "3", "8"), expected)


def test_progress_counts_distinct_layers():
    model = nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9), nn.Linear(9, 4))
    layers, told = trace(model, torch.empty(1, 9, device="meta")), []
    build_space(layers, {"0": 324, "1": 324, "2": 144}, 0, tiny.DEVICE, FORMATS, lambda *step: told.append(step[1:]))
    assert list(dict.fromkeys(told)) == [(0, 2), (1, 2), (2, 2)]  # and now and then meanwhile


def test_what_has_no_space_is_told():
    with pytest.raises(BitqError, match="no convolution or linear module"):
        build_space([Layer("product", K=3, C=3, weight_is_parameter=False)], {}, 0, tiny.DEVICE, FORMATS)
    cramped = Device("cramped", "", "", (Memory("register", 8.0, 0, ""), Memory("DRAM", float("inf"), 20, "")))
    with pytest.raises(BitqError, match="8 bits"):
        build_space([Layer("conv", K=3, C=3, module="conv")], {"conv": 36}, 0, cramped, FORMATS)


def test_the_objective_is_the_papers():
    assert objective(0.9, 50.0, 200.0, 0.2) == pytest.approx(0.1 + 0.2 * 0.25)
    assert objective(1.0, 200.0, 200.0, 0.0) == 0
