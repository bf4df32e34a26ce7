"""Weights as one DequantizeLinear right before what reads them, as runtimes look for them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from bitq.exporting.standard_onnx.constants import Held, Integers, emitted
from bitq.exporting.standard_onnx.marks import constant_shape, put_in_place
from bitq.exporting.standard_onnx.program import WeightMark
from bitq.formats.blocking import Along


def put_where_read(mark: WeightMark, held: Held) -> None:
    """Put integers in a weight's place, laid out as what reads it has it: transposed and reshaped beforehand.

    Args:
        mark: of the weight.
        held: what stands for it, integers.
    """
    moves, geometry = moves_after(mark.node), mark.recipe.format.geometry
    codes, scale, zero = (None if part is None else moved(part, moves) for part in held.elementwise())
    assert codes is not None
    assert scale is not None
    size = geometry.size if isinstance(geometry, Along) else None
    put_moved(mark, moves, lambda tape: emitted(tape, _fewest(codes, scale, zero, size), held.name))


def put_moved(mark: WeightMark, moves: list[ir.Node], emit: Callable[[Tape], ir.Value]) -> None:
    """Put what is emitted in the place of a mark and of the moves behind it."""
    graph = mark.node.graph
    assert isinstance(graph, ir.Graph)
    tape, chain = Tape(graph), [mark.node, *moves]
    value = emit(tape)
    put_in_place(graph, chain.pop(), tape, value)
    while chain:
        graph.remove(chain.pop(), safe=True)


def moves_after(node: ir.Node) -> list[ir.Node]:
    """The transpositions and reshapings behind a node, as long as nothing else reads what is between them."""
    found: list[ir.Node] = []
    while True:
        users = list(node.outputs[0].uses())
        if len(users) != 1 or users[0].idx or node.outputs[0].is_graph_output():
            return found
        node = users[0].node
        if node.op_type != "Transpose" and (node.op_type != "Reshape" or constant_shape(node) is None):
            return found
        found.append(node)


def moved(values: np.ndarray, moves: list[ir.Node]) -> np.ndarray:
    """What such nodes make of an array."""
    for node in moves:
        if node.op_type == "Transpose":
            order = node.attributes.get("perm")
            values = values.transpose(None if order is None else tuple(order.value))
        else:
            shape = constant_shape(node)
            assert shape is not None
            values = values.reshape([n or values.shape[axis] for axis, n in enumerate(shape)])
    return values


def _fewest(codes: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, size: int | None) -> Integers:
    """Integers with as few scales as say them: one, one for each place of an axis, or blocks along one axis.

    Args:
        codes, scale, zero: of one shape.
        size: that blocks have, where they lie so that it serves.
    """
    each = [scale] if zero is None else [scale, zero]
    runs = [_alike(each, axis) for axis in range(codes.ndim)]
    varying = [axis for axis, run in enumerate(runs) if run < codes.shape[axis]]
    axis = max(varying, key=lambda axis: runs[axis], default=None)
    if axis is None or (len(varying) == 1 and runs[axis] == 1):
        index: tuple[slice | int, ...] = tuple(slice(None) if place == axis else 0 for place in range(codes.ndim))
        return Integers(codes, scale[index], None if zero is None else zero[index], axis)
    run = size if size is not None and runs[axis] % size == 0 else runs[axis]
    index = tuple(slice(None, None, run if place == axis else None) for place in range(codes.ndim))
    return Integers(codes, scale[index], None if zero is None else zero[index], axis, run)


def _alike(values: list[np.ndarray], axis: int) -> int:
    """How many numbers in a row are alike everywhere along an axis, the last ones perhaps fewer."""
    changes = [np.flatnonzero((np.diff(each, axis=axis) != 0).any(_others(each.ndim, axis))) + 1 for each in values]
    places = np.concatenate(changes)
    return int(np.gcd.reduce(places)) if len(places) else values[0].shape[axis]


def _others(axes: int, axis: int) -> tuple[int, ...]:
    return tuple(other for other in range(axes) if other != axis)
