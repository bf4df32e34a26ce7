"""A network whose layers were made to quantize, against the same layers quantized by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from bitq.accuracy.quantized import MaxAbs, Ranges, apply, observing, restore, set_formats, weight_in_use
from bitq.errors import BitqError
from bitq.formats import BlockFormat, TensorFormats
from bitq.numerics import exponent_bias_for, quantize

FORMATS = TensorFormats(BlockFormat(8, 3, 4), BlockFormat(8, 2, 2), BlockFormat(8, 4, 8))
OTHER = TensorFormats(BlockFormat(16, 3, 16), BlockFormat(8, 5, 1), None)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(7)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.again = self.stem
        self.body = nn.Sequential(
            nn.Conv2d(6, 6, 3, groups=2), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, stride=2)
        )
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        return self.head(self.body(x).mean((2, 3)))


NAMES = ("stem", "body.0", "body.2", "head")


def by_hand(layer, x, formats, max_abs, weight):
    """The layer's own function between activations quantized along `axis`."""
    axis = x.ndim - 1 if isinstance(layer, nn.Linear) else x.ndim - 1 - len(layer.kernel_size)

    def activation(t, fmt, largest):
        return quantize(t, fmt, axis, (), None if largest is None else exponent_bias_for(largest, fmt))

    plain = copy.deepcopy(layer)
    plain.weight = nn.Parameter(weight.detach())
    return activation(plain(activation(x, formats.input, max_abs.input)), formats.output, max_abs.output)


LAYERS = {
    "linear": (nn.Linear(10, 7), (3, 10)),
    "linear of tokens": (nn.Linear(10, 7, bias=False), (2, 3, 10)),
    "linear of a vector": (nn.Linear(10, 7), (10,)),
    "conv": (nn.Conv2d(10, 7, 3), (2, 10, 6, 6)),
    "conv without batch": (nn.Conv2d(10, 7, 3), (10, 6, 6)),
    "circular": (nn.Conv2d(10, 7, 3, padding=1, padding_mode="circular"), (2, 10, 6, 6)),
    "same": (nn.Conv2d(10, 7, (3, 2), padding="same", dilation=2), (2, 10, 6, 6)),
    "grouped": (nn.Conv2d(10, 6, (3, 1), groups=2), (2, 10, 6, 6)),
    "depthwise": (nn.Conv2d(10, 20, 3, groups=10), (2, 10, 6, 6)),
    "1-D": (nn.Conv1d(10, 7, 5, stride=2), (2, 10, 9)),
    "1-D without batch": (nn.Conv1d(10, 7, 5), (10, 9)),
    "transposed": (nn.ConvTranspose2d(10, 7, 3, stride=2), (2, 10, 4, 4)),
    "transposed in groups": (nn.ConvTranspose2d(10, 6, 3, groups=2), (2, 10, 4, 4)),
    "transposed 1-D": (nn.ConvTranspose1d(10, 7, 3), (2, 10, 4)),
}


def weight_by_hand(layer, fmt):
    """One output channel after the other, its input channels first."""
    w = layer.weight.detach()
    bias = exponent_bias_for(w, fmt)
    result = torch.empty_like(w)
    if not isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d):
        for k in range(w.shape[0]):
            result[k] = quantize(w[k], fmt, 0, tuple(range(1, w.ndim - 1)), bias)
        return result
    size = w.shape[0] // layer.groups
    for g in range(layer.groups):
        for k in range(w.shape[1]):
            rows = slice(g * size, (g + 1) * size)
            result[rows, k] = quantize(w[rows, k], fmt, 0, tuple(range(1, w.ndim - 1)), bias)
    return result


@pytest.mark.parametrize("max_abs", [MaxAbs(), MaxAbs(1.5, 0.7)], ids=["own bias", "calibrated"])
@pytest.mark.parametrize("kind", LAYERS)
def test_each_layer_equals_itself_quantized_by_hand(kind, max_abs):
    layer, shape = LAYERS[kind]
    layer = copy.deepcopy(layer)
    with torch.no_grad():
        layer.weight.mul_(torch.randn_like(layer.weight).mul(3).exp2())
    model = nn.Sequential(copy.deepcopy(layer))
    x = torch.randn(shape) * torch.randn(shape).mul(2).exp2()
    expected = by_hand(layer, x, FORMATS, max_abs, weight_by_hand(layer, FORMATS.weight))
    apply(model, {"0": FORMATS}, {"0": max_abs})
    assert torch.equal(weight_in_use(model[0]), weight_by_hand(layer, FORMATS.weight))
    assert model[0].weight is model[0]._parameters["weight"]
    assert torch.equal(model(x), expected)
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(model(x), expected)
    assert not torch.equal(expected, layer(x))


