"""From formats to widths: how many bits each tensor of a layer takes per element."""

from __future__ import annotations

from collections.abc import Container, Sequence
from math import ceil, prod

from bitq.formats import BlockFormat, TensorFormats, effective_width
from bitq.layers import Layer
from bitq.movement.model import Widths

FLOAT_BITS = 32.0
"""Width of an element that is left as float32, in bits."""


def taken(layer: Layer, formats: TensorFormats) -> TensorFormats:
    """What of these formats a layer's tensors take: a product of two activations stays float."""
    return formats if layer.weight_is_parameter else TensorFormats()


def widths(layer: Layer, formats: TensorFormats, partial_sum_bits: float = 0.0) -> Widths:
    """Packed bits per element of a layer's tensors, the exponents of short blocks counted as they are.

    Blocks run along the channels: all of an activation's, those of one group in a weight, whose kernel
    windows lie whole inside each block.

    Args:
        layer: any layer.
        formats: for the three tensors, of which they have those it takes (`taken`); None is a 32-bit float.
        partial_sum_bits: that an output takes at least while it is accumulated (a device's, as a rule).
    """
    formats = taken(layer, formats)
    return Widths(
        input=_width(formats.input, layer.C * layer.groups),
        weight=_width(formats.weight, layer.C, layer.R * layer.S),
        output=_width(formats.output, layer.K),
    ).with_partial_sums(partial_sum_bits)


def weight_size(layer: Layer, fmt: BlockFormat | None) -> int:
    """Size of a layer's weight in a format, packed, or in 32-bit float, in bytes."""
    elements = prod(layer.weight_shape)
    return ceil(_width(fmt, layer.C, layer.R * layer.S) * elements / 8 - 1e-6)


def weight_sizes(
    layers: Sequence[Layer], formats: Sequence[TensorFormats], floating: Container[str]
) -> tuple[int | None, ...]:
    """Size of each layer's weight in its format, in bytes; None where it is not a layer's own or stands before.

    Args:
        layers: of one network, in order of execution.
        formats: of each layer's tensors.
        floating: names of layers that stay float: who computes them may use a weight in several, which no layer tells.
    """
    sizes: list[int | None] = []
    known: set[str] = set()
    for layer, own in zip(layers, formats, strict=True):
        first = layer.name not in floating and layer.weight_is_parameter and layer.module not in known
        sizes.append(weight_size(layer, own.weight) if first else None)
        known |= {layer.module} - {""} if first else set()
    return tuple(sizes)


def _width(fmt: BlockFormat | None, channels: int, inner: int = 1) -> float:
    return FLOAT_BITS if fmt is None else effective_width(fmt, channels, inner)
