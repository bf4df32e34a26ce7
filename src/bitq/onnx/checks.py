"""Whether a decoded ONNX file can be a network's, before ONNX's own compiled code takes it on trust.

That code reads versions as 32-bit numbers, multiplies sizes as 64-bit ones, and copies or fills what it is asked to. So
all of these are bounded here first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from pathlib import Path

import onnx
from google.protobuf.message import Message

from bitq.errors import BitqError, printable, shortened
from bitq.onnx.wire import DATA_FIELDS

MOST_NODES = 50_000
MOST_ELEMENTS = 10**12  # of one tensor
MOST_FOLLOWED = 1024  # elements of a tensor whose values shapes may follow from; larger ones hold weights
MOST_AXES = 64
MOST_OPSETS, MOST_VERSION = 100, 1000  # ONNX has had 26 versions of its operators


def told(node: onnx.NodeProto) -> str:
    """A node, for messages: by its own name, or else that of its result."""
    name = node.name or "".join(node.output[:1])
    return f"node {shown(name)} ({shortened(printable(node.op_type), 40)})"


def shown(name: str) -> str:
    """A name of the file's, for messages."""
    return f"'{shortened(printable(name))}'"


def nodes_within(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """These nodes and those of the graphs that control flow holds."""
    for node in nodes:
        yield node
        for graph in graphs_of(node):
            yield from nodes_within(graph.node)


def graphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node of control flow holds."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def check_model(model: onnx.ModelProto, path: Path) -> None:
    """Refuse what no network has, and forget the values of what is left of weights.

    Raises:
        BitqError: no nodes or too many, absurd versions or sizes, functions of one name, or nodes that are not in the
            order of execution.
    """
    if not model.graph.node:
        raise BitqError(f"{path} is no ONNX file, or holds an empty network")
    nodes = 0
    for part in messages_within(model):
        match part:
            case onnx.NodeProto():
                nodes += 1
                if nodes > MOST_NODES:
                    raise BitqError(f"{path} has over {MOST_NODES} nodes; it must have fewer")
            case onnx.TensorProto() | onnx.SparseTensorProto():
                name = part.name if isinstance(part, onnx.TensorProto) else part.values.name
                check_elements(part.dims, f"{path}: tensor {shown(name)}")
                if isinstance(part, onnx.TensorProto) and prod(part.dims) > MOST_FOLLOWED:
                    for field in DATA_FIELDS:  # inferring shapes would copy them
                        part.ClearField(field)
            case onnx.ValueInfoProto():
                for shape in (part.type.tensor_type.shape, part.type.sparse_tensor_type.shape):
                    sizes = [max(size.dim_value, 1) for size in shape.dim]  # what is open is written as -1 by some
                    check_elements(sizes, f"{path}: tensor {shown(part.name)}")
            case onnx.ModelProto() | onnx.FunctionProto():
                _check_opsets(part.opset_import, path)
    _check_names(model.functions, path)
    _check_order(model.graph, set(), path)
    for function in model.functions:
        _check_order(onnx.GraphProto(node=function.node), set(function.input), path)


def check_elements(dims: Sequence[int], what: str) -> None:
    """Refuse a shape that no tensor has.

    Raises:
        BitqError: negative sizes, too many axes or too many elements; `what` has them.
    """
    if len(dims) > MOST_AXES:
        raise BitqError(f"{what} has {len(dims)} axes; it must have at most {MOST_AXES}")
    if min(dims, default=0) < 0 or prod(dims) > MOST_ELEMENTS:
        sizes = shortened(" x ".join(map(str, dims)))
        raise BitqError(f"{what} is of {sizes} elements; it must have 0 to {MOST_ELEMENTS}")


def messages_within(message: Message) -> Iterator[Message]:
    """A message and all within it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in (value,) if isinstance(value, Message) else value:
                yield from messages_within(part)


def _check_opsets(opsets: Sequence[onnx.OperatorSetIdProto], path: Path) -> None:
    if len(opsets) > MOST_OPSETS:
        raise BitqError(f"{path} names {len(opsets)} sets of operators; it must name at most {MOST_OPSETS}")
    for opset in opsets:
        if not 1 <= opset.version <= MOST_VERSION:
            raise BitqError(
                f"{path} asks for version {opset.version} of the operators {shown(opset.domain or 'ai.onnx')}; it must "
                f"be 1 to {MOST_VERSION}"
            )


def _check_names(functions: Iterable[onnx.FunctionProto], path: Path) -> None:
    names = set()
    for function in functions:
        name = function.domain, function.name, function.overload
        if name in names:
            raise BitqError(f"{path} has two functions called {shown(function.name)}; each needs its own name")
        names.add(name)


def _check_order(graph: onnx.GraphProto, outside: set[str], path: Path) -> None:
    """Every tensor comes from before the node that uses it, and from one node.

    Args:
        graph: with all within it.
        outside: names of what the graphs around it know; left as it is.
        path: for messages.
    """
    given = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    given |= {tensor.values.name for tensor in graph.sparse_initializer}
    entered = given - outside
    outside |= entered
    own = set(given)
    for node in graph.node:
        for name in node.input:
            if name and name not in outside:
                raise BitqError(f"{path}: {told(node)} uses {shown(name)}, which nothing before it computes")
        for inner in graphs_of(node):
            _check_order(inner, outside, path)
        for name in filter(None, node.output):
            if name in own:
                raise BitqError(f"{path}: {told(node)} computes {shown(name)}, which is there already")
            own.add(name)
            if name not in outside:
                outside.add(name)
                entered.add(name)
    outside -= entered
