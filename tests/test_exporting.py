"""What leaves bitq runs: ONNX Runtime gives the bits of a quantized network, from standard operators alone."""

import json
import os
import re
import shutil

import pytest
import torch
from hypothesis import assume, given, note
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

import bitq as package
import tiny
from bitq.accuracy.kinds import kind_of
from bitq.accuracy.quantized import observing, quantized_weight
from bitq.accuracy.storing import with_products
from bitq.errors import BitqError
from bitq.exporting import export, target_of
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
    signed = not formats.output.never_negative
    last = TensorFormats(formats.output, None, formats.output if signed else None)
    package.apply(model, {"0": TensorFormats(None, formats.weight, formats.output), "3": last})
    handed = export(model, x[:2], tmp_path / "net.onnx", to="onnx-qdq")
    assert handed.figures == {"packed_weights": 1, "float_weights": 0, "pairs": 2 + signed}
    assert {node.domain for node in onnx.load(handed.path).graph.node} == {""}
    with torch.inference_mode():
        expected = model(x)
    (found,) = outputs(handed.path, [x])
    assert ((found - expected).abs() <= 0.02 * float(expected.abs().max())).float().mean() > 0.95  # others cross a tie


class Reading(nn.Module):
    """Layers of which ONNX has the weight in four ways: as it is, with its groups apart, transposed, and by Gemm."""

    def __init__(self):
        super().__init__()
        self.convolve, self.enlarge = nn.Conv2d(1, 32, 3, padding=1), nn.ConvTranspose2d(32, 48, 2, 2)
        self.tokens, self.head = nn.Linear(48, 32), nn.Linear(32, 4)

    def forward(self, x):
        x = torch.relu(self.enlarge(torch.relu(self.convolve(x)))).flatten(2).transpose(1, 2)
        return self.head(torch.relu(self.tokens(x)).mean(1))


@pytest.mark.parametrize("weight", ["int4", "i4:f32:v16", "4:e2:b16", "uint8"])
def test_a_weight_is_one_node_where_it_is_read(weight, tmp_path):
    """Transposed and reshaped beforehand, with as few scales as say it."""
    torch.manual_seed(0)
    x, _ = tiny.images(40, 1)
    model = calibrated(Reading().eval(), mixed("int8-tensor", weight), x)
    with torch.no_grad():
        model.tokens.weight *= 2.0 ** -torch.arange(0, 8, 0.25).reshape(32, 1)
    handed = export(model, x[:2], tmp_path / "net.onnx", to="onnx-qdq")
    graph = onnx.load(handed.path).graph
    weights = {each.name for each in graph.initializer if each.name.endswith(".codes")}
    made = {node.output[0]: node for node in graph.node if node.input and node.input[0] in weights}
    readers = [node for node in graph.node if set(node.input) & set(made)]
    assert [node.op_type for node in readers] == ["Conv", "ConvTranspose", "MatMul", "Gemm"]
    (found,) = outputs(handed.path, [x])
    with torch.inference_mode():
        expected = model(x)
    assert ((found - expected).abs() <= 0.02 * float(expected.abs().max())).float().mean() > 0.9
    attributes = {each.name: each.i for each in made[readers[2].input[1]].attribute}
    assert attributes == {
        "int4": {"axis": 1},
        "i4:f32:v16": {"axis": 0, "block_size": 16},
        "4:e2:b16": {"axis": 0, "block_size": 16},
        "uint8": {},
    }[weight]


def test_what_no_pair_says_is_told(tmp_path):
    x, _ = tiny.images(20, 1)
    model = calibrated(tiny.network().eval(), mixed("mxint8", "int4"), x)
    with pytest.raises(BitqError, match=r"^an activation of module '0' has the format .*, which no pair of Quantize"):
        export(model, x, tmp_path / "net.onnx", to="onnx-qdq")
    assert not list(tmp_path.iterdir())


QNN_TAKES = {
    "tokens": [("int8", "int8-tensor"), ("i4:f32:v16", "int8-tensor"), ("s4:e8m0:v32", "uint8")],
    "convolve": [("int4", "uint8"), ("i4:f32:v16", "i16:f32:tensor"), ("4:e1:b16", "i16:f32:tensor")],
}
QNN_REFUSES = [
    ("tokens", "i4:f32:v8", "int8-tensor", "has blocks of 8, where QNN takes powers of two from 16"),
    ("tokens", "i4:f32:v24", "int8-tensor", "has blocks of 24, where QNN"),
    ("tokens", "i8:f32:v16", "int8-tensor", "a weight in blocks of 8 bits, where QNN takes those of 4"),
    ("convolve", "i4:f32:v16", "int8-tensor", "for which a convolution's input has 16 bits and a zero point of 0"),
    ("depthwise", "i4:f32:v16", "i16:f32:tensor", "is a grouped convolution, which takes no weight in blocks"),
    ("enlarge", "i4:f32:v16", "i16:f32:tensor", "a weight in blocks, which ConvTranspose takes none of"),
    ("line", "i4:f32:v16", "i16:f32:tensor", "in blocks of 3 axes, where Conv takes those of 4"),
    ("tokens", "u4:f32:tensor", "int8-tensor", "a weight of 4 bits with a zero point, which has to be 0"),
    ("tokens", "i16:f32:channel", "int8-tensor", "a weight of 16 bits, where MatMul takes 8 or 4"),
]