def test_the_network_stays_what_it_was():
    model, x = Net().eval(), torch.randn(2, 3, 8, 8)
    before = copy.deepcopy(model)
    expected, repr_before = model(x), repr(model)
    names = [name for name, _ in model.named_modules()]
    parameters = dict(model.named_parameters())
    classes = [type(m) for m in model.modules()]
    apply(model, dict.fromkeys(NAMES, FORMATS))
    assert [name for name, _ in model.named_modules()] == names
    now = dict(model.named_parameters())
    assert now.keys() == parameters.keys()
    assert all(now[name] is parameters[name] for name in parameters)
    assert model.state_dict().keys() == before.state_dict().keys()
    assert all(isinstance(m, c) for m, c in zip(model.modules(), classes, strict=True))
    assert not torch.equal(model(x), expected)
    model.load_state_dict(before.state_dict())
    restore(model)
    assert torch.equal(model(x), expected)
    assert [type(m) for m in model.modules()] == classes
    assert repr(model) == repr_before
    assert all(
        vars(a).keys() == vars(b).keys() for a, b in zip(model.modules(), before.modules(), strict=True)
    )


def test_without_formats_nothing_changes():
    model, x = Net().eval(), torch.randn(2, 3, 8, 8)
    expected = model(x)
    apply(model, dict.fromkeys(NAMES, TensorFormats()), dict.fromkeys(NAMES, MaxAbs(1.0, 1.0)))
    assert torch.equal(model(x), expected)
    assert model.stem.weight is model.stem._parameters["weight"]


def test_formats_change_between_passes_and_leave_no_trace():
    model, x = Net().eval(), torch.randn(2, 3, 8, 8)
    apply(model, dict.fromkeys(NAMES, FORMATS))
    with torch.no_grad():
        first = model(x)
        set_formats(model, {"body.0": OTHER, "head": TensorFormats(weight=OTHER.weight)})
        assert not torch.equal(model(x), first)
        set_formats(model, {"body.0": FORMATS, "head": FORMATS})
        assert torch.equal(model(x), first)


def permuted(weight):
    weight.data.copy_(weight.detach().flatten()[torch.randperm(weight.numel())].view_as(weight))


def exchanged(weight):
    """Two rows change places: every sum over elements, or over pairs of them, stays."""
    rows = weight.detach().clone()
    weight.data[0], weight.data[1] = rows[1], rows[0]


def replaced(weight):
    weight.data = torch.randn_like(weight)


CHANGES = {
    "a permutation behind autograd": permuted,
    "an exchange behind autograd": exchanged,
    "a sign behind autograd": lambda weight: weight.data[2, 1].neg_(),
    "other memory": replaced,
    "clipping": lambda weight: weight.clamp_(-0.1, 0.1),
    "an initialization": nn.init.xavier_uniform_,
    "a moving average": lambda weight: weight.lerp_(torch.randn_like(weight), 0.3),
    "a copy": lambda weight: weight.copy_(torch.randn_like(weight)),
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_written_to_the_weight_counts_and_stays(change, mode):
    model, x = nn.Sequential(nn.Linear(10, 8)), torch.randn(3, 10)
    layer, twin = model[0], copy.deepcopy(model[0])
    apply(model, {"0": TensorFormats(weight=FORMATS.weight)})
    with mode():
        for _ in range(2):
            model(x)
    state = torch.get_rng_state()
    with torch.no_grad():
        CHANGES[change](layer.weight)
    torch.set_rng_state(state)
    with torch.no_grad():
        CHANGES[change](twin.weight)
    with mode():
        y = model(x)
    assert torch.equal(layer.weight, twin.weight)
    assert torch.equal(model.state_dict()["0.weight"], twin.weight)
    assert torch.equal(y, F.linear(x, quantize(twin.weight.detach(), FORMATS.weight), twin.bias))


def test_other_weights_and_formats_count():
    model, x = nn.Sequential(nn.Linear(10, 7)), torch.randn(3, 10)
    layer = model[0]
    apply(model, {"0": TensorFormats(weight=FORMATS.weight)})

    def check(fmt=FORMATS.weight):
        weight = layer.weight
        assert weight is layer._parameters["weight"]
        expected = F.linear(x.to(weight), quantize(weight.detach(), fmt), layer.bias)
        assert torch.equal(model(x.to(weight)), expected)

    check()
    layer.weight = nn.Parameter(torch.randn(7, 10))
    check()
    model.bfloat16()
    check()
    model.float()
    check()
    set_formats(model, {"0": TensorFormats(weight=OTHER.weight)})
    check(OTHER.weight)
    model(x).sum().backward()
    torch.optim.SGD(model.parameters(), 0.5).step()
    check(OTHER.weight)


def test_inference_weights_are_quantized_too():
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(10, 7))
        apply(model, {"0": FORMATS})
        expected = quantize(model[0].weight, FORMATS.weight)
        assert torch.equal(weight_in_use(model[0]), expected)
        assert model(torch.randn(3, 10)).is_inference()


