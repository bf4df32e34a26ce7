"""What layers store: where in a network's code it comes out, and that all goes on from it, quantized once."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

import bitq
import tiny
from bitq.accuracy.quantized import apply, observing, restore, set_formats
from bitq.accuracy.sensitivity import perturbations
from bitq.calls import Call
from bitq.errors import BitqError
from bitq.formats import TensorFormats, parse_format
from bitq.numerics import quantize
from bitq.progress import Silent
from bitq.tracing import record
from bitq.tradeoff.plan import load_plan
from bitq.tradeoff.weights import load_quantized

FORMAT = parse_format("7:e3:b4")
UNSIGNED = parse_format("n3:e3:b4")


class Net(nn.Module):
    """Three layers on 8 channels, and what goes on between them."""

    def __init__(self, between):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.norm, self.act, self.drop = nn.BatchNorm2d(8), nn.ReLU(inplace=True), DropPath()
        self.between = between

    def forward(self, x):
        return self.between(self, x)


class DropPath(nn.Module):
    """Calls functions in training that it does not call in evaluation, as that of timm does."""

    def forward(self, x):
        return x * torch.ones(1).mul(2).div(2) if self.training else x


def points(between):
    return record(Net(between), torch.empty(2, 8, 5, 5)).points


def swish(x):
    return x * torch.sigmoid(x)


def shifted(x):
    """Of the same shape, by an operator that is not elementwise."""
    return functional.pad(x[:, :4], (0, 0, 0, 0, 2, 2))


def attended(net, x):
    """A sum that waits for what is made of all of the layer's result."""
    y = net.a(x)
    return net.c((y + functional.interpolate(functional.avg_pool2d(y, 5), 5)).relu())


def preactivated(net, x):
    y = x + net.a(torch.tanh(x))
    z = y + net.b(torch.tanh(y))
    return z + net.c(torch.relu(net.norm(z)))


def two_activations(net, x):
    y = net.a(x)
    return net.b(torch.relu(y)) + net.c(torch.tanh(y))


def gated(net, x):
    y = torch.relu(net.a(x))
    return net.c(y * torch.sigmoid(net.b(y.mean((2, 3), keepdim=True))))


def twice(net, x):
    return net.b(torch.relu(net.a(torch.relu(net.a(x)))))


def once_bare(net, x):
    return net.b(net.a(torch.relu(net.a(x))))


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        (lambda net, x: net.b(net.a(x)), {}),
        (lambda net, x: net.b(net.act(net.norm(net.a(x)))), {"a": [("act", "relu", 0)]}),
        (lambda net, x: net.b(functional.relu(net.a(x)).relu_()), {"a": [("", "relu_", 0)]}),
        (lambda net, x: net.b(functional.max_pool2d(net.a(x).relu(), 2)), {"a": [("", "relu", 0)]}),
        (lambda net, x: net.b(swish(net.a(x))), {"a": [("", "mul", 0)]}),
        (lambda net, x: net.b(functional.hardswish(net.a(x))), {"a": [("", "hardswish", 0)]}),
        (lambda net, x: net.b(functional.dropout(net.a(x).relu(), 0.5, net.training)), {"a": [("", "relu", 0)]}),
        (lambda net, x: net.a(x).relu(), {"a": [("", "relu", 0)]}),
        (lambda net, x: net.b(torch.cat([net.a(x).relu()[:, 4:], x[:, :4]], 1)), {"a": [("", "relu", 0)]}),
        (lambda net, x: net.c((net.a(x) + net.b(x)).relu()), {"b": [("", "relu", 0)]}),
        (lambda net, x: net.c(net.act(net.drop(net.a(x)) + x)), {"a": [("act", "relu", 0)]}),
        (lambda net, x: net.c((net.a(x) + shifted(x)).relu()), {"a": [("", "relu", 0)]}),
        (lambda net, x: net.c((net.a(x) + shifted(net.b(x))).relu()), {}),
        (lambda net, x: net.c(net.a(x) + functional.interpolate(x, scale_factor=1)), {"a": [("", "add", 0)]}),
        (attended, {}),
        (preactivated, {"a": [("", "add", 0)], "b": [("", "add", 1)], "c": [("", "add", 2)]}),
        (two_activations, {"c": [("", "add", 0)]}),
        (gated, {"a": [("", "relu", 0)], "b": [("", "sigmoid", 0)]}),
        (twice, {"a": [("", "relu", 0), ("", "relu", 1)]}),
        (once_bare, {}),
    ],
)
def test_what_is_stored_is_the_last_that_all_else_follows_from(between, expected):
    found = points(between)
    assert found == {name: tuple(Call(*call) for call in calls) for name, calls in expected.items()}


