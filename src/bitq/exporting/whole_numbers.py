"""What formats give as whole numbers under scales, for targets that hold it so."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bitq.formats.elements import Integer
from bitq.numerics import general
from bitq.numerics.block_rows import BlockRows
from bitq.numerics.recipe import Recipe

NOTHING = torch.zeros(1, 1, dtype=torch.float64)
"""The least and the largest number of a block, where calibration tells what counts."""


class WholeNumbers(NamedTuple):
    """A weight as whole numbers, each times the step of its block.

    Attributes:
        at: how it is taken apart into blocks.
        k: whole numbers, in the weight's shape.
        steps: [blocks, 1], float64.
        zeros: zero points [blocks, 1]; None for 0.
    """

    at: BlockRows
    k: Tensor
    steps: Tensor
    zeros: Tensor | None


def whole_numbers(weight: Tensor, recipe: Recipe, bits: int) -> WholeNumbers | None:
    """A weight in its format; None if its elements are no multiples of one number of less than 2^bits times it.

    Args:
        weight: float, in the shape that it is blocked in.
        recipe: of its quantization, to elements of one kind under scales.
        bits: that a magnitude may take.
    """
    element = recipe.format.elements[0]
    at = BlockRows.of(recipe, tuple(weight.shape))
    rows = at.arranged(weight.float())
    least, most = rows.aminmax(dim=1, keepdim=True)
    scales = general.scales_of(least.double(), most.double(), recipe, general.shared_by(least, most, recipe))
    numbers, _ = general.numbers_of(rows, scales, recipe, None)
    unit = 1.0 if isinstance(element, Integer) else element.smallest(recipe.format.power_of_two)
    k = at.restored(numbers / unit)
    if not bool((k == k.round()).all()) or float(k.abs().max()) >= 1 << bits:
        return None
    return WholeNumbers(at, k, scales.step * unit, scales.zero)


def calibrated_step(recipe: Recipe) -> tuple[float, float | None]:
    """What an element of 1 stands for in a whole tensor whose range calibration knows, and the zero point."""
    found = general.scales_of(NOTHING, NOTHING, recipe, general.shared_by(NOTHING, NOTHING, recipe))
    return float(found.step), None if found.zero is None else float(found.zero)
