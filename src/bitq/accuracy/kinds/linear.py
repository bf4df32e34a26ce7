"""Linear layers: of vectors, and of the tokens of any number of leading axes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from bitq.accuracy.kinds.kind import Kind, register


def _compute(layer: Any, input: Tensor, weight: Tensor) -> Tensor:
    return functional.linear(input, weight, layer.bias)


LINEAR = register(Kind(classes=(nn.Linear,), compute=_compute, channel_axis=lambda layer: -1))
