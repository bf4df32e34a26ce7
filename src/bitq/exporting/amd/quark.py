"""Quantizations as AMD Quark's operator BFPQuantizeDequantize, where that says them.

amd/Quark, docs/source/onnx/custom_operators/BFPQuantizeDequantize.rst: domain com.amd.quark, version 1. `bit_width`
counts an exponent of 8 bits that `block_size` numbers along `axis` share, and with it one number: a sign and
bit_width - 9 bits. `rounding_mode` is 0 for halves away from zero and 2 for halves to even. A weight is a float tensor
that goes through the operator, too (the quantizers' `_add_fn_pair_for_weight`).

amd/Quark, quark/onnx/operators/custom_ops/src/bfp/cpu/bfp_kernel.cc, `BFPCPUKernel`: the exponent of a block is the
largest field of its float32 numbers, e; they are rounded to multiples of 2^(e - 127 - (bit_width - 10)) and clipped to
2^(bit_width - 9) - 1 of them. So an `sM` or `iM` under a power of two of 8 bits is bit_width = M + 8. NaN and
infinities stay what they are there, and steps may be subnormal float32 numbers, which bitq's are not.
`BFPCPUKernelCompiler`, of the attribute use_compiler_version_cpu_kernel, which is not set here, raises the exponent
where the largest number rounds up beyond it, and has one more negative number.

What else has such numbers is held, in the same mantissa bits: fewer exponent bits, a block with the kernel window or a
patch inside, one found by another mode. Of a weight nothing changes by that, of an activation small blocks get finer
steps.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx_ir.tape import Tape
from torch import nn

from bitq.errors import BitqError, some_of
from bitq.exporting.standard_onnx.constants import Held
from bitq.exporting.standard_onnx.direct import moved, moves_after, put_moved, put_where_read
from bitq.exporting.standard_onnx.marks import (
    MARK,
    attributes_of,
    marks_in,
    module_of,
    put_in_place,
    recipe_of,
    unsayable_told,
)
from bitq.exporting.standard_onnx.pairs import pair
from bitq.exporting.standard_onnx.program import Put, WeightMark, put_into_functions, put_weights
from bitq.exporting.standard_onnx.rounding import DOMAIN, UnsayableError
from bitq.exporting.standard_onnx.runtime import ran
from bitq.formats import Format
from bitq.formats.blocking import Along, Tile
from bitq.formats.elements import Integer
from bitq.formats.format import Rounding
from bitq.formats.scales import FloatScale, PowerOfTwo, ScaledExponent
from bitq.numerics import quantize
from bitq.numerics.recipe import Axes, Recipe

QUARK, OPERATOR = "com.amd.quark", "BFPQuantizeDequantize"
_EXPONENT_BITS = 8
_MOST_BITS = 16  # of a number
_ROUNDINGS: dict[str, int] = {"half_away": 0, "nearest": 2}
_BFP16 = 16, 8

UNTESTED = "nobody has run this on AMD's hardware or by its compiler: the operator is as Quark's source defines it"


class BlockOperator(NamedTuple):
    """The operator for one tensor.

    Attributes:
        format: what it computes.
        axis: that its blocks lie along.
        without_negative: whether negative numbers are made 0 before.
        same: whether that is what the format of the tensor says, for any number.
    """

    format: Format
    axis: int
    without_negative: bool
    same: bool

    @property
    def attributes(self) -> dict[str, Any]:
        """As the operator has them."""
        geometry = self.format.geometry
        assert isinstance(geometry, Along)
        return {
            "bfp_method": "to_bfp",
            "axis": self.axis,
            "bit_width": self.format.elements[0].bits + _EXPONENT_BITS,
            "block_size": geometry.size,
            "rounding_mode": _ROUNDINGS[self.format.rounding],
            "convert_to_bfloat_before_bfp": 0,
        }


def operator_of(recipe: Recipe, shape: tuple[int | None, ...]) -> BlockOperator:
    """The operator that holds what a recipe gives of a tensor of this shape.

    Raises:
        UnsayableError: elements that are no integers, or under a float, of over 16 bits, rounded in another way, or in
            blocks that do not run along an axis.
    """
    fmt, element, scale = recipe.format, recipe.format.elements[0], recipe.format.scale
    floats = scale is None or isinstance(scale, FloatScale | ScaledExponent)
    if len(fmt.elements) > 1 or not isinstance(element, Integer) or floats:
        raise UnsayableError(f"which {OPERATOR} does not say: it has integers under a power of two")
    if not isinstance(fmt.geometry, Along | Tile):
        raise UnsayableError(f"which {OPERATOR} does not say: it has blocks along one axis")
    bits = element.bits + (not element.signed)
    if bits > _MOST_BITS:
        raise UnsayableError(f"which {OPERATOR} does not say: it has numbers of at most {_MOST_BITS} bits")
    if recipe.rounding not in _ROUNDINGS:
        raise UnsayableError(f"which {OPERATOR} does not say: it rounds to nearest")
    lengths = fmt.geometry.lengths(tuple(n or 2 for n in shape), *recipe.axes)
    dim = recipe.axes.dim
    along = all(length == 1 or shape[axis] == 1 for axis, length in enumerate(lengths) if axis != dim)
    own = isinstance(scale, PowerOfTwo) and (scale.bits, scale.mode) == (_EXPONENT_BITS, "floor")
    rounding: Rounding = "half_away" if recipe.rounding == "half_away" else "nearest"
    held = Format((Integer("s", bits),), PowerOfTwo(_EXPONENT_BITS), Along(lengths[dim], window=False), rounding)
    return BlockOperator(held, dim, not element.signed, along and own)


def put_into_quark(model: ir.Model) -> Put:
    """The operator for every mark that it holds; integers with one scale as pairs, other weights as integers.

    Raises:
        BitqError: an activation that neither says, with its module.
    """
    graph = model.graph
    operators: list[tuple[str, BlockOperator, str]] = []

    def put_operator(mark: WeightMark, held: Held) -> bool:
        operator = _holding(held, mark.recipe)
        if operator is None:
            return False
        _put_weight(mark, held, operator)
        operators.append((mark.name, operator, mark.recipe.format.text))
        return True

    others = put_weights(graph, put_where_read, put_operator)
    weights, pairs = len(operators), 0
    changed: list[tuple[str, str]] = []
    for node in marks_in(graph):
        x, recipe = node.inputs[0], recipe_of(node)
        assert x is not None
        if x.shape is None:
            raise BitqError(f"an activation of module {module_of(node)!r} has no known rank; export it in float32")
        shape = tuple(each if isinstance(each, int) else None for each in x.shape)
        tape = Tape()
        with unsayable_told(node, recipe):
            try:
                operator = operator_of(recipe, shape)
            except UnsayableError as error:
                value = _paired(tape, x, recipe, error)
                pairs += 1
            else:
                value = _emitted(tape, tape.op("Relu", [x]) if operator.without_negative else x, operator)
                operators.append((module_of(node), operator, recipe.format.text))
                changed += [] if operator.same else [(module_of(node), recipe.format.text)]
        put_in_place(graph, node, tape, value)
    if operators:
        model.opset_imports[QUARK] = 1
    figures = {
        "operators": len(operators),
        "weights_by_operator": weights,
        **others.figures,
        "pairs": pairs,
    }
    return Put(figures, (*_notes([each for _, each, _ in operators], changed), *others.notes, UNTESTED))


def _holding(held: Held, recipe: Recipe) -> BlockOperator | None:
    """The operator that leaves a quantized weight as it is; None, if there is none."""
    try:
        operator = operator_of(recipe, tuple(held.values.shape))
    except UnsayableError:
        return None
    again = quantize(held.values, operator.format, operator.axis)
    return operator if torch.equal(again, held.values) else None


def _put_weight(mark: WeightMark, held: Held, operator: BlockOperator) -> None:
    """Put a float weight and the operator in place, transposed beforehand where what reads it asks for that."""
    moves = moves_after(mark.node)
    if any(each.op_type != "Transpose" for each in moves):
        moves = []
    axis = operator.axis
    for each in moves:
        order = each.attributes.get("perm")
        axis = (list(order.value) if order is not None else list(range(held.values.dim()))[::-1]).index(axis)
    values = np.ascontiguousarray(moved(held.values.numpy(), moves))

    def emit(tape: Tape) -> ir.Value:
        weight = tape.initializer(ir.Tensor(values, name=held.name), name=held.name)
        return _emitted(tape, weight, operator._replace(axis=axis))

    put_moved(mark, moves, emit)


def _emitted(tape: Tape, x: ir.Value, operator: BlockOperator) -> ir.Value:
    return tape.op(OPERATOR, [x], operator.attributes, domain=QUARK)


def _paired(tape: Tape, x: ir.Value, recipe: Recipe, error: UnsayableError) -> ir.Value:
    """A pair, where that says what the operator does not."""
    try:
        return pair(tape, x, recipe)
    except UnsayableError:
        raise UnsayableError(f"{error}, or as a pair integers with one calibrated scale") from None


def _notes(operators: list[BlockOperator], changed: list[tuple[str, str]]) -> list[str]:
    found = []
    if changed:
        named = some_of([f"{module} ({text})" for module, text in changed])
        found.append(
            f"{OPERATOR} has all numbers of these activations' formats, but exponents of 8 bits and blocks along one "
            f"axis, which may give small ones finer steps: {named}"
        )
    other = [each for each in operators if (each.attributes["bit_width"], each.attributes["block_size"]) != _BFP16]
    if other:
        found.append(
            f"{len(other)} of {len(operators)} operators are not BFP16 (16 bits, blocks of 8), the only plain block "
            "floating point that Quark's documentation lists; Quark computes them, its compiler may not take them"
        )
    return found


def ran_as_defined(path: Path, model: nn.Module, example_input: Any) -> str:
    """The file beside the network with bitq's own body for the operator, which needs Quark's library to run itself."""
    found = ir.from_proto(onnx.load(path))
    for node in found.graph:
        if (node.domain, node.op_type) == (QUARK, OPERATOR):
            given = {name: attribute.value for name, attribute in node.attributes.items()}
            rounding: Rounding = "nearest" if given["rounding_mode"] == 2 else "half_away"
            bits, blocks = given["bit_width"] - _EXPONENT_BITS, Along(given["block_size"], window=False)
            fmt = Format((Integer("s", bits),), PowerOfTwo(_EXPONENT_BITS), blocks, rounding)
            node.domain, node.op_type = DOMAIN, MARK
            node.attributes.clear()
            recipe = Recipe(fmt, Axes(given["axis"]), None, rounding)
            for each in ir.convenience.convert_attributes(attributes_of(recipe)):
                node.attributes.add(each)
    put_into_functions(found)
    with TemporaryDirectory() as folder:
        beside = Path(folder) / "defined.onnx"
        beside.write_bytes(ir.to_proto(found).SerializeToString())
        return f"With the operator as Quark's source defines it, {ran(beside, model, example_input)}; {UNTESTED}"
