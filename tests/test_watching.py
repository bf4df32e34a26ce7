"""A network in formats computes in them however it is run, and what goes past its modules is told."""

import copy
import pickle
import threading
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bitq
import tiny
from bitq.accuracy.evaluate import cross_entropy, score
from bitq.accuracy.quantized import apply, in_formats, observing, restore
from bitq.accuracy.sensitivity import perturbations
from bitq.errors import BitqError
from bitq.formats import BlockFormat, MaxAbs, TensorFormats

COARSE = BlockFormat(4, 2, 4)
ACTIVATIONS = TensorFormats(input=COARSE, output=COARSE)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(3)


# Torch's fused paths


def encoder_layer():
    return nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()


def encoder():
    return nn.TransformerEncoder(encoder_layer(), 2).eval()


X = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1))
PADDED = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 5])

RUNS = {
    "a layer": (encoder_layer, ("linear1", "linear2"), {}),
    "its last linear alone": (encoder_layer, ("linear2",), {}),
    "an encoder": (encoder, ("layers.0.linear1", "layers.1.linear2"), {}),
    "an encoder of padded sequences": (encoder, ("layers.0.linear1", "layers.1.linear2"), {"mask": PADDED}),
    "the last of padded sequences": (encoder, ("layers.1.linear1",), {"mask": PADDED}),
}


@pytest.mark.parametrize("inside", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("formats", [ACTIVATIONS, TensorFormats(COARSE, COARSE, COARSE)], ids=["activations", "all"])
@pytest.mark.parametrize("max_abs", [MaxAbs(), MaxAbs(2.0, 2.0)], ids=["own bias", "calibrated"])
@pytest.mark.parametrize("name", RUNS)
def test_fused_encoders_compute_in_the_formats(name, max_abs, formats, inside):
    make, modules, options = RUNS[name]
    mask = options.get("mask")
    model = make()
    plain = copy.deepcopy(model)

    def run(model):
        return model(X, src_key_padding_mask=mask).masked_fill(PADDED[..., None], 0)

    for module in modules:  # each where nothing above it is to be seen
        apply(model.get_submodule(module), {"": formats}, {"": max_abs})
    expected = run(model).detach()
    with inside():
        found = [run(each) for each in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)))]
        unquantized = run(plain)
    for each in found:
        assert torch.allclose(each, expected, atol=1e-5)
    assert not torch.allclose(found[0], unquantized, atol=1e-2)
    restore(model)
    assert not any(module._forward_pre_hooks for module in model.modules())
    with inside():
        assert torch.equal(run(model), unquantized)


def test_a_fused_encoder_compiles_and_exports_in_the_formats():
    model = encoder_layer()
    apply(model, dict.fromkeys(("linear1", "linear2"), TensorFormats(COARSE, COARSE, COARSE)))
    expected = model(X).detach()
    with torch.no_grad():
        assert torch.allclose(torch.compile(model, backend="aot_eager")(X), expected, atol=1e-5)
        assert torch.allclose(torch.export.export(model, (X,)).module()(X), expected, atol=1e-5)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = encoder(), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.encoder(x).mean(1))


def test_what_is_measured_is_what_is_handed_over():
    model, x, labels = Classifier().eval(), torch.randn(256, 5, 16), torch.randint(4, (256,))
    names = [f"encoder.layers.{i}.linear{j}" for i in (0, 1) for j in (1, 2)]
    with torch.no_grad(), observing(model, names) as max_abs:
        model(x)
    assert max_abs.keys() == set(names)
    apply(model, dict.fromkeys(names, ACTIVATIONS), max_abs)
    seen = []

    def metric(model, batches):
        seen.extend(model(inputs) for inputs, _ in batches)
        return 0.5

    batches = list(zip(x.split(64), labels.split(64), strict=True))
    found = score(model, batches, metric=metric)
    with torch.no_grad():
        handed_over = model(x)
    with_grad = model(x).detach()
    assert torch.allclose(torch.cat(seen), with_grad, atol=1e-5)
    assert torch.allclose(handed_over, with_grad, atol=1e-5)
    assert found.loss == pytest.approx(float(cross_entropy(with_grad, labels)), rel=1e-5)


# What goes past a module


class Passing(nn.Module):
    """Its product can be computed in several ways."""

    def __init__(self, way):
        super().__init__()
        self.body, self.head, self.way = nn.Linear(6, 6), nn.Linear(6, 6), way

    def forward(self, x):
        return self.way(self, self.body(x))


PAST = {
    "linear": lambda net, x: net.head(x) + F.linear(x, net.head.weight, net.head.bias),
    "by keyword": lambda net, x: net.head(x) + F.linear(input=x, weight=net.head.weight),
    "a product": lambda net, x: net.head(x) + x @ net.head.weight.t(),
    "on the left": lambda net, x: net.head(x) + (net.head.weight @ x.T).T,
    "a part": lambda net, x: net.head(x) + F.pad(x @ net.head.weight[3:].T, (0, 3)),
    "an einsum": lambda net, x: net.head(x) + torch.einsum("nc,kc->nk", x, net.head.weight),
    "of data": lambda net, x: net.head(x) + x @ net.head.weight.data.view(6, 6),
    "the module's own forward": lambda net, x: net.head.forward(x),
}

NEVER = {
    "linear alone": lambda net, x: x * 2 if net.head.training else F.pad(x, (0, 0)),
    "normalized": lambda net, x: F.linear(x, F.normalize(net.head.weight.detach())),
}

RIGHT = {
    "called": lambda net, x: net.head(x),
    "read": lambda net, x: net.head(x.to(net.head.weight.dtype)) + net.head.weight.square().mean(),
    "looked up": lambda net, x: net.head(x) + F.embedding(torch.arange(1), net.head.weight),
}

