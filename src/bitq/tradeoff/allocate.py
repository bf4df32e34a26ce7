"""The best plan for additive accuracy scores: exact, because the objective then falls apart into modules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bitq.tradeoff.space import Choice, Space

Scores = Sequence[NDArray[np.float64]]
"""For each module an array (3, formats): accuracy lost if its input, weight or output takes that format alone."""


def allocate(space: Space, scores: Scores, alpha: float) -> tuple[Choice, ...]:
    """The plan of least predicted objective O = sum of scores + alpha · DM_sum / DM_max (paper, Eq. 2).

    Args:
        space: movement of every choice.
        scores: accuracy lost, as a share in [0, 1], by module.
        alpha: weight of movement.

    Returns:
        One choice for each module; among equals the first format of the list.
    """
    plan = []
    for module in range(len(space.modules)):
        predicted = _predicted(space, scores, alpha, module)
        best = np.unravel_index(int(np.argmin(predicted)), predicted.shape)
        plan.append((int(best[0]), int(best[1]), int(best[2])))
    return tuple(plan)


def predicted_gains(
    space: Space, scores: Scores, alpha: float, base: Sequence[Choice], plan: Sequence[Choice]
) -> list[float]:
    """By how much each module's move from one plan to another lowers the predicted objective."""
    tables = (_predicted(space, scores, alpha, module) for module in range(len(space.modules)))
    return [float(table[old] - table[new]) for table, old, new in zip(tables, base, plan, strict=True)]


def _predicted(space: Space, scores: Scores, alpha: float, module: int) -> NDArray[np.float64]:
    inputs, weights, outputs = scores[module]
    lost = inputs[:, None, None] + weights[None, :, None] + outputs[None, None, :]
    predicted: NDArray[np.float64] = lost + alpha * space.bits[module].sum(axis=-1) / space.movement_max
    return predicted
