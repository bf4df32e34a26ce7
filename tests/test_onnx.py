"""ONNX files give the layers that tracing the same network gives, and damaged ones give one sentence."""

import json
import os
import sys
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bitq.errors import BitqError
from bitq.networks import NETWORKS
from bitq.onnx import load_onnx
from bitq.tracing import trace
from test_tracing import convolve, whole

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402

FLOAT = TensorProto.FLOAT


def value(name: str, *shape: Any) -> Any:
    return helper.make_tensor_value_info(name, FLOAT, shape)


def constant(name: str, *shape: int) -> Any:
    return helper.make_tensor(name, FLOAT, shape, np.zeros(shape, np.float32).tobytes(), raw=True)


def model(nodes: Any, inputs: Any, weights: Any = (), functions: Any = (), **more: Any) -> Any:
    output = helper.make_empty_tensor_value_info(nodes[-1].output[0])
    graph = helper.make_graph(nodes, "graph", inputs, [output], list(weights), **more)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, functions=list(functions), opset_imports=opsets, ir_version=9)


@pytest.fixture
def file(tmp_path):
    """Write a model: the file's path."""

    def write(content: Any) -> Path:
        path = tmp_path / "model.onnx"
        path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
        return path

    return write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


def exported(network: nn.Module, inputs: Any, folder: Path, dynamo: bool = False, **options: Any) -> Path:
    path = folder / "exported.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network.eval(), inputs, path, dynamo=dynamo, input_names=["x"], verbose=False, **options)
    return path


def with_open_sizes(network: nn.Module, inputs: Any, names: dict[int, str], folder: Path, dynamo: bool) -> Path:
    """Exported by PyTorch's older or newer exporter with these axes of the input open."""
    if not dynamo:
        return exported(network, (inputs,), folder, dynamic_axes={"x": names})
    pytest.importorskip("onnxscript")
    axes = dict.fromkeys(names, torch.export.Dim.DYNAMIC)
    return exported(network, (inputs,), folder, dynamo=True, dynamic_shapes=(axes,))


def bare(layers: Any) -> list[Any]:
    """Layers without the names, which a file need not keep."""
    return [replace(layer, name="", module="") for layer in layers]


def refused(path: Path, message: str, input_shape: Any = None) -> None:
    with pytest.raises(BitqError, match=message) as caught:
        load_onnx(path, input_shape)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.project(x).view(batch, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        y = torch.softmax(q @ k.transpose(-1, -2), -1) @ v
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


def up_and_down() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 4, 3, padding=(2, 1), dilation=2, groups=2),
        nn.Flatten(2),
        nn.ConvTranspose1d(4, 4, 5, stride=3, padding=6),
        nn.Conv1d(4, 8, 3, stride=2, padding=1),
        nn.Linear(319, 3),
    )


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (NETWORKS["eca_mobilenet_v2"], (2, 3, 64, 96)),
        (NETWORKS["googlenet"], (1, 3, 64, 64)),
        (up_and_down, (1, 4, 9, 7)),
        (Attention, (3, 5, 8)),
        (encoder, (3, 5, 8)),
    ],
)
def test_an_exported_network_has_the_traced_layers(make, shape, folder):
    network, images = make(), torch.zeros(shape)
    expected = trace(network, images)
    found = load_onnx(exported(network, (images,), folder))
    assert found.input_shape == shape
    assert bare(found.layers) == bare(expected)
    assert len({layer.name for layer in found.layers}) == len(expected)


