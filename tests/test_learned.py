"""Learned ranges: gradients against LSQ by hand and finite differences; what is kept computes what was trained."""

import copy
from math import sqrt

import pytest
import torch
from torch import nn

import tiny
from bitq import parse_format, quantize
from bitq.accuracy.finetune import Training, finetune
from bitq.accuracy.learned import has_reach, quantized_within, reach_of, shares_reach, weight_within
from bitq.accuracy.learning import clip_weights, learning_ranges
from bitq.accuracy.quantized import apply, calibration, is_quantized, observing, quantized_layers, restore
from bitq.accuracy.ranges import Samples, WeightRows, fitted
from bitq.formats import Ranges, TensorFormats

ACTIVATIONS = ("i4:f32:tensor", "s3:f32:tensor", "n3:f32:tensor", "e2m1:f32:tensor", "fp8e4m3")
EXPONENTS = ("n4:e2*f32:b4", "5:e2*f32:b16")


def log(value):
    return torch.tensor(value).log().requires_grad_()


def lsq(x, s, largest, negative):
    """y and dy/ds of one element, as Esser et al. (2020), Eq. 3 and 5, have them for integers."""
    v = x / s
    low = -largest if negative else 0
    if v >= largest:
        return largest * s, largest
    if v <= low:
        return low * s, low
    return round(v) * s, round(v) - v


@pytest.mark.parametrize("text", ["i4:f32:tensor", "s3:f32:tensor", "n3:f32:tensor"])
def test_the_gradient_is_that_of_lsq(text):
    torch.manual_seed(0)
    fmt, x, given = parse_format(text), torch.randn(40, 4, requires_grad=True), torch.randn(40, 4)
    reach = log(1.3)
    y = quantized_within(x, reach, fmt, 1)
    y.backward(given)
    s = 1.3 / fmt.largest
    slope = 0.0
    for value, out, weight, passed in zip(
        *(each.flatten().tolist() for each in (x, y, given, x.grad)), strict=True
    ):
        by_hand, by_scale = lsq(value, s, fmt.largest, not fmt.never_negative)
        assert out == pytest.approx(by_hand, rel=1e-5, abs=1e-6)
        slope += weight * by_scale
        inside = (0 if fmt.never_negative else -1.3) <= value <= 1.3
        assert passed == (weight if inside else 0)
    assert float(reach.grad) == pytest.approx(slope * s, rel=1e-4)  # dL/dlog a = dL/ds · s


@pytest.mark.parametrize("text", [*ACTIVATIONS, *EXPONENTS])
def test_beyond_the_range_the_gradient_is_the_slope(text):
    """There y is ±a, so that finite differences have a meaning."""
    fmt = parse_format(text)
    x, reach = torch.tensor([[3.0, 2.0, 5.0, 4.0]]), log(1.0)
    x = x if fmt.never_negative else x * torch.tensor([1, -1, 1, -1])
    weights = torch.tensor([[1.0, 2.0, -4.0, 8.0]])
    (quantized_within(x, reach, fmt, 1) * weights).sum().backward()
    values = [
        float((quantized_within(x, torch.tensor(end), fmt, 1) * weights).double().sum()) for end in (-1e-2, 1e-2)
    ]
    assert float(reach.grad) == pytest.approx((values[1] - values[0]) / 2e-2, rel=1e-3)


