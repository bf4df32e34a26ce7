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
