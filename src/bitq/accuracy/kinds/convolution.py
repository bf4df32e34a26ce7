"""Convolutions, 1-D and 2-D, grouped and dilated."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bitq.accuracy.kinds.kind import Kind, register


def _compute(layer: Any, input: Tensor, weight: Tensor) -> Tensor:
    y: Tensor = layer._conv_forward(input, weight, layer.bias)
    return y


CONVOLUTION = register(
    Kind(
        classes=(nn.Conv1d, nn.Conv2d),
        compute=_compute,
        channel_axis=lambda layer: -1 - len(layer.kernel_size),
        steps=("forward", "_conv_forward"),
    )
)
