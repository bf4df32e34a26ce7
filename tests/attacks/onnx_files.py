"""By the door of ONNX files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from attacks import attack

COMMAND = "movement n.onnx --device stm32f103c8 --json"
LARGE = 1 << 40


def _value(name: str, shape: Sequence[int] | None, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _floats(name: str, *shape: int) -> Any:
    return helper.make_tensor(name, TensorProto.FLOAT, shape, np.zeros(shape, np.float32).tobytes(), raw=True)


def _integers(name: str, *numbers: int) -> Any:
    return helper.make_tensor(name, TensorProto.INT64, [len(numbers)], numbers)


def _claimed(name: str, *shape: int) -> Any:
    """A weight whose values the file does not have."""
    return TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, float_data=[0.5])


def _model(nodes: Sequence[Any], weights: Sequence[Any] = (), version: int = 17, **more: Any) -> onnx.ModelProto:
    inputs = more.pop("inputs", [_value("x", [2, 6])])
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_empty_tensor_value_info("y")], list(weights))
    opsets = [helper.make_opsetid("", version), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, **more)


def _head(field: int, size: int) -> bytes:
    """The begin of a field of a protocol buffer."""
    length = bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([field << 3 | 2, *length, size])


def _sized(field: int, content: bytes) -> bytes:
    return _head(field, len(content)) + content


PRODUCT = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
WEIGHT = _floats("w", 6, 3)
TRUTH = TensorProto(name="k", data_type=TensorProto.BOOL, int32_data=[1])


def _save(folder: Path, model: onnx.ModelProto | bytes) -> None:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / "n.onnx").write_bytes(content)


def _branch(*nodes: Any, tensors: Sequence[Any] = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "b", [], [helper.make_empty_tensor_value_info("t")], list(tensors))


def _choice(branch: onnx.GraphProto, output: str = "z") -> onnx.NodeProto:
    return helper.make_node("If", ["k"], [output], name="choice", then_branch=branch, else_branch=branch)


def _function(name: str, *nodes: Any) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, ["p"], ["q"], list(nodes), opsets)


@attack(COMMAND, "n.onnx has two functions called 'F'; each needs its own name")
def functions_of_one_name(folder: Path) -> None:
    """Two functions of one name, about which ONNX's own checks throw."""
    one = _function("F", helper.make_node("Relu", ["p"], ["q"]))
    _save(folder, _model([helper.make_node("F", ["x"], ["h"], domain="own"), PRODUCT], [WEIGHT], functions=[one, one]))


@attack(COMMAND, "asks for version 4611686018427387904 of the operators 'ai.onnx'; it must be 1 to 1000")
def version(folder: Path) -> None:
    """A version of the operators that is no 32-bit number."""
    _save(folder, _model([PRODUCT], [WEIGHT], 1 << 62))


@attack(COMMAND, "asks for version -17 of the operators 'ai.onnx'")
def negative_version(folder: Path) -> None:
    """A version of the operators from before there were any."""
    _save(folder, _model([PRODUCT], [WEIGHT], -17))


@attack(COMMAND, "loop K of 2147483648 iterations is cut into [0-9]+ tiles, more than")
def weight_behind_a_choice(folder: Path) -> None:
    """A weight of 2^31 columns behind an If: 17 GB for a list of tile sizes."""
    choice = _choice(_branch(helper.make_node("Relu", ["x"], ["t"])))
    product = helper.make_node("MatMul", ["z", "w"], ["y"], name="product")
    _save(folder, _model([choice, product], [_claimed("w", 6, 1 << 31), TRUTH]))


@attack(COMMAND, "tensor 'w' is of 4611686018427387904 x 4 elements; it must have 0 to 1000000000000")
def dims_that_overflow(folder: Path) -> None:
    """Sizes whose product is 0 in 64 bits."""
    _save(folder, _model([PRODUCT], [_claimed("w", 1 << 62, 4)]))


@attack(COMMAND, "tensor 'w' is of -6 x -3 elements")
def negative_dims(folder: Path) -> None:
    """Sizes below nothing, whose product is not."""
    _save(folder, _model([PRODUCT], [_claimed("w", -6, -3)]))


@attack(COMMAND, "tensor 'w' has 100000 axes; it must have at most 64")
def axes(folder: Path) -> None:
    """More axes than a tensor may have."""
    _save(folder, _model([PRODUCT], [_claimed("w", *[2] * 100_000)]))


