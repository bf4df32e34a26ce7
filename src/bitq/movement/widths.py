"""From formats to widths: how many bits each tensor of a layer takes per element."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace
from math import prod

from bitq.formats import Format, TensorFormats
from bitq.layers import Layer
from bitq.movement.model import Widths

FLOAT_BITS = 32.0
"""Width of an element that is left as float32, in bits."""


def taken(layer: Layer, formats: TensorFormats) -> TensorFormats:
    """What of these formats a layer's tensors take: indices have none."""
    return formats if layer.table is None else replace(formats, input=None)


def widths(layer: Layer, formats: TensorFormats, partial_sum_bits: float = 0.0) -> Widths:
    """Packed bits per element of a layer's tensors, what short blocks store counted as it is.

    Blocks run along the channels: all of an activation's, those of one group in a weight, whose kernel windows are
    inner axes.

    Args:
        layer: any layer.
        formats: for the three tensors, of which they have those it takes (`taken`); None is a 32-bit float.
        partial_sum_bits: that an output takes at least while it is accumulated (a device's, as a rule).
    """
    formats = taken(layer, formats)
    return Widths(
        input=_width(formats.input, layer.input_shape),
        weight=FLOAT_BITS if formats.weight is None else _weight_bits(layer, formats.weight) / _weights(layer),
        output=_width(formats.output, layer.output_shape),
    ).with_partial_sums(partial_sum_bits)


def weight_size(layer: Layer, fmt: Format | None) -> int:
    """Size of a layer's weight in a format, packed, or in 32-bit float, in bytes; 0, if it is an activation."""
    if not layer.weight_is_parameter:
        return 0
    return 4 * _weights(layer) if fmt is None else -(-_weight_bits(layer, fmt) // 8)


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


def _width(fmt: Format | None, shape: tuple[int, ...]) -> float:
    return FLOAT_BITS if fmt is None else fmt.bits_per_element(shape, 1)


def _weights(layer: Layer) -> int:
    """Elements of what is stored of a layer's weight: of a lookup all of its table."""
    return prod(layer.weight_shape if layer.table is None else layer.table)


def _weight_bits(layer: Layer, fmt: Format) -> int:
    """Of the weight as quantization sees it: a transposed convolution's groups stand apart, in front."""
    if layer.table is not None:
        return fmt.num_bits(layer.table, 1, ())
    k, c, *window = layer.weight_shape
    shape = (layer.groups, c, k // layer.groups, *window) if layer.transposed else layer.weight_shape
    return fmt.num_bits(shape, 1, (len(shape) - 2, len(shape) - 1))
