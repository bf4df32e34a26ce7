"""Scales of sums while a network is fine-tuned: looked for anew now and then, and kept in between.

To find the best pair of scales of a block takes some 20 µs a weight (`bitq.numerics.sums`); to round under a known pair
takes a thousandth of that. Weights move little from step to step, so for `EVERY` steps each block keeps its pair, as
when scales are learned. Whoever measures, saves or packs the network afterwards looks for the best ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bitq.accuracy.learned import straight_through
from bitq.accuracy.quantized import quantized_layers
from bitq.accuracy.ranges import WeightRows
from bitq.formats import Format
from bitq.numerics import sums
from bitq.numerics.general import finished
from bitq.numerics.recipe import recipe_for
from bitq.private_torch import own_parameters

EVERY = 50
"""Steps for which scales are kept."""


class _Scales(NamedTuple):
    pairs: Tensor  # [blocks, 2]
    unit: Tensor  # of the tensor, 0-d


class HeldScales:
    """Those of one weight, found in the first pass."""

    def __init__(self) -> None:
        self._kept: _Scales | None = None

    def __call__(self, layer: nn.Module, weight: Tensor, fmt: Format) -> Tensor:
        """A layer's weight in a format of sums; its gradient passes straight."""
        with torch.no_grad():
            at = WeightRows.of(layer, weight, fmt)
            rows = at.arranged(weight).float()
            self._kept = self._kept or _found(rows, fmt)
            pairs, unit = self._kept
            y = finished(sums.values(pairs, sums.summands(rows, pairs, fmt, unit), unit), weight.dtype)
            y = at.restored(y.masked_fill(~_finite(rows), torch.nan))
        return straight_through(weight, y)


def _found(rows: Tensor, fmt: Format) -> _Scales:
    known = rows.masked_fill(~_finite(rows), 0)
    unit = sums.unit(*known.aminmax(dim=1, keepdim=True), recipe_for(known, fmt, 1))
    return _Scales(sums.nearest(known, fmt, unit)[0], unit)


def _finite(rows: Tensor) -> Tensor:
    return rows.isfinite().all(1, keepdim=True)


@contextmanager
def holding_scales(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Inside, weights that are parameters and have a format of sums keep the scales of their blocks.

    Yields:
        What has the next pass look for them anew.
    """
    holding = []
    for _, layer in quantized_layers(model):
        weight, fmt = own_parameters(layer).get("weight"), layer._bitq.formats.weight
        if weight is not None and weight.numel() and fmt is not None and len(fmt.elements) > 1:
            holding.append(layer)

    def renew() -> None:
        for layer in holding:
            layer._bitq.held = HeldScales()

    try:
        yield renew
    finally:
        for layer in holding:
            layer._bitq.held = None
