"""From an ONNX file to its nodes and the shapes of its tensors; files are untrusted, and nothing in them runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from math import prod
from pathlib import Path

import onnx
import onnx.inliner
import onnx.shape_inference
from google.protobuf.message import Message

from bitq.errors import BitqError
from bitq.onnx.inputs import Given, fix_inputs
from bitq.onnx.shapes import MOST_ELEMENTS, Shape, known_shapes

MOST_BYTES = 2**31 - 1  # of a protocol buffer
MOST_NODES = 10**6
_DATA_FIELDS = (
    *("raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data"),
    *("external_data", "data_location"),
)
_SHAPE_ONLY = ("Shape", "Size")  # operators whose result does not depend on values


@dataclass(frozen=True)
class Graph:
    """A network as data.

    Attributes:
        path: the file.
        nodes: in order of execution, calls of the file's own functions expanded.
        shapes: of every tensor whose shape is known, in elements.
        activations: tensors whose values depend on an input.
        input_shape: of the first input, () if there is none.
    """

    path: Path
    nodes: tuple[onnx.NodeProto, ...]
    shapes: Mapping[str, Shape]
    activations: frozenset[str]
    input_shape: Shape


def read_graph(path: Path, input_shape: Given | None) -> Graph:
    """The graph of a file, as `load_onnx` describes it."""
    model = _read(path)
    _drop_data(model.graph.initializer)
    names = fix_inputs(model.graph, input_shape, path)
    model = _inferred(_inlined(model, path), path)
    shapes, nodes = known_shapes(model, path), tuple(model.graph.node)
    return Graph(path, nodes, shapes, _activations(nodes, names), shapes[names[0]] if names else ())


def nodes_within(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """These nodes and those of the graphs that control flow holds."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes_within(inner.node)


def _read(path: Path) -> onnx.ModelProto:
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise BitqError(f"{path} has {size} bytes, but an ONNX file at most {MOST_BYTES}; keep weights outside")
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise BitqError(f"{path} cannot be read: {error.strerror}") from error
    except BitqError:
        raise
    except Exception as error:  # whatever a decoder of untrusted bytes runs into
        raise BitqError(f"{path} is damaged, or no ONNX file") from error
    if not all(isinstance(text, str) for text in _texts(model)):
        raise BitqError(f"{path} is damaged: it has a name that is no UTF-8")
    if not model.graph.node:
        raise BitqError(f"{path} is no ONNX file, or holds an empty network")
    return model


def _texts(message: Message) -> Iterator[object]:
    """Every string of a message; those that are no UTF-8 come as bytes, which nothing beyond here expects."""
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        for part in (value,) if isinstance(value, str | bytes | Message) else value:
            yield from _texts(part) if field.type == field.TYPE_MESSAGE else (part,)


def _drop_data(tensors: Iterable[onnx.TensorProto]) -> None:
    """Forget the values of weights, so that inferring shapes does not copy them."""
    for tensor in tensors:
        if prod(tensor.dims) > MOST_ELEMENTS:
            for field in _DATA_FIELDS:
                tensor.ClearField(field)


def _inlined(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model without functions of its own, unless they expand to more nodes than any network has."""
    if not model.functions:
        return model
    bodies = {(f.domain, f.name, f.overload): nodes_within(f.node) for f in model.functions}
    calls = {key: [(n.domain, n.op_type, n.overload) for n in body] for key, body in bodies.items()}
    expanded: dict[tuple[str, str, str], int] = {}
    try:
        for key in TopologicalSorter(calls).static_order():
            expanded[key] = sum(map(expanded.__getitem__, calls[key])) if key in calls else 1
    except CycleError as error:
        raise BitqError(f"{path} has a function that calls itself, which ONNX does not allow") from error
    total = sum(expanded.get((n.domain, n.op_type, n.overload), 1) for n in nodes_within(model.graph.node))
    if total > MOST_NODES:
        raise BitqError(f"{path} has functions that expand to {total} nodes; it must have at most {MOST_NODES}")
    return onnx.inliner.inline_local_functions(model)


def _inferred(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)
    except Exception as error:  # whatever checks of untrusted graphs run into
        reason = " ".join(str(error).split())[:300]
        raise BitqError(f"{path}: the shapes do not fit together: {reason}") from error


def _activations(nodes: Iterable[onnx.NodeProto], inputs: Iterable[str]) -> frozenset[str]:
    found = set(inputs)
    for node in nodes:
        used = {name for inner in nodes_within([node]) for name in inner.input}
        if node.op_type not in _SHAPE_ONLY and used & found:
            found.update(node.output)
    return frozenset(found - {""})
