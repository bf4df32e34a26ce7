"""ONNX files: graphs with convolutions, products, control flow, functions and arithmetic of shapes, field by field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from fuzzing import Input, Kind
from fuzzing.seeds import take
from fuzzing.values import FLOATS, INTEGERS, MOST_TEXT, TEXTS, change_word, damage, special

FILE = "n.onnx"
SHAPE = (1, 2, 6, 6)
_IMPORTS = [helper.make_opsetid("", 18)]
node = helper.make_node


def _model(
    nodes: Sequence[NodeProto],
    weights: dict[str, Any],
    shape: Sequence[int | str | None] = SHAPE,
    functions: Sequence[FunctionProto] = (),
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(each), name) for name, each in weights.items()],
    )
    imports = [*_IMPORTS, helper.make_opsetid("own", 1)] if functions else _IMPORTS
    return helper.make_model(graph, opset_imports=imports, functions=functions)


def _f(*shape: int) -> np.ndarray[Any, Any]:
    return np.ones(shape, np.float32)


def _i(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


def _convolutions() -> ModelProto:
    return _model(
        [
            node("Conv", ["x", "w"], ["a"], "c1", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
            node("Relu", ["a"], ["b"]),
            node("ConvTranspose", ["b", "v"], ["c"], "c2", strides=[2, 2], output_padding=[1, 1], group=2),
            node("MaxPool", ["c"], ["d"], kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
            node("GlobalAveragePool", ["d"], ["e"]),
            node("Flatten", ["e"], ["f"]),
            node("Gemm", ["f", "u"], ["y"], "g", transB=1),
        ],
        {"w": _f(4, 2, 3, 3), "v": _f(4, 1, 3, 3), "u": _f(3, 2)},
    )


def _shapes() -> ModelProto:
    return _model(
        [
            node("Conv", ["x", "w"], ["a"], "c"),
            node("Shape", ["a"], ["s"]),
            node("Gather", ["s", "zero"], ["n"], axis=0),
            node("Concat", ["n", "rest"], ["t"], axis=0),
            node("Reshape", ["a", "t"], ["b"]),
            node("MatMul", ["b", "m"], ["d"], "m"),
            node("Slice", ["d", "zero", "two", "one"], ["e"]),
            node("Unsqueeze", ["e", "zero"], ["f"]),
            node("Expand", ["f", "big"], ["h"]),
            node("Tile", ["h", "reps"], ["i"]),
            node("Einsum", ["i", "k"], ["j"], "e", equation="abcd,de->abce"),
            node("ConstantOfShape", ["big"], ["z"]),
            node("Range", ["c0", "c9", "c1"], ["r"]),
            node("Reshape", ["j", "flat"], ["y"]),
        ],
        {
            **{"w": _f(4, 2, 1, 1), "zero": _i(0), "one": _i(1), "two": _i(2), "rest": _i(4, 36), "m": _f(36, 5)},
            **{"big": _i(2, 1, 4, 5), "reps": _i(1, 2, 1, 1), "k": _f(5, 3), "flat": _i(-1, 3)},
            **{"c0": np.int64(0), "c9": np.int64(9), "c1": np.int64(1)},
        },
        ("batch", 2, 6, 6),
    )


def _branch(name: str, nodes: Sequence[NodeProto]) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)])


def _if() -> ModelProto:
    then = _branch("then", [node("Mul", ["a", "a"], ["then_y"])])
    other = _branch("else", [node("Add", ["a", "b"], ["else_y"])])
    return _model(
        [
            node("Conv", ["x", "w"], ["a"], "c"),
            node("If", ["flag"], ["b2"], then_branch=then, else_branch=other),
            node("Gemm", ["m", "v"], ["y"], "g"),
        ],
        {"w": _f(4, 2, 3, 3), "b": _f(1), "flag": np.array(True), "m": _f(2, 6), "v": _f(6, 2)},
    )


def _loop() -> ModelProto:
    body = helper.make_graph(
        [node("Identity", ["going"], ["on"]), node("Add", ["v", "v"], ["w2"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w2", TensorProto.FLOAT, None),
        ],
    )
    return _model(
        [node("Conv", ["x", "w"], ["a"], "c"), node("Loop", ["times", "flag", "a"], ["y"], body=body)],
        {"w": _f(4, 2, 3, 3), "times": np.int64(3), "flag": np.array(True)},
    )


def _functions() -> ModelProto:
    inner = helper.make_function("own", "Inner", ["p", "q"], ["r"], [node("Conv", ["p", "q"], ["r"])], _IMPORTS)
    imports = [*_IMPORTS, helper.make_opsetid("own", 1)]
    outer_nodes = [node("Inner", ["p", "q"], ["t"], domain="own"), node("Relu", ["t"], ["r"])]
    outer = helper.make_function("own", "Outer", ["p", "q"], ["r"], outer_nodes, imports)
    return _model(
        [node("Outer", ["x", "w"], ["a"], domain="own"), node("Outer", ["a", "v"], ["y"], domain="own")],
        {"w": _f(4, 2, 3, 3), "v": _f(2, 4, 1, 1)},
        functions=[inner, outer],
    )


def _quantized() -> ModelProto:
    scale, zero = np.float32(0.1), np.uint8(0)
    return _model(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["a"]),
            node("QLinearConv", ["a", "s", "z", "w", "s", "z", "s", "z"], ["b"], "q"),
            node("DequantizeLinear", ["b", "s", "z"], ["c"]),
            node("Resize", ["c", "", "scales"], ["d"]),
            node("Conv", ["d", "v"], ["y"], "c", dilations=[2, 2]),
        ],
        {"s": scale, "z": zero, "w": np.ones((4, 2, 3, 3), np.uint8), "v": _f(2, 4, 3, 3), "scales": _f(4) * 2},
    )


GRAPHS = (_convolutions, _shapes, _if, _loop, _functions, _quantized)


def make(rng: Random, seeds: Path, folder: Path) -> list[str]:
    """A command that reads a graph."""
    take(seeds, folder, "d.toml")
    (folder / FILE).write_bytes(rng.choice(GRAPHS)().SerializeToString(deterministic=True))
    device = rng.choice(("d.toml", "eyeriss", "stm32f103c8"))
    shape = rng.choice(((), (), ("--input-shape", "2,2,6,6"), ("--input-shape", "x=1,2,6,6")))
    form = rng.choice(((), ("--json",), ("--csv",)))
    return ["movement", FILE, "--device", device, *shape, *form]


def _field(rng: Random, given: Input) -> str:
    """A field of the message changed, left out, repeated or exchanged, anywhere in it."""
    model = ModelProto()
    try:
        model.ParseFromString(given.content(FILE))
    except (DecodeError, RecursionError):
        return str(damage(FILE)(rng, given))
    places = list(_fields(model))
    if not places:
        return str(damage(FILE)(rng, given))
    message, field, value = rng.choice(places)
    repeated = not isinstance(value, str | bytes | int | float | Message)
    name = f"{type(message).__name__}.{field.name}"
    try:
        how = _repeated(rng, value) if repeated else _single(rng, message, field, value)
    except (TypeError, ValueError, OverflowError):
        message.ClearField(field.name)
        how = "is left out"
    given.path(FILE).write_bytes(model.SerializePartialToString(deterministic=True))
    return f"{name} {how}"


def _fields(message: Any) -> Iterator[tuple[Any, Any, Any]]:
    for field, value in message.ListFields():
        yield message, field, value
        if field.type == field.TYPE_MESSAGE:
            for inner in (value,) if isinstance(value, Message) else value:
                yield from _fields(inner)


def _single(rng: Random, message: Any, field: Any, value: Any) -> str:
    if isinstance(value, Message):
        message.ClearField(field.name)
        return "is left out"
    new = _scalar(rng, value)
    setattr(message, field.name, new)
    return f"= {new!r:.40}"


def _scalar(rng: Random, value: Any) -> Any:
    match value:
        case int():
            return rng.choice((value + 1, -value, value * 2, 0, 3, 7, 1000, *INTEGERS[:14]))
        case float():
            return rng.choice(FLOATS)
        case bytes():
            return rng.choice((b"", b"\xff" * 8, value[:-1], value * 2, rng.randbytes(len(value)), _i(2**40).tobytes()))
    known = (
        "x",
        "y",
        "a",
        "b",
        "w",
        "v",
        "",
        "Conv",
        "Gemm",
        "MatMul",
        "Loop",
        "If",
        "Shape",
        "LSTM",
        "own",
        "ai.onnx",
    )
    return rng.choice((*known, *known, *TEXTS[:-1]))


def _repeated(rng: Random, values: Any) -> str:
    place = rng.randrange(len(values))
    whole = list(values)
    match rng.randrange(5):
        case 0:
            del values[place]
            return f"{place} is left out"
        case 1:
            size = whole[place].ByteSize() if isinstance(whole[place], Message) else len(str(whole[place]))
            times = min(rng.choice((1, 1, 2, 500)), MOST_TEXT // max(size, 1))
            values.extend([whole[place]] * times)
            return f"{place} stands {times} times more"
        case 2:
            rng.shuffle(whole)
            del values[:]
            values.extend(whole)
            return "in another order"
        case _ if not isinstance(whole[place], Message):
            values[place] = _scalar(rng, whole[place])
            return f"{place} = {values[place]!r:.40}"
    values[place].CopyFrom(rng.choice(whole))
    return f"{place} is like another"


def _dims(rng: Random, given: Input) -> str:
    """Sizes of the input, of a weight, or what a shape is made of."""
    model = ModelProto()
    try:
        model.ParseFromString(given.content(FILE))
    except (DecodeError, RecursionError):
        return str(damage(FILE)(rng, given))
    huge = (0, 1, -1, 2, 7, 1000, 2**20, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1)
    tensors, inputs = model.graph.initializer, model.graph.input
    how = ""
    match rng.randrange(3):
        case 0 if tensors:
            tensor = rng.choice(tensors)
            dims = [rng.choice((*tensor.dims, *huge)) for _ in range(len(tensor.dims) or 1)]
            tensor.ClearField("dims")
            tensor.dims.extend(dims)
            how = f"{tensor.name:.20}: dims {dims}"
        case 1 if tensors:
            tensor = rng.choice(tensors)
            size = max(len(tensor.raw_data) // 8, 1)
            if tensor.data_type == TensorProto.INT64:
                values = [rng.choice(huge) for _ in range(size)]
                tensor.raw_data = _i(*values).tobytes()
                how = f"{tensor.name:.20} = {values}"
            else:
                tensor.data_location = TensorProto.EXTERNAL
                path = rng.choice(("/dev/zero", "../x", "d.toml", "/etc/passwd", "none"))
                tensor.external_data.append(onnx.StringStringEntryProto(key="location", value=path))
                how = f"{tensor.name:.20} lies in {path}"
        case _ if inputs:
            shape = rng.choice(inputs).type.tensor_type.shape
            if shape.dim:
                dim = rng.choice(shape.dim)
                if rng.random() < 0.3:
                    dim.dim_param = rng.choice(TEXTS[:-1])
                else:
                    dim.dim_value = rng.choice(huge)
                how = f"input: {str(dim).strip():.40}"
    given.path(FILE).write_bytes(model.SerializePartialToString(deterministic=True))
    return how or "nothing"


def _opset(rng: Random, given: Input) -> str:
    model = ModelProto()
    try:
        model.ParseFromString(given.content(FILE))
    except (DecodeError, RecursionError):
        return str(damage(FILE)(rng, given))
    version = rng.choice((0, 1, 7, 13, 17, 21, 23, 99, 2**31, 2**62, -1))
    for opset in model.opset_import:
        opset.version = version
    if rng.random() < 0.2:
        model.ir_version = rng.choice((0, 3, 10, 99, 2**62))
    given.path(FILE).write_bytes(model.SerializePartialToString(deterministic=True))
    return f"opset {version}, version {model.ir_version}"


def _depth(rng: Random, given: Input) -> str:
    """Graphs within graphs, long chains, or functions that multiply."""
    number = rng.choice((30, 300, 5000))
    match rng.randrange(4):
        case 0:
            inner = _branch("b0", [node("Identity", ["x"], ["b0_y"])])
            for depth in range(1, min(number, 120)):
                name = f"b{depth}"
                inner = _branch(name, [node("If", ["flag"], [f"{name}_y"], then_branch=inner, else_branch=inner)][:1])
                if inner.ByteSize() > 1 << 20:
                    break
            model = _model(inner.node, {"flag": np.array(True)})
        case 1:
            chain = [node("Relu", [f"x{k}" if k else "x"], [f"x{k + 1}"]) for k in range(number)]
            model = _model([*chain, node("Conv", [f"x{number}", "w"], ["y"])], {"w": _f(4, 2, 3, 3)})
        case 2:
            double = [
                node("Add", ["x", "x"], ["x0"]),
                *(node("Concat", [f"x{k}"] * 2, [f"x{k + 1}"], axis=1) for k in range(60)),
            ]
            model = _model([*double, node("Conv", ["x60", "w"], ["y"])], {"w": _f(4, 2, 3, 3)})
        case _:
            functions = []
            for depth in range(min(number, 60)):
                name = f"F{depth - 1}" if depth else "Relu"
                body = [
                    node(name, ["p"], ["q"], domain="own" if depth else ""),
                    node(name, ["q"], ["r"], domain="own" if depth else ""),
                ]
                functions.append(
                    helper.make_function(
                        "own", f"F{depth}", ["p"], ["r"], body, [*_IMPORTS, helper.make_opsetid("own", 1)]
                    )
                )
            call = node(functions[-1].name, ["x"], ["a"], domain="own")
            model = _model([call, node("Conv", ["a", "w"], ["y"])], {"w": _f(4, 2, 3, 3)}, functions=functions)
    given.path(FILE).write_bytes(model.SerializePartialToString(deterministic=True))
    return f"{number} deep or long"


KIND = Kind(
    "graph", make, (*[_field] * 10, *[_dims] * 6, *[_opset] * 2, _depth, damage(FILE), special(FILE), change_word)
)
