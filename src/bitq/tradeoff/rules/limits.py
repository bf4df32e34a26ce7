"""Limits of movement for rules that need one."""

from __future__ import annotations

import numpy as np

from bitq.tradeoff.groups import groups_of
from bitq.tradeoff.rules.units import planned, rungs
from bitq.tradeoff.study import Study


def limits(study: Study, count: int) -> list[float]:
    """So many limits of movement, in bits: evenly from what a coarse format for all moves to what a fine one does.

    Elements are as wide there as a quarter and three quarters up the widths that are offered; with Table 2's grid of 8
    bits, 3 and 5 bits in blocks of 16. A tensor that is not offered this width has the nearest.
    """
    every = groups_of(study.space)
    offered = [rungs(study, unit) for unit in every]
    widths = sorted(set().union(*offered))
    ends = []
    for width in (widths[(len(widths) - 1) // 4], widths[3 * (len(widths) - 1) // 4]):
        taken = [each[min(each, key=lambda own: abs(own - width))] for each in offered]
        ends.append(study.space.cost(planned(study.space, every, taken), placed=False).movement_bits)
    least, most = ends
    return list(np.linspace(least, most, count + 2)[1:-1]) if count > 1 else [(least + most) / 2]
