"""Attention in formats: as torch computes it in float, as its twin written by hand in formats, and searched whole."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import bitq
import tiny
from bitq.accuracy.finetune import Training, finetune
from bitq.accuracy.kinds import quantizable, staying_float
from bitq.accuracy.quantized import apply, observing
from bitq.accuracy.sensitivity import perturbations
from bitq.accuracy.storing import with_products
from bitq.calls import Call
from bitq.formats import TENSORS, BlockFormat, TensorFormats
from bitq.multiplying import attention
from bitq.numerics import quantize
from bitq.progress import Silent
from bitq.tracing import record, trace
from bitq.tradeoff.plan import load_plan
from bitq.tradeoff.weights import load_quantized, load_weights

INPUT, WEIGHT, OUTPUT = BlockFormat(8, 3, 4), BlockFormat(8, 2, 4), BlockFormat(8, 4, 8)
FORMATS = TensorFormats(INPUT, WEIGHT, OUTPUT)

SEEN = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) > 0.4
NONE_SEEN = SEEN.clone()
NONE_SEEN[2] = False
ATTENTIONS = {
    "plain": {},
    "causal": {"is_causal": True},
    "scaled": {"scale": 0.3},
    "of a group": {"enable_gqa": True},
    "masked": {"attn_mask": SEEN},
    "masked by numbers": {"attn_mask": torch.randn(2, 1, 5, 7)},
    "masked by infinities": {"attn_mask": torch.zeros(5, 7).masked_fill(~SEEN, -torch.inf)},
    "where nothing is seen": {"attn_mask": NONE_SEEN},
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_it_is_told_in_two_products_as_torch_computes_it(name):
    heads = 2 if name == "of a group" else 4
    q, k, v = torch.randn(2, 4, 5, 6), torch.randn(2, heads, 7, 6), torch.randn(2, heads, 7, 3)
    expected = functional.scaled_dot_product_attention(q, k, v, **ATTENTIONS[name])
    assert torch.allclose(attention(q, k, v, **ATTENTIONS[name]), expected, atol=1e-6)


def test_dropout_of_attention_draws():
    q = torch.randn(2, 5, 6)
    torch.manual_seed(0)
    assert not torch.equal(attention(q, q, q, dropout_p=0.5), attention(q, q, q))


class Attending(nn.Module):
    """Multi-head attention of torch's, however it is called."""

    def __init__(self, made, called):
        super().__init__()
        self.attention, self.called = nn.MultiheadAttention(8, 2, **made), called
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_()

    def forward(self, x, y, z):
        return self.attention(*self.called(x, y, z))


def itself(x, y, z):
    return x, x, x, None, False


def cross(x, y, z):
    return x, y, y, None, False


def three(x, y, z):
    return x, y, z, None, False


def averaged(x, y, z):
    return x, x, x


def padded(x, y, z):
    return x, x, x, torch.tensor([[False, True, True]]).expand(x.shape[0], 3), True


MULTIHEAD = {
    "self": ({"batch_first": True}, itself),
    "tokens first": ({}, itself),
    "without bias": ({"bias": False, "batch_first": True}, itself),
    "cross": ({"batch_first": True}, cross),
    "three inputs": ({"batch_first": True}, three),
    "other widths": ({"batch_first": True, "kdim": 6, "vdim": 5}, lambda x, y, z: three(x, y[..., :6], z[..., :5])),
    "with weights": ({"batch_first": True}, averaged),
    "padded": ({"batch_first": True}, padded),
    "with more keys": ({"add_bias_kv": True, "add_zero_attn": True, "batch_first": True}, itself),
}
INPUTS = torch.randn(2, 3, 8), torch.randn(2, 3, 8), torch.randn(2, 3, 8)


@pytest.mark.parametrize("name", MULTIHEAD)
def test_multihead_attention_is_its_projections_and_products(name):
    model, inputs = Attending(*MULTIHEAD[name]).eval().double(), [each.double() for each in INPUTS]
    traced = record(model, tuple(inputs))
    own = with_products(model, traced.products)
    for result, expected in zip(own(*inputs), model(*inputs), strict=True):
        assert result is expected is None or torch.allclose(result, expected, rtol=1e-12, atol=1e-12)
    assert own.state_dict().keys() == model.state_dict().keys()
    assert staying_float(own, traced.layers) == ()
    products = [layer for layer in traced.layers if not layer.weight_is_parameter]
    assert [layer.module for layer in products] == [
        path for path, computed in traced.products.items() if isinstance(computed, Call)
    ]
    assert len(products) == 2
    projected = {layer.module.rpartition(".")[2] for layer in traced.layers if layer.weight_is_parameter}
    separate = {"q_proj", "k_proj", "v_proj", "out_proj"}
    assert projected == (separate if name == "other widths" else {"in_proj", "out_proj"})
    assert set(quantizable(own)) == {layer.module for layer in traced.layers}
    assert sum(layer.macs for layer in traced.layers) == sum(layer.macs for layer in trace(model, tuple(inputs)))
    with torch.no_grad():
        changed = {key: torch.randn_like(value) for key, value in model.state_dict().items()}
        assert own.load_state_dict(changed) == model.load_state_dict(changed)
    for result, expected in zip(own(*inputs), model(*inputs), strict=True):
        assert result is expected is None or torch.allclose(result, expected, rtol=1e-12, atol=1e-12)


