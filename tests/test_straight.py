"""Training steps of quantized networks: the gradients of doing it by hand, without tensors kept twice."""

import copy
import io
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from bitq.accuracy import quantized, straight
from bitq.accuracy.kinds import kind_of
from bitq.accuracy.quantized import MaxAbs, apply, restore, weight_in_use
from bitq.formats import BlockFormat, TensorFormats, parse_format
from bitq.numerics import exponent_bias_for, quantize

FORMATS = TensorFormats(BlockFormat(8, 3, 4), BlockFormat(8, 2, 2), BlockFormat(8, 4, 8))
SMALL = MaxAbs(0.5, 0.7)
"""Calibration that much of what comes lies beyond, so that gradients are clipped."""


@pytest.fixture(autouse=True)
def _seed(monkeypatch):
    torch.manual_seed(11)
    monkeypatch.setattr(straight, "WORTH_IT", 1)


LAYERS = {
    "linear": (lambda: nn.Linear(10, 7), (3, 10)),
    "linear of tokens": (lambda: nn.Linear(10, 7, bias=False), (2, 3, 10)),
    "conv": (lambda: nn.Conv2d(10, 7, 3), (2, 10, 6, 6)),
    "conv without batch": (lambda: nn.Conv2d(10, 7, 3), (10, 6, 6)),
    "circular": (lambda: nn.Conv2d(10, 7, 3, padding=1, padding_mode="circular"), (2, 10, 6, 6)),
    "grouped": (lambda: nn.Conv2d(10, 6, (3, 1), groups=2), (2, 10, 6, 6)),
    "1-D": (lambda: nn.Conv1d(10, 7, 5, stride=2), (2, 10, 9)),
    "transposed": (lambda: nn.ConvTranspose2d(10, 6, 3, groups=2), (2, 10, 4, 4)),
    "transposed 1-D": (lambda: nn.ConvTranspose1d(10, 7, 3), (2, 10, 4)),
}


def by_hand(layer, x):
    """The layer between quantized tensors as `quantize` gives them, nothing in place, everything kept."""
    axis = -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)
    biases = exponent_bias_for(SMALL.input, FORMATS.input), exponent_bias_for(SMALL.output, FORMATS.output)
    shape, dim, inner = kind_of(layer).blocks(layer, tuple(layer.weight.shape))
    weight = quantize(layer.weight.reshape(shape), FORMATS.weight, dim, inner).reshape(layer.weight.shape)
    y = torch.func.functional_call(
        layer, {"weight": weight}, (quantize(x, FORMATS.input, axis, exponent_bias=biases[0]),)
    )
    return quantize(y, FORMATS.output, axis, exponent_bias=biases[1])


def gradients(run, layer, x):
    """Result and gradients of a layer between things that keep their own tensors."""
    x = x.clone().requires_grad_()
    y = run(layer, F.relu(x))
    (F.relu(y).exp().sum() + F.relu(y.sin()).sum()).backward()
    return [y.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]


def run_quantized(layer, x):
    model = nn.Sequential(layer)
    apply(model, {"0": FORMATS}, {"0": SMALL})
    y = model(x)
    return y


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_are_those_of_doing_it_by_hand(kind):
    make, shape = LAYERS[kind]
    layer, x = make(), torch.randn(shape)
    twin = copy.deepcopy(layer)
    expected = gradients(by_hand, twin, x)
    found = gradients(run_quantized, layer, x)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert (found[1] == 0).any()


def test_what_was_drawn_is_kept():
    """A weight's gradient is that of the input as it was rounded, not of another draw."""
    fmt, x = parse_format("6:e4:b8:stochastic"), torch.randn(5, 16)
    layer = nn.Sequential(nn.Linear(16, 4, bias=False))
    apply(layer, {"0": TensorFormats(input=fmt)})
    torch.manual_seed(3)
    layer(x).sum().backward()
    torch.manual_seed(3)
    assert torch.equal(layer[0].weight.grad, quantize(x, fmt, -1).sum(0).expand(4, -1))