class Pairwise(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ x.transpose(1, 2).reshape(x.shape[0], x.shape[2], x.shape[1])


@pytest.mark.parametrize("shape", [(3, 5, 8), (1, 7, 8)])
def test_open_sizes_follow_from_the_given_shape(shape, folder):
    network = Pairwise()
    path = exported(network, (torch.zeros(2, 6, 8),), folder, dynamic_axes={"x": {0: "batch", 1: "time"}})
    found = load_onnx(path, shape)
    assert bare(found.layers) == bare(trace(network, torch.zeros(shape)))
    refused(path, "input 'x' is left open .1 x time x 8.; give --input-shape 'x=1,time,8', with whole numbers")


class Transformer(nn.Module):
    """Patches, a token that is expanded over the batch, attention, and a class."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token, self.block = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.zeros(1, 1, 8)), Attention()
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        return self.head((x + self.block(self.norm(x)))[:, 0])


class Windows(nn.Module):
    """Attention within windows of an image that is padded to whole ones, and cut back."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(3, 6)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images.permute(0, 2, 3, 1)
        _, height, width, _ = x.shape
        x = F.pad(x, (0, 0, 0, (4 - width % 4) % 4, 0, (4 - height % 4) % 4))
        batch, rows, columns, _ = x.shape
        x = x.view(batch, rows // 4, 4, columns // 4, 4, 3).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 3)
        q, v = self.project(x).chunk(2, -1)
        x = (torch.softmax(q @ q.transpose(1, 2), -1) @ v).view(batch, rows // 4, columns // 4, 4, 4, 3)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, 3)[:, :height, :width]
        return x @ x.transpose(-1, -2)


class Upsampled(nn.Module):
    """A coarse image enlarged to the size of a finer one."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.out = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 3, 3, 2, 1), nn.Conv2d(6, 2, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        coarse = F.interpolate(self.up(self.down(images)), size=images.shape[2:], mode="bilinear")
        return self.out(torch.cat([images, coarse], 1))


IMAGE = {0: "batch", 2: "height", 3: "width"}


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize(
    ("make", "names", "exported_with", "given"),
    [
        (Attention, {0: "batch", 1: "time"}, (2, 6, 8), (3, 29, 8)),
        (Transformer, IMAGE, (2, 3, 16, 24), (3, 3, 40, 12)),
        (Windows, IMAGE, (2, 3, 10, 14), (3, 3, 17, 9)),
        (Upsampled, IMAGE, (2, 3, 10, 14), (3, 3, 17, 9)),
    ],
)
def test_open_sizes_go_through_arithmetic_on_shapes(make, names, exported_with, given, dynamo, folder):
    network = make()
    path = with_open_sizes(network, torch.zeros(exported_with), names, folder, dynamo)
    for shape in (given, exported_with):
        assert bare(load_onnx(path, shape).layers) == bare(trace(network, torch.zeros(shape)))


def integers(name: str, *values: int) -> Any:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("ConstantOfShape", ["huge"], ["large"])],
        [helper.make_node("Expand", ["huge", "huge"], ["large"])],
        [helper.make_node("Tile", ["ten", "huge"], ["large"])],
        [helper.make_node("Range", ["zero", "most", "step"], ["large"])],
    ],
    ids=lambda nodes: nodes[0].op_type,
)
def test_only_small_tensors_are_computed(nodes, file, monkeypatch):
    """A terabyte of numbers has a size, and nobody needs them for it."""
    from bitq.onnx import shapes

    monkeypatch.setattr("bitq.onnx.apart.apart", lambda work, *limits: work())  # look on
    computed, compute = [], shapes._computed
    monkeypatch.setattr(
        shapes, "_computed", lambda node, *args: computed.append(node.op_type) or compute(node, *args)
    )
    nodes = [
        *nodes,
        helper.make_node("Size", ["large"], ["count"]),
        helper.make_node("Mod", ["count", "seven"], ["rest"]),
        helper.make_node("Unsqueeze", ["rest", "zeros"], ["rows"]),
        helper.make_node("Concat", ["rows", "eight"], ["shape"], axis=0),
        helper.make_node("Expand", ["x", "shape"], ["rows of x"]),
        helper.make_node("MatMul", ["rows of x", "w"], ["y"]),
    ]
    scalars = [helper.make_tensor(name, TensorProto.INT64, [], [v]) for name, v in (("zero", 0), ("most", 10**12))]
    scalars += [helper.make_tensor(name, TensorProto.INT64, [], [v]) for name, v in (("step", 1), ("seven", 7))]
    vectors = [integers("huge", 10**12), integers("ten", 7), integers("zeros", 0), integers("eight", 8)]
    path = file(model(nodes, [value("x", 1, 8)], [constant("w", 8, 2), *scalars, *vectors]))
    (layer,) = load_onnx(path).layers
    rest = 10**12 % 7 if nodes[0].op_type != "Tile" else 0
    assert layer.input_shape == (rest or 1, 8, 1, 1)
    assert computed == ["Mod", "Unsqueeze", "Concat"]


def test_values_in_other_files_are_not_read(file, tmp_path):
    (tmp_path / "secret").write_bytes(np.array([2, 4], np.int64).tobytes())
    for outside in (True, False):
        shape = integers("", 2, 4)
        if outside:
            shape.ClearField("int64_data")
            shape.data_location = TensorProto.EXTERNAL
            shape.external_data.add(key="location", value="secret")
        nodes = [
            helper.make_node("Constant", [], ["shape"], value=shape),
            helper.make_node("Reshape", ["x", "shape"], ["rows"]),
            helper.make_node("MatMul", ["rows", "w"], ["y"]),
        ]
        path = file(model(nodes, [value("x", 8)], [constant("w", 4, 2)]))
        if outside:
            refused(path, "external")
        else:
            assert [layer.N for layer in load_onnx(path).layers] == [2]


def test_values_that_make_no_sense_leave_shapes_open_or_are_told(file):
    """Division by zero, a negative size, an index beyond the end."""
    for operator, first, second in (("Div", 8, 0), ("Sub", 2, 8), ("Gather", 8, 9)):
        nodes = [
            helper.make_node(operator, ["a", "b"], ["shape"]),
            helper.make_node("Reshape", ["x", "shape"], ["rows"]),
            helper.make_node("MatMul", ["rows", "w"], ["y"]),
        ]
        weights = [constant("w", 8, 2), integers("a", first), integers("b", second)]
        refused(file(model(nodes, [value("x", 8)], weights)), "does not follow from the file|do not fit together")


def test_an_open_batch_is_one(folder):
    network = NETWORKS["resnet18"]()
    path = exported(network, (torch.zeros(2, 3, 32, 32),), folder, dynamic_axes={"x": {0: "batch"}})
    assert bare(load_onnx(path).layers) == bare(trace(network, torch.zeros(1, 3, 32, 32)))
    four = load_onnx(path, (4, 3, 32, 32))
    assert (four.input_shape, bare(four.layers)) == ((4, 3, 32, 32), bare(trace(network, torch.zeros(4, 3, 32, 32))))
    refused(path, "batch x 3 x 32 x 32 in the file, which the shape 1 x 3 x 64 x 32 does not fit", (1, 3, 64, 32))
    refused(path, "which the shape 1 x 3 x 32 does not fit", (1, 3, 32))


def padded(auto: str, total: int, given: tuple[int, int]) -> tuple[int, int]:
    """What a convolution adds before and after an axis, or a transposed one takes away (operator specification)."""
    if auto.startswith("SAME"):
        less, more = total // 2, total - total // 2
        return (less, more) if auto == "SAME_UPPER" else (more, less)
    return (0, 0) if auto == "VALID" else given


small = st.integers(1, 3)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), transposed=st.booleans(), axes=st.sampled_from([1, 2]))
def test_every_convolution_computes_what_its_layer_says(data, transposed, axes, folder):
    batch, groups, inputs, outputs = (data.draw(small) for _ in range(4))
    size, kernel, strides, dilations = (
        data.draw(st.lists(st.integers(1, most), min_size=axes, max_size=axes)) for most in (7, 3, 3, 2)
    )
    auto = data.draw(st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    pads = [data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2))) for _ in range(axes)]
    reaches = [(taps - 1) * step + 1 for taps, step in zip(kernel, dilations, strict=True)]
    full = [(n - 1) * s + reach for n, s, reach in zip(size, strides, reaches, strict=True)]
    if transposed:
        totals = [length - n * s for length, n, s in zip(full, size, strides, strict=True)]
    else:
        totals = [(-(-n // s) - 1) * s + r - n for n, s, r in zip(size, strides, reaches, strict=True)]
    assume(not transposed or auto == "NOTSET" or min(totals) >= 0)
    pads = [padded(auto, max(0, total), pair) for total, pair in zip(totals, pads, strict=True)]
    lengths = full if transposed else [n + sum(pair) - r + 1 for n, pair, r in zip(size, pads, reaches, strict=True)]
    assume(min(n - transposed * sum(pair) for n, pair in zip(lengths, pads, strict=True)) >= 1)

    attributes: dict[str, Any] = {"strides": strides, "dilations": dilations, "group": groups, "auto_pad": auto}
    if auto == "NOTSET":
        attributes["pads"] = [before for before, _ in pads] + [after for _, after in pads]
    operator = "ConvTranspose" if transposed else "Conv"
    node = helper.make_node(operator, ["x", "w"], ["y"], **attributes)
    images = whole((batch, inputs * groups, *size), 1)
    channels = (inputs * groups, outputs) if transposed else (outputs * groups, inputs)
    filters = whole((*channels, *kernel), 2)
    path = folder / "convolution.onnx"
    path.write_bytes(model([node], [value("x", *images.shape)], [constant("w", *filters.shape)]).SerializeToString())
    (layer,) = load_onnx(path).layers

    geometry = {"stride": strides, "dilation": dilations, "groups": groups}
    if transposed:
        compute = F.conv_transpose1d if axes == 1 else F.conv_transpose2d
        kept = [slice(before, n - after) for n, (before, after) in zip(full, pads, strict=True)]
        with FlopCounterMode(display=False) as counter:
            expected = compute(images, filters, **geometry)[(..., *kept)]
    else:
        compute = F.conv1d if axes == 1 else F.conv2d
        with FlopCounterMode(display=False) as counter:
            expected = compute(F.pad(images, [end for pair in reversed(pads) for end in pair]), filters, **geometry)
    plane, filters = (t if axes == 2 else t[..., None, :] for t in (images, filters))
    if transposed:  # [C·g, K/g, ...] → [K, C, ...], taps in the opposite order
        filters = filters.unflatten(0, (groups, inputs)).transpose(1, 2).flatten(0, 1).flip(2, 3)
        plane = plane[..., -layer.size[0] :, -layer.size[1] :]
    assert 2 * layer.macs * images.numel() == counter.get_total_flops() * plane.numel()
    assert (tuple(plane.shape), tuple(filters.shape)) == (layer.input_shape, layer.weight_shape)
    result = convolve(layer, plane, filters)
    assert torch.equal(result if axes == 2 else result.squeeze(2), expected)


class Product(nn.Module):
    """The product of x, or a weight where `weight` says so, with another."""

    def __init__(self, compute: Any, shapes: Any, weight: int | None) -> None:
        super().__init__()
        self.compute, self.weight = compute, weight
        self.parameter = None if weight is None else nn.Parameter(torch.zeros(shapes[weight]))

    def forward(self, *inputs: torch.Tensor) -> Any:
        operands = list(inputs)
        if self.weight is not None:
            operands.insert(self.weight, self.parameter)
        return self.compute(*operands)


def check_product(node: Any, compute: Any, shapes: Any, weight: int | None, folder: Path) -> None:
    inputs = [value(name, *shape) for i, (name, shape) in enumerate(zip("ab", shapes, strict=True)) if i != weight]
    weights = [] if weight is None else [constant("ab"[weight], *shapes[weight])]
    path = folder / "product.onnx"
    path.write_bytes(model([node], inputs, weights).SerializeToString())
    given_shapes = [shape for i, shape in enumerate(shapes) if i != weight]
    expected = trace(Product(compute, shapes, weight), tuple(torch.zeros(shape) for shape in given_shapes))
    assert bare(load_onnx(path).layers) == bare(expected)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 4)] * 3),
    batch=st.lists(st.integers(2, 3), max_size=2).map(tuple),
    held=st.sampled_from(["both", "first", "second"]),
    weight=st.sampled_from([None, 0, 1]),
)
def test_matmul_is_traced_matmul(sizes, batch, held, weight, folder):
    rows, inner, cols = sizes
    shapes = (batch if held != "second" else ()) + (rows, inner), (batch if held != "first" else ()) + (inner, cols)
    check_product(helper.make_node("MatMul", ["a", "b"], ["y"]), torch.matmul, shapes, weight, folder)


@pytest.mark.parametrize("weight", [None, 1])
@pytest.mark.parametrize(("trans_a", "trans_b"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_gemm_is_traced_mm(trans_a, trans_b, weight, folder):
    shapes = ((5, 2) if trans_a else (2, 5), (3, 5) if trans_b else (5, 3))
    node = helper.make_node("Gemm", ["a", "b"], ["y"], transA=trans_a, transB=trans_b)
    check_product(node, lambda a, b: (a.T if trans_a else a) @ (b.T if trans_b else b), shapes, weight, folder)


@pytest.mark.parametrize("weight", [None, 1])
@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", ((2, 3), (3, 4))),
        ("bhqd,bhkd->bhqk", ((2, 3, 4, 5), (2, 3, 6, 5))),
        ("nchw,nwv->nhvc", ((2, 3, 4, 5), (2, 5, 6))),
        ("bij,ijk->bk", ((2, 3, 4), (3, 4, 5))),
        (" ij, jk ", ((2, 3), (3, 4))),
    ],
)
def test_einsum_is_traced_einsum(equation, shapes, weight, folder):
    node = helper.make_node("Einsum", ["a", "b"], ["y"], equation=equation)
    check_product(node, lambda a, b: torch.einsum(equation, a, b), shapes, weight, folder)


@pytest.mark.parametrize(("operator", "weight"), [("ConvInteger", 1), ("QLinearConv", 3)])
def test_quantized_convolutions_are_convolutions(operator, weight, file):
    scalars = ["s", "z"]
    names = ["x", "w"] if weight == 1 else ["x", *scalars, "w", *scalars, *scalars]
    node = helper.make_node(operator, names, ["y"], pads=[1, 1, 1, 1])
    weights = [
        helper.make_tensor("w", TensorProto.UINT8, (4, 2, 3, 3), b"\0" * 72, raw=True),
        helper.make_tensor("s", FLOAT, (), [1.0]),
        helper.make_tensor("z", TensorProto.UINT8, (), [0]),
    ]
    images = helper.make_tensor_value_info("x", TensorProto.UINT8, (1, 2, 8, 8))
    (layer,) = load_onnx(file(model([node], [images], weights))).layers
    (expected,) = trace(nn.Sequential(nn.Conv2d(2, 4, 3, padding=1)), torch.zeros(1, 2, 8, 8))
    assert bare([layer]) == bare([expected])


def test_weights_in_other_files_are_not_read(file):
    weight = constant("w", 4, 300, 3, 3)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../no/such/file")
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv")
    (layer,) = load_onnx(file(model([node], [value("x", 1, 300, 5, 5)], [weight]))).layers
    assert (layer.name, layer.weight_shape, layer.weight_is_parameter) == ("conv", (4, 300, 3, 3), True)


def test_weights_may_be_listed_among_the_inputs_as_old_files_do(file):
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    inputs = [value("w", 5, 4), value("x", "n", 5)]
    found = load_onnx(file(model([node], inputs, [constant("w", 5, 4)])), (3, 5))
    assert found.input_shape == (3, 5)
    assert (found.layers[0].N, found.layers[0].weight_is_parameter) == (3, True)


def test_kinds_of_products_decide_what_stays_float(file, bitq):
    """A file has no modules: all take formats but an Einsum with a weight and a kernel of activations."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], name="taking"),
        helper.make_node("Einsum", ["y", "w"], ["z"], name="einsum", equation="ni,io->no"),
        helper.make_node("Einsum", ["z", "z"], ["s"], name="scores", equation="ni,mi->nm"),
        helper.make_node("MatMul", ["s", "z"], ["t"], name="values"),
        helper.make_node("Conv", ["p", "p"], ["k"], name="kernel"),
    ]
    path = file(model(nodes, [value("x", 3, 4), value("p", 1, 1, 3, 3)], [constant("w", 4, 4)]))
    found = load_onnx(path)
    assert [layer.name for layer in found.layers] == ["taking", "einsum", "scores", "values", "kernel"]
    stays = {part.reason.split(",")[0]: part for part in found.stays_float}
    assert {reason: part.layers for reason, part in stays.items()} == {
        "is an Einsum with a weight": ("einsum",),
        "multiplies two activations": ("kernel",),
    }
    words = ("movement", path, "--device", "eyeriss", "--formats", "8:e3:b16")
    document = json.loads(bitq(*words, "--json")[1])
    formats = {layer["name"]: layer["formats"]["weight"] for layer in document["layers"]}
    taking = dict.fromkeys(("taking", "scores", "values"), "8:e3:b16")
    assert formats == {**taking, "einsum": None, "kernel": None}
    floats = sum(layer["movement_bits"] for layer in document["layers"] if layer["name"] not in taking)
    assert sum(part["movement_bits"] for part in document["stays_float"]) == pytest.approx(floats)
    out = " ".join(bitq(*words)[1].split())
    assert "Assumed: an ONNX file does not tell which modules" in out
    assert "kernel: multiplies two activations" in out
    assert "Assumed" not in bitq(*words[:-2])[1]


def test_named_sizes_hold_for_every_input(file):
    nodes = [helper.make_node("MatMul", ["x", "z"], ["y"])]
    path = file(model(nodes, [value("x", "n", "t", 6), value("z", "n", 6, "t")]))
    (layer,) = load_onnx(path, (2, 5, 6)).layers
    assert (layer.N, layer.K, layer.C, layer.groups) == (5, 10, 6, 2)
    assert not layer.weight_is_parameter
    refused(path, "input 'x' is left open .1 x t x 6.")


def opened(shape: Any, output: Any) -> Any:
    """A convolution of an image of this shape, which keeps height and width."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "graph", [value("x", *shape)], [value("y", *output)], [constant("w", 4, 3, 3, 3)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("size", ["?", "", "-1", "None", "unknown", "Dynamic", " ", "?_1", -1, 0, None])
def test_a_placeholder_is_no_name(size, file):
    """As Paddle's exporter writes it: sizes called "?" need not be equal, and none follows from the batch."""
    path = file(opened((size, 3, size, size), (size, 4, size, size)))
    refused(path, r"input 'x' is left open .1 x 3 x \? x \?.; give --input-shape 'x=1,3,\?,\?'")
    found = load_onnx(path, (2, 3, 9, 12))
    assert found.input_shape == (2, 3, 9, 12)
    assert bare(found.layers) == bare(trace(nn.Conv2d(3, 4, 3, padding=1), torch.zeros(2, 3, 9, 12)))
    assert load_onnx(file(opened((size, 3, 9, 12), (size, 4, size, 12)))).input_shape == (1, 3, 9, 12)


@pytest.mark.parametrize("shape", [("n", 3, "n", "n"), ("n", 3, 8, "n"), (None, 3, "n", 8)])
def test_height_and_width_never_follow_from_a_batch_of_one(shape, file):
    refused(file(opened(shape, ("n", 4, None, None))), "the shape of input 'x' is left open")
    assert load_onnx(file(opened(("n", 3, 8, 8), ("n", 4, "h", "w")))).input_shape == (1, 3, 8, 8)


def test_inputs_are_given_their_shapes_by_name(file):
    nodes = [helper.make_node("Mul", ["ids", "mask"], ["m"]), helper.make_node("MatMul", ["m", "w"], ["y"])]
    inputs = [value("ids", "batch", "time", 8), value("mask", "batch", "length", 1)]
    path = file(model(nodes, inputs, [constant("w", 8, 2)]))
    refused(path, "input 'ids' is left open .1 x time x 8.; give --input-shape 'ids=1,time,8'")
    refused(path, "input 'mask' is left open .2 x length x 1.; give --input-shape 'mask=2,length,1'", (2, 5, 8))
    shapes = {"mask": (2, 5, 1), "ids": np.array([2, 5, 8])}
    for given_shapes in (shapes, {"": (2, 5, 8), "mask": (2, 5, 1)}):
        found = load_onnx(path, given_shapes)
        assert found.input_shape == (2, 5, 8)
        assert [(layer.N, layer.K, layer.C) for layer in found.layers] == [(10, 2, 8)]
    for wrong, message in [
        ({**shapes, "mask": (3, 5, 1)}, "input 'ids' is batch=3 x time x 8 in the file, which the shape 2 x 5 x 8"),
        ({**shapes, "mask": (2, 4, 1)}, "do not fit together"),
        ({"y": (1,)}, "has no input 'y' to give a shape to; its inputs are 'ids', 'mask'"),
        ({**shapes, "": (2, 5, 8)}, "input 'ids', the first, is given a shape twice"),
        ({"ids": (2, 0, 8)}, "input 'ids' must be whole numbers above 0"),
        ({"ids": (2, 1.5, 8)}, "input 'ids' must be whole numbers above 0"),
    ]:
        refused(path, message, wrong)


def test_a_batch_that_is_given_is_not_taken_for_one_elsewhere(file):
    """Of an image and its scale, whose batches the exporter calls "?" both."""
    nodes = [helper.make_node("Mul", ["x", "scale"], ["s"]), helper.make_node("MatMul", ["s", "w"], ["y"])]
    path = file(model(nodes, [value("x", "?", "?", 8), value("scale", "?", 1, 1)], [constant("w", 8, 2)]))
    assert load_onnx(path, (1, 5, 8)).layers[0].N == 5
    refused(path, "input 'scale' is left open .. x 1 x 1.; give --input-shape", (2, 5, 8))
    assert load_onnx(path, {"x": (2, 5, 8), "scale": (2, 1, 1)}).layers[0].N == 10


def test_a_batch_that_the_file_fixes_gives_way_to_a_given_one(file, folder):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    path = exported(network, (torch.zeros(2, 3, 8, 8),), folder)
    for batch in (1, 2, 7):
        shape = (batch, 3, 8, 8)
        assert load_onnx(path, shape).input_shape == shape
        assert bare(load_onnx(path, shape).layers) == bare(trace(network, torch.zeros(shape)))
    refused(path, "2 x 3 x 8 x 8 in the file, which the shape 2 x 3 x 9 x 8 does not fit", (2, 3, 9, 8))
    refused(path, "which the shape 7 x 3 x 9 x 8 does not fit", (7, 3, 9, 8))
    refused(path, "which the shape 7 x 3 x 8 does not fit", (7, 3, 8))


def test_other_inputs_follow_a_given_batch(file):
    nodes = [helper.make_node("Mul", ["ids", "mask"], ["m"]), helper.make_node("MatMul", ["m", "w"], ["y"])]
    inputs, between = [value("ids", 1, 5, 8), value("mask", 1, 5, 1)], [value("m", 1, 5, 8)]
    path = file(model(nodes, inputs, [constant("w", 8, 2)], value_info=between))
    for shapes in ({"ids": (3, 5, 8)}, {"mask": (3, 5, 1)}, {0: (3, 5, 8), 1: (3, 5, 1)}):
        assert [layer.N for layer in load_onnx(path, shapes).layers] == [15]
    assert [layer.N for layer in load_onnx(path, {"ids": (3, 5, 8), "mask": (1, 5, 1)}).layers] == [15]
    refused(path, "the shapes do not fit together", {"ids": (3, 5, 8), "mask": (2, 5, 1)})


def test_a_batch_that_is_fixed_within_is_told(file):
    heads = helper.make_node("Reshape", ["x", "to"], ["r"], name="heads")
    nodes = [heads, helper.make_node("MatMul", ["r", "w"], ["y"])]
    path = file(model(nodes, [value("x", 1, 6, 8)], [integers("to", 1, 6, 2, 4), constant("w", 4, 2)]))
    assert [layer.N for layer in load_onnx(path).layers] == [12]
    refused(path, "node 'heads' .*makes 1 x 6 x 2 x 4 elements of 3 x 6 x 8; if the file is for another", (3, 6, 8))


def test_inputs_that_are_no_tensors_are_refused(file):
    sequence = helper.make_tensor_sequence_value_info("x", FLOAT, (2, 3))
    nodes = [helper.make_node("ConcatFromSequence", ["x"], ["c"], axis=0)]
    nodes.append(helper.make_node("MatMul", ["c", "w"], ["y"]))
    refused(file(model(nodes, [sequence], [constant("w", 3, 2)])), "input 'x' is a sequence; it must be a tensor")
    nodes = [helper.make_node("MatMul", ["v", "w"], ["y"])]
    alone = model(nodes, [], [constant("v", 2, 3), constant("w", 3, 2)])
    refused(file(alone), "has no input '' to give a shape to; its inputs are none", (1, 3))


def test_names_are_unique_and_safe_to_show(file):
    names = ["conv", "conv", "", "\x1b[31m[bold]"]
    nodes = [helper.make_node("Conv", [f"t{i}", "w"], [f"t{i + 1}"], name=name) for i, name in enumerate(names)]
    found = load_onnx(file(model(nodes, [value("t0", 1, 2, 9, 9)], [constant("w", 2, 2, 3, 3)])))
    assert [layer.name for layer in found.layers] == ["conv", "conv#2", "t3", "__31m_bold_"]


def function(name: str, *nodes: Any) -> Any:
    return helper.make_function(
        "own", name, ["a"], ["b"], nodes, [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    )


def test_functions_of_the_file_are_expanded(file):
    square = function("Square", helper.make_node("MatMul", ["a", "a"], ["b"]))
    twice = function(
        "Twice",
        helper.make_node("Square", ["a"], ["c"], domain="own"),
        helper.make_node("Square", ["c"], ["b"], domain="own"),
    )
    node = helper.make_node("Twice", ["x"], ["y"], domain="own")
    found = load_onnx(file(model([node], [value("x", 4, 4)], functions=[square, twice])))
    assert [(layer.N, layer.K, layer.C) for layer in found.layers] == [(4, 4, 4)] * 2


def test_functions_that_explode_are_refused(file):
    levels = [function("F0", helper.make_node("Relu", ["a"], ["b"]))]
    for level in range(1, 40):
        calls = (helper.make_node(f"F{level - 1}", [i], [o], domain="own") for i, o in (("a", "c"), ("c", "b")))
        levels.append(function(f"F{level}", *calls))
    node = helper.make_node("F39", ["x"], ["y"], domain="own")
    refused(file(model([node], [value("x", 4)], functions=levels)), "functions that expand to 549755813888 nodes")
    endless = function("F", helper.make_node("F", ["a"], ["b"], domain="own"))
    node = helper.make_node("F", ["x"], ["y"], domain="own")
    refused(file(model([node], [value("x", 4)], functions=[endless])), "a function that calls itself")


def branch(node: Any) -> Any:
    graph = helper.make_graph([node], "branch", [], [helper.make_empty_tensor_value_info(node.output[0])])
    inputs = [value("x", 4, 4), helper.make_tensor_value_info("c", TensorProto.BOOL, ())]
    return model([helper.make_node("If", ["c"], ["y"], name="choice", then_branch=graph, else_branch=graph)], inputs)


def test_only_control_flow_without_products_is_understood(file):
    assert load_onnx(file(branch(helper.make_node("Relu", ["x"], ["z"])))).layers == ()
    inside = branch(helper.make_node("MatMul", ["x", "x"], ["z"]))
    refused(file(inside), "node 'choice' .If. is an operator with a product inside that bitq does not model")


@pytest.mark.parametrize(
    ("node", "shapes", "message"),
    [
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"]), [(1, 2, 4, 4, 4), (2, 2, 3, 3, 3)], "over 3 axes"),
        (
            helper.make_node("Conv", ["x", "w"], ["y"]),
            [(1, 3, 4, 4), (2, 2, 3, 3)],
            "3 input channels",
        ),
        (
            helper.make_node("Conv", ["x", "w"], ["y"]),
            [(1, 2, 2, 2), (2, 2, 3, 3)],
            "has 'y' of 1 x 2 x 0 x 0 elements",
        ),
        (helper.make_node("Conv", ["x", "w"], ["y"], strides=[0, 1]), [(1, 2, 4, 4), (2, 2, 3, 3)], "stride|fit"),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), [(2, 3), (4, 5)], "do not fit together"),
        (helper.make_node("Gemm", ["x", "w"], ["y"]), [(2, 3), (4, 5)], "rows of 3 by columns of 4|do not fit"),
        (helper.make_node("Einsum", ["x", "w"], ["y"], equation="ii,ij->j"), [(2, 2), (2, 3)], "no diagonals"),
        (helper.make_node("Einsum", ["x", "w"], ["y"], equation="...i,ij->...j"), [(5, 2), (2, 3)], "all axes named"),
        (helper.make_node("LSTM", ["x", "w", "w"], ["y"]), [(2, 3, 4), (1, 8, 4)], "does not model|do not fit"),
        (helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="other"), [(2, 3), (3, 4)], "does not model"),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), [(10**7, 10**7), (10**7, 1)], "it must have 0 to 10{12}$"),
        (helper.make_node("MatMul", ["x"], ["y"]), [(2, 3), (3, 4)], "malformed|do not fit"),
    ],
)
def test_products_that_are_not_modelled_or_wrong_are_told(node, shapes, message, file):
    weight = TensorProto(name="w", data_type=FLOAT, dims=shapes[1])
    content = model([node], [value("x", *shapes[0])], [weight])
    content.opset_import.add(domain="other", version=1)
    refused(file(content), message)


