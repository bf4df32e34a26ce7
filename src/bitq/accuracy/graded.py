"""Few rows of a tensor that stand for all of it, in sums over its elements of squared gradients times anything.

Rows lie along the channels, as blocks do, so that a row in a format is what it is within its tensor. Their chances to
be drawn are as their squared gradients: what a row adds to the sum, divided by its chance, differs between rows by
their errors alone. They are drawn by equal steps through the running sum of squared gradients (systematic sampling):
what matters most is drawn for certain, and the same is drawn every time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_DRAWN, LEAST_ROWS = 1 << 15, 64
"""Numbers of a tensor in a batch that are drawn, about, and rows at least. What this errs by is small beside what other
inputs would change: `benchmarks/probing.py --drawn`."""

MET = 32
"""Times as many rows, evenly spaced, whose gradients are looked at."""


@dataclass(frozen=True)
class Graded:
    """Values and their gradients.

    Attributes:
        values, gradients: of one shape.
        axis: of the channels.
    """

    values: Tensor
    gradients: Tensor
    axis: int

    def drawn(self, most: int | None = None) -> Graded:
        """Rows [n, channels] that stand for all, with gradients so scaled that sums are right on average.

        Where these would be no fewer numbers, all as they are.

        Args:
            most: numbers that are drawn, about; by default `MOST_DRAWN`.
        """
        values, gradients = (each.movedim(self.axis, -1) for each in (self.values, self.gradients))
        *places, channels = values.shape
        count = max((MOST_DRAWN if most is None else most) // max(channels, 1), LEAST_ROWS)
        if count * channels >= values.numel():
            return self
        all_rows = values.numel() // channels
        looked_at = min(all_rows, MET * count)
        met = torch.arange(looked_at, device=values.device) * all_rows // looked_at
        found = gradients[torch.unravel_index(met, places)].float()
        squared = torch.linalg.vector_norm(found, dim=1).double().square()
        summed = squared.cumsum(0)
        steps = (torch.arange(count, dtype=torch.float64, device=met.device) + 0.5) / count
        chosen = torch.searchsorted(summed, steps * summed[-1]).clamp(max=looked_at - 1)
        rows, times = torch.unique_consecutive(chosen, return_counts=True)
        share = count * squared[rows] / summed[-1] * looked_at / all_rows
        scale = (times / share).sqrt().masked_fill(squared[rows] == 0, 0.0)
        return Graded(values[torch.unravel_index(met[rows], places)], found[rows] * scale[:, None].float(), 1)

    def perturbation(self, rounded: Tensor) -> float:
        """The sum of squared gradients times squared errors, if the values were these."""
        error = (rounded - self.values).float() * self.gradients
        return float(error.square().sum())