class Layers(nn.Module):
    """One layer of a kind, with numbers of many sizes in its weight."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        layer = {
            "tokens": lambda: nn.Linear(64, 48),
            "convolve": lambda: nn.Conv2d(64, 48, 3),
            "depthwise": lambda: nn.Conv2d(64, 64, 3, groups=2),
            "enlarge": lambda: nn.ConvTranspose2d(64, 8, 2, 2),
            "line": lambda: nn.Conv1d(64, 8, 3),
        }[kind]()
        with torch.no_grad():
            layer.weight *= 2.0 ** torch.randint(-2, 3, layer.weight.shape)
        self.add_module(kind, layer)

    def forward(self, x):
        shaped = {"tokens": x.flatten(2).mT, "line": x.flatten(2)}.get(self.kind, x)
        return torch.relu(self.get_submodule(self.kind)(shaped))


def for_qnn(folder, kind, weight, activation):
    torch.manual_seed(0)
    x = torch.randn(4, 64, 5, 5)
    model = calibrated(Layers(kind).eval(), mixed(activation, weight), x)
    return model, x, export(model, x[:1], folder / "net.onnx", to="onnx-qdq", runtime="qnn")


@pytest.mark.parametrize(("kind", "weight", "activation"), [(k, *each) for k, all in QNN_TAKES.items() for each in all])
def test_what_qnn_takes_is_written_with_a_fixed_batch(kind, weight, activation, tmp_path):
    model, x, handed = for_qnn(tmp_path, kind, weight, activation)
    graph = onnx.load(handed.path).graph
    assert [size.dim_value for size in graph.input[0].type.tensor_type.shape.dim] == [1, 64, 5, 5]
    assert "nobody has run this on Qualcomm's hardware" in handed.notes[-2]
    assert handed.notes[-1] == "the batch of input is fixed in the file"
    points = {node.input[2] for node in graph.node if node.op_type == "QuantizeLinear"}
    types = {node.attribute[0].t.data_type for node in graph.node if set(node.output) & points}
    assert types == {onnx.TensorProto.INT16 if "16" in activation else onnx.TensorProto.UINT8}
    (found,) = outputs(handed.path, [x[:1]])
    with torch.inference_mode():
        expected = model(x[:1])
    assert ((found - expected).abs() <= 0.01 * float(expected.abs().max())).float().mean() > 0.95


@pytest.mark.parametrize(("kind", "weight", "activation", "says"), QNN_REFUSES)
def test_what_qnn_does_not_take_is_told_with_the_layer(kind, weight, activation, says, tmp_path):
    with pytest.raises(BitqError, match=f"^QNN cannot take these layers in their formats: '{kind}' .*{says}"):
        for_qnn(tmp_path, kind, weight, activation)
    assert not list(tmp_path.iterdir())


class Multiplying(nn.Module):
    """Two layers whose results are multiplied."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, x):
        x = x.flatten(1, 2)
        return torch.matmul(self.left(x), self.right(x).mT)