BATCHES = [(torch.randn(8, 6), torch.randint(6, (8,))) for _ in range(2)]


def in_all_formats(way):
    model = Passing(way).eval()
    apply(model, dict.fromkeys(("body", "head"), ACTIVATIONS), dict.fromkeys(("body", "head"), MaxAbs(3.0, 3.0)))
    return model


USES = {
    "measured": lambda way: score(in_all_formats(way), BATCHES),
    "calibrated": lambda way: calibrate(Passing(way)),
    "scored": lambda way: perturbations(
        Passing(way), ["body", "head"], lambda *_: [COARSE], {}, BATCHES, cross_entropy
    ),
}


def calibrate(model):
    with torch.no_grad(), observing(model.eval(), ["body", "head"]) as seen:
        model(BATCHES[0][0])
    return seen


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("way", PAST)
def test_products_past_a_module_are_told(use, way):
    with pytest.raises(BitqError, match=r"of module 'head' past the module|'head' was never called"):
        USES[use](PAST[way])


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("way", NEVER)
def test_modules_that_are_never_called_are_told(use, way):
    with pytest.raises(BitqError, match=f"module 'head' was never called while the network was {use}"):
        USES[use](NEVER[way])


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("way", RIGHT)
def test_reading_a_weight_is_no_product(use, way):
    USES[use](RIGHT[way])


def test_another_module_may_share_the_weight():
    class Tied(Passing):
        def __init__(self):
            super().__init__(lambda net, x: net.other(net.head(x)))
            self.other = nn.Linear(6, 6)
            self.other.weight = self.head.weight

    model = Tied().eval()
    apply(model, {"head": ACTIVATIONS})
    score(model, BATCHES)


def test_modules_without_a_format_need_no_call():
    model = in_all_formats(NEVER["linear alone"])
    apply(model, {"head": TensorFormats()})
    score(model, BATCHES)


def test_fused_functions_that_read_a_weight_are_told():
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.out = nn.MultiheadAttention(16, 2), nn.Linear(16, 16)

        def forward(self, x):
            own = self.attention
            rest = own.bias_k, own.bias_v, False, 0.0, self.out.weight, self.out.bias
            y = F.multi_head_attention_forward(x, x, x, 16, 2, own.in_proj_weight, own.in_proj_bias, *rest)[0]
            return self.out(y)

    model = Fused().eval()
    apply(model, {"out": ACTIVATIONS})
    told = pytest.raises(BitqError, match="multi_head_attention_forward computes with the weight of module 'out'")
    with told, in_formats(model), torch.no_grad():
        model(X)


def test_watching_ends_and_leaves_nothing():
    model = in_all_formats(RIGHT["called"])
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    for broken in (RIGHT["called"], lambda net, x: 1 / 0, NEVER["linear alone"]):
        model.way = broken
        try:
            with in_formats(model):
                model(BATCHES[0][0])
        except (ZeroDivisionError, BitqError):
            assert broken is not RIGHT["called"]
        assert [len(module._forward_pre_hooks) for module in model.modules()] == hooks
        assert not any(module._forward_hooks for module in model.modules())
        assert not torch.overrides._is_torch_function_mode_enabled()


def test_watching_changes_no_result():
    model = in_all_formats(RIGHT["called"])
    with torch.inference_mode():
        expected = model(BATCHES[0][0])
        with in_formats(model):
            assert torch.equal(model(BATCHES[0][0]), expected)


def test_a_compiled_network_is_measured():
    model = in_all_formats(RIGHT["called"])
    expected = score(model, BATCHES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = score(torch.compile(model, backend="aot_eager"), BATCHES)
    assert found == expected


def test_threads_that_share_a_layer_do_not_meet():
    class Own(nn.Linear):
        def forward(self, x):
            first = self.weight.clone()
            return F.linear(x, (first + self.weight) / 2, self.bias)

    model, x = nn.Sequential(Own(64, 64)), torch.randn(64, 64)
    apply(model, {"0": TensorFormats(weight=COARSE)})
    expected, wrong = model(x).detach(), []

    def work():
        for _ in range(50):
            if not torch.equal(model(x).detach(), expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_search_leaves_what_is_never_called_float_and_says_so(tmp_path):
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.spare, self.head = nn.Linear(16, 4), nn.Linear(16, 4)
            self.mix = nn.Parameter(torch.eye(16))

        def forward(self, x):
            return self.head(torch.einsum("btc,cd->btd", x, self.mix).mean(1))

    listener, batches = tiny.Listening(), [(X, torch.arange(len(X)) % 4)]
    few = tiny.settings(rounds=1, plans=1, uniforms=1, training=bitq.Training(steps=2))
    options = {"device": tiny.DEVICE, "run": tmp_path, "settings": few, "listener": listener}
    plan = bitq.search(Mixing(), batches, batches, **options).plan
    assert set(plan.formats()) == {"head"}
    assert [note for note in listener.notes if "stays float: " in note] == [
        "the network itself stays float: it is of class Mixing; formats apply to Conv1d, Conv2d, Conv3d, Embedding, "
        "Linear, ConvTranspose1d, ConvTranspose2d",
        "spare stays float: it was not called where the network was traced",
    ]
    (share,) = (note for note in listener.notes if note.startswith("what stays float moves "))
    assert [(part.modules, part.stored_bytes) for part in plan.stays_float] == [
        (("",), 4 * 16 * 16),
        (("spare",), 4 * (4 * 16 + 4)),
    ]
    assert sum(part.movement_bits for part in plan.stays_float) == sum(
        layer.movement_bits for layer in plan.layers if layer.name != "head"
    )
    moved = sum(part.movement_bits for part in plan.stays_float)
    assert f"{100 * moved / plan.totals.movement_bits_float:.1f} %" in share