def layer(x, weight, bias):
    """A linear layer in formats."""
    return quantize(functional.linear(quantize(x, INPUT, -1), quantize(weight, WEIGHT, 1), bias), OUTPUT, -1)


def by_hand(attention, x, y, z):
    """Multi-head attention in formats."""
    size, heads = attention.embed_dim, attention.num_heads
    weights, biases = attention.in_proj_weight.detach(), attention.in_proj_bias.detach()
    if x is y is z:
        projected = layer(x, weights, biases).split(size, -1)
    elif y is z:
        q = layer(x, weights[:size], biases[:size])
        projected = q, *layer(y, weights[size:], biases[size:]).split(size, -1)
    else:
        parts = zip((x, y, z), weights.split(size), biases.split(size), strict=True)
        projected = [layer(*part) for part in parts]
    q, k, v = (each.unflatten(-1, (heads, -1)).transpose(-3, -2) for each in projected)
    scores = quantize(quantize(q, INPUT, -1) @ quantize(k, WEIGHT, -1).mT * (size / heads) ** -0.5, OUTPUT, -1)
    attended = quantize(quantize(scores.softmax(-1), INPUT, -1) @ quantize(v, WEIGHT, -2), OUTPUT, -1)
    out = attention.out_proj
    return layer(attended.transpose(-3, -2).flatten(-2), out.weight.detach(), out.bias.detach())


@pytest.mark.parametrize("name", ["self", "cross", "three inputs"])
def test_multihead_attention_computes_as_its_twin_written_by_hand(name):
    model = Attending(*MULTIHEAD[name]).eval()
    traced = record(model, INPUTS)
    formats = {layer.module: FORMATS for layer in traced.layers}
    x, y, z, *_ = MULTIHEAD[name][1](*INPUTS)
    expected = by_hand(model.attention, x, y, z)
    own = copy.deepcopy(model)
    apply(own, formats, products=traced.products, points=traced.points)
    result = own(*INPUTS)[0]
    assert torch.equal(result, expected)
    assert not torch.equal(result, model(*INPUTS)[0])
    result.sum().backward()
    assert all(parameter.grad is not None for parameter in own.parameters())
    again = copy.deepcopy(own)
    with torch.no_grad():
        again.attention.in_proj_weight.mul_(2)
    assert again.attention.in_proj.weight is again.attention.in_proj_weight


class Masked(nn.Module):
    """One head, with a mask of infinities in the scores, written in three ways."""

    def __init__(self, way):
        super().__init__()
        self.q, self.k, self.v, self.way = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), way

    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        if self.way == "called":
            return functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        scores = q @ k.mT / 8**0.5
        if self.way == "filled":
            scores = scores.masked_fill(~seen, float("-inf"))
        elif self.way == "added":
            scores = scores + torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))
        elif self.way == "chosen":
            scores = torch.where(seen, scores, float("-inf"))
        elif self.way == "in place":
            scores += torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))
        return scores.softmax(-1) @ v


@pytest.mark.parametrize("way", ["called", "filled", "added", "chosen", "in place"])
def test_scores_are_stored_before_a_mask_writes_infinities(way):
    torch.manual_seed(0)
    model, x = Masked(way).eval(), torch.randn(2, 5, 8)
    traced = record(model, x)
    first, second = traced.products
    (point,) = traced.points[first]
    assert point.function == ("mul" if way == "called" else "div")
    seen = torch.ones(5, 5, dtype=torch.bool).tril()
    q, k, v = (each(x).detach() for each in (model.q, model.k, model.v))
    formats = {first: FORMATS, second: FORMATS}
    scaled = quantize(q, INPUT, -1) @ quantize(k, WEIGHT, -1).mT
    scores = quantize(scaled * 8**-0.5 if way == "called" else scaled / 8**0.5, OUTPUT, -1)
    weights = quantize(scores.masked_fill(~seen, -torch.inf).softmax(-1), INPUT, -1)
    expected = quantize(weights @ quantize(v, WEIGHT, -2), OUTPUT, -1)
    apply(model, formats, products=traced.products, points=traced.points)
    assert torch.equal(model(x), expected)
    assert expected.isfinite().all()


