"""Folded networks compute what they computed, and nothing is folded that something else needs."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import bitq
from bitq.errors import BitqError
from bitq.formats import BlockFormat, TensorFormats
from bitq.networks import resnet18
from bitq.tracing.folding import fold


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(5)


def lived_in(model):
    """A network in evaluation mode whose norms have seen something."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.1, 4)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model.eval()


class Halves(nn.Module):
    """As YOLOv8's C2f goes on from the parts of a tensor."""

    def __init__(self, cut):
        super().__init__()
        self.cut = cut
        self.first, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.inner, self.inner_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.last, self.last_norm = nn.Conv2d(12, 2, 1), nn.BatchNorm2d(2)

    def forward(self, x):
        y = list(self.cut(self.norm(self.first(x)).relu()))
        y.extend(inner(y[-1]) for inner in [lambda part: self.inner_norm(self.inner(part))])
        return self.last_norm(self.last(torch.cat(y, 1)))


CUTS = {
    "chunk": lambda x: x.chunk(2, 1),
    "chunk by name": lambda x: torch.chunk(x, dim=1, chunks=2),
    "split": lambda x: x.split((4, 4), 1),
    "split by name": lambda x: torch.split(x, split_size_or_sections=[4, 4], dim=1),
}


@pytest.mark.parametrize("name", CUTS)
def test_parts_of_a_tensor_are_followed(name):
    model, x = lived_in(Halves(CUTS[name])), torch.randn(2, 3, 4, 4)
    before = model(x)
    assert fold(model, x) == {"first": "norm", "inner": "inner_norm", "last": "last_norm"}
    assert torch.allclose(model(x), before, atol=1e-4)


