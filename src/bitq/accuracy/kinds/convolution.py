"""Convolutions, 1-D to 3-D, grouped and dilated; and how the operator of all convolutions is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from bitq import geometry
from bitq.accuracy.kinds.kind import Kind, register
from bitq.accuracy.kinds.operators import ComputedOperation, ReadLayer, register_operators
from bitq.errors import BitqError
from bitq.private_torch import CONVOLVE, convolve

CONVOLUTION = register(
    Kind(
        classes=(nn.Conv1d, nn.Conv2d, nn.Conv3d),
        compute=convolve,
        channel_axis=lambda layer: -1 - len(layer.kernel_size),
        steps=("forward", CONVOLVE),
    )
)


def _read(name: str, operation: ComputedOperation) -> Iterator[ReadLayer]:
    arguments, (output,) = operation.arguments, operation.results
    images, kernel = arguments["input"].shape, arguments["weight"].shape[2:]
    if len(kernel) > 2 and arguments["transposed"]:
        raise BitqError(
            f"{operation.place} computes a transposed 3-D convolution, which bitq does not model; give a network of "
            "1-D and 2-D ones"
        )

    def each(values: Sequence[int]) -> tuple[int, ...]:
        """Values per axis; a single one holds for all."""
        return tuple(values) * len(kernel) if len(values) == 1 else tuple(values)

    stride, dilation, padding = (each(arguments[name]) for name in ("stride", "dilation", "padding"))
    walk = geometry.Convolution(stride, dilation, padding, arguments["groups"], arguments["transposed"])
    yield ReadLayer("conv", arguments["input"], arguments["weight"], walk.loops(images, kernel, output.shape))


register_operators(("aten::convolution", "aten::_convolution", "aten::convolution_overrideable"), _read)
