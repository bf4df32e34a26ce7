"""Quantizations as QuantizeLinear and DequantizeLinear alone, where these say them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from bitq.exporting.standard_onnx.direct import put_where_read
from bitq.exporting.standard_onnx.marks import marks_in, put_in_place, recipe_of, unsayable_told
from bitq.exporting.standard_onnx.program import Put, put_weights
from bitq.exporting.standard_onnx.rounding import UnsayableError
from bitq.exporting.whole_numbers import calibrated_step
from bitq.formats.blocking import Whole
from bitq.formats.elements import Integer
from bitq.numerics.recipe import Recipe

_NEEDED = "which no pair of QuantizeLinear and DequantizeLinear says; those of integers with one calibrated scale do"


def pair(tape: Tape, x: ir.Value, recipe: Recipe, unsigned8: bool = False) -> ir.Value:
    """Emit the pair for a tensor; what lies beyond the elements is clipped before.

    With `unsigned8`, numbers of at most 8 bits are stored without a sign, by a zero point of 128 if they have one.

    QuantizeLinear divides in float32: next to a tie between two elements the other one may come out.

    Raises:
        UnsayableError: a format of other elements than integers up to 16 bits, of blocks, or without calibration.
    """
    element, fixed = recipe.format.elements[0], recipe.tensor_range is not None
    one = len(recipe.format.elements) == 1 and isinstance(recipe.format.geometry, Whole)
    if not (one and fixed and isinstance(element, Integer) and element.bits <= 16 and recipe.rounding == "nearest"):
        raise UnsayableError(_NEEDED)
    exact, point = calibrated_step(recipe)
    step, zero = np.float32(exact), int(point or 0)
    low, high = (-element.most if element.signed else 0) - zero, element.most - zero
    kind = {
        (True, True): ir.DataType.INT8,
        (True, False): ir.DataType.INT16,
        (False, True): ir.DataType.UINT8,
        (False, False): ir.DataType.UINT16,
    }[element.signed, element.bits <= 8]
    if unsigned8 and kind == ir.DataType.INT8:
        kind, zero = ir.DataType.UINT8, 128

    def constant(value: float, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        return tape.op("Constant", [], {"value": ir.Tensor(np.asarray(value, dtype=dtype.numpy()), dtype=dtype)})

    if high - low < (1 << (8 * int(kind.itemsize))) - 1:
        x = tape.op("Clip", [x, constant(float(low * step)), constant(float(high * step))])
    scales = [constant(float(step)), constant(zero, kind)]
    return tape.op("DequantizeLinear", [tape.op("QuantizeLinear", [x, *scales]), *scales])


def put_into_pairs(model: ir.Model, unsigned8: bool = False) -> Put:
    """Weights as integers where they are read, a pair for each activation.

    Args:
        model: is changed.
        unsigned8: as of `pair`.

    Raises:
        BitqError: a format that these do not express, with its module.
    """
    graph = model.graph
    weights = put_weights(graph, put_where_read)
    nodes = marks_in(graph)
    for node in nodes:
        x, recipe = node.inputs[0], recipe_of(node)
        assert x is not None
        tape = Tape()
        with unsayable_told(node, recipe):
            value = pair(tape, x, recipe, unsigned8)
        put_in_place(graph, node, tape, value)
    return Put({**weights.figures, "pairs": len(nodes)}, weights.notes)
