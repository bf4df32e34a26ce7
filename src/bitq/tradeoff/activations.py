"""The memory of a network's activations: what each takes in every format, and how large a memory a plan needs.

Every stored activation takes the packed bits of its elements, each part filled up to a byte, from the step that writes
it to the last that reads it (`bitq.tracing.lifetimes`). What lives at one step is a sum over tensors, which a solver
can bound, and no arrangement is smaller than the largest; the arrangement itself is placed (`bitq.placement`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import ceil, isfinite

import numpy as np
from numpy.typing import NDArray

from bitq.formats import TENSORS
from bitq.layers import Layer
from bitq.placement import Buffer, Placement, fullest, place
from bitq.tracing.lifetimes import Activation, Portion

TRIED = 5_000
"""Buffers that are looked at to prove that some do not fit."""

ROUNDED = 1e-6
"""Of a byte, by which bits per element times elements may miss a whole number."""


def buffers(activations: Sequence[Activation], bits: Callable[[Layer, str], float]) -> tuple[Buffer, ...]:
    """What activations take and how long.

    Args:
        activations: as a network was traced.
        bits: per element of one of a layer's tensors, "input", "weight" or "output".
    """

    def size(part: Portion) -> int:
        return _bytes(part, bits(part.layer, part.tensor) if part.layer else part.width)

    return tuple(Buffer(sum(map(size, each.parts)), each.first, each.last) for each in activations)


@lru_cache(maxsize=4096)
def placed(those: tuple[Buffer, ...]) -> Placement:
    """Where buffers lie, by `bitq.placement.place`; what was asked lately is known."""
    return place(those)


@dataclass(frozen=True, eq=False)
class ActivationSizes:
    """What the activations of a network take in every format of a space.

    Attributes:
        activations: as the network was traced.
        fixed: of each, bytes that no plan changes.
        formats: how many there are.
        varying: for every other part the place of its activation, the tensor whose format it has, as (index of its
            module, place in `TENSORS`), and an array (formats,) of bytes; infinite in formats that it may not take.
    """

    activations: tuple[Activation, ...]
    fixed: tuple[int, ...]
    formats: int
    varying: tuple[tuple[int, tuple[int, int], NDArray[np.float64]], ...]

    @classmethod
    def of(
        cls,
        activations: Sequence[Activation],
        modules: Mapping[str, int],
        bits: Callable[[Layer, int, int], float],
        offered: Sequence[Sequence[int]],
        formats: int,
    ) -> ActivationSizes:
        """The arena of a space.

        Args:
            activations: as the network was traced.
            modules: index of the module by the name of each layer whose formats are chosen.
            bits: of a layer, the place of a tensor in `TENSORS` and of a format: bits per element.
            offered: for each tensor the places of the formats that it may take.
            formats: how many there are.
        """
        fixed = [0] * len(activations)
        varying: list[tuple[int, tuple[int, int], NDArray[np.float64]]] = []
        known: dict[tuple[Layer, str, int], NDArray[np.float64]] = {}
        for place_, part in ((at, part) for at, each in enumerate(activations) for part in each.parts):
            if part.layer is None or part.layer.name not in modules:
                fixed[place_] += _bytes(part, part.width)
                continue
            tensor = TENSORS.index(part.tensor)
            key = part.layer.unnamed, part.tensor, part.elements
            if key not in known:
                known[key] = np.full(formats, np.inf)
                for index in offered[tensor]:
                    known[key][index] = _bytes(part, bits(part.layer, tensor, index))
            varying.append((place_, (modules[part.layer.name], tensor), known[key]))
        return cls(tuple(activations), tuple(fixed), formats, tuple(varying))

    def buffers(self, choices: Sequence[tuple[int, int, int]]) -> tuple[Buffer, ...]:
        """What the activations take in a plan, and how long."""
        return self._lasting([own[choices[module][tensor]] for _, (module, tensor), own in self.varying])

    def placed(self, choices: Sequence[tuple[int, int, int]]) -> Placement:
        """Where they lie."""
        return placed(self.buffers(choices))

    def lower_bound(self, choices: Sequence[tuple[int, int, int]]) -> int:
        """What lives at the fullest step of a plan, in bytes: no arrangement is smaller."""
        sizes = np.array(self.fixed, dtype=np.float64)
        for at, (module, tensor), own in self.varying:
            sizes[at] += own[choices[module][tensor]]
        return int((self.full @ sizes).max(initial=0))

    @property
    def least(self) -> Placement:
        """Where they lie if each tensor has the smallest of the formats that it may take."""
        return placed(self._lasting([own.min() for _, _, own in self.varying]))

    @cached_property
    def full(self) -> NDArray[np.float64]:
        """Array (steps, activations): what lives at each step whose activations are not all alive at another one."""
        kept = fullest([(each.first, each.last) for each in self.activations])
        rows = [[each.first <= step <= each.last for each in self.activations] for step in kept]
        return np.array(rows, dtype=np.float64).reshape(len(kept), len(self.activations))

    @property
    def most(self) -> NDArray[np.float64]:
        """Array (steps of `full`,): what lives there in sum if each tensor has the largest of its formats, in bytes."""
        sizes = np.array(self.fixed, dtype=np.float64)
        for at, _, own in self.varying:
            sizes[at] += own[np.isfinite(own)].max()
        found: NDArray[np.float64] = self.full @ sizes
        return found

    def bytes_of(self, slots: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
        """Array (activations, formats): what of each follows from the format of some tensors that have one."""
        found = np.zeros((len(self.activations), self.formats))
        for at, slot, own in self.varying:
            if slot in slots:
                found[at] += own
        return found

    def conflict(
        self, choices: Sequence[tuple[int, int, int]], groups: Sequence[Sequence[tuple[int, int]]], limit: float
    ) -> list[int]:
        """Groups of tensors that no memory of a limit holds in these formats, whatever formats the others have.

        Args:
            choices: a plan that the memory does not hold, as far as it could be placed.
            groups: of all tensors.
            limit: of the memory, in bytes.

        Returns:
            Their places: few, if that is proved of few.
        """
        of_slot = {slot: place_ for place_, group in enumerate(groups) for slot in group}
        owners = [of_slot[slot] for _, slot, _ in self.varying]
        taken = [own[choices[module][tensor]] for _, (module, tensor), own in self.varying]
        smallest = [float(own.min()) for _, _, own in self.varying]
        left = dict.fromkeys(owners)
        for group in list(left):
            fewer = [small if own == group else now for own, now, small in zip(owners, taken, smallest, strict=True)]
            if place(self._lasting(fewer), most_tried=TRIED).lower_bound > limit:
                taken = fewer
                del left[group]
        return list(left)

    def _lasting(self, sizes: Sequence[float]) -> tuple[Buffer, ...]:
        taken = list(self.fixed)
        for (at, _, _), size in zip(self.varying, sizes, strict=True):
            assert isfinite(size)
            taken[at] += int(size)
        return tuple(Buffer(size, each.first, each.last) for size, each in zip(taken, self.activations, strict=True))


def _bytes(part: Portion, bits: float) -> int:
    return ceil(part.elements * bits / 8 - ROUNDED)