@attack(COMMAND, "n.onnx: inferring the shapes of its tensors .* 1 GiB")
def as_many_axes_as_numbers(folder: Path) -> None:
    """A tensor with an axis for each of 10^12 numbers: ONNX's own code makes room for them."""
    inputs = [_value("x", [2, 6]), _value("shape", [LARGE >> 1], TensorProto.INT64)]
    _save(folder, _model([helper.make_node("Expand", ["x", "shape"], ["e"]), PRODUCT], [WEIGHT], 8, inputs=inputs))


@attack(COMMAND, "n.onnx: inferring the shapes of its tensors .* 1 GiB")
def as_many_axes_within(folder: Path) -> None:
    """The same within a branch."""
    branch = _branch(helper.make_node("Expand", ["x", "shape"], ["t"]))
    inputs = [_value("x", [2, 6]), _value("shape", [LARGE >> 1], TensorProto.INT64)]
    _save(folder, _model([_choice(branch), PRODUCT], [WEIGHT, TRUTH], 8, inputs=inputs))


@attack(COMMAND, "n.onnx: inferring the shapes of its tensors .* crash of ONNX's own code")
def crash(folder: Path) -> None:
    """An attribute for which ONNX's own code runs beyond its memory: the process is gone."""
    _save(folder, _model([helper.make_node("Split", ["x"], ["a", "b"], num_outputs=1), PRODUCT], [WEIGHT], 18))


@attack(COMMAND, "n.onnx: (inferring the shapes of its tensors|the shapes do not fit together)")
def pieces(folder: Path) -> None:
    """A tensor in 2^28 pieces, for each of which ONNX's own code makes room."""
    _save(folder, _model([helper.make_node("Split", ["x"], ["s"], num_outputs=1 << 28), PRODUCT], [WEIGHT], 18))


@attack(COMMAND, "", code=0)
def numbers_without_end(folder: Path) -> None:
    """A terabyte of zeros that the product does not need, in a branch, a function and the graph."""
    zeros = helper.make_node("ConstantOfShape", ["n"], ["t"])
    huge = _integers("n", 10**6, 10**6)
    filled = helper.make_node("Constant", [], ["n"], value=huge)
    function = _function("F", filled, helper.make_node("ConstantOfShape", ["n"], ["q"]))
    nodes = [
        *(_choice(_branch(filled, zeros)), helper.make_node("F", ["x"], ["f"], domain="own"), PRODUCT),
        helper.make_node("ConstantOfShape", ["m"], ["o"]),
        helper.make_node("Tile", ["o", "m"], ["p"]),
    ]
    _save(folder, _model(nodes, [WEIGHT, TRUTH, _integers("m", 1000, 1000)], functions=[function]))


@attack(COMMAND, "tensor 't' is of 4611686018427387904 x 4611686018427387904 elements")
def more_numbers_than_there_are(folder: Path) -> None:
    """Sizes that follow from arithmetic and whose product is no 64-bit number."""
    nodes = [helper.make_node("ConstantOfShape", ["n"], ["t"]), PRODUCT]
    _save(folder, _model(nodes, [WEIGHT, _integers("n", 1 << 62, 1 << 62)]))


@attack(COMMAND, "n.onnx (nests graphs too deep|is damaged)")
def nested(folder: Path) -> None:
    """A branch in a branch in a branch, 500 times."""
    graph = _branch(helper.make_node("Relu", ["x"], ["t"])).SerializeToString()
    for _ in range(500):
        attribute = _sized(1, b"then_branch") + _sized(6, graph) + b"\xa0\x01\x05"
        graph = _sized(1, _sized(1, b"k") + _sized(2, b"t") + _sized(4, b"If") + _sized(5, attribute)) + _sized(2, b"b")
    _save(folder, b"\x08\x09" + _sized(7, graph) + _sized(8, b"\x10\x11"))


@attack(COMMAND, "n.onnx has over 1500000 entries; the file of a network has fewer")
def nodes(folder: Path) -> None:
    """Ten million nodes in 20 MB, each of which takes a hundred times that in memory."""
    _save(folder, b"\x08\x09" + _sized(7, b"\x0a\x00" * 10**7) + _sized(8, b"\x10\x11"))


@attack(COMMAND, "n.onnx has over 50000 nodes; it must have fewer")
def some_nodes(folder: Path) -> None:
    """A million nodes."""
    _save(folder, b"\x08\x09" + _sized(7, b"\x0a\x00" * 10**6) + _sized(8, b"\x10\x11"))


@attack(COMMAND, "n.onnx has a name of 10000000 bytes; it must have at most 4096")
def long_name(folder: Path) -> None:
    """A name of ten million letters, for every message."""
    _save(folder, _model([helper.make_node("Relu", ["x"], ["y"], name="n" * 10**7)]))


