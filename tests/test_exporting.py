"""What leaves bitq runs: ONNX Runtime gives the bits of a quantized network, from standard operators alone."""

import json
import re

import pytest
import torch
from hypothesis import assume, given, note
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import bitq as package
import tiny
from bitq.accuracy.kinds import kind_of
from bitq.accuracy.quantized import observing, quantized_weight
from bitq.accuracy.storing import with_products
from bitq.errors import BitqError
from bitq.exporting import export
from bitq.formats import PRESETS, TensorFormats, parse_format
from bitq.numerics import quantize
from bitq.numerics.recipe import recipe_for
from bitq.progress import Silent
from bitq.tracing import record
from bitq.tradeoff.stored import points_of
from strategies import formats, tensors_for

onnx = pytest.importorskip("onnx", reason="needs ONNX: pip install 'bitq[onnx]'")
pytest.importorskip("onnxscript", reason="needs ONNX Script: pip install 'bitq[onnx]'")
pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

import onnx_ir as ir  # noqa: E402

from bitq.exporting.standard_onnx.constants import Held  # noqa: E402
from bitq.exporting.standard_onnx.rounding import DOMAIN, OPSET, UnsayableError, function_of  # noqa: E402
from bitq.exporting.standard_onnx.runtime import outputs  # noqa: E402

WITHIN = (-3.0, 5.0)


def run_function(folder, x, recipe, shape):
    """What ONNX Runtime makes of a tensor by the function of a recipe."""
    function = function_of(recipe, shape, "f")
    value = ir.Value(name="input", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(x.shape))
    node = ir.Node(DOMAIN, "f", [value])
    node.outputs[0].name, node.outputs[0].type = "output", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([value], node.outputs, nodes=[node], opset_imports={"": OPSET, DOMAIN: 1}, name="g")
    model = ir.Model(graph, ir_version=10, functions=[function])
    path = folder / "function.onnx"
    path.write_bytes(ir.to_proto(model).SerializeToString())
    assert {n.domain for n in function} <= {""}
    return outputs(path, [x])[0]


def hard(fmt, shape, seed=0):
    """Numbers about ties of a format, some tiny, some large, zeros."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * 2.0 ** torch.randint(-6, 4, shape, generator=generator)
    rounded = quantize(x, fmt, 1, tensor_range=WITHIN if fmt.needs_range else None)
    half = quantize(x * 1.25, fmt, 1, tensor_range=WITHIN if fmt.needs_range else None)
    pick = torch.randint(0, 4, shape, generator=generator)
    found = torch.where(pick == 0, x, torch.where(pick == 1, (rounded + half) / 2, rounded))
    return torch.where(pick + torch.rand(shape, generator=generator) > 3.9, 0, found)


def check(folder, x, fmt, dim, inner, shape, **shared):
    recipe = recipe_for(x, fmt, dim, inner, **shared)
    found = run_function(folder, x, recipe, shape)
    assert torch.equal(found, quantize(x, fmt, dim, inner, **shared))


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "bsfp"])
def test_every_preset_of_activations_is_standard_operators(name, tmp_path):
    fmt = PRESETS[name]
    for shape, dim in (((3, 20, 5, 4), 1), ((2, 7, 40), -1)):
        x = hard(fmt, shape)
        shared = {"tensor_range": WITHIN} if fmt.needs_range else {}
        batch = shape if fmt.geometry and "p" in fmt.text.split(":")[-1] else (None, *shape[1:])
        check(tmp_path, x, fmt, dim, (), batch, **shared)


@hypothesis_settings(max_examples=200)
@given(st.data())
def test_any_format_is_standard_operators_or_refused(tmp_path_factory, data):
    fmt = data.draw(formats())
    x, dim, inner = data.draw(tensors_for(fmt))
    note(f"{fmt} {x.shape} {dim} {inner}")
    x = x.float()
    assume(x.isfinite().all() and fmt.rounding != "stochastic")
    shared = {}
    if fmt.needs_range:
        low, high = float(x.amin().clamp(max=0)), float(x.amax().clamp(min=0))
        shared = {"tensor_range": (low * data.draw(st.sampled_from((1.0, 0.4))), high)}
    recipe = recipe_for(x, fmt, dim, inner, **shared)
    try:
        found = run_function(tmp_path_factory.getbasetemp(), x, recipe, tuple(x.shape))
    except UnsayableError as error:
        told = re.match(r"whose .*(zero points|more digits|powers of two alone|not known before)", str(error))
        note(str(error))
        assume(not told)
        raise
    assert torch.equal(found, quantize(x, fmt, dim, inner, **shared))


@pytest.mark.parametrize("text", ["5:e2:b4:stochastic", "bsfp", "u4:f32:b4", "e3m0:e8m0:b4"])
def test_what_standard_operators_cannot_say_is_refused(text):
    fmt = parse_format(text)
    with pytest.raises(UnsayableError, match=r"^which |^whose "):
        function_of(recipe_for(torch.ones(2, 8), fmt, 1), (None, 8), "f")


# Weights

LAYERS = {
    "linear": nn.Linear(20, 6),
    "convolution": nn.Conv2d(20, 6, 3),
    "grouped": nn.Conv2d(12, 6, 3, groups=3),
    "depthwise": nn.Conv2d(6, 6, 3, groups=6),
    "transposed": nn.ConvTranspose2d(20, 6, 3, groups=2),
}
AS_INTEGERS = ["8:e4:b16", "4:e2:b8", "s2:e8m0:v16", "mxint8", "int8", "int4", "uint8", "mxfp4", "mxfp6e2m3"]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("text", [*AS_INTEGERS, "s5:e8m0:b16", "mxfp8e5m2", "bsfp", "flexblock12"])
def test_weights_are_the_quantized_ones(name, text, tmp_path):
    layer, fmt = LAYERS[name], parse_format(text)
    weight = quantized_weight(layer, layer.weight.detach(), fmt)
    shape, dim, inner = kind_of(layer).blocks(layer, tuple(layer.weight.shape))
    held = Held(layer.weight.detach().reshape(shape), recipe_for(layer.weight.reshape(shape), fmt, dim, inner), "w")
    tape = ir.tape.Tape()
    value = held.emit(tape)
    assert text not in AS_INTEGERS or held.packed
    value.name = "weight"
    graph = ir.Graph(
        [], [value], nodes=tape.nodes, initializers=list(tape.initializers), opset_imports={"": OPSET}, name="g"
    )
    if not held.packed:
        assert torch.equal(torch.from_numpy(value.const_value.numpy()).reshape(weight.shape), weight)
        return
    value.type = ir.TensorType(ir.DataType.FLOAT)
    path = tmp_path / "weight.onnx"
    path.write_bytes(ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString())
    assert torch.equal(outputs(path, [])[0].reshape(weight.shape), weight)
    codes = next(each for each in tape.initializers if each.name == "w.codes")
    assert "mxfp" in text or codes.dtype.itemsize == (0.5 if fmt.elements[0].bits <= 4 else 1)


# Networks


def calibrated(model, formats, x, stored="after-activation"):
    """Gives every layer of a network these formats, with ranges of what it meets on an input."""
    traced = record(model, x[:1])
    model = with_products(model, traced.products)
    names = [layer.name for layer in traced.layers]
    points = points_of(traced, stored, names)
    with observing(model, names, points=points) as ranges, torch.inference_mode():
        model(x)
    package.apply(model, dict.fromkeys(names, formats), ranges, points=points)
    return model


class Attention(nn.Module):
    """A patch embedding and one block of attention; the sum of its branch is stored."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 16, 4, 4)
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        return self.head((x + self.out(functional.scaled_dot_product_attention(q, k, v))).mean(1))