@pytest.mark.parametrize("text", [*ACTIVATIONS, *EXPONENTS])
def test_the_gradient_by_the_range_and_by_x_are_that_of_growing_together(text):
    """Y(c·x, c·a) = c·y: the slopes by log a and by x, straight through, add up to that of c."""
    torch.manual_seed(1)
    fmt, x, given, reach = parse_format(text), torch.randn(8, 16, requires_grad=True), torch.randn(8, 16), log(0.7)
    y = quantized_within(x, reach, fmt, 1)
    y.backward(given)
    found, right = reach.grad + (x.grad * x).sum(), (y * given).sum()
    assert found.item() == pytest.approx(right.item(), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("text", [*ACTIVATIONS, *EXPONENTS])
def test_values_are_those_of_quantize_to_the_bit(text):
    torch.manual_seed(2)
    fmt, x, reach = parse_format(text), torch.randn(8, 16, 3, 3), torch.tensor(0.3)
    a = reach_of(reach)
    assert torch.equal(quantized_within(x, reach, fmt, 1), quantize(x, fmt, 1, tensor_range=(-a, a)))


WEIGHTS = ("i4:f32:channel", "i3:f32:tensor", "e2m1:f32:b4", "nvfp4")


@pytest.mark.parametrize("text", WEIGHTS)
def test_a_weights_blocks_have_gradients_of_their_own(text):
    torch.manual_seed(0)
    layer, fmt = nn.Conv2d(8, 4, 3), parse_format(text)
    weight = layer.weight
    at = WeightRows.of(layer, weight, fmt)
    peaks = at.arranged(weight.detach()).abs().amax(1, keepdim=True)
    reach = (peaks * 0.5).log().requires_grad_()
    given = torch.randn(weight.shape)
    y = weight_within(layer, weight, reach, fmt)
    y.backward(given)
    rows, grads, values = (at.arranged(each.detach()) for each in (weight, given, y))
    inside = rows.abs() <= (peaks * 0.5).log().exp()
    assert torch.equal(at.arranged(weight.grad), grads * inside)
    slow = [
        sum(
            g * (q - (v if kept else 0.0))
            for g, q, v, kept in zip(*(each[block].tolist() for each in (grads, values, rows, inside)), strict=True)
        )
        for block in range(len(rows))
    ]
    assert reach.grad.flatten().tolist() == pytest.approx(slow, rel=1e-3, abs=1e-4)


def test_exponents_under_one_float_have_one_range():
    torch.manual_seed(0)
    layer, fmt = nn.Conv2d(8, 4, 3), parse_format("6:e2*f32:b2")
    at = WeightRows.of(layer, layer.weight, fmt)
    rows = at.arranged(layer.weight.detach())
    limit = at.limits(rows)
    assert limit.shape == (1, 1)
    errors = [
        (weight_within(layer, layer.weight, log(float(limit) * factor).view(1, 1), fmt) - layer.weight).square().sum()
        for factor in (0.7, 1.0, 1.4)
    ]
    assert min(errors) == errors[1]
    reach = (limit * 0.5).log().requires_grad_()
    given = torch.randn(layer.weight.shape)
    y = weight_within(layer, layer.weight, reach, fmt)
    a = float(reach.detach().exp())
    assert torch.equal(y, quantize(layer.weight, fmt, 1, (2, 3), tensor_range=(-a, a)))
    y.backward(given)
    total = reach.grad.sum() + (layer.weight.grad * layer.weight).sum()
    assert float(total.detach()) == pytest.approx(float((y * given).sum().detach()), rel=1e-3)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_a_weight_keeps_its_layout(order):
    """Convolutions give it to what they compute, which other layouts make slower to quantize."""
    layer, fmt = nn.Conv2d(32, 8, 3).to(memory_format=order), parse_format("nvfp4")
    reach = WeightRows.of(layer, layer.weight, fmt)
    limits = reach.limits(reach.arranged(layer.weight.detach())).log()
    assert weight_within(layer, layer.weight, limits, fmt).stride() == layer.weight.stride()


def test_beyond_its_largest_number_a_block_counts_as_it_is():
    torch.manual_seed(0)
    layer, fmt = nn.Linear(8, 3), parse_format("i4:f32:channel")
    reach = torch.full((3, 1), 9.0).requires_grad_()
    y = weight_within(layer, layer.weight, reach, fmt)
    assert torch.equal(y, quantize(layer.weight, fmt, 1))
    y.square().sum().backward()
    assert torch.equal(reach.grad, torch.zeros(3, 1))


@pytest.mark.parametrize(
    ("text", "has", "shares"),
    [
        *(("i4:f32:tensor", True, True), ("i4:f32:channel", True, False), ("nvfp4", True, False)),
        *(("5:e2*f32:b16", True, True), ("l(-1;0;1):e2*f32:b16", False, False)),
        *(("fp8e4m3", True, True), ("u8:f32:tensor", False, False), ("mxint8", False, False)),
        *(("8:e3:b16", False, False), ("bf16", False, False), ("bsfp", False, False)),
        ("l(-4;-1;0;1;4):f32:tensor", False, False),
    ],
)
def test_which_formats_have_a_range_to_learn(text, has, shares):
    fmt = parse_format(text)
    assert (has_reach(fmt), shares_reach(fmt)) == (has, shares)


# In a network


PLANS = {
    "integers": ("i4:f32:channel", "n4:f32:tensor", "i8:f32:tensor"),
    "floats": ("e2m1:f32:tensor", "e4m3:f32:tensor", "e4m3:f32:tensor"),
    "blocks": ("7:e4:b4", "n3:e3:b4", None),
    "mixed": ("nvfp4", "n4:f32:tensor", "8:e3:b4"),
    "exponents": ("6:e2*f32:b4", "n4:e2*f32:b4", "9:e3*f32:b4"),
}


def planned(name, model=None):
    """A network in formats, calibrated by least squares."""
    model = tiny.trained(steps=20) if model is None else model
    weight, inner, output = (each and parse_format(each) for each in PLANS[name])
    names, samples = ["0", "3", "8"], Samples()
    with torch.no_grad(), observing(model, names, samples=samples) as seen:
        model(tiny.images(64, 5)[0])
    formats = {"0": TensorFormats(None, weight, output)} | {
        each: TensorFormats(inner, weight, output) for each in names[1:]
    }
    apply(model, formats, fitted(samples, formats, seen))
    return model


@pytest.mark.parametrize("name", PLANS)
def test_what_was_trained_is_what_is_kept(name):
    model = planned(name)
    x, y = tiny.images(64, 6)
    with learning_ranges(model) as learned:
        optimizer = torch.optim.AdamW([*model.parameters(), *learned], lr=1e-2)
        for _ in range(10):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        model.eval()
        inside = model(x)
    assert torch.equal(model(x), inside)
    assert all(not layer._bitq.reaches and not layer._bitq.clipping for _, layer in quantized_layers(model))
    state, formats = model.state_dict(), {key: layer._bitq.formats for key, layer in quantized_layers(model)}
    again = tiny.network()
    again.load_state_dict(state)
    apply(again, formats, calibration(model))
    assert torch.equal(again.eval()(x), inside)


@pytest.mark.parametrize("name", ["integers", "floats", "exponents"])
def test_ranges_are_learned(name):
    model = planned(name)
    before = calibration(model)
    finetune(model, tiny.loader(500, 1), Training(steps=10, learning_rate=1e-3))
    after = calibration(model)
    assert all(after[key].output != before[key].output for key in after)
    assert all(after[key].input[0] == 0 for key in ("3", "8"))  # never negative before, and not now
    assert after["3"].input[1] != before["3"].input[1]


def test_a_range_that_is_too_wide_is_found_back():
    """From four times the maximum down to where the gradient vanishes."""
    torch.manual_seed(0)
    model, fmt = nn.Sequential(nn.Linear(16, 16, bias=False)), parse_format("i5:f32:tensor")
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(16))
    x = torch.randn(512, 16)
    apply(model, {"0": TensorFormats(fmt)}, {"0": calibrated(x, 4)})
    model.requires_grad_(False)
    with learning_ranges(model) as learned:
        assert len(learned) == 1
        optimizer = torch.optim.AdamW(learned, lr=2e-2, weight_decay=0.0)
        for _ in range(800):
            optimizer.zero_grad()
            (model(x) - x).square().mean().backward()
            optimizer.step()


    def slope(a):
        """By hand, of the squared error by log a: what is rounded asks for less, what is clipped for more."""
        y = quantize(x, fmt, 1, tensor_range=(-a, a))
        return float(torch.where(x.abs() <= a, (y - x).square(), (a - x.abs()) * a).sum())

    still = max(a for a in (step / 200 for step in range(200, 800)) if slope(a) < 0)
    assert calibration(model)["0"].input[1] == pytest.approx(still, rel=0.03)


