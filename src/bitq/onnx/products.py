"""From the nodes of an ONNX graph to layers: the geometry of its products (the ONNX operator specification)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx.helper import get_attribute_value

from bitq import geometry
from bitq.errors import BitqError
from bitq.floating import ACTIVATIONS, StaysFloat
from bitq.layers import Layer, unique_name
from bitq.onnx.checks import nodes_within, shown, told
from bitq.onnx.graph import Graph
from bitq.onnx.shapes import Shape

# Operators that multiply inside: none of them may be missed in silence.
_PRODUCT = re.compile(r"Conv(?!ert)|Gemm|MatMul|Einsum|Attention|RNN|LSTM|GRU|MoE")
_EINSUM = "is an Einsum with a weight, which no module that takes formats computes"
_UNSAFE = re.compile(r"[^\w./:#-]")  # in a name that a terminal shows


class _Node:
    """One node with what its graph knows of it."""

    def __init__(self, graph: Graph, node: onnx.NodeProto) -> None:
        self.graph = graph
        self.proto = node
        self.attributes = {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}

    def shape(self, name: str) -> Shape:
        """The shape of one of its tensors, in elements."""
        shape = self.graph.shapes.get(name)
        if shape is None:
            raise BitqError(self._unknown(name))
        if not prod(shape):
            sizes = " x ".join(map(str, shape))
            raise BitqError(f"{self} has {shown(name)} of {sizes} elements; it must have some")
        return shape

    def _unknown(self, name: str) -> str:
        """Why the shape of one of its tensors is not known: the operator from which on it is not."""
        producers = {result: node for node in self.graph.nodes for result in node.output}
        lost = {name}  # each of them because of the next
        while name in producers:
            unknown = (each for each in producers[name].input if each and each not in self.graph.shapes)
            before = next((each for each in unknown if each not in lost), None)
            if before is None:
                return (
                    f"{self.graph.path}: {told(producers[name])} computes {shown(name)}, whose shape does not follow "
                    f"from the file but is needed for {told(self.proto)}; write that shape into its value_info"
                )
            lost.add(before)
            name = before
        return f"{self} has {shown(name)}, whose shape does not follow from the file; write it into its value_info"

    def is_activation(self, name: str) -> bool:
        """Whether values of the tensor depend on an input of the network."""
        return name in self.graph.activations

    def __str__(self) -> str:
        return f"{self.graph.path}: {told(self.proto)}"

    @property
    def name(self) -> str:
        """Its own name, or else that of its result; safe to show."""
        return _UNSAFE.sub("_", self.proto.name or "".join(self.proto.output[:1]))


def layers(graph: Graph) -> tuple[tuple[Layer, ...], tuple[StaysFloat, ...]]:
    """Every product of the graph, in order of execution, and which of them take no formats.

    Raises:
        BitqError: a product that is malformed, of unknown shape, within control flow or not modelled.
    """
    found: dict[str, Layer] = {}
    floating: dict[str, list[str]] = {}
    for proto in graph.nodes:
        if not any(_PRODUCT.search(inner.op_type) for inner in nodes_within([proto])):
            continue
        try:
            node = _Node(graph, proto)
            loops = _loops(node)
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            if isinstance(error, BitqError):
                raise
            raise BitqError(
                f"{graph.path}: {told(proto)} is malformed: its attributes and the shapes of its tensors do not belong "
                "together"
            ) from error
        if loops is not None:
            name = unique_name(node.name, found)
            found[name] = Layer(name=name, **loops)
            if reason := _reason(proto.op_type, found[name]):
                floating.setdefault(reason, []).append(name)
    return tuple(found.values()), tuple(StaysFloat(why, (), tuple(names)) for why, names in floating.items())


def node_names(nodes: Sequence[onnx.NodeProto], names: Sequence[str]) -> dict[str, str]:
    """By the names of a graph's layers, in the order of `layers`, the first result of the nodes that they are of."""
    found: dict[str, str] = {}
    waiting = list(names)
    for proto in nodes:
        own = _UNSAFE.sub("_", proto.name or "".join(proto.output[:1]))
        if waiting and proto.op_type in _KINDS and unique_name(own, found) == waiting[0]:
            found[waiting.pop(0)] = proto.output[0]
    return found


def _reason(kind: str, layer: Layer) -> str | None:
    """Why a product stays float; None if it takes formats."""
    if layer.weight_is_parameter:
        return _EINSUM if kind == "Einsum" else None
    return ACTIVATIONS if "Conv" in kind else None


def _loops(node: _Node) -> dict[str, Any] | None:
    """The loops of one product, None if an Einsum multiplies nothing."""
    kind = _KINDS.get(node.proto.op_type) if node.proto.domain in ("", "ai.onnx") else None
    if kind is None:
        inside = "" if _PRODUCT.search(node.proto.op_type) else " with a product inside"
        raise BitqError(f"{node} is an operator{inside} that bitq does not model")
    return kind(node)


