"""What a network costs in the plain formats that people know, by the same model as every plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from bitq.devices import Device
from bitq.layers import Layer
from bitq.movement.levels import movement_many
from bitq.movement.widths import weight_size
from bitq.tradeoff.arena import buffers, placed
from bitq.tradeoff.records import Cost
from bitq.tradeoff.shares import REFERENCES
from bitq.tradeoff.space import Space, energy_pj


def moved_bits(
    layers: Iterable[Layer], device: Device, widths: Callable[[Layer], Sequence[Sequence[float]]]
) -> NDArray[np.float64]:
    """What layers move together in each of some ways to store their tensors.

    Args:
        layers: of any kinds; at least one.
        device: whose memories the bits move through.
        widths: of a layer: for each way, bits of every element of input, weight and output.

    Returns:
        Array (ways, boundaries) of bits, the outermost boundary first.

    Raises:
        Infeasible: a memory too small for one element of each tensor.
    """
    shapes = Counter(layer.unnamed for layer in layers)
    parts = [count * movement_many(shape, widths(shape), device) for shape, count in shapes.items()]
    moved: NDArray[np.float64] = np.sum(parts, axis=0)
    return moved


def plain_bits(layers: Iterable[Layer], device: Device, widths: Sequence[float]) -> NDArray[np.float64]:
    """The same if every element takes so many bits, of input, weight and output alike."""
    return moved_bits(layers, device, lambda _: [[width] * 3 for width in widths])


def reference_costs(space: Space) -> Mapping[str, Cost]:
    """By name of `REFERENCES`, what a network costs if every element that moves takes so many bits, with no exponent
    to share; products that plans leave in float32 take them, too.

    Stored are the weights that plans choose formats for in so many bits, and all else as it is.
    """
    bits = plain_bits(chain(*space.layers, space.fixed), space.device, tuple(REFERENCES.values()))
    stored = (layers[0] for name, layers in zip(space.modules, space.layers, strict=True) if name not in space.unstored)
    elements = sum(weight_size(layer, None) / 4 for layer in stored)
    return {
        name: Cost.of_levels(
            row.tolist(),
            energy_pj(space.device, row),
            round(elements * width / 8) + space.other_bytes,
            ram_in(space, width),
        )
        for (name, width), row in zip(REFERENCES.items(), bits, strict=True)
    }


def ram_in(space: Space, width: float) -> int | None:
    """The memory of all activations if every element that layers write or read takes so many bits, in bytes; None if
    they are not known."""
    if space.activations is None:
        return None
    return placed(buffers(space.activations, lambda layer, tensor: width)).peak