def mixed(activation="6:e3:b16", weight="4:e2:b8"):
    return TensorFormats(*map(parse_format, (activation, weight, activation)))


@pytest.mark.parametrize(
    ("make", "chosen"),
    [
        (tiny.network, mixed("mxint8", "mxint8")),
        (tiny.network, mixed("int8-tensor", "int4")),
        (Attention, mixed()),
        (Attention, mixed("nvfp4", "nvfp4")),
    ],
)
def test_a_network_gives_the_same_numbers(make, chosen, tmp_path):
    torch.manual_seed(0)
    x, _ = tiny.images(40, 1)
    model = calibrated(make().eval(), chosen, x)
    handed = export(model, x[:1], tmp_path / "net.onnx")
    with torch.inference_mode():
        expected = model(x)
    (found,) = outputs(handed.path, [x])
    assert handed.figures["packed_weights"] >= (2 if chosen.weight != parse_format("nvfp4") else 0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * float(expected.abs().max()))
    assert (found.argmax(1) == expected.argmax(1)).float().mean() >= 0.95
    (again,) = outputs(handed.path, [x[:3]])
    assert torch.equal(again, found[:3])
    model = onnx.load(handed.path)
    assert {node.domain for node in model.graph.node} <= {"", "bitq"}
    assert {node.domain for function in model.functions for node in function.node} == {""}


def test_what_sums_exactly_gives_the_same_bits(tmp_path):
    """Mantissas of two and three bits under close exponents: float32 sums them exactly, in whatever order."""
    torch.manual_seed(0)
    x, _ = tiny.images(200, 1)
    layers = nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    model = calibrated(nn.Sequential(*layers).eval(), mixed("5:e2:b8", "5:e2:b8"), x)
    handed = export(model, x[:2], tmp_path / "net.onnx")
    with torch.inference_mode():
        assert torch.equal(outputs(handed.path, [x])[0], model(x))
    assert handed.ran(model, x) == "ONNX Runtime gives the same 800 numbers on a random input"


