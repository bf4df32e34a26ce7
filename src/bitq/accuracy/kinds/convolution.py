"""Convolutions, 1-D and 2-D, grouped and dilated."""

from __future__ import annotations

from torch import nn

from bitq.accuracy.kinds.kind import Kind, register
from bitq.private_torch import CONVOLVE, convolve

CONVOLUTION = register(
    Kind(
        classes=(nn.Conv1d, nn.Conv2d),
        compute=convolve,
        channel_axis=lambda layer: -1 - len(layer.kernel_size),
        steps=("forward", CONVOLVE),
    )
)