def test_calibration_and_scores_see_both_operands_and_the_result():
    torch.manual_seed(0)
    model, x = Masked("called").eval(), torch.randn(4, 5, 8)
    traced = record(model, x)
    own, names = with_products(model, traced.products), list(traced.products)
    with observing(own, names, points=traced.points) as ranges:
        own(x)
    q, k, v = (each(x).detach() for each in (model.q, model.k, model.v))
    assert ranges[names[0]].input == (float(q.min()), float(q.max()))
    assert ranges[names[0]].weight == (float(k.min()), float(k.max()))
    scores = q @ k.mT * 8**-0.5
    assert ranges[names[0]].output == (float(scores.min()), float(scores.max()))
    assert ranges[names[1]].input == (0.0, 1.0)
    assert ranges[names[1]].weight == (float(v.min()), float(v.max()))

    q, k, v = (each.requires_grad_() for each in (q, k, v))
    attention(q, k, v, is_causal=True).square().mean().backward()
    mean_square = lambda y, _: y.square().mean()  # noqa: E731
    found = perturbations(own, names, lambda *_: (WEIGHT,), ranges, [(x, x)], mean_square, points=traced.points)
    for name, tensor in ((names[0], k), (names[1], v)):
        axis = -1 if tensor is k else -2
        bias = bitq.numerics.exponent_bias_for(torch.tensor(ranges[name].weight), WEIGHT)
        error = quantize(tensor.detach(), WEIGHT, axis, exponent_bias=bias) - tensor.detach()
        expected = float((error * tensor.grad * len(x)).square().sum()) / len(x)
        assert found[name]["weight"][WEIGHT] == pytest.approx(expected, rel=1e-4)
    assert all(found[name][tensor][WEIGHT] > 0 for name in names for tensor in TENSORS)


# Networks with attention, searched whole


class Block(nn.Module):
    """Pre-norm, with attention by a function of torch and its projections in one layer."""

    def __init__(self, size, heads, causal):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.before, self.between = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)

    def forward(self, x):
        q, k, v = self.qkv(self.before(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.between(x))))


class Vision(nn.Module):
    """Patches of an image, a block of the class's own, one of torch's."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(1, 8, 2, 2)
        self.place = nn.Embedding(16, 8)
        self.block = Block(8, 2, causal=False)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, tiny.CLASSES)

    def forward(self, x):
        x = self.patch(x).flatten(2).mT
        x = x + self.place(torch.arange(x.shape[1], device=x.device))
        return self.head(self.encoder(self.block(x)).mean(1))


class Language(nn.Module):
    """Predicts the next of 16 words; its last layer has the embedding's weight."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(16, 8), nn.Embedding(6, 8)
        self.block, self.norm = Block(8, 2, causal=True), nn.LayerNorm(8)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x):
        x = self.words(x) + self.places(torch.arange(x.shape[1], device=x.device))
        return self.head(self.norm(self.block(x)))


def counting(count, seed):
    """Sequences that count up by 1, 2 or 3, and what follows each."""
    draws = torch.Generator().manual_seed(seed)
    first, step = torch.randint(16, (count, 1), generator=draws), torch.randint(1, 4, (count, 1), generator=draws)
    x = (first + step * torch.arange(7)) % 16
    return [(part[:, :-1], part[:, 1:]) for part in x.split(50)]


def next_word(output, target):
    return functional.cross_entropy(output.flatten(0, 1), target.flatten())


SEARCHED = {
    "vision": (Vision, lambda: tiny.loaders()[:2], {}),
    "language": (Language, lambda: (counting(800, 0), counting(200, 1)), {"loss": next_word}),
}


@pytest.mark.parametrize("name", SEARCHED)
def test_a_search_gives_every_product_formats(tmp_path, name):
    make, data, more = SEARCHED[name]
    torch.manual_seed(0)
    model, (train, validation) = make(), data()
    finetune(model, train, Training(steps=150, learning_rate=1e-2), **more)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    run = tmp_path / "run"
    given = {"device": tiny.DEVICE, "formats": tiny.FORMATS, "settings": tiny.settings(rounds=1), **more}
    found = bitq.search(model, train, validation, run=run, listener=Silent(), **given)
    assert type(model) is make
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    plan = load_plan(run / "plan.json")
    assert plan == found.plan
    assert plan.stays_float == ()
    products = [layer for layer in plan.layers if layer.weight_is_parameter is False]
    calls = [computed for computed in plan.products().values() if isinstance(computed, Call)]
    assert [layer.computed_by.call for layer in products] == calls
    assert all(None not in (layer.input, layer.weight, layer.output) for layer in products)
    assert {layer.module.rpartition(".")[0] for layer in products} == (
        {"block", "encoder.self_attn"} if name == "vision" else {"block"}
    )
    float32, reached = found.rows[0], found.rows[-1]
    assert reached.movement_bits < 0.5 * float32.movement_bits
    assert reached.accuracy > float32.accuracy - 0.1

    own = make()
    load_quantized(own, run)
    inputs = next(iter(validation))[0]
    assert torch.equal(own(inputs), found.model(inputs))
    packed = load_weights(run / "weights.safetensors")
    assert packed.keys() == model.state_dict().keys()
    if name == "vision":
        (projection,) = (layer for layer in plan.layers if layer.parameter)
        assert projection.module == "encoder.self_attn.in_proj"
        assert projection.parameter == "encoder.self_attn.in_proj_weight"
        weight = packed[projection.parameter]
        assert torch.equal(quantize(weight, projection.weight.format, 1), weight)
    again = bitq.search(model, train, validation, run=run, listener=Silent(), **given)  # from its store
    assert again.plan == plan
    assert "matmul" in (run / "report.html").read_text()
