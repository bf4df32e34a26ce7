"""Transposed convolutions, 1-D and 2-D, whose weight has its input channels first."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from bitq.accuracy.kinds.kind import Kind, register
from bitq.private_torch import OUTPUT_PADDING, output_padding


def _compute(layer: Any, input: Tensor, weight: Tensor, output_size: list[int] | None = None) -> Tensor:
    spatial = len(layer.kernel_size)
    added = output_padding(layer, input, output_size)
    convolve = functional.conv_transpose1d if spatial == 1 else functional.conv_transpose2d
    return convolve(input, weight, layer.bias, layer.stride, layer.padding, added, layer.groups, layer.dilation)


TRANSPOSED = register(
    Kind(
        classes=(nn.ConvTranspose1d, nn.ConvTranspose2d),
        compute=_compute,
        channel_axis=lambda layer: -1 - len(layer.kernel_size),
        transposed=True,
        output_axes=(0, 2),
        steps=("forward", OUTPUT_PADDING),
    )
)