def _convolution(images: int, weight: int) -> Callable[[_Node], dict[str, Any]]:
    """A convolution whose operands are these inputs of the node."""

    def loops(node: _Node) -> dict[str, Any]:
        transposed = node.proto.op_type == "ConvTranspose"
        stored, weights = (node.shape(node.proto.input[index]) for index in (images, weight))
        outputs = node.shape(node.proto.output[0])
        axes = len(stored) - 2
        if not 1 <= axes <= (2 if transposed else 3):
            most = "1 and 2 of transposed ones" if transposed else "1 to 3"
            raise BitqError(f"{node} is a convolution over {axes} axes, but bitq models {most}")
        groups = node.attributes.get("group", 1)
        channels = weights[0] if transposed else weights[1] * groups
        if stored[1] != channels:
            raise BitqError(f"{node} has {stored[1]} input channels, but weights for {channels}")
        if groups < 1 or channels % groups:
            raise BitqError(f"{node} has {groups} groups, which do not divide its {channels} input channels")
        strides, dilations = (node.attributes.get(name, [1] * axes) for name in ("strides", "dilations"))
        padding = _padding(node, stored[2:], weights[2:], outputs[2:], strides, dilations)
        walk = geometry.Convolution(tuple(strides), tuple(dilations), padding, groups, transposed)
        found = walk.loops(stored, weights[2:], outputs)
        return found | {"weight_is_parameter": not node.is_activation(node.proto.input[weight])}

    return loops


def _padding(
    node: _Node, sizes: Shape, kernel: Shape, outputs: Shape, strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...]:
    """Padding before the first row and column, as the node has it or as its way of padding implies."""
    axes = len(sizes)
    auto = node.attributes.get("auto_pad", b"NOTSET").decode()
    if auto == "VALID":
        return (0,) * axes
    if auto == "NOTSET" and "output_shape" not in node.attributes:
        return tuple(node.attributes.get("pads", [0] * 2 * axes)[:axes])
    reaches = [(taps - 1) * dilation + 1 for taps, dilation in zip(kernel, dilations, strict=True)]
    if node.proto.op_type == "ConvTranspose":
        extras = node.attributes.get("output_padding", [0] * axes)
        ends = [(size - 1) * stride + extra for size, stride, extra in zip(sizes, strides, extras, strict=True)]
        kept = outputs
    else:
        ends = [(out - 1) * stride for out, stride in zip(outputs, strides, strict=True)]
        kept = sizes
    totals = [max(0, end + reach - size) for end, reach, size in zip(ends, reaches, kept, strict=True)]
    return tuple(total // 2 if auto == "SAME_UPPER" else total - total // 2 for total in totals)


def _gemm(node: _Node) -> dict[str, Any]:
    first, second = (node.shape(name) for name in node.proto.input[:2])
    rows, inner = reversed(first) if node.attributes.get("transA") else first
    met, cols = reversed(second) if node.attributes.get("transB") else second
    return _product(node, node.proto.input[:2], (rows, inner, met, cols))


def _matmul(first: int, second: int) -> Callable[[_Node], dict[str, Any]]:
    """A batched matrix product, as numpy.matmul, whose operands are these inputs of the node."""

    def loops(node: _Node) -> dict[str, Any]:
        names = [node.proto.input[index] for index in (first, second)]
        left, right = (node.shape(name) for name in names)
        left = left if len(left) > 1 else (1, *left)
        right = right if len(right) > 1 else (*right, 1)
        batches = left[:-2], right[:-2]
        extents = (left[-2], left[-1], right[-2], right[-1])
        return _product(node, names, extents, prod(np.broadcast_shapes(*batches)), batches)

    return loops


def _einsum(node: _Node) -> dict[str, Any] | None:
    """A product of two tensors: axes of both are a batch if they stay, else summed over; others are rows or columns."""
    equation = node.attributes["equation"].decode().replace(" ", "")
    terms, arrow, result = equation.partition("->")
    operands = terms.split(",")
    if len(operands) == 1:
        return None
    if len(operands) > 2 or not equation.replace("->", "").replace(",", "").isalpha():
        raise BitqError(f"{node} computes {equation!r}, but bitq models products of two tensors with all axes named")
    if any(len(set(operand)) < len(operand) for operand in operands):
        raise BitqError(f"{node} computes {equation!r}, but bitq models no diagonals")
    first, second = operands
    kept = set(result) if arrow else set(first) ^ set(second)
    shapes = [node.shape(name) for name in node.proto.input]
    sizes: Mapping[str, int] = {
        axis: size for pair in zip(operands, shapes, strict=True) for axis, size in zip(*pair, strict=True)
    }
    both = set(first) & set(second)
    if both <= kept:
        return None
    rows, cols, inner, batch = (
        prod(sizes[axis] for axis in axes)
        for axes in (kept & set(first) - both, kept & set(second) - both, both - kept, both & kept)
    )
    return _product(node, node.proto.input, (rows, inner, inner, cols), batch, ((batch,), (batch,)))


def _product(
    node: _Node,
    names: Sequence[str],
    extents: tuple[int, int, int, int],
    batch: int = 1,
    batches: tuple[Shape, Shape] = ((), ()),
) -> dict[str, Any]:
    """`batch` products of a (rows, inner) and an (inner, columns) matrix, of which the operands hold `batches`.

    The weight is the second operand, unless an input decides it and not the first.
    """
    rows, inner, met, cols = extents
    if inner != met:
        raise BitqError(f"{node} multiplies rows of {inner} by columns of {met} elements")
    first, second = (node.is_activation(name) for name in names)
    weight_first = second and not first
    first_shared, second_shared = (prod(held) == 1 for held in batches)
    loops = geometry.product((rows, inner, cols), batch, (first_shared, second_shared), weight_first)
    return loops | {"weight_is_parameter": not (first if weight_first else second)}


_KINDS: Mapping[str, Callable[[_Node], dict[str, Any] | None]] = {
    "Conv": _convolution(0, 1),
    "ConvInteger": _convolution(0, 1),
    "ConvTranspose": _convolution(0, 1),
    "QLinearConv": _convolution(0, 3),
    "Gemm": _gemm,
    "MatMul": _matmul(0, 1),
    "MatMulInteger": _matmul(0, 1),
    "QLinearMatMul": _matmul(0, 3),
    "Einsum": _einsum,
}
