"""From an ONNX file to its nodes and the shapes of its tensors; files are untrusted, and nothing in them runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import onnx
import onnx.inliner
import onnx.shape_inference

from bitq.errors import BitqError
from bitq.onnx.checks import MOST_NODES, check_model, nodes_within
from bitq.onnx.inputs import Given, check_types, fix_inputs
from bitq.onnx.shapes import Shape, known_shapes, misfit
from bitq.onnx.wire import MOST_KEPT_BYTES, skeleton

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


def read_model(path: Path) -> onnx.ModelProto:
    """What a file says, without its weights.

    Raises:
        BitqError: a file that cannot be read, is damaged or is no network's.
    """
    content = skeleton(path)
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(content)
    except Exception as error:  # whatever a decoder of untrusted bytes runs into
        raise BitqError(f"{path} is damaged, or no ONNX file") from error
    check_model(model, path)
    return model


def graph_of(
    model: onnx.ModelProto, path: Path, input_shape: Given | None, input_types: Mapping[str | int, str]
) -> Graph:
    """The graph of a model, which it changes, as `load_onnx` describes it."""
    check_types(model.graph, input_types, path)
    names = fix_inputs(model.graph, input_shape, path)
    model = _inferred(_inlined(model, path), path)
    shapes, nodes = known_shapes(model, path), tuple(model.graph.node)
    return Graph(path, nodes, shapes, _activations(nodes, names), shapes[names[0]] if names else ())


def _inlined(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model without functions of its own, unless they expand to more than any network has."""
    if not model.functions:
        return model
    bodies = {(f.domain, f.name, f.overload): list(nodes_within(f.node)) for f in model.functions}
    calls = {key: [(n.domain, n.op_type, n.overload) for n in body] for key, body in bodies.items()}
    nodes: dict[tuple[str, str, str], int] = {}
    size: dict[tuple[str, str, str], int] = {}
    try:
        for key in TopologicalSorter(calls).static_order():
            nodes[key] = sum(map(nodes.__getitem__, calls[key])) if key in calls else 1
            own = sum(node.ByteSize() for node in bodies.get(key, ()))
            size[key] = own + sum(map(size.__getitem__, calls.get(key, ())))
    except CycleError as error:
        raise BitqError(f"{path} has a function that calls itself, which ONNX does not allow") from error
    called = [(n.domain, n.op_type, n.overload) for n in nodes_within(model.graph.node)]
    total, total_bytes = sum(nodes.get(key, 1) for key in called), sum(size.get(key, 0) for key in called)
    if total > MOST_NODES:
        raise BitqError(f"{path} has functions that expand to {total} nodes; it must have at most {MOST_NODES}")
    if total_bytes > MOST_KEPT_BYTES:
        raise BitqError(f"{path} has functions that expand to {total_bytes} bytes, more than {MOST_KEPT_BYTES}")
    try:
        return onnx.inliner.inline_local_functions(model)
    except MemoryError:
        raise
    except Exception as error:  # whatever checks of untrusted functions run into
        raise BitqError(f"{path} has functions of its own that cannot be expanded: {misfit(error)}") from error


def _inferred(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)
    except MemoryError:
        raise
    except Exception as error:  # whatever checks of untrusted graphs run into
        raise BitqError(f"{path}: the shapes do not fit together: {misfit(error)}") from error


def _activations(nodes: Iterable[onnx.NodeProto], inputs: Iterable[str]) -> frozenset[str]:
    found = set(inputs)
    for node in nodes:
        used = {name for inner in nodes_within([node]) for name in inner.input}
        if node.op_type not in _SHAPE_ONLY and used & found:
            found.update(node.output)
    return frozenset(found - {""})