def test_rows_of_a_sequence_are_stored_like_rows():
    """Linear layers compute on the rows of what they are given, in another shape."""
    model = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 4))
    traced = record(model, torch.empty(2, 3, 8))
    assert traced.points == {"0": (Call("1", "gelu", 0),)}
    assert traced.stored == ((("0", "output"), ("2", "input")),)


def planned(between, formats, seed=0, size=(4, 8, 5, 5)):
    """A network in formats, its float twin, and an input."""
    torch.manual_seed(seed)
    model, x = Net(between).eval(), torch.randn(size)
    model.norm.running_mean.normal_()
    twin, traced = copy.deepcopy(model), record(model, x)
    names = list(dict.fromkeys(layer.module for layer in traced.layers))
    with torch.no_grad(), observing(model, names, points=traced.points) as seen:
        model(x)
    apply(model, dict.fromkeys(names, formats), seen, points=traced.points)
    return model, twin, x


def residual(net, x):
    y = net.act(net.norm(net.a(x)))
    return net.c((net.b(y) + y).relu())


def by_hand(twin, x, fmt):
    """`residual` of a float network with one format for all tensors, written out."""

    def q(t):
        return quantize(t, fmt, 1)

    def layer(conv, t):
        weight = quantize(conv.weight, fmt, dim=1, inner_dims=(2, 3))
        return functional.conv2d(t, weight, conv.bias, padding=conv.padding)

    y = q(torch.relu(twin.norm(layer(twin.a, q(x)))))
    z = q(torch.relu(layer(twin.b, y) + y))
    return q(layer(twin.c, z))


def test_all_goes_on_from_what_is_stored():
    """The sum takes the stored tensor, too; nothing is quantized before the activation function."""
    torch.manual_seed(0)
    model, x = Net(residual).eval(), torch.randn(4, 8, 5, 5)
    twin, traced = copy.deepcopy(model), record(model, x)
    apply(model, {name: TensorFormats(FORMAT, FORMAT, FORMAT) for name in "abc"}, points=traced.points)
    assert torch.equal(model(x), by_hand(twin, x, FORMAT))
    with torch.inference_mode():
        assert torch.equal(model(x), by_hand(twin, x, FORMAT))


def test_gradients_go_straight_through_what_is_stored():
    model, twin, x = planned(residual, TensorFormats(FORMAT, None, FORMAT))
    plain, traced = copy.deepcopy(twin), record(twin, x)
    apply(plain, {name: TensorFormats(None, None, None) for name in "abc"}, points=traced.points)
    model.train(), plain.train()
    for net in (model, plain):
        net(x).sum().backward()
    assert model.a.weight.grad.isfinite().all()
    rounded = model.a.weight.grad - plain.a.weight.grad
    assert 0 < rounded.norm() < 0.5 * plain.a.weight.grad.norm()


def test_a_reader_takes_what_is_stored_as_it_is():
    """Drawn anew, it would be another one."""
    drawn = parse_format("6:e3:b4:stochastic")
    model, *_, x = planned(lambda net, x: net.b(net.a(x).relu()), TensorFormats(drawn, None, drawn))
    read = []
    model.b.register_forward_hook(lambda layer, args, y: read.append(args[0]))
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(model(x))
    assert torch.equal(*outputs)
    assert torch.equal(quantize(read[0], parse_format("6:e3:b4"), 1), read[0])
    set_formats(model, {"b": TensorFormats(None, None, drawn)})
    torch.manual_seed(3)
    assert torch.equal(model(x), outputs[0])  # whether or not its input has a format


def test_a_reader_of_another_format_quantizes_again():
    coarse = parse_format("4:e2:b4")
    model, *_, x = planned(lambda net, x: net.b(net.a(x).relu()), TensorFormats(FORMAT, None, FORMAT))
    before = model(x)
    set_formats(model, {"b": TensorFormats(coarse, None, FORMAT)})
    assert not torch.equal(model(x), before)


def test_what_is_written_to_in_place_is_stored_no_more():
    def between(net, x):
        y = net.a(x).relu()
        early = net.b(y)
        y += 0.37
        return net.c(y) + early

    for mode in (torch.no_grad(), torch.inference_mode()):
        model, _, x = planned(between, TensorFormats(FORMAT, None, None))
        read = []
        model.c.register_forward_hook(lambda layer, args, y, read=read: read.append(args[0]))
        plain = copy.deepcopy(model)
        set_formats(plain, {"c": TensorFormats()})
        with mode:
            assert not torch.equal(model(x), plain(x))


