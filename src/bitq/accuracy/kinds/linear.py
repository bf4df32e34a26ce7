"""Linear layers: of vectors, and of the tokens of any number of leading axes; and how matrix products are read."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from bitq import geometry
from bitq.accuracy.kinds.kind import Kind, register
from bitq.accuracy.kinds.operators import ComputedOperation, ReadLayer, register_operators


def _compute(layer: Any, input: Tensor, weight: Tensor) -> Tensor:
    return functional.linear(input, weight, layer.bias)


LINEAR = register(Kind(classes=(nn.Linear,), compute=_compute, channel_axis=lambda layer: -1))

# The two operands of every matrix product, by the names of its schema.
_PRODUCTS = {
    "aten::mm": ("self", "mat2"),
    "aten::addmm": ("mat1", "mat2"),
    "aten::_addmm_activation": ("mat1", "mat2"),
    "aten::bmm": ("self", "mat2"),
    "aten::baddbmm": ("batch1", "batch2"),
    "aten::addbmm": ("batch1", "batch2"),
    "aten::mv": ("self", "vec"),
    "aten::addmv": ("mat", "vec"),
    "aten::dot": ("self", "tensor"),
    "aten::vdot": ("self", "other"),
    "aten::_int_mm": ("self", "mat2"),
    "aten::_scaled_mm": ("self", "mat2"),
}


def _read(name: str, operation: ComputedOperation) -> Iterator[ReadLayer]:
    first, second = (operation.arguments[operand] for operand in _PRODUCTS[name])
    rows, cols = prod(first.shape[-2:-1]), prod(second.shape[1:][-1:])  # 1 for a vector
    inner, batch = first.shape[-1], prod(first.shape[:-2])
    if name == "aten::addbmm":  # adds up its batch
        inner, batch = inner * batch, 1
    yield _product(operation, first, second, (rows, inner, cols), batch)


def _product(
    operation: ComputedOperation, first: Tensor, second: Tensor, extents: tuple[int, int, int], batch: int
) -> ReadLayer:
    """`batch` products of a (rows, inner) matrix of `first` and (inner, cols) of `second`."""
    weight_first = operation.is_activation(second) and not operation.is_activation(first)
    loops = geometry.product(extents, batch, (_expanded(first), _expanded(second)), weight_first)
    input, weight = (second, first) if weight_first else (first, second)
    return ReadLayer("matmul", input, weight, loops)


def _expanded(operand: Tensor) -> bool:
    """Whether one matrix stands for all of a batch."""
    return operand.dim() == 3 and operand.stride(0) == 0


def _read_attention(name: str, operation: ComputedOperation) -> Iterator[ReadLayer]:
    query, key, value = (operation.arguments[each] for each in ("query", "key", "value"))
    scores = query if operation.is_activation(query) else key
    rows, keys, batch = query.shape[-2], key.shape[-2], prod(query.shape[:-2])
    yield _product(operation, query, key, (rows, query.shape[-1], keys), batch)
    yield _product(operation, scores, value, (rows, keys, value.shape[-1]), batch)


register_operators(tuple(_PRODUCTS), _read)
register_operators(("aten::_scaled_dot_product_",), _read_attention)
