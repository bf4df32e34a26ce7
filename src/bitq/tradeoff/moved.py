"""What a module moves in every choice of formats, kept by the widths of its tensors: equal widths move the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from bitq.devices import Device
from bitq.errors import BitqError
from bitq.layers import Layer
from bitq.movement.levels import plan_many
from bitq.movement.model import Widths
from bitq.movement.tiled import PlanTable, Tilings

Places = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]
"""For input, weight and output an array (formats,): which of the widths of that tensor a format has; -1 if it may not
have the format."""

MOST_CHOICES = 1 << 21
"""Choices of three widths that are tabulated for a layer: 16 MiB for each boundary of a device."""


@dataclass(frozen=True, eq=False)
class Moved:
    """The traffic of a module.

    A narrower tensor never takes more of what is minimized if memories are planned together; planned one by one, or in
    bits where energy is minimized, it may. So nothing is assumed of how traffic grows with widths.

    Attributes:
        places: which widths formats have.
        bits: array (widths of input, of weight, of output, boundaries): traffic in bits, outermost boundary first.
        plans: for each layer, the plans of its memories, and which of them is behind each place of a flat `bits`.
    """

    places: Places
    bits: NDArray[np.float64]
    plans: tuple[tuple[tuple[Tilings, ...], NDArray[np.int32]], ...] = ()

    @classmethod
    def of(
        cls,
        layers: Sequence[Layer],
        device: Device,
        widths: Sequence[Sequence[Widths]],
        offered: Sequence[Sequence[int]],
    ) -> Moved:
        """What the layers that a module computes move together.

        Args:
            layers: one for each call.
            device: whose memories the bits move through.
            widths: by format, those of each layer whose tensors all have it.
            offered: for input, weight and output, the places of the formats that they may take.

        Raises:
            BitqError: more choices of widths than can be tabulated.
            Infeasible: a memory too small for one element of each tensor.
        """
        unique: list[NDArray[np.float64]] = []
        places: list[NDArray[np.intp]] = []
        for name, own in zip(("input", "weight", "output"), offered, strict=True):
            rows = [[getattr(each, name) for each in widths[index]] for index in own]
            distinct, at = np.unique(np.array(rows), axis=0, return_inverse=True)
            unique.append(distinct)
            places.append(np.full(len(widths), -1))
            places[-1][list(own)] = at.reshape(-1)
        extent = tuple(map(len, unique))
        if prod(extent) > MOST_CHOICES:
            raise BitqError(
                f"the formats to choose from are of {' x '.join(map(str, extent))} widths for input, weight and output "
                f"of {layers[0].name!r}, but {MOST_CHOICES} choices are tabulated at most; name fewer"
            )
        chosen = [each.reshape(-1) for each in np.indices(extent)]
        found: list[PlanTable] = []
        for place, layer in enumerate(layers):
            triples = np.stack([of[at, place] for of, at in zip(unique, chosen, strict=True)], axis=1)
            found.append(plan_many(layer, triples, device))
        bits = sum((each.bits for each in found[1:]), found[0].bits).reshape(*extent, -1)
        return cls((places[0], places[1], places[2]), bits, tuple((each.plans, each.chosen) for each in found))

    def of_first(self, count: int) -> Moved:
        """The same of so many formats alone, the first ones."""
        inputs, weights, outputs = (place[:count] for place in self.places)
        return replace(self, places=(inputs, weights, outputs))

    def at(self, choice: tuple[int, int, int]) -> NDArray[np.float64]:
        """Array (boundaries,): traffic in bits with these formats of input, weight and output.

        Raises:
            ValueError: a tensor may not have its format.
        """
        bits: NDArray[np.float64] = self.bits[self._own(choice)]
        return bits

    def plan(self, choice: tuple[int, int, int], call: int) -> Tilings:
        """The plan behind `at` of one of the module's layers, by its place among them.

        Raises:
            ValueError: a tensor may not have its format.
        """
        plans, chosen = self.plans[call]
        return plans[chosen[int(np.ravel_multi_index(self._own(choice), self.bits.shape[:-1]))]]

    def _own(self, choice: tuple[int, int, int]) -> tuple[int, ...]:
        own = tuple(int(places[index]) for places, index in zip(self.places, choice, strict=True))
        if min(own) < 0:
            raise ValueError(f"formats {choice} are not all offered to these tensors")
        return own