LAYERS = {
    "conv": (nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), (2, 3, 8, 8)),
    "conv with bias": (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), (2, 3, 8, 8)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), (2, 4, 8, 8)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4, affine=False), (2, 4, 8, 8)),
    "1-D": (nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), (2, 3, 8)),
    "transposed": (nn.ConvTranspose2d(3, 6, 3), nn.BatchNorm2d(6), (2, 3, 8, 8)),
    "transposed in groups": (nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), (2, 4, 8, 8)),
    "transposed 1-D": (nn.ConvTranspose1d(3, 6, 3), nn.BatchNorm1d(6), (2, 3, 8)),
    "linear": (nn.Linear(5, 4), nn.BatchNorm1d(4), (3, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_take_their_norm_in(name):
    layer, norm, shape = copy.deepcopy(LAYERS[name])
    model, x = lived_in(nn.Sequential(layer, norm)), torch.randn(shape)
    exact = copy.deepcopy(model).double()(x.double())
    weight = model[0].weight
    assert fold(model, x) == {"0": "1"}
    assert type(model[1]) is nn.Identity
    assert model[0].weight is weight
    assert model[0].bias.requires_grad
    error = (model(x).double() - exact).abs().max() / exact.abs().max()
    assert error < 1e-6
    assert list(model.state_dict()) == ["0.weight", "0.bias"]


def test_a_whole_network():
    model, x = lived_in(resnet18()), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(x.double())
        before = (model(x).double() - exact).abs().max()
        folded = fold(model, x)
        assert len(folded) == 20
        assert folded["layer2.0.downsample.0"] == "layer2.0.downsample.1"
        after = (model(x).double() - exact).abs().max()
    assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert after < 4 * before
    fmt = BlockFormat(8, 4, 16)
    bitq.apply(model, dict.fromkeys(folded, TensorFormats(fmt, fmt, fmt)))
    assert model(x).shape == (2, 1000)


class Net(nn.Module):
    """Convolutions of which one alone goes to its norm and nowhere else."""

    def __init__(self):
        super().__init__()
        self.both = nn.Conv2d(4, 4, 3, padding=1)
        self.both_norm = nn.BatchNorm2d(4)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.twice_norm = nn.BatchNorm2d(4)
        self.first = nn.Conv2d(4, 4, 1)
        self.second = nn.Conv2d(4, 4, 1)
        self.shared_norm = nn.BatchNorm2d(4)
        self.read = nn.Conv2d(4, 4, 1)
        self.read_norm = nn.BatchNorm2d(4)
        self.good = nn.Conv2d(4, 4, 1)
        self.good_norm = nn.BatchNorm2d(4)
        self.instant = nn.Conv2d(4, 4, 1)
        self.instant_norm = nn.BatchNorm2d(4, track_running_stats=False)
        self.tied = nn.Conv2d(4, 4, 1)
        self.tied_norm = nn.BatchNorm2d(4)
        self.other = nn.Conv2d(4, 4, 1)
        self.other.weight = self.tied.weight

    def forward(self, x, scale=None):
        y = self.both(x)
        x = self.both_norm(y) + y
        x = self.twice_norm(self.twice(x))
        x = self.twice(x)
        x = self.shared_norm(self.first(x)) + self.shared_norm(self.second(x))
        x = self.read_norm(self.read(x)) * self.read.bias.sum()
        x = self.good_norm(self.good(x))
        x = self.instant_norm(self.instant(x))
        x = self.other(self.tied_norm(self.tied(x)))
        return x if scale is None else x * scale


def test_what_something_else_needs_stays():
    model, x = lived_in(Net()), torch.randn(2, 4, 6, 6)
    expected = copy.deepcopy(model).double()(x.double()).detach()
    assert fold(model, x) == {"good": "good_norm"}
    assert torch.allclose(model(x).double(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    other = lived_in(Net())
    assert fold(other, {"x": x, "scale": torch.ones(())}) == {"good": "good_norm"}


class Scaled(nn.Conv2d):
    def forward(self, x):
        return super().forward(x).relu()


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(Scaled(4, 4, 1), nn.BatchNorm2d(4)),
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4)),
        lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
        lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)),
    ],
    ids=["own forward", "parametrized", "between them", "before"],
)
def test_what_cannot_be_folded_stays(make):
    model, x = lived_in(make()), torch.randn(2, 4, 6, 6)
    expected = model(x)
    assert fold(model, x) == {}
    assert torch.equal(model(x), expected)


def test_hooks_keep_a_layer_as_it_is():
    model, x = lived_in(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))), torch.randn(2, 4, 6, 6)
    handle = model[0].register_forward_hook(lambda module, args, y: 2 * y)
    assert fold(model, x) == {}
    handle.remove()
    assert fold(model, x) == {"0": "1"}


def test_channels_behind_tokens_are_not_those_of_the_norm():
    model = lived_in(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)))
    x = torch.randn(2, 4, 5)
    expected = model(x)
    assert fold(model, x) == {}
    assert torch.equal(model(x), expected)


class Joined(nn.Module):
    """Two convolutions, a third one if wanted, and a norm of what `join` makes of their results."""

    def __init__(self, join, channels=8):
        super().__init__()
        self.join = join
        self.first, self.second = nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 3, padding=1)
        self.third, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(channels)

    def forward(self, x):
        return self.norm(self.join(self, x))


def in_place(net, x):
    y = net.first(x)
    y += net.second(x)
    return y


JOINED = {
    "concatenated": (lambda net, x: torch.cat([net.first(x), net.second(x)], 1), 8),
    "concatenated from behind": (lambda net, x: torch.concat((net.first(x), net.second(x)), dim=-3), 8),
    "added": (lambda net, x: net.first(x) + net.second(x), 4),
    "added to what is concatenated": (
        lambda net, x: torch.cat([net.first(x), net.second(x) + net.third(x)], 1), 8,
    ),
}