def test_it_is_copied_pickled_and_restored():
    model = tiny.network().eval()
    model[1].running_var.fill_(3.0)
    x = torch.randn(3, 1, 8, 8)
    traced, float_output, keys = record(model, x), model(x), list(model.state_dict())
    kind = type(model)
    fine = parse_format("12:e4:b4")
    apply(model, {name: TensorFormats(fine, fine, fine) for name in ("0", "3", "8")}, points=traced.points)
    assert isinstance(model, kind)
    assert list(model.state_dict()) == keys
    expected = model(x)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
    assert torch.equal(torch.export.export(model, (x,)).module()(x), expected)
    assert torch.equal(torch.compile(model, backend="aot_eager")(x), expected)
    apply(model, {}, points={})
    assert type(model) is kind
    assert not torch.equal(model(x), expected)  # each layer stores its own result
    restore(model)
    assert torch.equal(model(x), float_output)


def test_a_layer_called_on_its_own_stores_its_own_result():
    model, _, x = planned(residual, TensorFormats(None, None, FORMAT))
    own = model.a(x)
    assert torch.equal(quantize(own, FORMAT, 1, exponent_bias=model.a._bitq.output.exponent_bias), own)


def test_a_network_that_goes_another_way_is_told():
    def between(net, x):
        return net.b(torch.tanh(net.a(x)) if net.astray else net.a(x).relu())

    Net.astray = False
    try:
        model, _, x = planned(between, TensorFormats(FORMAT, None, FORMAT))
        model(x)
        model.astray = True
        with pytest.raises(BitqError, match="goes on from module 'a' in another way than when it was traced"):
            model(x)
        other = Net(between)
        other.astray = True
        with (
            pytest.raises(BitqError, match="goes on from module 'a' in another way"),
            observing(other, ["a", "b"], points=record(Net(between), x).points),
        ):
            other(x)
    finally:
        del Net.astray


def test_functions_called_in_training_alone_change_nothing():
    def between(net, x):
        y = net.a(x).relu()
        return net.c(net.act(net.drop(net.b(y)) + y * 1))

    model, _, x = planned(between, TensorFormats(FORMAT, FORMAT, FORMAT))
    expected = model(x)
    model.train()
    model.norm.eval()
    assert torch.equal(model(x), expected)


def test_a_negative_number_in_what_has_no_sign_is_told_once():
    model, _, x = planned(lambda net, x: net.b(net.a(x).relu()), TensorFormats(None, None, None))
    set_formats(model, {"a": TensorFormats(UNSIGNED, None, None)})
    with pytest.warns(UserWarning, match="the input of module 'a' has a negative number, which n3:e3:b4 takes for 0"):
        model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(x)
        set_formats(model, {"b": TensorFormats(UNSIGNED, None, None)})
        model(x)


def test_the_error_of_a_stored_tensor_is_counted_once():
    """Where it is made; its readers add nothing, but one that reads it changed counts its own."""

    def between(net, x):
        y = net.act(net.norm(net.a(x)))
        return net.c(functional.max_pool2d(net.b(y) + y, 2)).mean((2, 3))

    torch.manual_seed(0)
    model, x = Net(between), torch.randn(6, 8, 5, 5)
    data = [(x, torch.arange(6) % 8)]
    traced = record(model, x)
    wanted = (parse_format("4:e2:b4"), parse_format("7:e2:b4"))
    found = perturbations(
        model, "abc", lambda *_: wanted, {}, data, functional.cross_entropy, points=traced.points
    )
    assert set(found["b"]["input"].values()) == {0.0}
    for name, tensor in (("a", "input"), ("a", "output"), ("b", "output"), ("c", "input"), ("c", "output")):
        assert found[name][tensor][wanted[0]] > found[name][tensor][wanted[1]] > 0
    paper = perturbations(model, "abc", lambda *_: wanted, {}, data, functional.cross_entropy)
    assert paper["b"]["input"][wanted[0]] > 0
    assert paper["b"]["weight"] == found["b"]["weight"]
    assert paper["a"]["output"] != found["a"]["output"]


def test_a_plan_says_where_its_tensors_are_stored(tmp_path):
    given = {"device": tiny.DEVICE, "formats": tiny.FORMATS, "settings": tiny.settings(), "listener": Silent()}
    found = bitq.search(tiny.trained(), *tiny.loaders(), run=tmp_path, **given)
    plan = load_plan(tmp_path / "plan.json")
    assert plan.points() == {"0": (Call("2", "relu", 0),), "3": (Call("5", "relu", 0),)}
    written, read = (next(layer for layer in plan.layers if layer.module == name) for name in ("0", "3"))
    assert read.input == written.output
    again = tiny.network()
    load_quantized(again, tmp_path)
    images, _ = tiny.images(50, 9)
    with torch.inference_mode():
        assert torch.equal(again(images), found.model(images))
