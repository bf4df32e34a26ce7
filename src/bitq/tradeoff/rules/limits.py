"""Limits of movement for rules that need one."""

from __future__ import annotations

import numpy as np

from bitq.errors import BitqError
from bitq.formats import BlockFormat
from bitq.tradeoff.study import Study


def grid_bits(study: Study) -> int:
    """Of the grid of formats that a study's tensors choose from.

    Raises:
        BitqError: they choose from other formats, among which this rule does not know what is finer.
    """
    found = study.space.offered.grid_bits
    if found is None:
        raise BitqError("this rule takes the grid of Table 2 alone, for all tensors; leave the formats out")
    return found


def limits(study: Study, count: int) -> list[float]:
    """So many limits of movement, in bits: evenly from what a coarse uniform format moves to what a fine one does.

    These are the formats of blocks of 16 with 3 and with 5 mantissa bits (8 bits), or with 9 and with 13 (16 bits).

    Raises:
        BitqError: as `grid_bits`.
    """
    bits = grid_bits(study)
    low, high = (5, 3) if bits == 8 else (7, 3)
    ends = [study.space.formats.index(BlockFormat(bits, width, 16)) for width in (low, high)]
    least, most = (study.space.cost(study.space.uniform(index)).movement_bits for index in ends)
    return list(np.linspace(least, most, count + 2)[1:-1]) if count > 1 else [(least + most) / 2]
