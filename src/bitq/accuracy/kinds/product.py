"""Products of two activations, each a child of the module whose code computes it (`bitq.multiplying`)."""

from __future__ import annotations

from torch import Tensor

from bitq.accuracy.kinds.kind import Kind, register
from bitq.multiplying import Multiply, Product


def _compute(layer: Product, input: Tensor, weight: Tensor, multiply: Multiply) -> Tensor:
    return multiply(input, weight)


PRODUCT = register(
    Kind(classes=(Product,), compute=_compute, channel_axis=lambda layer: -1, of_activations=True)
)