def test_training_moves_the_float_weights():
    model, x = Net(), torch.randn(4, 3, 8, 8)
    with observing(model, NAMES) as max_abs:
        model(x)
    apply(model, dict.fromkeys(NAMES, FORMATS), max_abs)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    target, losses = torch.randn(4, 5), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), target)
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert not torch.equal(model.stem.weight, weight_in_use(model.stem))


def test_gradient_of_a_layer_is_straight_through():
    layer, x = nn.Linear(10, 7), torch.randn(3, 10, requires_grad=True)
    model = nn.Sequential(layer)
    apply(model, {"0": TensorFormats(FORMATS.input, FORMATS.weight)})
    upstream = torch.randn(3, 7)
    model(x).backward(upstream)
    assert torch.equal(x.grad, upstream @ weight_in_use(layer))
    assert torch.equal(layer.weight.grad, upstream.T @ quantize(x.detach(), FORMATS.input))


def test_copies_are_independent():
    model, x = Net().eval(), torch.randn(2, 3, 8, 8)
    apply(model, dict.fromkeys(NAMES, FORMATS), dict.fromkeys(NAMES, MaxAbs(2.0, 3.0)))
    with torch.no_grad():
        expected = model(x)
        twin = copy.deepcopy(model)
        assert torch.equal(twin(x), expected)
        set_formats(twin, dict.fromkeys(NAMES, OTHER))
        assert not torch.equal(twin(x), expected)
        assert torch.equal(model(x), expected)
        restore(twin)
        assert torch.equal(model(x), expected)
    assert type(twin.stem) is nn.Conv2d


def test_observing_records_the_largest_of_all_passes():
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.ReLU(), nn.Linear(1, 1))
    model[0].weight.data = torch.tensor([[1.0, -2.0]])
    with observing(model, ["0", "2"]) as seen:
        assert seen == {}
        model(torch.tensor([[1.0, 3.0], [torch.nan, 50.0]]))
        assert seen["0"] == Ranges((0.0, 50.0), (-5.0, 0.0))
        model[0](input=torch.tensor([[torch.inf, -4.0]]))
        model[0](torch.zeros(0, 2))
    assert seen["0"] == Ranges((-4.0, 50.0), (-5.0, 0.0))
    assert seen["2"].input == (0.0, 0.0)
    model[0](torch.tensor([[1e6, 0.0]]))
    assert seen["0"] == Ranges((-4.0, 50.0), (-5.0, 0.0))
    assert not model[0]._forward_hooks


def test_observing_ends_with_an_error_too():
    model = nn.Sequential(nn.Linear(2, 1))
    with pytest.raises(RuntimeError), observing(model, ["0"]):
        model(torch.zeros(1, 3))
    assert not model[0]._forward_hooks


def test_calibration_follows_every_format():
    model, x = nn.Sequential(nn.Linear(10, 7)), torch.randn(5, 10)
    with observing(model, ["0"]) as max_abs:
        model(x)
    apply(model, {"0": TensorFormats(FORMATS.input)}, max_abs)
    for exponent_bits in range(2, 7):
        fmt = BlockFormat(8, exponent_bits, 2)
        set_formats(model, {"0": TensorFormats(fmt)})
        bias = exponent_bias_for(x, fmt)
        y = F.linear(quantize(x / 64, fmt, exponent_bias=bias), model[0].weight, model[0].bias)
        assert torch.equal(model(x / 64), y)
    apply(model, {"0": TensorFormats(fmt)})
    assert torch.equal(model(x / 64), y)