def block():
    """Three convolutions, each with a norm and an activation, as networks have them."""
    layers = []
    for _ in range(3):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    model = nn.Sequential(*layers)
    names = ("0", "3", "6")
    apply(model, dict.fromkeys(names, FORMATS), dict.fromkeys(names, MaxAbs(3.0, 2.0)))
    return model


def test_no_quantized_activation_outlives_its_layer(monkeypatch):
    alive = []

    def watched(x, *args, **kwargs):
        y = quantize(x, *args, **kwargs)
        alive.append(weakref.ref(y))
        return y

    monkeypatch.setattr(quantized, "quantize", watched)
    model, x = block(), torch.randn(2, 8, 16, 16)
    y = model(x)
    inputs = [ref() for ref in alive if ref() is not None and ref().shape == x.shape]
    assert len(alive) == 6  # three inputs, three weights
    assert not inputs
    y.sum().backward()
    assert len(alive) == 9  # the inputs again


@pytest.mark.parametrize("gradients", [True, False])
def test_results_are_quantized_where_they_stand(monkeypatch, gradients):
    places = []

    def watched(y, *args):
        places.append(y.data_ptr())
        return quantized_fresh(y, *args)

    quantized_fresh = straight.quantized_fresh
    monkeypatch.setattr(straight, "quantized_fresh", watched)
    model = block()
    with torch.set_grad_enabled(gradients):
        y = model[0](torch.randn(2, 8, 16, 16))
    assert [y.data_ptr()] == places


def test_a_layer_of_its_own_kind_may_keep_its_result():
    class Activated(nn.Conv2d):
        def forward(self, x):
            return super().forward(x).exp()  # which is saved for backward

    model, x = nn.Sequential(Activated(8, 8, 3)), torch.randn(2, 8, 16, 16)
    apply(model, {"0": FORMATS}, {"0": SMALL})
    model(x).sum().backward()
    assert model[0].weight.grad.isfinite().all()


def test_changing_what_backward_needs_is_told():
    model, x = block(), torch.randn(2, 8, 16, 16)
    y = model[:3](x)
    z = model[3](y)
    y.data.add_(0)
    y.detach().add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_backward_twice_and_through_the_gradient():
    model, x = block().eval(), torch.randn(2, 8, 8, 8, requires_grad=True)
    y = model(x).pow(2).sum()
    first = torch.autograd.grad(y, x, retain_graph=True)[0]
    second = torch.autograd.grad(y, x, create_graph=True)[0]
    assert torch.equal(first, second)
    second.pow(2).sum().backward()
    assert x.grad.isfinite().all()


# Optimizers


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
        lambda p: torch.optim.AdamW(p, 0.1),
        lambda p: torch.optim.Adam(p, 0.1, foreach=False),
        lambda p: torch.optim.Adam(p, 0.1, fused=True),
    ],
    ids=["SGD", "AdamW", "one by one", "fused"],
)
def test_steps_of_every_optimizer_count(make):
    model, x = nn.Sequential(nn.Conv2d(4, 6, 3)), torch.randn(2, 4, 6, 6)
    apply(model, {"0": FORMATS}, {"0": SMALL})
    optimizer = make([model[0].weight, model[0].bias])
    for _ in range(3):
        before = model[0].weight.detach().clone()
        for _ in range(3):  # gradients accumulate
            model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert not torch.equal(model[0].weight, before)
        assert torch.equal(weight_in_use(model[0]), quantize(model[0].weight.detach(), FORMATS.weight, 1, (2, 3)))
        twin = copy.deepcopy(model[0])
        assert torch.equal(model(x), by_hand(twin, x))


# A good citizen


def made(training=True):
    torch.manual_seed(4)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 3, groups=2),
        nn.Flatten(2),
        nn.Conv1d(4, 4, 3),
        nn.AdaptiveAvgPool1d(4),
        nn.Flatten(),
        nn.Linear(16, 5),
    )
    names = ("0", "3", "5", "8")
    apply(model, dict.fromkeys(names, FORMATS), dict.fromkeys(names, MaxAbs(1.5, 2.0)))
    return model.train(training)


X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(8))


def grads(model):
    return [parameter.grad for parameter in model.parameters()]


