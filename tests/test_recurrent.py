"""Recurrent layers are linear layers of their inputs and of their state, with formats, however torch computes them."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.flop_counter import FlopCounterMode

import bitq
import tiny
from bitq.accuracy.finetune import Training, finetune
from bitq.accuracy.kinds import staying_float
from bitq.accuracy.quantized import apply, in_formats, restore
from bitq.accuracy.storing import with_products
from bitq.formats import BlockFormat, TensorFormats
from bitq.numerics import quantize
from bitq.progress import Silent
from bitq.tracing import record, trace
from bitq.tradeoff.weights import load_quantized, load_weights

INPUT, WEIGHT, OUTPUT = BlockFormat(8, 3, 4), BlockFormat(8, 2, 4), BlockFormat(8, 4, 8)
FORMATS = TensorFormats(INPUT, WEIGHT, OUTPUT)


class Running(nn.Module):
    """A recurrent layer, which is called with a state or without."""

    def __init__(self, layer, state=None):
        super().__init__()
        self.layer, self.state = layer, state

    def forward(self, x):
        return self.layer(x) if self.state is None else self.layer(x, self.state)


LAYERS = {
    "lstm": lambda: Running(nn.LSTM(6, 5)),
    "deep lstm": lambda: Running(nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True, dropout=0.5)),
    "lstm without bias": lambda: Running(nn.LSTM(6, 5, bias=False)),
    "projected lstm": lambda: Running(nn.LSTM(6, 5, proj_size=3, bidirectional=True)),
    "lstm with a state": lambda: Running(nn.LSTM(6, 5), (torch.randn(1, 3, 5).double(), torch.randn(1, 3, 5).double())),
    "gru": lambda: Running(nn.GRU(6, 5)),
    "deep gru": lambda: Running(nn.GRU(6, 5, 3, bidirectional=True)),
    "tanh": lambda: Running(nn.RNN(6, 5)),
    "relu": lambda: Running(nn.RNN(6, 5, 2, nonlinearity="relu")),
}
CELLS = {
    "lstm cell": lambda: Running(nn.LSTMCell(6, 5)),
    "gru cell": lambda: Running(nn.GRUCell(6, 5)),
    "cell": lambda: Running(nn.RNNCell(6, 5)),
}


def flat(results):
    return [each for part in results for each in flat(part)] if isinstance(results, tuple) else [results]


@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_it_is_told_in_linear_layers_as_torch_computes_it(name):
    torch.manual_seed(0)
    model = (LAYERS | CELLS)[name]().double().eval()
    x = torch.randn(*((4, 3, 6) if name in LAYERS else (3, 6))).double()
    traced = record(model, x)
    own = with_products(model, traced.products)
    pairs = zip(flat(own(x)), flat(model(x)), strict=True)
    assert all(torch.allclose(result, expected, rtol=1e-12, atol=1e-12) for result, expected in pairs)
    assert own.state_dict().keys() == model.state_dict().keys()
    assert staying_float(own, traced.layers) == ()
    weights = [key for key in model.state_dict() if "weight" in key]
    assert sorted(traced.products.values()) == sorted(weights)
    assert {layer.module for layer in traced.layers} == {key.replace("weight_", "") for key in weights}
    assert all(layer.weight_is_parameter for layer in traced.layers)
    loops = [(layer.N, layer.K, layer.C, layer.groups) for layer in traced.layers]
    assert loops == [(layer.N, layer.K, layer.C, layer.groups) for layer in trace(model, x)]


def test_steps_are_calls_of_one_layer():
    layers = record(nn.LSTM(6, 5), torch.zeros(4, 3, 6)).layers
    assert [(layer.name, layer.module) for layer in layers] == [
        ("ih_l0", "ih_l0"),
        ("hh_l0", "hh_l0"),
        ("hh_l0#2", "hh_l0"),
        ("hh_l0#3", "hh_l0"),
        ("hh_l0#4", "hh_l0"),
    ]


def layer(x, weight, bias):
    return quantize(functional.linear(quantize(x, INPUT, -1), quantize(weight, WEIGHT, 1), bias), OUTPUT, -1)


def lstm_by_hand(own, x):
    h = c = torch.zeros(x.shape[1], own.hidden_size)
    found = []
    for inputs in layer(x, own.weight_ih_l0, own.bias_ih_l0):
        i, f, g, o = (inputs + layer(h, own.weight_hh_l0, own.bias_hh_l0)).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        found.append(h)
    return torch.stack(found)


def gru_by_hand(own, x):
    h, found = torch.zeros(x.shape[1], own.hidden_size), []
    for inputs in layer(x, own.weight_ih_l0, own.bias_ih_l0):
        hidden = layer(h, own.weight_hh_l0, own.bias_hh_l0)
        (r, z, n), (hr, hz, hn) = inputs.chunk(3, -1), hidden.chunk(3, -1)
        n = (n + (r + hr).sigmoid() * hn).tanh()
        h = n + (z + hz).sigmoid() * (h - n)
        found.append(h)
    return torch.stack(found)


@pytest.mark.parametrize(("made", "by_hand"), [(nn.LSTM, lstm_by_hand), (nn.GRU, gru_by_hand)], ids=["lstm", "gru"])
def test_it_computes_as_its_twin_written_by_hand(made, by_hand):
    torch.manual_seed(0)
    model, x = Running(made(6, 5)), torch.randn(4, 3, 6)
    traced = record(model, x)
    own = copy.deepcopy(model)
    apply(own, dict.fromkeys(traced.products, FORMATS), products=traced.products)
    result, expected = own(x)[0], by_hand(copy.deepcopy(model).layer, x)
    assert torch.equal(result, expected)
    assert not torch.equal(result, model(x)[0])
    result.square().sum().backward()
    by_hand(model.layer, x).square().sum().backward()
    for parameter, other in zip(own.parameters(), model.parameters(), strict=True):
        assert torch.allclose(parameter.grad, other.grad, rtol=1e-4, atol=1e-6)
    restore(own)
    assert torch.equal(own(x)[0], model(x)[0])


class Packed(nn.Module):
    """A recurrent layer of sequences that are packed and unpacked around it, as their lengths say."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, lengths):
        first = self.layer.batch_first
        packed = pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=False)
        y, state = self.layer(packed)
        return pad_packed_sequence(y, batch_first=first)[0], state


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "lstm with a state"])
def test_packed_sequences_are_computed_as_torch_does(name):
    torch.manual_seed(0)
    model = Packed(LAYERS[name]().layer).double().eval()
    x = torch.randn(4, 3, 6).double()
    lengths = torch.tensor([2, 4, 1, 2] if model.layer.batch_first else [2, 4, 3])
    lengths = lengths.clamp(max=3) if model.layer.batch_first else lengths
    traced = record(model, (x, lengths))
    assert traced.by_values
    own = with_products(model, traced.products)
    pairs = zip(flat(own(x, lengths)), flat(model(x, lengths)), strict=True)
    assert all(torch.allclose(result, expected, rtol=1e-12, atol=1e-12) for result, expected in pairs)
    assert staying_float(own, traced.layers) == ()
    with FlopCounterMode(display=False) as counter, torch.backends.mkldnn.flags(enabled=False):
        model(x, lengths)
    assert 2 * sum(layer.macs for layer in traced.layers) == counter.get_total_flops()