@pytest.mark.parametrize("named", [True, False])
def test_the_operator_behind_which_shapes_are_unknown_is_named(named, file):
    odd = helper.make_node("Mystery", ["x"], ["h"], name="odd" if named else "", domain="other")
    nodes = [odd, helper.make_node("Relu", ["h"], ["r"]), helper.make_node("Add", ["one", "r"], ["a"])]
    nodes.append(helper.make_node("MatMul", ["a", "w"], ["y"], name="product"))
    content = model(nodes, [value("x", 4, 4)], [constant("w", 4, 4), constant("one", 1)])
    content.opset_import.add(domain="other", version=1)
    source = f"node '{'odd' if named else 'h'}' .Mystery. computes 'h', whose shape does not follow from the file"
    refused(file(content), f"{source} but is needed for node 'product' .MatMul.; write that shape into its value_info")
    content.graph.value_info.append(value("h", 4, 4))
    (layer,) = load_onnx(file(content)).layers
    assert (layer.N, layer.K, layer.C) == (4, 4, 4)


def test_a_shape_that_depends_on_values_is_told(file):
    nodes = [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("Cast", ["i"], ["f"], to=FLOAT)]
    nodes.append(helper.make_node("MatMul", ["f", "w"], ["y"], name="product"))
    path = file(model(nodes, [value("x", 4, 4)], [constant("w", 4, 4)]))
    refused(path, "node 'i' .NonZero. computes 'i', whose shape does not follow .* is needed for node 'product'")


