"""Which operators of PyTorch are products, and the layers that they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor, nn

from bitq import geometry
from bitq.errors import BitqError
from bitq.layers import Layer, unique_name
from bitq.private_torch import AnyConvolution
from bitq.tracing.watch import Operation

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
_CONVOLUTIONS = ("aten::convolution", "aten::_convolution", "aten::convolution_overrideable")
LAYERS = {*_PRODUCTS, *_CONVOLUTIONS}
"""Operators that are one layer: they read one stored tensor and write another."""

# Operators that multiply inside and stand in neither list: none of them may be missed in silence.
_UNKNOWN_PRODUCT = re.compile(
    r"(::|_)(mm|bmm|gemm|matmul|conv[123]?d?|convolution|linear|trilinear|rnn|attention|transformer)(_|$)"
)


class Products:
    """Writes down the products among a network's operations."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self._names: set[str] = set()

    def note(self, operation: Operation) -> None:
        """Write down an operation, if it is a product.

        Raises:
            BitqError: it is a product that is not modelled.
        """
        name, arguments = operation.name, operation.arguments
        if name in _CONVOLUTIONS:
            if arguments["input"].dim() > 4:
                raise BitqError(
                    f"{operation.place} computes a 3-D convolution, which bitq does not model; give a network of 1-D "
                    "and 2-D ones"
                )
            self._add(operation, "conv", arguments["weight"], _convolution_loops(operation))
        elif name in _PRODUCTS:
            first, second = (arguments[operand] for operand in _PRODUCTS[name])
            rows, cols = prod(first.shape[-2:-1]), prod(second.shape[1:][-1:])  # 1 for a vector
            inner, batch = first.shape[-1], prod(first.shape[:-2])
            if name == "aten::addbmm":  # adds up its batch
                inner, batch = inner * batch, 1
            self._add_product(operation, first, second, (rows, inner, cols), batch)
        elif name.startswith("aten::_scaled_dot_product_"):
            query, key, value = arguments["query"], arguments["key"], arguments["value"]
            scores = query if operation.is_activation(query) else key
            rows, keys, batch = query.shape[-2], key.shape[-2], prod(query.shape[:-2])
            self._add_product(operation, query, key, (rows, query.shape[-1], keys), batch)
            self._add_product(operation, scores, value, (rows, keys, value.shape[-1]), batch)
        elif _UNKNOWN_PRODUCT.search(name):
            raise BitqError(f"{operation.place} computes {name}, which bitq does not model")

    def _add_product(
        self, operation: Operation, first: Tensor, second: Tensor, extents: tuple[int, int, int], batch: int
    ) -> None:
        """Write down `batch` products of a (rows, inner) matrix of `first` and (inner, cols) of `second`."""
        weight_first = operation.is_activation(second) and not operation.is_activation(first)
        shared = _expanded(first), _expanded(second)
        loops = geometry.product(extents, batch, shared, weight_first)
        self._add(operation, "matmul", first if weight_first else second, loops)

    def _add(self, operation: Operation, kind: str, weight: Tensor, loops: dict[str, Any]) -> None:
        path = operation.path
        alone = path and isinstance(operation.module, AnyConvolution | nn.Linear)
        name = unique_name(path if alone else f"{path}.{kind}".lstrip("."), self._names)
        layer = Layer(name=name, module=path, weight_is_parameter=not operation.is_activation(weight), **loops)
        self._names.add(name)
        self.layers.append(layer)


def _expanded(operand: Tensor) -> bool:
    """Whether one matrix stands for all of a batch."""
    return operand.dim() == 3 and operand.stride(0) == 0


def _convolution_loops(operation: Operation) -> dict[str, Any]:
    arguments, (output,) = operation.arguments, operation.results
    images, kernel = arguments["input"].shape, arguments["weight"].shape[2:]

    def each(values: Sequence[int]) -> tuple[int, ...]:
        """Values per axis; a single one holds for all."""
        return tuple(values) * len(kernel) if len(values) == 1 else tuple(values)

    stride, dilation, padding = (each(arguments[name]) for name in ("stride", "dilation", "padding"))
    walk = geometry.Convolution(stride, dilation, padding, arguments["groups"], arguments["transposed"])
    return walk.loops(images, kernel, output.shape)
