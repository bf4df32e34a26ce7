"""Tracing sees every product with its true geometry, and leaves no trace on the model."""

import copy
import logging
import logging.handlers
import random
import time
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.flop_counter import FlopCounterMode

from bitq.errors import BitqError
from bitq.layers import Layer
from bitq.tracing import record, trace


class Net(nn.Module):
    """A network of given modules whose forward is a given function."""

    def __init__(self, forward: Any, **members: Any) -> None:
        super().__init__()
        self.function = forward
        for name, member in members.items():
            setattr(self, name, member)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def met(layer: Layer, axis: int) -> Tensor:
    """[out, tap, stored input]: 1 where the layer says that the tap of the output reads the stored input."""
    out, taps = ((layer.P, layer.R), (layer.Q, layer.S))[axis]
    p, r, h = torch.arange(out), torch.arange(taps), torch.arange(layer.size[axis])
    position = (p * layer.stride[axis])[:, None] + r * layer.dilation[axis]
    return (position[..., None] == layer.padding[axis] + h * layer.input_dilation[axis]).double()


def convolve(layer: Layer, images: Tensor, weight: Tensor) -> Tensor:
    """The slow, obviously right convolution of images [N, C·g, H, W] and weight [K, C, R, S]."""
    images = images.unflatten(1, (layer.groups, layer.C))
    weight = weight.unflatten(0, (layer.groups, layer.K // layer.groups))
    rows, columns = met(layer, 0), met(layer, 1)
    return torch.einsum("ngchw,gkcrs,prh,qsw->ngkpq", images, weight, rows, columns).flatten(1, 2)


def whole(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(seed)).double()


def check_convolution(module: nn.Module, images: Tensor) -> Layer:
    """Hold the traced layer against what the module computes, in exact whole numbers."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.weight.copy_(whole(tuple(module.weight.shape), 1))
        expected = module(images)
    (layer,) = trace(nn.Sequential(module), images)
    weight = module.weight.detach()
    if module.transposed:  # [C·g, K/g, ...] → [K, C, ...], taps in the opposite order
        weight = weight.unflatten(0, (layer.groups, layer.C)).transpose(1, 2).flatten(0, 1)
        weight = weight.flip(tuple(range(2, weight.dim())))
    one_dimensional = images.dim() == 3
    plane = images[..., None, :] if one_dimensional else images
    weight = weight[..., None, :] if one_dimensional else weight
    stored = plane[..., -layer.size[0] :, -layer.size[1] :] if module.transposed else plane
    assert tuple(stored.shape) == layer.input_shape
    assert tuple(weight.shape) == layer.weight_shape
    assert 2 * layer.macs * plane.numel() == counter.get_total_flops() * stored.numel()  # none for inputs left out
    result = convolve(layer, stored, weight)
    assert torch.equal(result.squeeze(2) if one_dimensional else result, expected)
    return layer


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    dims, transposed = draw(st.integers(1, 2)), draw(st.booleans())

    def per_axis(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    groups, stride, dilation = draw(st.integers(1, 3)), per_axis(1, 4), per_axis(1, 3)
    channels, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    options: dict[str, Any] = {"padding": per_axis(0, 4)}
    if transposed:
        extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
        options["output_padding"] = extra
    kinds = {
        (1, False): nn.Conv1d,
        (2, False): nn.Conv2d,
        (1, True): nn.ConvTranspose1d,
        (2, True): nn.ConvTranspose2d,
    }
    module = kinds[dims, transposed](
        channels,
        outputs,
        per_axis(1, 4),
        stride,
        dilation=dilation,
        groups=groups,
        bias=False,
        dtype=torch.float64,
        **options,
    )
    return module, whole((draw(st.integers(1, 2)), channels, *per_axis(1, 9)), 2)


@given(convolutions())
@settings(max_examples=100, deadline=None)
def test_a_convolution_is_what_its_layer_says(case: tuple[nn.Module, Tensor]) -> None:
    module, images = case
    try:
        outputs = module(images)
    except RuntimeError:  # no output at all
        assume(False)
    assume(outputs.numel() > 0)
    try:
        check_convolution(module, images)
    except BitqError:  # refused only where no output depends on any input
        assert not outputs.any()


def test_cropped_inputs_are_left_out() -> None:
    module = nn.ConvTranspose1d(1, 1, 1, stride=2, padding=3, bias=False, dtype=torch.float64)
    layer = check_convolution(module, whole((1, 1, 8), 0))
    assert (layer.size, layer.padding) == ((1, 6), (0, 1))


@pytest.mark.parametrize(("kernel", "stored"), [(3, 9), (4, 10)])
def test_same_padding_stores_what_the_operator_receives(kernel: int, stored: int) -> None:
    (layer,) = trace(nn.Conv2d(2, 3, kernel, padding="same"), torch.zeros(1, 2, 9, 9))
    assert layer.output_shape == (1, 3, 9, 9)
    assert layer.size == (stored, stored)


def test_padding_of_other_modes_is_stored() -> None:
    (layer,) = trace(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), torch.zeros(1, 2, 9, 9))
    assert (layer.size, layer.padding) == ((11, 11), (0, 0))


def test_an_unbatched_image_is_a_batch_of_one() -> None:
    (layer,) = trace(nn.Conv2d(2, 3, 3), torch.zeros(2, 9, 8))
    assert layer.input_shape == (1, 2, 9, 8)


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.downsample = nn.Identity() if (inputs, stride) == (outputs, 1) else shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


def resnet18() -> nn.Module:
    stages = [
        nn.Sequential(BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1))
        for inputs, outputs, stride in [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    ]
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


def test_resnet18() -> None:
    layers = trace(resnet18(), torch.zeros(1, 3, 224, 224))
    assert sum(layer.macs for layer in layers) == 1_814_073_344
    assert len(layers) == 21
    assert layers[0] == Layer(
        "0",
        K=64,
        C=3,
        P=112,
        Q=112,
        R=7,
        S=7,
        stride=(2, 2),
        padding=(3, 3),
        input_size=(224, 224),
        module="0",
    )
    assert [layer.name for layer in layers[5:8]] == ["5.0.conv1", "5.0.conv2", "5.0.downsample.0"]
    assert layers[-1] == Layer("10", K=1000, C=512, module="10")


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2).eval()


NETWORKS = {
    "encoder": (encoder, torch.zeros(2, 5, 16)),
    "transformer": (
        lambda: nn.Transformer(16, 4, 1, 1, 32, batch_first=True).eval(),
        (torch.zeros(2, 5, 16), torch.zeros(2, 7, 16)),
    ),
    "attention": (lambda: nn.MultiheadAttention(16, 4), (torch.zeros(5, 2, 16),) * 3),
    "depthwise": (
        lambda: nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1, groups=8), nn.Conv2d(16, 4, 1), nn.Flatten(), nn.Linear(64, 2)),
        torch.zeros(3, 8, 8, 8),
    ),
    "transposed": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(6, 8, 4),  # of stride 1 and far more outputs than inputs
            nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1, groups=2),
            nn.ConvTranspose2d(4, 4, 3, stride=(1, 2), padding=(2, 0), dilation=2, output_padding=1),
            nn.Flatten(2),
            nn.ConvTranspose1d(4, 3, 5, stride=3, padding=4),
        ),
        torch.zeros(2, 6, 1, 2),
    ),
    "lstm cell": (lambda: nn.LSTMCell(8, 4), torch.zeros(3, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_products_add_up_to_pytorchs_own_count(name: str) -> None:
    build, example = NETWORKS[name]
    model = build()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            model(*(example if isinstance(example, tuple) else (example,)))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    layers = trace(model, example)
    assert 2 * sum(layer.macs for layer in layers) == counter.get_total_flops() > 0
    assert len({layer.name for layer in layers}) == len(layers)


def test_attention_is_seen_through_the_fast_path() -> None:
    layers = trace(encoder(), torch.zeros(2, 5, 16))
    seen = [(x.name, x.N, x.K, x.C, x.groups, x.weight_is_parameter) for x in layers]
    assert seen[:6] == [
        ("layers.0.self_attn.matmul", 10, 48, 16, 1, True),
        ("layers.0.self_attn.matmul#2", 5, 5 * 8, 4, 8, False),
        ("layers.0.self_attn.matmul#3", 5, 4 * 8, 5, 8, False),
        ("layers.0.self_attn.matmul#4", 10, 16, 16, 1, True),
        ("layers.0.linear1", 10, 32, 16, 1, True),
        ("layers.0.linear2", 10, 16, 32, 1, True),
    ]
    assert {layer.module for layer in layers[:4]} == {"layers.0.self_attn"}
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("heads", [4, 2])
def test_attention_is_the_same_fused_or_not(heads: int) -> None:
    def attend(self: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=heads < 4)

    def attend_unfused(self: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return attend(self, q, k, v)

    example = (torch.zeros(2, 4, 6, 8), torch.zeros(2, heads, 7, 8), torch.zeros(2, heads, 7, 3))
    fused = trace(Net(attend), example)
    assert fused == trace(Net(attend_unfused), example)
    assert fused == (
        Layer("matmul", N=6, K=7 * 8, C=8, groups=8, weight_is_parameter=False),
        Layer("matmul#2", N=6, K=3 * 8, C=7, groups=8, weight_is_parameter=False),
    )


def test_attention_of_learned_queries_has_learned_weights() -> None:
    learned = nn.Parameter(torch.zeros(1, 2, 6, 8))

    def attend(self: Net, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(learned, x, x), F.scaled_dot_product_attention(learned, learned, x)

    def attend_unfused(self: Net, x: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return attend(self, x)

    layers = trace(Net(attend), torch.zeros(1, 2, 6, 8))
    assert layers == trace(Net(attend_unfused), torch.zeros(1, 2, 6, 8))
    assert [layer.weight_is_parameter for layer in layers] == [True, False, True, True]


def test_a_recurrent_network_is_the_products_of_its_steps() -> None:
    layers = trace(nn.LSTM(8, 4), torch.zeros(3, 2, 8))
    assert [(layer.N, layer.K, layer.C) for layer in layers] == [(6, 16, 8), *[(2, 16, 4)] * 3]


W = nn.Parameter(torch.zeros(6, 8))  # 6 outputs, 8 inputs
PRODUCTS = {
    "linear": (lambda x: F.linear(x, W), {"N": 10, "K": 6, "C": 8}),
    "a view of a parameter": (lambda x: x @ W.view(2, 3, 8).flatten(0, 1).t(), {"N": 10, "K": 6, "C": 8}),
    "a parameter cast and scaled": (lambda x: F.linear(x, (W.half() * 2).float()), {"N": 10, "K": 6, "C": 8}),
    "addmm": (lambda x: torch.addmm(torch.zeros(6), x[0], W.t()), {"N": 5, "K": 6, "C": 8}),
    "einsum": (lambda x: torch.einsum("btc,kc->bkt", x, W), {"N": 10, "K": 6, "C": 8}),
    "a weight on the left": (lambda x: W @ x[0].t(), {"N": 5, "K": 6, "C": 8}),
    "a weight on the left of a batch": (lambda x: W @ x.mT, {"N": 10, "K": 6, "C": 8}),
    "one weight for a batch": (lambda x: torch.bmm(x, W.t().expand(2, 8, 6)), {"N": 10, "K": 6, "C": 8}),
    "one weight each": (lambda x: x @ torch.stack([W.t(), W.t()]), {"N": 5, "K": 12, "C": 8, "groups": 2}),
    "mv": (lambda x: W.mv(x[0, 0]), {"N": 1, "K": 6, "C": 8}),
    "vector times weight": (lambda x: x[0, 0] @ W.t(), {"N": 1, "K": 6, "C": 8}),
    "dot": (lambda x: x[0, 0].dot(W[0]), {"N": 1, "K": 1, "C": 8}),
    "baddbmm": (
        lambda x: torch.baddbmm(torch.zeros(1), x, x.mT),
        {"N": 5, "K": 10, "C": 8, "groups": 2, "weight_is_parameter": False},
    ),
    "addbmm": (
        lambda x: torch.addbmm(torch.zeros(1), x, x.mT),
        {"N": 5, "K": 5, "C": 16, "weight_is_parameter": False},
    ),
    "two activations": (lambda x: x[0] @ x[1].t(), {"N": 5, "K": 5, "C": 8, "weight_is_parameter": False}),
    "an activation kept in a buffer": (
        lambda x: x[0] @ torch.zeros(3, 8).copy_(x[1, :3]).t(),
        {"N": 5, "K": 3, "C": 8, "weight_is_parameter": False},
    ),
    "conv": (
        lambda x: F.conv1d(x.mT, W[:, :, None], stride=2),
        {"N": 2, "K": 6, "C": 8, "Q": 3, "stride": (1, 2), "input_size": (1, 5), "kind": "conv"},
    ),
    "a kernel made of activations": (
        lambda x: F.conv1d(x.mT, x[:, :3].mT),
        {"N": 2, "K": 2, "C": 8, "Q": 3, "S": 3, "weight_is_parameter": False, "kind": "conv"},
    ),
}


@pytest.mark.parametrize("decorate", [lambda f: f, torch.inference_mode()], ids=["plain", "inference_mode"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_becomes_its_layer(name: str, decorate: Any) -> None:
    function, loops = PRODUCTS[name]
    kind = loops.get("kind", "matmul")
    expected = Layer(f"part.{kind}", module="part", **{k: v for k, v in loops.items() if k != "kind"})
    part = Net(decorate(lambda self, x: function(x)))
    assert trace(Net(lambda self, x: self.part(x), part=part), torch.zeros(2, 5, 8)) == (expected,)


def test_a_shared_module_is_told_apart_by_its_call() -> None:
    shared = nn.Linear(8, 8)
    net = Net(lambda self, x: self.b(self.a(self.c(x))), a=shared, b=shared, c=nn.Linear(8, 8))
    layers = trace(net, torch.zeros(1, 8))
    assert [(layer.name, layer.module) for layer in layers] == [("c", "c"), ("a", "a"), ("a#2", "a")]
    assert layers == trace(net, torch.zeros(1, 8))


def test_names_stay_unique_among_unlucky_paths() -> None:
    net = Net(lambda self, x: self.get_submodule("fc#2")(self.fc(self.fc(x @ self.matmul(x).t()))))
    net.add_module("matmul", nn.Linear(8, 8))
    net.add_module("fc", nn.Linear(8, 8))
    net.add_module("fc#2", nn.Linear(8, 8))
    names = [layer.name for layer in trace(net, torch.zeros(8, 8))]
    assert names == ["matmul", "matmul#2", "fc", "fc#2", "fc#2#2"]


def test_what_a_hook_computes_belongs_to_its_module() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    model[0].register_forward_pre_hook(lambda module, args: (args[0] @ module.weight,))
    model[0].register_forward_hook(lambda module, args, result: result @ module.weight)
    assert [layer.name for layer in trace(model, torch.zeros(1, 8))] == ["0", "0#2", "0#3"]


def test_the_network_is_traced_as_for_inference() -> None:
    net = Net(lambda self, x: self.a(x) if self.training else self.b(x), a=nn.Linear(8, 8), b=nn.Linear(8, 8))
    assert [layer.name for layer in trace(net.train(), torch.zeros(1, 8))] == ["b"]
    assert net.training


def test_a_failed_and_caught_call_does_not_confuse_the_paths() -> None:
    def forward(self: Net, x: Tensor) -> Tensor:
        try:
            self.wrong(x)
        except RuntimeError:
            return self.right(x) @ self.right.weight

    layers = trace(Net(forward, wrong=nn.Linear(3, 3), right=nn.Linear(8, 8)), torch.zeros(1, 8))
    assert [layer.name for layer in layers] == ["right", "matmul"]


def test_a_compiled_network_keeps_its_paths() -> None:
    for model in (nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)), nn.Linear(8, 2)):
        assert trace(torch.compile(model), torch.zeros(1, 8)) == trace(model, torch.zeros(1, 8))


def test_reparametrized_weights_are_parameters() -> None:
    for wrap in (nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.orthogonal):
        assert trace(nn.Sequential(wrap(nn.Linear(8, 8))), torch.zeros(1, 8))[-1] == Layer("0", K=8, C=8, module="0")


def test_inputs_by_position_and_by_name() -> None:
    net = Net(lambda self, x, scale=None: self.fc(x if scale is None else x * scale), fc=nn.Linear(8, 2))
    x, scale = torch.zeros(3, 8), torch.zeros(8)
    expected = (Layer("fc", N=3, K=2, C=8, module="fc"),)
    assert trace(net, x) == trace(net, (x, scale)) == trace(net, {"x": x, "scale": scale}) == expected


@pytest.mark.parametrize("model_on", ["cpu", "meta", "fake"])
@pytest.mark.parametrize("input_on", ["cpu", "meta", "fake"])
def test_meta_and_fake_tensors_are_as_good_as_real_ones(model_on: str, input_on: str) -> None:
    def make(where: str, build: Any) -> Any:
        if where == "fake":
            with FakeTensorMode():
                return build()
        with torch.device(where):
            return build()

    model, example = make(model_on, resnet18), make(input_on, lambda: torch.zeros(1, 3, 64, 64))
    assert trace(model, example) == trace(resnet18(), torch.zeros(1, 3, 64, 64))


def test_a_network_larger_than_memory() -> None:
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(2**17, 2**17, bias=False) for _ in range(4)))
    assert sum(p.numel() * p.element_size() for p in model.parameters()) > 250e9
    start = time.perf_counter()
    layers = trace(model, torch.empty(2**20, 2**17, device="meta"))
    assert time.perf_counter() - start < 10
    assert sum(layer.macs for layer in layers) == 4 * 2**20 * 2**17 * 2**17


class Stateful(nn.Module):
    """Changes all that a forward can change."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.dropout = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()
        self.register_buffer("cache", torch.ones(2, 4, 6, 6))
        self.constant, self.calls, self.kept = torch.ones(1), [], None
        self.conv.eval()

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(self.bn(self.conv(x))) + torch.rand(1) * random.random() * float(np.random.rand())
        torch.manual_seed(len(self.calls))
        self.cache += y
        self.constant.add_(1)
        self.calls.append(len(self.calls))
        self.kept = y
        with torch.no_grad():
            self.conv.weight.mul_(2)
        return y


def test_the_model_and_the_random_states_stay_as_they_were() -> None:
    model, example = Stateful(), torch.ones(2, 3, 8, 8)
    hooked: list[nn.Module] = []
    model.conv.register_forward_hook(lambda module, *_: hooked.append(module) or None)
    state = copy.deepcopy(model.state_dict())
    kept = model.state_dict(keep_vars=True)
    identities = {name: (id(t), t._version, t.data_ptr()) for name, t in kept.items()}
    modes = [module.training for module in model.modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    generators = torch.get_rng_state(), random.getstate(), str(np.random.get_state())

    assert [layer.name for layer in trace(model, example)] == ["conv"]

    for name, tensor in model.state_dict(keep_vars=True).items():
        assert torch.equal(tensor, state[name])
        assert (id(tensor), tensor._version, tensor.data_ptr()) == identities[name]
    assert modes == [module.training for module in model.modules()]
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    assert torch.equal(generators[0], torch.get_rng_state())
    assert generators[1:] == (random.getstate(), str(np.random.get_state()))
    assert (model.constant.item(), model.calls, model.kept) == (1, [], None)
    assert torch.equal(example, torch.ones(2, 3, 8, 8))
    assert [type(module) for module in hooked] == [nn.Conv2d]
    assert hooked[0] is not model.conv
    model(example)  # still runs


def branch(self: Net, x: Tensor) -> Tensor:
    return self.inner(x)


def by_flags(self: Net, x: Tensor) -> Tensor:
    if self.flag and self.scale.item() > 2:
        for _ in range(self.times):
            x = self.fc(x)
    return x


def test_a_network_may_decide_by_its_own_flags() -> None:
    net = Net(by_flags, fc=nn.Linear(8, 8), times=torch.tensor([2]))
    net.register_buffer("flag", torch.tensor(True))
    net.register_buffer("scale", torch.tensor(2.5))
    assert [layer.name for layer in trace(net, torch.zeros(6, 8))] == ["fc", "fc#2"]
    net.flag.zero_()
    assert trace(net, torch.zeros(6, 8)) == ()


def found(self: Any, x: Tensor) -> Any:
    """As a detector does: look where something was found, as often as it was."""
    self.seen.add_(1)
    where = self.search(x)
    return [self.look(row) for row in x[where[:, 0] > 0]]


def test_a_network_that_decides_by_values_is_traced_on_the_data_of_an_example() -> None:
    net = Net(found, search=nn.Linear(3, 2), look=nn.Linear(3, 4), norm=nn.BatchNorm1d(3))
    net.register_buffer("seen", torch.zeros(2))
    before = copy.deepcopy(net.state_dict())
    net.search.weight.data = torch.eye(2, 3)
    net.search.bias.data.zero_()
    x = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [2, 0, 0], [0, 9, 9]])
    state = torch.random.get_rng_state()
    traced = record(net, x)
    assert traced.by_values
    assert [layer.name for layer in traced.layers] == ["search", "look", "look#2"]
    assert trace(net, x) == traced.layers
    assert [layer.name for layer in trace(net, -x)] == ["search", "look"]
    assert torch.equal(net.seen, before["seen"])
    assert net.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not record(nn.Linear(3, 3), x).by_values


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)