def test_products_of_activations_for_qnn(tmp_path):
    torch.manual_seed(0)
    x, _ = tiny.images(8, 1)
    model = calibrated(Multiplying().eval(), mixed("i16:f32:tensor", "int8-tensor"), x)
    with pytest.raises(BitqError, match="multiplies int16 and uint8, of which QNN takes uint8 with uint8 or uint16"):
        export(model, x[:1], tmp_path / "net.onnx", to="onnx-qdq", runtime="qnn")
    model = calibrated(Multiplying().eval(), mixed("int8-tensor", "int8-tensor"), x)
    handed = export(model, x[:1], tmp_path / "net.onnx", to="onnx-qdq", runtime="qnn")
    assert not any("float16" in note for note in handed.notes)
    model = calibrated(tiny.network().eval(), TensorFormats(mixed("int8-tensor").input), x)
    handed = export(model, x[:1], tmp_path / "net.onnx", to="onnx-qdq", runtime="qnn")
    assert any(note.startswith("QNN computes in float16") for note in handed.notes)
    with pytest.raises(BitqError, match=r"'qnn' runs no onnx of its own; --target may be .*qnn \(--to onnx-qdq\)"):
        export(model, x[:1], tmp_path / "net.onnx", runtime="qnn")


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
    with pytest.raises(BitqError, match=r"^'tflite' is nothing to export to; it must be one of .*onnx, onnx-qdq"):
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


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a search for the tiny network."""
    folder = tmp_path_factory.mktemp("exported") / "run"
    package.search(
        tiny.trained(), *tiny.loaders(), device=tiny.DEVICE, formats=tiny.FORMATS, run=folder,
        settings=tiny.settings(rounds=1, plans=1, uniforms=1, screened_inputs=50),
        listener=Silent(), network="tiny:network",
    )  # fmt: skip
    return folder


def test_a_run_is_exported(bitq, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["export", str(run), "--out", "net.onnx"]
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
    package.load_quantized(own, run)
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


def test_a_plan_is_exported_with_a_checkpoint(bitq, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(run / "plan.json", "plan.json")
    words = ["export", "plan.json", "--network", "tiny:network", "--input-shape", "1,1,8,8", "--json"]
    code, _, err = bitq(*words, "--out", "net.onnx")
    assert code == 2
    assert "plan.json is a plan without weights; give --checkpoint" in err
    save_file(tiny.trained().state_dict(), "float.safetensors")
    images, _ = tiny.images(100, 3)
    for checkpoint in (run / "weights.safetensors", "float.safetensors"):
        code, _, err = bitq(*words, "--out", "net.onnx", "--checkpoint", str(checkpoint))
        assert code == 0, err
        own = tiny.network()
        if checkpoint == "float.safetensors":
            own = tiny.trained().eval()
            package.apply(own, package.load_plan(run / "plan.json"))
        else:
            package.load_quantized(own, run)
        (found,) = outputs(tmp_path / "net.onnx", [images])
        with torch.inference_mode():
            assert (found.argmax(1) == own(images).argmax(1)).float().mean() > 0.97
    words = ["export", str(run), "--network", "tiny:network", "--to", "tenstorrent", "--out", "net.json"]
    code, out, err = bitq(*words)
    assert code == 0, err
    assert "Not run: nobody has run this on Tenstorrent" in " ".join(out.split())
    assert set(json.loads((tmp_path / "net.json").read_text())) == {"0.weight", "3.weight", "8.weight"}


def test_a_plan_is_put_into_an_onnx_file_with_other_names(bitq, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tiny.network()
    package.load_quantized(own, run)
    plain = tiny.network().eval()
    plain.load_state_dict(own.state_dict())
    batch = {0: torch.export.Dim("batch", min=1)}
    torch.onnx.export(
        plain, (torch.zeros(2, 1, 8, 8),), "named.onnx", dynamo=True, dynamic_shapes=(batch,), verbose=False,
        optimize=False,  # which would fold norms into weights
    )
    content = onnx.load("named.onnx", load_external_data=True)
    for number, node in enumerate(content.graph.node):
        node.name = f"other_{number}"
    onnx.save(content, "net.onnx")
    words = ["export", str(run), "--onnx", "net.onnx", "--input-shape", "1,1,8,8", "--json"]
    code, out, err = bitq(*words, "--out", "planned.onnx")
    assert code == 0, err
    told = json.loads(out)
    assert told["notes"][0] == "3 layers of net.onnx are those of the plan, by what they compute and their order"
    assert told["packed_weights"] == 3
    images, _ = tiny.images(200, 3)
    (found,) = outputs(tmp_path / "planned.onnx", [images])
    with torch.inference_mode():
        expected = own.eval()(images)
    assert ((found - expected).abs() <= 0.02 * float(expected.abs().max())).float().mean() > 0.97
    code, _, err = bitq(*words[:4], "--input-shape", "2,1,8,8", "--out", "planned.onnx")
    assert code == 2
    assert "net.onnx is not the plan's network on its input: it lacks '0' (N=1 " in " ".join(err.split())
    code, _, err = bitq(*words[:4], "--to", "amd", "--out", "planned.onnx")
    assert code == 2
    assert "--to amd is not written of an ONNX file" in " ".join(err.split())


def plain_file(path, change):
    """The tiny network's file, in float32, with something changed."""
    batch = {0: torch.export.Dim("batch", min=1)}
    torch.onnx.export(
        tiny.network().eval(), (torch.zeros(2, 1, 8, 8),), str(path), dynamo=True, dynamic_shapes=(batch,),
        verbose=False, optimize=False, external_data=False,
    )  # fmt: skip
    if change is not None:
        file = onnx.load(path)
        change(file, path.parent)
        path.write_bytes(file.SerializeToString())


