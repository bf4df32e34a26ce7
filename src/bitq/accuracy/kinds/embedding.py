"""Embeddings: tables of which a row is read for every index. Nothing is multiplied, and indices have no format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from bitq.accuracy.kinds.kind import Kind, register
from bitq.accuracy.kinds.operators import ComputedOperation, ReadLayer, register_operators


def _compute(layer: Any, input: Tensor, weight: Tensor) -> Tensor:
    return functional.embedding(input, weight, layer.padding_idx, None, 2.0, layer.scale_grad_by_freq)


def _refuses(layer: Any) -> str | None:
    if layer.max_norm is None:
        return None
    return "writes to its rows as it reads them (max_norm), which no format outlasts; let max_norm be None"


EMBEDDING = register(
    Kind(classes=(nn.Embedding,), compute=_compute, channel_axis=lambda layer: -1, refuses=_refuses)
)


def _read(name: str, operation: ComputedOperation) -> Iterator[ReadLayer]:
    table, indices = operation.arguments["weight"], operation.arguments["indices"]
    rows, columns = table.shape
    loops = {"K": max(indices.numel(), 1) * columns, "groups": max(indices.numel(), 1), "table": (rows, columns)}
    yield ReadLayer("embedding", None, table, loops)


register_operators(("aten::embedding",), _read)