MISTAKES = {
    "3-D": (
        nn.Sequential(nn.ConvTranspose3d(1, 1, 3)),
        torch.zeros(1, 1, 8, 8, 8),
        r"module '0' computes a transposed 3-D conv",
    ),
    "control flow": (
        Net(branch, inner=Net(lambda self, x: x if x.sum() > 0 else -x)),
        torch.zeros(3, device="meta"),
        r"module 'inner' depends on the values of a tensor",
    ),
    "shape of values": (
        Net(lambda self, x: x[x > 0]),
        torch.zeros(3, device="meta"),
        "depends on the values of a tensor",
    ),
    "wrong shape": (
        nn.Sequential(nn.Conv2d(3, 4, 3)),
        torch.zeros(1, 1, 8, 8),
        r"cannot run on an input of \(1, 1, 8, 8\) float32: .*channels",
    ),
    "wrong width": (nn.Linear(3, 3), torch.zeros(2, 4), r"input of \(2, 4\) float32: .*\(2x4 and 3x3\)"),
    "too many inputs": (nn.Linear(3, 3), (torch.zeros(3),) * 2, r"\(3,\) float32, \(3,\) float32: .*arg"),
    "own error": (
        Net(lambda self, x: 1 / 0),
        torch.zeros(2, dtype=torch.int64),
        r"input of \(2,\) int64: ZeroDivisionError: division by zero \(.*test_tracing.py, line \d+\)$",
    ),
    "lazy": (nn.LazyLinear(3), torch.zeros(3), "lazy parameters"),
    "bilinear": (nn.Bilinear(3, 3, 3), (torch.zeros(3),) * 2, "_trilinear, which bitq does not model"),
    "flex": (
        Net(lambda self, x: flex_attention(x, x, x)),
        torch.zeros(1, 1, 8, 16),
        "flex_attention, which bitq",
    ),
    "script": (torch.jit.script(nn.Linear(3, 3)), torch.zeros(3), "TorchScript"),
    "sparse": (nn.Linear(3, 3), torch.zeros(3, 3).to_sparse(), "torch.sparse_coo; it must be dense"),
    "empty": (nn.Linear(3, 3), torch.zeros(0, 3), "N is 0"),
    "no module": (F.relu, torch.zeros(3), "must be a torch.nn.Module"),
    "buffer": (
        Net(lambda self, x: x if self.large.any() else -x, large=torch.zeros(2, device="meta")),
        torch.zeros(3),
        "the network depends on the values of a tensor",
    ),
    "endless": (Net(lambda self, x: x, tree=ENDLESS), torch.zeros(3), "cannot be copied"),
    "no copy": (Net(lambda self, x: x, lock=(i for i in "x")), torch.zeros(3), "cannot be copied"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_one_sentence(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    model, example, message = MISTAKES[name]
    logged = logging.handlers.BufferingHandler(100)
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    logger.addHandler(logged)
    with pytest.raises(BitqError, match=message) as caught:
        trace(model, example)
    logger.removeHandler(logged)
    assert not logged.buffer
    assert not logger.disabled
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mkldnn.enabled
    assert torch.backends.cudnn.enabled
    assert len(trace(nn.Linear(3, 3), torch.zeros(1, 3))) == 1  # nothing is left behind