@attack(COMMAND, "", code=0)
def long_text(folder: Path) -> None:
    """A text of ten million letters where nobody looks."""
    _save(folder, _model([helper.make_node("Other", ["x"], ["o"], domain="own", text="t" * 10**7), PRODUCT], [WEIGHT]))


@attack(COMMAND, "has functions that expand to 3[0-9]{9} bytes")
def text_in_functions(folder: Path) -> None:
    """A text of a million letters in a function that is called 3,000 times."""
    function = _function("F", helper.make_node("Other", ["p"], ["q"], domain="own", text="t" * 10**6))
    calls = [helper.make_node("F", ["x"], [f"o{i}"], domain="own") for i in range(3000)]
    _save(folder, _model([*calls, PRODUCT], [WEIGHT], functions=[function]))


@attack(COMMAND, "node 'a' .Relu. uses 'b', which nothing before it computes")
def circle(folder: Path) -> None:
    """Two nodes that wait for each other."""
    nodes = [helper.make_node("Relu", ["b"], ["a"]), helper.make_node("Relu", ["a"], ["b"]), PRODUCT]
    _save(folder, _model(nodes, [WEIGHT]))


@attack(COMMAND, "node 'h' .Relu. computes 'h', which is there already")
def twice(folder: Path) -> None:
    """Two nodes that compute one tensor: which shape has it?"""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["x"], ["h"], name="h"), PRODUCT]
    _save(folder, _model(nodes, [WEIGHT]))


@attack(COMMAND, "the shapes do not fit together")
def outside(folder: Path) -> None:
    """Values in a file that is none of the model's business: it must not be opened, and would hang."""
    os.mkfifo(folder / "pipe")
    shape = TensorProto(name="s", data_type=TensorProto.INT64, dims=[2], data_location=TensorProto.EXTERNAL)
    shape.external_data.add(key="location", value="../" * 20 + str(folder / "pipe").lstrip("/"))
    _save(folder, _model([helper.make_node("Reshape", ["x", "s"], ["h"]), PRODUCT], [WEIGHT, shape]))


@attack(COMMAND, "is of 4611686018427387904 x 3 elements")
def sparse(folder: Path) -> None:
    """A sparse weight that is larger than it says where its values are."""
    model = _model([PRODUCT])
    values, places = _claimed("w", 1), TensorProto(data_type=TensorProto.INT64, dims=[1], int64_data=[LARGE])
    model.graph.sparse_initializer.add(values=values, indices=places, dims=[1 << 62, 3])
    _save(folder, model)


@attack(COMMAND, "the shapes do not fit together")
def other_types(folder: Path) -> None:
    """Types that contradict each other, of which ONNX tells with the names of its own parts."""
    model = _model([helper.make_node("Relu", ["x"], ["h"], name="\x1b[2Jn" + "n" * 4000), PRODUCT], [WEIGHT])
    model.graph.value_info.append(_value("h", [2, 6], TensorProto.INT64))
    _save(folder, model)


@attack(COMMAND.replace("--json", ""), "", code=0)
def escape_codes(folder: Path) -> None:
    """A layer's name that clears the screen."""
    _save(folder, _model([helper.make_node("MatMul", ["x", "w"], ["y"], name="\x1b[2J\u202e")], [WEIGHT]))


@attack(COMMAND, r"a node of kind 'MatMul' is of the operators '.x1b\[2J', of which the file asks for no version")
def escape_codes_of_an_operator(folder: Path) -> None:
    """The same as a set of operators, which is told of."""
    _save(folder, _model([helper.make_node("MatMul", ["x", "w"], ["y"], domain="\x1b[2J")], [WEIGHT]))


@attack(COMMAND, "n.onnx is no regular file")
def pipe(folder: Path) -> None:
    """A pipe that nobody writes into."""
    os.mkfifo(folder / "n.onnx")


@attack(COMMAND, "n.onnx has 3221225472 bytes, but an ONNX file has at most 2147483647")
def large(folder: Path) -> None:
    """Three GiB of nothing."""
    (folder / "n.onnx").touch()
    os.truncate(folder / "n.onnx", 3 << 30)


@attack(COMMAND, "", code=0)
def large_weight(folder: Path) -> None:
    """Nearly two GiB in one weight, of which only the shape matters."""
    size = (1 << 31) - 4096
    weight = _sized(8, b"w") + b"\x08\x06\x08\x03\x10\x01" + _head(9, size)
    initializer = _head(5, len(weight) + size) + weight
    content = _model([PRODUCT]).SerializeToString() + _head(7, len(initializer) + size) + initializer
    (folder / "n.onnx").write_bytes(content)
    os.truncate(folder / "n.onnx", len(content) + size)
