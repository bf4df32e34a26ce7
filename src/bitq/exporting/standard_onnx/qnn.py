"""What Qualcomm's QNN takes of weights and activations, as ONNX Runtime's execution provider for it tells.

Sources, all in onnxruntime/onnxruntime-qnn, with the rule that each has:

- onnxruntime/core/providers/qnn/qnn_ep_utils.cc (`OrtDQMatMulNodeGroupSelector`): of a MatMul, a weight in blocks has
  4 bits, 2 axes, blocks along axis 0, the inputs, of a power of two and at least 16.
- docs/lwd_conv_bq_lpbq.md: of a Conv, a weight in blocks is of a 2-D convolution that is not depthwise, has 4 bits,
  blocks of a power of two and at least 16, zero points of 0, and an activation of 16 bits with a zero point of 0.
- .../builder/opbuilder/conv_op_builder.cc: a scale for each channel lies along axis 0 of Conv, axis 1 of ConvTranspose.
- .../builder/qnn_quant_params_wrapper.cc, qnn_model_wrapper.cc: 4-bit weights are symmetric; blocks of other operators
  than these, and of other widths, have no encoding.
- docs/execution_providers/QNN-ExecutionProvider.md: no dynamic shapes; of MatMul of two activations (uint8, uint8),
  (uint8, uint16) and (uint16, uint8).

Of a Gemm, blocks are taken as of MatMul. Nobody here has run it on Qualcomm's hardware.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from bitq.errors import BitqError, some_of
from bitq.exporting.standard_onnx.marks import module_of
from bitq.exporting.standard_onnx.pairs import put_into_pairs
from bitq.exporting.standard_onnx.program import Put

LEAST_BLOCK = 16
_FOUR_BITS = (ir.DataType.INT4, ir.DataType.UINT4)
_UNSIGNED = (ir.DataType.UINT8, ir.DataType.UINT16)
_WEIGHTED = {"Conv": 0, "ConvTranspose": 1, "Gemm": None, "MatMul": None}
"""Operators with a weight, and the axis that its scales may lie along; None: as the operator has its outputs."""
_MOVING = ("Reshape", "Transpose")
"""Operators that ONNX Runtime moves pairs across."""

UNTESTED = "nobody has run this on Qualcomm's hardware; the rules are those of ONNX Runtime's provider for QNN"


class _Operand(NamedTuple):
    """What DequantizeLinear gives to an operator.

    Attributes:
        kind: of the integers.
        shape: of the tensor, None for open sizes.
        constant: whether it is a weight.
        axis, block: as of the operator; 0 for no blocks.
        scales: how many there are.
        symmetric: whether its zero points are 0, or those of a signed type in an unsigned one.
    """

    kind: ir.DataType
    shape: tuple[int | None, ...]
    constant: bool
    axis: int
    block: int
    scales: int
    symmetric: bool


def put_for_qnn(model: ir.Model) -> Put:
    """Pairs, of 8 bits without a sign, as QNN takes them.

    Raises:
        BitqError: what pairs do not express, or QNN does not take; names the layers, each with its reason.
    """
    for each in model.graph.inputs:
        if each.shape is not None and not all(isinstance(size, int) for size in each.shape):
            raise BitqError(f"the file leaves sizes of input {each.name!r} open, which QNN does not take; fix them")
    put = put_into_pairs(model, unsigned8=True)
    return Put(put.figures, (*put.notes, *check(model.graph)))


def check(graph: ir.Graph) -> tuple[str, ...]:
    """Refuse what QNN cannot take, and tell what it takes as floats.

    Args:
        graph: with pairs in the place of every mark.

    Returns:
        Notes.

    Raises:
        BitqError: names the layers, each with its reason.
    """
    wrong: dict[str, str] = {}
    floats: list[str] = []
    for node in graph:
        if node.op_type not in _WEIGHTED:
            continue
        place = module_of(node) or node.name or node.op_type
        first, second = (_operand(value) for value in list(node.inputs)[:2])
        reason = _reason(node, first, second)
        if reason is not None:
            wrong[place] = reason
        elif first is None or second is None or not _stored(node):
            floats.append(place)
    if wrong:
        told = some_of([f"{name!r} {reason}" for name, reason in wrong.items()], "; ", "; and {} more")
        raise BitqError(f"QNN cannot take these layers in their formats: {told}; give them others")
    notes = [UNTESTED]
    if floats:
        named = some_of(floats, more=f" and {len(floats)} in all")
        notes.insert(0, f"QNN computes in float16, as not all of their tensors are quantized: {named}")
    return tuple(notes)


def _operand(value: ir.Value | None) -> _Operand | None:
    node = None if value is None else value.producer()
    while node is not None and node.op_type in _MOVING:
        value = node.inputs[0]
        node = None if value is None else value.producer()
    if value is None or node is None or node.op_type != "DequantizeLinear":
        return None
    codes, scale = node.inputs[0], node.inputs[1]
    assert codes is not None
    assert scale is not None
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    scales = ir.convenience.get_const_tensor(scale)
    zero = ir.convenience.get_const_tensor(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    held = codes.const_value
    kind = codes.dtype if held is None else held.dtype
    if kind is None and zero is not None:
        kind = zero.dtype
    assert kind is not None
    middle = 0 if kind.is_signed() else 1 << (int(kind.bitwidth) - 1)
    points = np.zeros(1) if zero is None else zero.numpy().astype(np.int64)
    shape = value.shape if held is None else held.shape
    known = () if shape is None else tuple(each if isinstance(each, int) else None for each in shape)
    return _Operand(
        kind, known, held is not None, given.get("axis", 1), given.get("block_size", 0),
        1 if scales is None else scales.numpy().size, bool((points == middle).all()),
    )  # fmt: skip


def _reason(node: ir.Node, first: _Operand | None, second: _Operand | None) -> str | None:
    """Why QNN cannot take a layer, after its name; None if it can."""
    if first is not None and second is not None and not second.constant:
        return _products(first, second)
    if second is None:
        return None
    bits, name = int(second.kind.bitwidth), node.op_type
    if second.block:
        return "".join(_blocks(node, first, second)) or None
    if second.scales > 1:
        outputs = _WEIGHTED[name]
        if outputs is None:
            turned = name == "Gemm" and bool(_given(node, "transB", 0))
            outputs = 0 if turned else len(second.shape) - 1
        if second.axis != outputs:
            return f"has a scale for each place of axis {second.axis} of its weight, not for each output"
    if bits == 4 and not second.symmetric:
        return "has a weight of 4 bits with a zero point, which has to be 0"
    if bits == 16 and name in ("Gemm", "MatMul"):
        return "has a weight of 16 bits, where MatMul takes 8 or 4"
    return None


def _products(first: _Operand, second: _Operand) -> str | None:
    kinds = [each.kind for each in (first, second)]
    if set(kinds) <= set(_UNSIGNED) and kinds != [ir.DataType.UINT16] * 2:
        return None
    told = " and ".join(each.name.lower() for each in kinds)
    return f"multiplies {told}, of which QNN takes uint8 with uint8 or uint16"


def _blocks(node: ir.Node, first: _Operand | None, weight: _Operand) -> Iterator[str]:
    """Why a weight in blocks is not taken; the first reason alone."""
    name, block = node.op_type, weight.block
    inputs = {"Conv": 1, "Gemm": int(bool(_given(node, "transB", 0))), "MatMul": 0}.get(name)
    symmetric16 = first is not None and int(first.kind.bitwidth) == 16 and first.symmetric
    reasons = (
        (inputs is None, f"has a weight in blocks, which {name} takes none of"),
        (
            len(weight.shape) != (4 if name == "Conv" else 2),
            f"has a weight in blocks of {len(weight.shape)} axes, where {name} takes those of "
            f"{4 if name == 'Conv' else 2}",
        ),
        (
            weight.kind not in _FOUR_BITS,
            f"has a weight in blocks of {weight.kind.bitwidth} bits, where QNN takes those of 4",
        ),
        (weight.axis != inputs, f"has blocks along axis {weight.axis} of its weight, not along its inputs"),
        (
            block < LEAST_BLOCK or bool(block & (block - 1)),
            f"has blocks of {block}, where QNN takes powers of two from {LEAST_BLOCK} on",
        ),
        (not weight.symmetric, "has blocks with zero points, which have to be 0"),
        (name == "Conv" and _given(node, "group", 1) > 1, "is a grouped convolution, which takes no weight in blocks"),
        (
            name == "Conv" and not symmetric16,
            "has a weight in blocks, for which a convolution's input has 16 bits and a zero point of 0",
        ),
    )
    yield from [reason for fails, reason in reasons if fails][:1]


def _given(node: ir.Node, name: str, default: int) -> int:
    found = node.attributes.get(name)
    return default if found is None else int(found.value)


def _stored(node: ir.Node) -> bool:
    """Whether what a layer gives is quantized, after its bias and its activation function."""
    value = node.outputs[0]
    while True:
        users = list(value.uses())
        if len(users) != 1:
            return bool(users) and all(use.node.op_type == "QuantizeLinear" for use in users)
        after = users[0].node
        if after.op_type == "QuantizeLinear":
            return True
        if after.op_type not in ("Add", "Relu", "Clip"):
            return False
        value = after.outputs[0]