def test_groups_that_do_not_divide_the_channels_are_told(file):
    for operator, group in (("ConvTranspose", 3), ("ConvTranspose", 0)):
        node = helper.make_node(operator, ["x", "w"], ["y"], group=group)
        content = model([node], [value("x", 1, 4, 5, 5)], [constant("w", 4, 2, 3, 3)])
        refused(file(content), "which do not divide its 4 input channels|do not fit together")


@pytest.mark.parametrize("content", [b"", b"\x00", b"no protocol buffer", b"\xff" * 100, bytes(range(256))])
def test_what_is_no_onnx_file_is_told(content, file):
    refused(file(content), "is damaged, or no ONNX file|is no ONNX file")


def test_a_missing_file_and_a_folder_are_told(tmp_path):
    refused(tmp_path / "none.onnx", "there is no file")
    refused(tmp_path, "is a folder; give an ONNX file")


def test_a_file_larger_than_any_is_not_read(tmp_path):
    path = tmp_path / "large.onnx"
    with path.open("wb") as large:
        large.truncate(2**31)
    refused(path, "has 2147483648 bytes, but an ONNX file has at most")


@pytest.mark.parametrize("text", [b"Conv", b"stem", b"w"])
def test_a_name_that_is_no_text_is_told(text, file):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="stem")]
    content = model(nodes, [value("x", 1, 3, 8, 8)], [constant("w", 4, 3, 3, 3)]).SerializeToString()
    refused(file(content.replace(text, bytes([128]) * len(text))), "is damaged: it has a name that is no UTF-8")