@pytest.mark.parametrize("name", JOINED)
def test_each_layer_takes_its_part_of_a_norm(name):
    model, x = lived_in(Joined(*JOINED[name])), torch.randn(2, 4, 6, 6)
    expected = copy.deepcopy(model).double()(x.double()).detach()
    folded = fold(model, x)
    assert set(folded) >= {"first", "second"}
    assert set(folded.values()) == {"norm"}
    assert type(model.norm) is nn.Identity
    assert torch.allclose(model(x).double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def kept(net, x):
    net.seen = net.first(x)
    return net.seen


LEFT = {
    "a shortcut": (lambda net, x: x + net.first(x), 4),
    "one result in two sums": (lambda net, x: torch.cat([y := net.first(x), y + net.second(x)], 1), 8),
    "one result twice": (lambda net, x: torch.cat([y := net.first(x), y], 1), 8),
    "twice itself": (lambda net, x: (y := net.first(x)) + y, 4),
    "a sum of unlike parts": (lambda net, x: torch.add(net.first(x), net.second(x), alpha=2), 4),
    "one number": (lambda net, x: net.first(x) + 1, 4),
    "side by side": (lambda net, x: torch.cat([net.first(x), net.second(x)], 2), 4),
    "only some of them": (lambda net, x: torch.cat([net.first(x), net.second(x).relu()], 1), 8),
    "in place": (in_place, 4),
    "kept for later": (kept, 4),
    "a weight that is read": (lambda net, x: net.first(x) * net.first.weight.sum(), 4),
    "called twice": (lambda net, x: net.first(net.first(x)), 4),
    "turned": (lambda net, x: net.first(x).mT, 4),
}


@pytest.mark.parametrize("name", LEFT)
def test_a_norm_of_anything_else_stays(name):
    model, x = lived_in(Joined(*LEFT[name])), torch.randn(2, 4, 6, 6)
    expected = model(x)
    assert fold(model, x) == {}
    assert torch.equal(model(x), expected)


class Hidden:
    """A class of the user's own for what a network gives."""

    def __init__(self, y):
        self.y = y


@pytest.mark.parametrize("hide", [lambda y: {"early": y}, Hidden, lambda y: [Hidden({"y": y})]])
def test_what_the_network_returns_stays(hide):
    class Net(nn.Sequential):
        def forward(self, x):
            y = self[0](x)
            return self[1](y), hide(y)

    assert fold(lived_in(Net(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))), torch.randn(2, 4, 6, 6)) == {}


def test_rows_of_a_table_are_no_channels():
    class Net(nn.Sequential):
        def forward(self, x):
            return super().forward(x)

    model = lived_in(Net(nn.Embedding(4, 4), nn.BatchNorm1d(4)))
    assert fold(model, torch.tensor([0, 3])) == {}


class Deciding(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x):
        return F.relu(self.body(x)) if x.sum() > 0 else self.body(x)


def test_a_network_that_decides_by_values_is_folded_as_it_runs_on_the_example():
    model, x = lived_in(Deciding()), torch.randn(2, 4, 6, 6)
    expected = model(x)
    with pytest.raises(BitqError, match="depends on the values of a tensor"):
        fold(model, x.to("meta"))
    assert fold(model, x) == {"body.0": "body.1"}
    assert torch.allclose(model(x), expected, atol=1e-4)


def test_refusals_leave_the_network_as_it_is():
    x = torch.randn(2, 4, 6, 6)
    model = lived_in(Deciding())
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(BitqError, match="training mode"):
        fold(model.train(), x)
    model = model.eval().body
    with pytest.raises(BitqError, match="cannot run on an input of"):
        fold(model, torch.randn(2, 5, 6, 6))
    bitq.apply(model, {"0": TensorFormats(BlockFormat(8, 3, 4))})
    with pytest.raises(BitqError, match="has formats already"):
        fold(model, x)
    bitq.restore(model)
    assert all(torch.equal(tensor, state[f"body.{name}"]) for name, tensor in model.state_dict().items())
    assert fold(model, x) == {"0": "1"}