def test_a_format_that_cannot_be_said_is_told_with_its_module(tmp_path):
    x, _ = tiny.images(10, 1)
    formats = TensorFormats(parse_format("bsfp"), None, None)
    model = calibrated(tiny.network().eval(), formats, x)
    with pytest.raises(BitqError, match=r"^an activation of module '0' has the format .*, which tries all pairs"):
        export(model, x, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("activation", ["int8-tensor", "i5:f32:tensor", "uint8", "n12:f32:tensor"])
def test_pairs_alone_say_integers_with_one_scale(activation, tmp_path):
    x, _ = tiny.images(200, 1)
    layers = nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)
    model = calibrated(nn.Sequential(*layers).eval(), mixed("int8-tensor", "int4"), x)
    formats = mixed(activation, "int4")
    package.apply(model, {"0": TensorFormats(None, formats.weight, formats.output), "3": TensorFormats(formats.output)})
    handed = export(model, x[:2], tmp_path / "net.onnx", to="onnx-qdq")
    assert handed.figures == {"packed_weights": 1, "float_weights": 0, "pairs": 2}
    assert {node.domain for node in onnx.load(handed.path).graph.node} == {""}
    with torch.inference_mode():
        expected = model(x)
    (found,) = outputs(handed.path, [x])
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * float(expected.abs().max()))


def test_what_no_pair_says_is_told(tmp_path):
    x, _ = tiny.images(20, 1)
    model = calibrated(tiny.network().eval(), mixed("mxint8", "int4"), x)
    with pytest.raises(BitqError, match=r"^an activation of module '0' has the format .*, which no pair of Quantize"):
        export(model, x, tmp_path / "net.onnx", to="onnx-qdq")
    assert not list(tmp_path.iterdir())


class Sorting(nn.Module):
    """Decides by what it computes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 4)

    def forward(self, x):
        y = self.layer(x.flatten(1))
        return y if y.sum() > 0 else -y


def test_what_pytorch_cannot_export_is_told_in_a_sentence(tmp_path):
    x, _ = tiny.images(10, 1)
    with pytest.raises(BitqError, match=r"^PyTorch cannot export the network to ONNX: .*data-dependent"):
        export(Sorting().eval(), x, tmp_path / "net.onnx")
    with pytest.raises(BitqError, match=r"^'tflite' is nothing to export to; it must be one of c, onnx, onnx-qdq"):
        export(tiny.network(), x, tmp_path / "net", to="tflite")


def test_several_inputs_by_name(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 4)

        def forward(self, left, right):
            return {"sum": self.layer(left) + right, "product": self.layer(left) * right}

    left, right = torch.randn(5, 8), torch.randn(5, 4)
    model = Two().eval()
    package.apply(model, {"layer": mixed("mxint8", "mxint8")})
    handed = export(model, {"right": right, "left": left}, tmp_path / "net.onnx")
    names = [each.name for each in onnx.load(handed.path).graph.input]
    with torch.inference_mode():
        expected = model(left, right)
    given = {"left": left, "right": right}
    for found, wanted in zip(outputs(handed.path, [given[name] for name in names]), expected.values(), strict=True):
        torch.testing.assert_close(found, wanted)


# The command


def test_a_run_is_exported(bitq, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package.search(
        tiny.trained(), *tiny.loaders(), device=tiny.DEVICE, formats=tiny.FORMATS, run=tmp_path / "run",
        settings=tiny.settings(rounds=1, plans=1, uniforms=1, screened_inputs=50),
        listener=Silent(), network="tiny:network",
    )  # fmt: skip
    words = ["export", "run", "--out", "net.onnx"]
    code, _, err = bitq(*words)
    assert code == 2
    assert "names the network 'tiny:network'" in err
    code, _, err = bitq(*words, "--network", "tiny:network")
    assert code == 2
    assert "needs --input-shape, such as 1,3,224,224" in err
    code, out, err = bitq(*words, "--network", "tiny:network", "--input-shape", "1,1,8,8", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["packed_weights"] == 3
    assert told["ran"].startswith("ONNX Runtime gives")
    own = tiny.network()
    package.load_quantized(own, tmp_path / "run")
    images, _ = tiny.images(500, 3)
    (found,) = outputs(tmp_path / "net.onnx", [images])
    with torch.inference_mode():
        assert (found.argmax(1) == own(images).argmax(1)).float().mean() > 0.99
    code, out, err = bitq(*words, "--network", "tiny:network", "--input-shape", "1,1,8,8", "--to", "c", "--json")
    assert code == 2
    assert "net.onnx is a file; give the name of a folder to write" in err
    words[-1] = "net_c"
    code, out, err = bitq(*words, "--network", "tiny:network", "--input-shape", "1,1,8,8", "--to", "c", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert {"weight_bytes", "constant_bytes", "ram_bytes"} <= told.keys()
    assert re.search(r"gives the same|numbers alike|not run", told["ran"])
    assert (tmp_path / "net_c" / "network.c").exists()