def test_packed_sequences_have_formats_at_every_step():
    model, x, lengths = Packed(nn.LSTM(6, 5)), torch.randn(4, 1, 6), torch.tensor([3])
    own = copy.deepcopy(model)
    products = record(model, (x, lengths)).products
    apply(own, dict.fromkeys(products, FORMATS), products=products)
    with in_formats(own):
        result = own(x, lengths)[0]
    assert torch.equal(result, lstm_by_hand(model.layer, x[:3]))


class Tagger(nn.Module):
    """Tells of every word whether the one before it was larger."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(16, 8)
        self.forwards, self.back = nn.LSTM(8, 8, batch_first=True), nn.GRU(8, 6, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, 2)

    def forward(self, x):
        return self.head(self.back(self.forwards(self.words(x))[0])[0])


def sentences(count, seed):
    x = torch.randint(16, (count, 6), generator=torch.Generator().manual_seed(seed))
    return [(part, (part.roll(1, 1) > part).long()) for part in x.split(50)]


def tags(output, target):
    return functional.cross_entropy(output.flatten(0, 1), target.flatten())


def test_a_search_gives_every_layer_formats(tmp_path):
    torch.manual_seed(0)
    model, train, validation = Tagger(), sentences(1000, 0), sentences(200, 1)
    finetune(model, train, Training(steps=200, learning_rate=1e-2), loss=tags)
    found = bitq.search(
        model,
        train,
        validation,
        device=tiny.DEVICE,
        formats=tiny.FORMATS,
        run=tmp_path / "run",
        settings=tiny.settings(rounds=1),
        loss=tags,
        listener=Silent(),
    )
    assert found.plan.stays_float == ()
    stored = {layer.parameter for layer in found.plan.layers if layer.parameter}
    assert stored == {key for key in model.state_dict() if "weight_" in key}
    assert all(layer.weight is not None for layer in found.plan.layers)
    float32, reached = found.rows[0], found.rows[-1]
    assert reached.movement_bits < 0.5 * float32.movement_bits
    assert reached.accuracy > float32.accuracy - 0.1
    assert reached.model_bytes < 0.5 * float32.model_bytes
    own, (inputs, _) = Tagger(), validation[0]
    load_quantized(own, tmp_path / "run")
    assert torch.equal(own(inputs), found.model(inputs))
    packed = load_weights(tmp_path / "run" / "weights.safetensors")
    assert packed.keys() == model.state_dict().keys()
    for layer in found.plan.layers:
        if layer.parameter:
            weight, own = packed[layer.parameter], layer.weight
            assert torch.equal(quantize(weight, own.format, 1, exponent_bias=own.exponent_bias), weight)


class Reading(nn.Module):
    """Predicts words with the table that it reads them from, whose rows its own code multiplies by."""

    def __init__(self, way):
        super().__init__()
        self.words, self.mix, self.way = nn.Embedding(16, 8), nn.Linear(8, 8), way

    def forward(self, x):
        return self.way(torch.relu(self.mix(self.words(x))).mean(1), self.words.weight)


@pytest.mark.parametrize("way", [functional.linear, lambda x, w: x @ w.t()], ids=["linear", "matmul"])
def test_a_table_that_is_multiplied_by_is_a_layer_in_the_same_format(tmp_path, way):
    torch.manual_seed(0)
    model, x = Reading(way), torch.randint(16, (200, 6))
    batches = [(x, x[:, 0])]
    traced = record(model, x)
    assert traced.products == {"matmul": "words.weight"}
    own = copy.deepcopy(model)
    apply(own, {"words": FORMATS, "matmul": FORMATS}, products=traced.products)
    table = quantize(model.words.weight, WEIGHT, 1)
    hidden = torch.relu(model.mix(quantize(functional.embedding(x, table), OUTPUT, -1))).mean(1)
    assert torch.equal(own(x), quantize(functional.linear(quantize(hidden, INPUT, -1), table), OUTPUT, -1))
    few = tiny.settings(rounds=1, plans=1, uniforms=1, training=Training(steps=2))
    given = {"device": tiny.DEVICE, "formats": tiny.FORMATS, "settings": few, "listener": Silent()}
    found = bitq.search(model, batches, batches, run=tmp_path, **given)
    weights = {layer.name: layer.weight.format for layer in found.plan.layers}
    assert weights["words"] == weights["matmul"]
    assert found.plan.stays_float == ()
    again = Reading(way)
    load_quantized(again, tmp_path)
    assert torch.equal(again(x), found.model(x))
