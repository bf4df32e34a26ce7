"""Which modules take formats and why others do not, and that a kind is one thing to add."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import bitq
from bitq.accuracy.kinds import Kind, kind, kind_of, quantizable, register, unquantizable
from bitq.accuracy.quantized import apply, observing, restore, weight_in_use
from bitq.errors import BitqError
from bitq.formats import BlockFormat, TensorFormats
from bitq.numerics import quantize

FORMATS = TensorFormats(BlockFormat(8, 3, 4), BlockFormat(8, 2, 2), BlockFormat(8, 4, 8))

LAYERS = {
    "linear": (nn.Linear(6, 4), (3, 6), ()),
    "linear without bias": (nn.Linear(6, 4, bias=False), (2, 3, 6), ()),
    "conv": (nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2), (2, 6, 7, 7), ()),
    "reflected": (nn.Conv1d(6, 4, 3, padding=1, padding_mode="reflect"), (2, 6, 7), ()),
    "transposed": (nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2, dilation=2), (2, 6, 5, 5), ()),
    "transposed to a size": (nn.ConvTranspose2d(6, 4, 3, stride=2), (2, 6, 5, 5), ([12, 11],)),
    "transposed 1-D": (nn.ConvTranspose1d(6, 4, 3, stride=2, output_padding=1), (6, 5), ()),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_kind_computes_as_torch_does(name):
    layer, shape, rest = LAYERS[name]
    x = torch.randn(shape)
    assert kind_of(layer).computes_as_torch(type(layer))
    assert torch.equal(kind_of(layer).compute(layer, x, layer.weight, *rest), layer(x, *rest))


def test_a_size_that_is_asked_for_reaches_a_quantized_layer():
    layer, shape, (size,) = LAYERS["transposed to a size"]
    model = copy.deepcopy(layer)
    apply(model, {"": FORMATS})
    assert model(torch.randn(shape), output_size=size).shape[2:] == (12, 11)


class Own(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 1


class Many(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose1d(4, 4, 2)
        self.own = Own(4, 4)
        self.twice = self.own
        self.parametrized = parametrizations.weight_norm(nn.Linear(4, 4))
        self.attention = nn.MultiheadAttention(4, 2)
        self.other_attention = nn.MultiheadAttention(4, 2)
        self.other_attention.out_proj = nn.Linear(4, 4)
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8)
        self.table = nn.Embedding(5, 4)
        self.bounded = nn.Embedding(5, 4, max_norm=1.0)
        self.recurrent = nn.LSTM(4, 4)
        self.volume = nn.Conv3d(3, 4, 3)
        with pytest.warns(FutureWarning):
            self.hooked = nn.utils.weight_norm(nn.Linear(2, 2))
        self.replaced = nn.Linear(2, 2)
        self.replaced.forward = lambda x: x


TAKING = ["conv", "up", "own", "parametrized", "encoder.linear1", "encoder.linear2", "table", "volume"]

FLOAT = {
    "attention": "is of class MultiheadAttention",
    "attention.out_proj": "never calls it",
    "other_attention": "is of class MultiheadAttention",
    "other_attention.out_proj": "never calls it",
    "encoder.self_attn": "is of class MultiheadAttention",
    "encoder.self_attn.out_proj": "never calls it",
    "bounded": "writes to its rows",
    "recurrent": "is of class LSTM",
    "hooked": "gets its weight from a hook",
    "replaced": "has a forward of its own",
}


def test_what_takes_formats_and_why_others_do_not():
    model = Many()
    found, against = quantizable(model), unquantizable(model)
    assert list(found) == TAKING
    assert all(found[name] is kind_of(model.get_submodule(name)) for name in found)
    assert {name: reason for name, reason in against.items() if "parametriz" not in name}.keys() == FLOAT.keys()
    for name, reason in FLOAT.items():
        assert reason in against[name]
        with pytest.raises(BitqError, match=f"module '{name}' .*{reason}"):
            apply(model, {"conv": FORMATS, name: FORMATS})
        with pytest.raises(BitqError, match=f"module '{name}' .*{reason}"), observing(model, [name]):
            pass
    assert type(model.conv) is nn.Conv2d
    apply(model, dict.fromkeys(TAKING, FORMATS))
    assert list(quantizable(model)) == TAKING


def test_a_projection_that_attention_reads_is_refused_alone_too():
    attention = nn.MultiheadAttention(16, 2, batch_first=True)
    with pytest.raises(BitqError, match=r"module '' is the projection of a torch\.nn\.Multihead"):
        bitq.apply(attention.out_proj, {"": FORMATS})


def test_a_new_kind_is_registered_and_nothing_else(monkeypatch):
    class Channelwise(nn.Module):
        """Every channel of its last axis by a weight of its own, in two columns that add up."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 2))

        def forward(self, x):
            return x * self.weight.sum(1)

    monkeypatch.setattr(kind, "_kinds", list(kind._kinds))
    model, x = nn.Sequential(Channelwise()), torch.randn(3, 5)
    with pytest.raises(BitqError, match="is of class Channelwise; formats apply to"):
        apply(model, {"0": FORMATS})
    own = register(Kind((Channelwise,), lambda layer, x, weight: x * weight.sum(1), lambda layer: -1))
    assert quantizable(model) == {"0": own}
    apply(model, {"0": FORMATS})
    weight = quantize(model[0].weight, FORMATS.weight, 1)
    assert torch.equal(weight_in_use(model[0]), weight)
    expected = quantize(quantize(x, FORMATS.input) * weight.sum(1), FORMATS.output)
    assert torch.equal(model(x), expected)
    restore(model)
    assert type(model[0]) is Channelwise


# Layers with a forward of their own


class Standardized(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        return self._conv_forward(x, w - w.mean((1, 2, 3), keepdim=True), self.bias)


def test_a_forward_of_its_own_reads_the_quantized_weight_alone():
    model, x = nn.Sequential(Standardized(4, 3, 3)).eval(), torch.randn(2, 4, 5, 5)
    apply(model, {"0": TensorFormats(weight=FORMATS.weight)})
    weight = model[0].weight
    assert weight is model[0]._parameters["weight"]
    w = quantize(weight.detach(), FORMATS.weight, 1, (2, 3))
    expected = F.conv2d(x, w - w.mean((1, 2, 3), keepdim=True), model[0].bias)
    assert torch.equal(model(x), expected)
    assert torch.equal(torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected)
    assert torch.equal(torch.export.export(model, (x,)).module()(x), expected)
    assert model[0].weight is weight


WRITES = {
    "clamps": lambda self: self.weight.data.clamp_(-0.1, 0.1),
    "clamps without grad": lambda self: self.weight.detach().clamp_(-0.1, 0.1),
    "replaces": lambda self: setattr(self.weight, "data", self.weight.data / 2),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_a_forward_that_writes_to_the_weight_is_told(write, mode):
    class Clipped(nn.Linear):
        def forward(self, x):
            write(self)
            return super().forward(x)

    model, x = nn.Sequential(Clipped(4, 3)), torch.randn(2, 4)
    apply(model, {"0": TensorFormats(FORMATS.input)})
    with mode():
        model(x)  # writes to the float weight
    apply(model, {"0": FORMATS})
    before = model[0].weight.detach().clone()
    with mode(), pytest.raises(BitqError, match="the forward of Clipped writes to its weight"):
        model(x)
    assert torch.equal(model[0].weight, before)