@pytest.fixture(scope="module")
def sound(folder):
    """With and without arithmetic on shapes."""
    return (
        exported(Attention(), (torch.zeros(3, 5, 8),), folder).read_bytes(),
        with_open_sizes(Attention(), torch.zeros(3, 5, 8), {0: "batch"}, folder, False).read_bytes(),
    )


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_gives_layers_or_is_refused(data, sound, folder):
    content = bytearray(data.draw(st.sampled_from(sound)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.sampled_from([len(content), *range(0, len(content), 97)]))]
    path = folder / "damaged.onnx"
    path.write_bytes(content)
    with suppress(BitqError):
        assert all(layer.macs > 0 for layer in load_onnx(path).layers)


def test_without_the_package_it_is_told_how_to_get_it(monkeypatch, file):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    refused(file(b""), r"needs the package onnx; install 'bitq\[onnx\]'")


def test_movement_reads_onnx_files(bitq, file):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="stem")]
    path = file(model(nodes, [value("x", "n", 3, 8, 8)], [constant("w", 4, 3, 3, 3)]))
    code, out, _ = bitq("movement", path, "--device", "stm32f103c8", "--input-shape", "2,3,8,8", "--json")
    document = json.loads(out)
    assert (code, document["input_shape"]) == (0, [2, 3, 8, 8])
    assert [(layer["name"], layer["macs"]) for layer in document["layers"]] == [("stem", 2 * 4 * 3 * 36 * 9)]


