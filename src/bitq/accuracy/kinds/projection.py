"""Linear layers by a parameter of another module that has its inputs first (`bitq.multiplying`)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from bitq.accuracy.kinds.kind import Kind, register
from bitq.multiplying import TransposedProjection


def _compute(
    layer: TransposedProjection, input: Tensor, weight: Tensor, rows: slice = slice(None), bias: Tensor | None = None
) -> Tensor:
    return functional.linear(input, weight.mT[rows], bias)


TRANSPOSED_PROJECTION = register(
    Kind(
        classes=(TransposedProjection,),
        compute=_compute,
        channel_axis=lambda layer: -1,
        transposed=True,
        output_axes=(0, 2),
    )
)