def weight_of(file):
    """The first weight with axes."""
    return next(each for each in file.graph.initializer if len(each.dims) == 4)


def elsewhere(tensor, folder):
    """Says that its values are in a pipe, which would hang who opens it."""
    if not (folder / "pipe").exists():
        os.mkfifo(folder / "pipe")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="pipe")


def outside_in_a_constant(file, folder):
    weight = weight_of(file)
    held = onnx.TensorProto()
    held.CopyFrom(weight)
    file.graph.initializer.remove(weight)
    elsewhere(held, folder)
    file.graph.node.insert(0, onnx.helper.make_node("Constant", [], [weight.name], value=held))


def outside_in_a_branch(file, folder):
    held = onnx.TensorProto(name="h", data_type=1, dims=[1])
    elsewhere(held, folder)
    out = onnx.helper.make_tensor_value_info("h", 1, [1])
    branch = onnx.helper.make_graph([], "b", [], [out], [held])
    true = onnx.helper.make_tensor("true", onnx.TensorProto.BOOL, [], [1])
    file.graph.initializer.append(true)
    file.graph.node.append(onnx.helper.make_node("If", ["true"], ["z"], then_branch=branch, else_branch=branch))


def shorter(file, folder):
    weight = weight_of(file)
    weight.raw_data = weight.raw_data[:-4]


def other_type(file, folder):
    weight = weight_of(file)
    weight.data_type = onnx.TensorProto.INT32


def no_type(file, folder):
    weight_of(file).data_type = 77


def infinite(file, folder):
    weight = weight_of(file)
    weight.raw_data = torch.full(list(weight.dims), torch.nan).numpy().tobytes()


def circle(file, folder):
    name = file.graph.node[-1].output[0]
    file.graph.node[0].input[0] = name


def unknown_operator(file, folder):
    first = file.graph.node[0]
    file.graph.node.insert(0, onnx.helper.make_node("Own", [first.input[0]], ["own"], domain="own"))
    first.input[0] = "own"
    file.opset_import.add(domain="own", version=1)


def unknown_version(file, folder):
    file.opset_import[0].version = 900


def old_version(file, folder):
    file.opset_import[0].version = 1


def empty_weight(file, folder):
    weight = weight_of(file)
    weight.ClearField("raw_data")


def without_results(file, folder):
    """A loop that gives nothing."""
    name = onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["on"], ["still"])], "b",
        [name("round", 7, []), name("on", 9, [])], [name("still", 9, [])],
    )  # fmt: skip
    file.graph.initializer.append(onnx.helper.make_tensor("rounds", 7, [], [2]))
    file.graph.node.append(onnx.helper.make_node("Loop", ["rounds", ""], [], body=body))


HOSTILE = {
    outside_in_a_constant: "holds its weights in other files",
    outside_in_a_branch: "holds its weights in other files",
    shorter: "is damaged: the values of tensor '0.weight' do not fit it",
    empty_weight: "is damaged: the values of tensor '0.weight' do not fit it",
    other_type: "the shapes do not fit together",
    no_type: "the shapes do not fit together",
    circle: "which nothing before it computes",
    unknown_version: "version 900",
    old_version: "the shapes do not fit together",
}


@pytest.mark.parametrize("change", HOSTILE, ids=lambda each: each.__name__)
def test_a_hostile_file_is_refused_in_a_sentence(change, run, tmp_path):
    plain_file(tmp_path / "n.onnx", change)
    with pytest.raises(BitqError) as told:
        rewritten_from(tmp_path / "n.onnx", run, tmp_path / "o.onnx")
    assert HOSTILE[change] in str(told.value)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.99])
def test_a_cut_file_is_refused_in_a_sentence(cut, run, tmp_path):
    plain_file(tmp_path / "n.onnx", None)
    content = (tmp_path / "n.onnx").read_bytes()
    (tmp_path / "n.onnx").write_bytes(content[: int(cut * len(content))])
    with pytest.raises(BitqError, match=r"n\.onnx (is|has|holds|lacks)"):
        rewritten_from(tmp_path / "n.onnx", run, tmp_path / "o.onnx")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (unknown_operator, "It was not run: ONNX Runtime says"),
        (without_results, "It was not run: ONNX Runtime says"),
        (infinite, "nan"),
    ],
)
def test_what_the_runtime_does_not_take_is_told(change, says, run, tmp_path):
    plain_file(tmp_path / "n.onnx", change)
    handed = rewritten_from(tmp_path / "n.onnx", run, tmp_path / "o.onnx")
    assert says in handed.ran(None, None)


def rewritten_from(source, run, out):
    return target_of("onnx").rewrite(package.load_plan(run / "plan.json"), source, out, [1, 1, 8, 8])