def test_movement_takes_the_shapes_of_inputs_by_name(bitq, mistake, file):
    nodes = [helper.make_node("MatMul", ["a", "b=c"], ["y"], name="product")]
    path = file(model(nodes, [value("a", "?", "?"), value("b=c", "?", "?")]))

    def movement(command, *shapes):
        options = [word for shape in shapes for word in ("--input-shape", shape)]
        return command("movement", path, "--device", "eyeriss", *options)

    code, out, _ = movement(bitq, "a=3,5", "b=c=5,7")
    assert code == 0
    assert "input 3 x 5" in out
    assert movement(bitq, "3,5", "b=c=5,7")[1] == out
    assert "give --input-shape 'b=c=?,?'" in movement(mistake, "3,5")
    assert "given twice for input 'a'" in movement(mistake, "a=3,5", "a=3,5")
    assert "given twice for the first input" in movement(mistake, "3,5", "3,5")
    assert "input 'a', the first, is given a shape twice" in movement(mistake, "3,5", "a=3,5")
    assert "must have an input's name before the =" in movement(mistake, "=3,5")
    assert "'5,x' must be whole numbers" in movement(mistake, "a=5,x")
    assert "no input 'c'" in movement(mistake, "c=5,7")


def test_movement_takes_inputs_of_any_type_by_name_or_place(bitq, mistake, file):
    ids = helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ("n", "t"))
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("Mul", ["x", "mask"], ["m"]),
        helper.make_node("MatMul", ["m", "w"], ["y"]),
    ]
    path = file(model(nodes, [ids, value("mask", "n", "t", 1)], [constant("table", 9, 8), constant("w", 8, 2)]))

    def movement(command, *inputs):
        return command("movement", path, "--device", "eyeriss", "--json", *(w for t in inputs for w in ("--input", t)))

    code, out, _ = movement(bitq, "ids:int64[2,5]", "mask:float32[2,5,1]")
    assert code == 0
    assert [layer["loops"]["N"] for layer in json.loads(out)["layers"]] == [10]
    assert movement(bitq, "int64[2,5]", "float32[2,5,1]")[1] == out
    assert "input 'ids' is of type int64, not float32" in movement(mistake, "ids:float32[2,5]", "mask:float32[2,5,1]")
    assert "has 2 inputs ('ids', 'mask'), no input number 3" in movement(mistake, *["int64[2,5]", "float32[2,5,1]"] * 2)
    assert "has no input 'idz'" in movement(mistake, "idz:int64[2,5]")
    assert "input 'mask' is given a shape twice" in movement(mistake, "mask:float32[2,5,1]", "float32[2,5,1]")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[ShapeInferenceError] (op_type:Conv, node name: c1): Bad pads", "node 'c1' (Conv): Bad pads"),
        ("Inference error(s): (op_type:Mul): [TypeInferenceError] One\n(op_type:Add): Two", "Mul: One"),
        ("/a/b/defs.cc:12: onnx::shape::merge: Sizes differ", "Sizes differ"),
        (
            "Cannot infer type and shape for node name c. No opset import for domain optype Conv",
            "a node of kind 'Conv' is of the operators 'ai.onnx', of which the file asks for no version",
        ),
        ("", "ONNX does not say why"),
    ],
)
def test_what_onnx_says_is_told_without_its_own_names(text, expected):
    from bitq.onnx.shapes import misfit

    assert misfit(RuntimeError(text)) == expected
    assert len(misfit(RuntimeError(f"(op_type:A, node name: {'n' * 9000}): {'w ' * 9000}"))) < 350


@pytest.mark.skipif(sys.platform != "linux", reason="work is done apart on Linux alone")
def test_work_apart_gives_its_result_or_its_mistake_and_dies_alone():
    from bitq.onnx.apart import Died, apart

    def wrong():
        raise BitqError("wrong")

    here = os.getpid()
    assert apart(lambda: ("result", here), 5, 1 << 30) == ("result", here)
    with pytest.raises(BitqError, match=r"^wrong$"):
        apart(wrong, 5, 1 << 30)
    for work in (os.abort, lambda: bytes(2 << 30), lambda: max(iter(int, 1)), lambda: 1 / 0):
        with pytest.raises(Died):
            apart(work, 1, 1 << 30)
    assert os.getpid() == here
