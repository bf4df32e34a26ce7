"""Linear layers by parameters of modules that are of no kind: traced, quantized, packed."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

import bitq
from bitq.accuracy.kinds import staying_float
from bitq.accuracy.storing import with_products
from bitq.formats import BlockFormat, TensorFormats
from bitq.numerics import quantize
from bitq.tracing import record
from bitq.tradeoff.space import weight_bytes

FORMATS = TensorFormats(BlockFormat(8, 3, 4), BlockFormat(8, 2, 4), BlockFormat(8, 4, 8))


class Own(nn.Module):
    """A module whose code multiplies by its own parameter."""

    def __init__(self, multiply, *shape):
        super().__init__()
        self.kernel, self.bias, self.multiply = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(7)), multiply

    def forward(self, x):
        return self.multiply(self, x)


OWN = {  # what the code computes, the parameter's shape, the parameter's axis that blocks run along
    "linear": (lambda self, x: functional.linear(x, self.kernel, self.bias), (7, 6), 1),
    "matmul": (lambda self, x: x @ self.kernel, (6, 7), 0),
    "transposed": (lambda self, x: x @ self.kernel.t(), (7, 6), 1),
    "addmm": (
        lambda self, x: torch.addmm(self.bias, x.flatten(0, 1), self.kernel).unflatten(0, x.shape[:2]),
        (6, 7),
        0,
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_a_parameter_is_the_weight_of_a_linear_layer(name):
    multiply, shape, axis = OWN[name]
    model = Own(multiply, *shape)
    x = torch.randn(3, 5, 6, requires_grad=True)
    traced = record(model, x)
    (path,) = traced.products
    (layer,) = traced.layers
    assert (layer.name, layer.N, layer.C, layer.K) == (path, 15, 6, 7)
    assert staying_float(with_products(model, traced.products), traced.layers) == ()
    own = copy.deepcopy(model)
    bitq.apply(own, {path: FORMATS}, products=traced.products)
    expected = quantize(
        multiply(
            SimpleNamespace(kernel=quantize(model.kernel, FORMATS.weight, axis), bias=model.bias),
            quantize(x, FORMATS.input, -1),
        ),
        FORMATS.output,
        -1,
    )
    result = own(x)
    assert torch.equal(result, expected)
    assert not torch.equal(result, model(x))
    assert own.state_dict().keys() == model.state_dict().keys()
    (wanted,) = torch.autograd.grad(expected.square().sum(), model.kernel)
    result.square().sum().backward()
    assert torch.allclose(own.kernel.grad, wanted, rtol=1e-5, atol=1e-6)


class Both(nn.Module):
    """As transformers' GPT-2 multiplies, and as others do."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Own(OWN["addmm"][0], 6, 7), Own(OWN["linear"][0], 7, 7)

    def forward(self, x):
        return self.second(self.first(x).relu()).mean(1)


@pytest.mark.parametrize("formats", ["8:e4:b16,8:e3:b16", "int8,int4"])
def test_a_network_of_them_is_searched_packed_and_loaded(tmp_path, formats):
    torch.manual_seed(0)
    batch = torch.randn(3, 5, 6), torch.tensor([0, 1, 2])
    effort = bitq.Settings.quick(training=bitq.Training(steps=2))
    result = bitq.search(Both(), [batch], [batch], device="stm32h743", run=tmp_path, formats=formats, settings=effort)
    assert result.plan.stays_float == ()
    assert [layer.parameter for layer in result.plan.layers] == ["first.kernel", "second.kernel"]
    assert [layer.transposed for layer in result.plan.layers] == [True, False]
    fresh = Both()
    bitq.load_quantized(fresh, tmp_path)
    assert torch.equal(fresh(batch[0]), result.model(batch[0]))
    packed = bitq.load_weights(tmp_path / "weights.safetensors")
    assert packed["first.kernel"].shape == (6, 7)


class Borrowing(nn.Module):
    """As torchvision's Swin and timm's BEiT compute with the weights of linear layers that they never call."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(6, 12, bias=False), nn.Linear(4, 3)
        self.added, self.called = nn.Parameter(torch.randn(12)), nn.Linear(6, 6)

    def forward(self, x):
        x = functional.linear(self.called(x), self.called.weight)
        q, k, v = functional.linear(x, self.qkv.weight, self.added).chunk(3, -1)
        return functional.linear(torch.softmax(q @ k.mT, -1) @ v, self.proj.weight, self.proj.bias).mean(1)


def test_linear_layers_whose_weights_others_compute_with_take_formats(tmp_path):
    torch.manual_seed(0)
    model, x = Borrowing(), torch.randn(3, 5, 6)
    traced = record(model, x)
    borrowed = {path: name for path, name in traced.products.items() if isinstance(name, str)}
    assert sorted(borrowed.values()) == ["called.weight", "proj.weight", "qkv.weight"]
    own = with_products(model, traced.products)
    assert staying_float(own, traced.layers) == ()
    assert torch.equal(own(x), model(x))
    stored = weight_bytes(own, traced.layers)
    assert {name: stored[path] for path, name in borrowed.items()} == {
        "qkv.weight": 4 * 72, "proj.weight": 4 * 12, "called.weight": 0,  # which `called` stores
    }
    assert stored["called"] == 4 * 36

    effort = bitq.Settings.quick(training=bitq.Training(steps=2))
    batch = x, torch.tensor([0, 1, 2])
    result = bitq.search(
        model, [batch], [batch], device="stm32h743", run=tmp_path, formats="8:e4:b16,8:e3:b16", settings=effort
    )
    weights = {layer.parameter: layer.formats.weight for layer in result.plan.layers if layer.parameter}
    assert weights.keys() == {"qkv.weight", "proj.weight", "called.weight"}
    assert weights["called.weight"] == next(each.formats.weight for each in result.plan.layers if each.name == "called")
    fresh = Borrowing()
    bitq.load_quantized(fresh, tmp_path)
    assert torch.equal(fresh(x), result.model(x))
    assert bitq.load_weights(tmp_path / "weights.safetensors")["qkv.weight"].shape == (12, 6)


def test_a_matrix_that_a_linear_layer_has_the_other_way_round_stays_float():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode = nn.Linear(6, 4)

        def forward(self, x):
            return functional.linear(self.encode(x), self.encode.weight.t())

    traced = record(Turned(), torch.zeros(3, 6))
    assert traced.products == {}
    (part,) = staying_float(Turned(), traced.layers)
    assert part.layers == ("matmul",)
