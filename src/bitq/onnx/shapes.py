"""Shapes that follow from arithmetic on shapes, which exporters write for open axes: Shape, Gather, Mul, Concat, ...

ONNX's own inference follows such arithmetic for a few operators only, and fills the memory if a file asks for a huge
tensor. Here the nodes are walked once more instead: a small tensor whose inputs are all known is computed by ONNX's
reference implementation of its operator, and what a node makes of known values is inferred again. Files are untrusted:
only the operators below run, on tensors of few elements, after inference said that the result is as small; files beside
the model are not opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from bitq.errors import BitqError, printable, shortened
from bitq.onnx.checks import MOST_FOLLOWED, check_elements, shown, told

Shape = tuple[int, ...]
Dimension = int | str | None  # a size, the name of an open one, or neither

_FOLLOWED = {  # GatherElements is not among them: its reference counts down from an index out of range
    "Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Clip", "Concat", "ConstantOfShape", "Div", "Equal", "Expand",
    "Flatten", "Floor", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod",
    "Mul", "Neg", "Not", "Or", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Round", "Sign",
    "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tile", "Transpose", "Unsqueeze", "Where", "Xor",
}
_STANDARD = ("", "ai.onnx")
_PLACE = re.compile(r"\(op_type:([^,)]*)(?:, node name:([^)]*))?\):")
_NO_OPSET = re.compile(r"Cannot infer type and shape for node name .*?\. No opset import for domain(.*?) ?optype (\S*)")
_JARGON = (
    *(r"\[\w*Error\]", r"(?:Shape i|I)nference error\(s\):", r"==> Context:.*"),
    *(r"\S*\.(?:cc|h|cpp):\d+:?", r"\b(?:\w+::)+\w+:?"),
)

Values = dict[str, NDArray[Any]]
Types = dict[str, onnx.TypeProto]


def dimensions(tensor: onnx.TypeProto) -> tuple[Dimension, ...] | None:
    """What a type says of a tensor's shape, None if nothing."""
    if not tensor.tensor_type.HasField("shape"):
        return None
    dims = tensor.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims)


def known_shapes(model: onnx.ModelProto, path: Path) -> dict[str, Shape]:
    """The shape of every tensor of a graph that follows from its inputs, in elements.

    Args:
        model: with fixed inputs, after ONNX's own inference; functions expanded.
        path: for messages.

    Raises:
        BitqError: shapes that do not fit together.
    """
    graph, opsets = model.graph, {entry.domain: entry.version for entry in model.opset_import}
    types: Types = {value.name: value.type for value in (*graph.input, *graph.value_info, *graph.output)}
    values: Values = {}
    for tensor in graph.initializer:
        types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        _note(values, tensor.name, _value(tensor))
    for node in graph.node:
        if any(name and _shape(types.get(name)) is None for name in node.output):
            types.update(_inferred(node, types, values, opsets, path))
        for name, value in _results(node, types, values, opsets).items():
            _note(values, name, value)
    found = {name: _shape(tensor) for name, tensor in types.items()}
    shapes = {name: shape for name, shape in found.items() if shape is not None}
    for name, shape in shapes.items():
        check_elements(shape, f"{path}: tensor {shown(name)}")
    for node in graph.node:
        if node.op_type == "Reshape" and node.domain in _STANDARD and node.input and node.output:
            before, after = shapes.get(node.input[0]), shapes.get(node.output[0])
            if before is not None and after is not None:
                _check_reshape(node, before, after, path)
    return shapes


def _check_reshape(node: onnx.NodeProto, before: Shape, after: Shape, path: Path) -> None:
    """Refuse what ONNX infers of a Reshape without counting, as where a file fixes the batch within."""
    if prod(before) != prod(after):
        sizes, wanted = (shortened(" x ".join(map(str, shape)) or "1") for shape in (before, after))
        raise BitqError(
            f"{path}: the shapes do not fit together: {told(node)} makes {wanted} elements of {sizes}; if the file is "
            "for another batch, export it with an open one"
        )


def misfit(error: Exception) -> str:
    """The first thing that ONNX's own code says is wrong, without the names of its parts."""
    text = " ".join(printable(str(error)).split())
    if missing := _NO_OPSET.search(text):
        domain = shown(missing[1].strip() or "ai.onnx")
        return f"a node of kind {shown(missing[2])} is of the operators {domain}, of which the file asks for no version"
    before, *told_of = _PLACE.split(text)  # the kind of a node, its name and what is wrong with it, one after the other
    kind, name, reason = told_of[:3] if told_of else ("", "", before)
    for pattern in _JARGON:
        reason = re.sub(pattern, " ", reason)
    reason = " ".join(reason.split()).strip(" :.") or "ONNX does not say why"
    at = f"node {shown(name.strip())} ({shortened(kind, 40)}): " if name else f"{shortened(kind, 40)}: " if kind else ""
    return at + shortened(reason, 200)


