"""Limits of movement for rules that need one."""

from __future__ import annotations

import numpy as np

from bitq.formats import BlockFormat
from bitq.tradeoff.study import Study


def limits(study: Study, count: int) -> list[float]:
    """So many limits of movement, in bits: evenly from what a coarse uniform format moves to what a fine one does.

    These are the formats of blocks of 16 with 3 and with 5 mantissa bits (8 bits), or with 9 and with 13 (16 bits).
    """
    bits = study.space.formats[0].bits
    low, high = (5, 3) if bits == 8 else (7, 3)
    ends = [study.space.formats.index(BlockFormat(bits, width, 16)) for width in (low, high)]
    least, most = (study.space.cost(study.space.uniform(index)).movement_bits for index in ends)
    return list(np.linspace(least, most, count + 2)[1:-1]) if count > 1 else [(least + most) / 2]