def test_compiles_without_breaks():
    plain, compiled = made(), torch.compile(made(), fullgraph=True, backend="aot_eager")
    a, b = plain(X), compiled(X)
    assert torch.equal(a, b)
    a.sum().backward()
    b.sum().backward()
    assert all(torch.allclose(g, h, atol=1e-5) for g, h in zip(grads(plain), grads(compiled), strict=True))


def test_compiles_again_in_other_formats():
    """Numbers that differ between layers and calls must not become torch.compile's variables."""
    names = ("0", "3", "5", "8")
    model = made(training=False)
    for step, fmt in enumerate((BlockFormat(8, 3, 4), BlockFormat(8, 2, 2), BlockFormat(6, 4, 8))):
        ranges = {name: MaxAbs(1.5 * (step + 1), 2.0**place * (step + 1)) for place, name in enumerate(names)}
        apply(model, dict.fromkeys(names, TensorFormats(fmt, fmt, fmt)), ranges)
        assert torch.equal(torch.compile(model, fullgraph=True, backend="aot_eager")(X), model(X))


@pytest.mark.parametrize("strict", [False, True])
def test_exports(strict):
    model = made(training=False)
    program = torch.export.export(model, (X,), strict=strict)
    assert torch.equal(program.module()(X), model(X))


def test_autocast():
    model = made()
    with torch.autocast("cpu", torch.bfloat16):
        y = model(X)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(grad.isfinite().all() for grad in grads(model))


def test_functional_transforms():
    model = made(training=False)
    parameters = dict(model.named_parameters())
    found = torch.func.grad(lambda p: torch.func.functional_call(model, p, (X,)).sum())(parameters)
    model(X).sum().backward()
    assert all(torch.equal(found[name], parameter.grad) for name, parameter in model.named_parameters())
    each = torch.func.vmap(lambda x: model(x[None])[0])(X)
    assert torch.equal(each, torch.cat([model(x[None]) for x in X]))


def test_pickles_and_saves():
    model = made(training=False)
    expected = model(X)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(X), expected)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert torch.equal(again(X), expected)
    restore(again)
    assert type(again[3]) is nn.ConvTranspose2d


def test_state_is_that_of_the_float_network():
    model, other = made(training=False), made(training=False)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.7)
    model.load_state_dict(other.state_dict())
    assert torch.equal(model(X), other(X))
    restore(other)
    assert model.state_dict().keys() == other.state_dict().keys()


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing(use_reentrant):
    plain, spared = made(), made()
    a = plain(X)
    b = checkpoint(spared, X.clone().requires_grad_(), use_reentrant=use_reentrant)
    assert torch.equal(a, b)
    a.sum().backward()
    b.sum().backward()
    assert all(torch.equal(g, h) for g, h in zip(grads(plain), grads(spared), strict=True))


def test_inference_mode_leaves_nothing_that_training_cannot_use():
    model = made(training=False)
    with torch.inference_mode():
        a = model(X)
    b = model(X)
    assert torch.equal(a, b)
    b.sum().backward()


def _worker(rank, folder):
    # Threads of gloo that outlive Python abort the process: the last work they let go of holds objects of Python. They
    # end with the process group, so nothing may keep it: DistributedDataParallel imports torch.distributed.nn, whose
    # default arguments are the group that there is by then.
    import torch.distributed.nn

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/together", rank=rank, world_size=2
    )
    torch.set_num_threads(1)
    model = made()
    for module in model:  # statistics of a batch are not shared
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        parallel(X[2 * rank : 2 * rank + 2]).pow(2).mean().backward()
        optimizer.step()
    torch.save(model.state_dict(), f"{folder}/{rank}.pt")
    del parallel
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_data_parallel(tmp_path):
    torch.multiprocessing.spawn(_worker, (str(tmp_path),), nprocs=2)
    model = made()
    model[1].eval()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(X).pow(2).mean().backward()
        optimizer.step()
    states = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, tensor in model.state_dict().items():
        assert torch.equal(states[0][name], states[1][name])
        assert torch.allclose(states[0][name], tensor, atol=1e-5)