def _shape(tensor: onnx.TypeProto | None) -> Shape | None:
    dims = None if tensor is None else dimensions(tensor)
    sizes = tuple(dim for dim in dims or () if isinstance(dim, int) and dim >= 0)
    return None if dims is None or len(sizes) < len(dims) else sizes


def _note(values: Values, name: str, value: NDArray[Any] | None) -> None:
    if value is not None and value.size <= MOST_FOLLOWED and value.dtype.kind in "biuf":
        values[name] = value


def _value(tensor: onnx.TensorProto) -> NDArray[Any] | None:
    """The values of a small tensor that the file itself holds."""
    outside = tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data
    if outside or prod(tensor.dims) > MOST_FOLLOWED:
        return None
    with suppress(Exception):  # whatever a decoder of untrusted bytes runs into
        return np.asarray(numpy_helper.to_array(tensor))
    return None


def _inferred(
    node: onnx.NodeProto, types: Types, values: Values, opsets: Mapping[str, int], path: Path
) -> Mapping[str, onnx.TypeProto]:
    """What ONNX infers of the outputs of one node, given the values that are known; nothing within control flow."""
    used = [name for name in node.input if name]
    if any(name not in types for name in used) or any(each.g.node or each.graphs for each in node.attribute):
        return {}
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return {}
    data = {name: numpy_helper.from_array(values[name], name) for name in used if name in values}
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    try:
        return onnx.shape_inference.infer_node_outputs(
            schema, node, {name: types[name] for name in used}, data, opset_imports=imports
        )
    except MemoryError:
        raise
    except Exception as error:  # whatever checks of untrusted nodes run into
        raise BitqError(f"{path}: the shapes do not fit together: {told(node)}: {misfit(error)}") from error


def _results(node: onnx.NodeProto, types: Types, values: Values, opsets: Mapping[str, int]) -> Values:
    """The values of a node's outputs, if they are small and follow from what is known."""
    if node.domain not in _STANDARD or not node.output:
        return {}
    if node.op_type in ("Shape", "Size"):
        shape = _shape(types.get("".join(node.input[:1])))
        return {} if shape is None else {node.output[0]: _of_shape(node, shape)}
    if node.op_type == "Constant":
        constant = _constant(node)
        return {} if constant is None else {node.output[0]: constant}
    if node.op_type not in _FOLLOWED or not all(name in values for name in node.input if name):
        return {}
    outputs = [name for name in node.output if name]
    shapes = [_shape(types.get(name)) for name in outputs]
    if any(shape is None or prod(shape) > MOST_FOLLOWED for shape in shapes):
        return {}
    return _computed(node, outputs, {name: values[name] for name in node.input if name}, opsets)


def _of_shape(node: onnx.NodeProto, shape: Shape) -> NDArray[Any]:
    if node.op_type == "Size":
        return np.array(prod(shape), dtype=np.int64)
    ends = {attribute.name: attribute.i for attribute in node.attribute}
    return np.array(shape[ends.get("start", 0) : ends.get("end")], dtype=np.int64)


def _constant(node: onnx.NodeProto) -> NDArray[Any] | None:
    (attribute,) = node.attribute or (onnx.AttributeProto(),)
    match attribute.name:
        case "value":
            return _value(attribute.t)
        case "value_int" | "value_ints":
            return np.array(onnx.helper.get_attribute_value(attribute), dtype=np.int64)
        case "value_float" | "value_floats":
            return np.array(onnx.helper.get_attribute_value(attribute), dtype=np.float32)
    return None


def _computed(node: onnx.NodeProto, outputs: Iterable[str], feeds: Values, opsets: Mapping[str, int]) -> Values:
    """One node alone, by the reference implementation; what that refuses stays unknown."""
    from onnx.reference import ReferenceEvaluator

    names = list(outputs)
    graph = onnx.GraphProto(
        name="node",
        node=[node],
        input=[onnx.ValueInfoProto(name=name) for name in feeds],
        output=[onnx.ValueInfoProto(name=name) for name in names],
    )
    with suppress(Exception), np.errstate(all="raise"):  # whatever values of untrusted files lead to
        found = ReferenceEvaluator(graph, opsets=dict(opsets)).run(None, feeds)
        return {name: np.asarray(value) for name, value in zip(names, found, strict=True)}
    return {}