def test_a_plan_brings_its_calibration():
    class Plan:
        def formats(self):
            return {"0": FORMATS}

        def ranges(self):
            return {"0": Ranges((-0.25, 0.1), (0.0, 8.0))}

    models = [nn.Sequential(nn.Linear(10, 7)) for _ in range(4)]
    for model in models:
        model.load_state_dict(models[0].state_dict())
    x = torch.randn(5, 10)
    apply(models[0], Plan())
    apply(models[1], {"0": FORMATS}, {"0": MaxAbs(0.25, 8.0)})
    apply(models[2], Plan(), max_abs={"0": MaxAbs(3.0, 3.0)})
    apply(models[3], {"0": FORMATS}, max_abs={"0": MaxAbs(3.0, 3.0)})
    assert torch.equal(models[0](x), models[1](x))
    assert not torch.equal(models[2](x), models[1](x))
    assert torch.equal(models[2](x), models[3](x))


def test_shared_modules_are_one():
    model, x = Net().eval(), torch.randn(2, 3, 8, 8)
    apply(model, {"stem": FORMATS, "again": FORMATS})
    assert model.stem is model.again
    expected = quantize(F.conv2d(
        quantize(x, FORMATS.input), quantize(model.stem.weight, FORMATS.weight, 1, (2, 3)),
        model.stem.bias, padding=1,
    ), FORMATS.output)  # fmt: skip
    assert torch.equal(model.again(x), expected)
    with pytest.raises(BitqError, match="'stem' and 'again' are one module"):
        set_formats(model, {"stem": FORMATS, "again": OTHER})
    assert torch.equal(model.stem(x), expected)
    restore(model)
    assert type(model.again) is nn.Conv2d


def test_the_root_itself_can_be_quantized():
    layer, x = nn.Linear(4, 3), torch.randn(2, 4)
    apply(layer, {"": TensorFormats(FORMATS.input)})
    assert torch.equal(layer(x), F.linear(quantize(x, FORMATS.input), layer.weight, layer.bias))


def test_subclasses_that_make_their_own_weight():
    class Standardized(nn.Conv2d):
        def forward(self, x):
            w = self.weight
            return self._conv_forward(x, w - w.mean((1, 2, 3), keepdim=True), self.bias)

    model, x = nn.Sequential(Standardized(4, 3, 3)), torch.randn(2, 4, 5, 5)
    w = quantize(model[0].weight.detach(), FORMATS.weight, 1, (2, 3))
    apply(model, {"0": TensorFormats(weight=FORMATS.weight)})
    assert torch.equal(model(x), F.conv2d(x, w - w.mean((1, 2, 3), keepdim=True), model[0].bias))


def test_parametrized_weights():
    model, x = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3))), torch.randn(2, 4)
    w = quantize(model[0].weight.detach(), FORMATS.weight)
    apply(model, {"0": TensorFormats(weight=FORMATS.weight)})
    assert torch.equal(model(x), F.linear(x, w, model[0].bias))
    with torch.no_grad():
        assert torch.equal(model(x), F.linear(x, w, model[0].bias))
    restore(model)
    assert not torch.equal(model[0].weight, w)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere", "no module 'nowhere'"),
        ("norm", "is of class BatchNorm2d"),
        ("body.1", "is of class ReLU"),
        ("", "is of class Net"),
    ],
)
def test_wrong_names_are_told_and_nothing_changes(name, reason):
    model = Net()
    with pytest.raises(BitqError, match=reason):
        apply(model, {"stem": FORMATS, name: FORMATS})
    assert type(model.stem) is nn.Conv2d
    with pytest.raises(BitqError, match=reason), observing(model, [name]):
        pass


def test_what_cannot_be_quantized_is_told():
    model = Net()
    with pytest.raises(BitqError, match="'stem' is not quantized"):
        set_formats(model, {"stem": FORMATS})
    with pytest.warns(FutureWarning):
        hooked = nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 2)))
    with pytest.raises(BitqError, match="remove_weight_norm"):
        apply(hooked, {"0": FORMATS})