def calibrated(x, factor):
    reach = float(x.abs().max()) * factor
    return Ranges((-reach, reach), None)


def test_a_weight_that_something_else_reads_is_not_clipped():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(10, 8)
            self.own, self.head = nn.Linear(8, 8, bias=False), nn.Linear(8, 10, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(self.own(self.embed(x)))

    for text, row in (("7:e4:b4", [1.05, 0.7, 0.7, 0.7] * 2), ("i3:f32:channel", [1.05, *[0.9] * 7])):
        model = Tied()
        with torch.no_grad():
            model.own.weight.copy_(torch.tensor(row).expand(8, 8))
            model.head.weight.copy_(torch.tensor(row).expand(10, 8))
        fmt = TensorFormats(None, parse_format(text))
        apply(model, {"own": fmt, "head": fmt})
        before = copy.deepcopy(model.state_dict())
        clip_weights(model)
        with learning_ranges(model):
            pass
        assert torch.equal(model.head.weight, before["head.weight"])
        assert not torch.equal(model.own.weight, before["own.weight"])


def test_frozen_weights_stay():
    model = planned("integers").requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    clip_weights(model)
    with learning_ranges(model):
        pass
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_new_formats_end_what_is_learned():
    model = planned("integers")
    with learning_ranges(model):
        layer = model[3]
        assert set(layer._bitq.reaches) == {"input", "weight", "output"}
        apply(model, {"3": TensorFormats()})
        assert not layer._bitq.reaches
    assert layer._bitq.formats == TensorFormats()


def test_a_failure_leaves_no_range_half_learned():
    model = planned("integers")
    before = calibration(model)
    with pytest.raises(KeyError), learning_ranges(model):
        raise KeyError
    assert calibration(model) == before
    assert all(is_quantized(layer) and not layer._bitq.reaches for _, layer in quantized_layers(model))
    restore(model)


def test_a_network_that_learns_can_be_copied():
    model, x = planned("integers"), tiny.images(8, 1)[0]
    with learning_ranges(model):
        assert torch.equal(copy.deepcopy(model).eval()(x), model.eval()(x))


def test_nothing_is_kept_of_a_range_but_x():
    """Memory for backward: the input of the layer, and no quantized copy beside it."""
    fmt, x = parse_format("i4:f32:tensor"), torch.randn(64, 64, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        quantized_within(x, log(1.0), fmt, 1)
    assert sum(kept) <= x.numel() + sqrt(x.numel())
