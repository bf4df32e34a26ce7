"""What a network costs in the plain formats that people know, by the same model as every plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from math import prod

import numpy as np

from bitq.movement.levels import movement_many
from bitq.tradeoff.records import Cost
from bitq.tradeoff.shares import REFERENCES
from bitq.tradeoff.space import Space, energy_pj


def reference_costs(space: Space) -> Mapping[str, Cost]:
    """By name of `REFERENCES`, what a network costs if every element that moves takes so many bits, with no exponent
    to share; products of two activations, which plans leave in float32, take them, too.

    Stored are the weights that plans choose formats for in so many bits, and all else as it is.
    """
    widths = [[width] * 3 for width in REFERENCES.values()]
    shapes = Counter(replace(layer, name="", module="") for layer in chain(*space.layers, space.fixed))
    bits = np.zeros((len(widths), len(space.device.boundaries)))
    for shape, count in shapes.items():
        bits += count * movement_many(shape, widths, space.device)
    elements = sum(prod(layers[0].weight_shape) for layers in space.layers)
    stored = [round(elements * width / 8) + space.other_bytes for width in REFERENCES.values()]
    return {
        name: Cost.of_levels(row.tolist(), energy_pj(space.device, row), size)
        for name, row, size in zip(REFERENCES, bits, stored, strict=True)
    }
