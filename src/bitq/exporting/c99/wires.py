"""Fixed-point numbers on their way from what they come from to where they are stored, with a bound of each channel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import frexp, ldexp

import numpy as np
from numpy.typing import NDArray

from bitq.exporting.c99.fixed_point import Reals
from bitq.exporting.c99.numbers import Numbers
from bitq.exporting.c99.steps import ROOM, SUM, Affine, Change, Drop, Origin, Resident, StepOfC, least_unit, multiplier

LIKE_A_FORMAT = 16
"""Bits that whole numbers take fewer of than where they are stored wide."""


@dataclass(frozen=True, eq=False)
class Wire:
    """Numbers of a tensor that is not stored: of channel c, gain[c]·z·2^unit + offset[c].

    Attributes:
        source, operations: what gives z.
        unit: of z.
        bounds: of |z|·2^unit, of each channel.
        gains, offsets: of each channel, not computed yet.
        height, width: extents.
    """

    source: Origin
    operations: tuple[Change, ...]
    unit: int
    bounds: Reals
    gains: Reals
    offsets: Reals
    height: int
    width: int

    @property
    def channels(self) -> int:
        """How many."""
        return len(self.bounds)

    def scaled(self, gains: Reals | float, offsets: Reals | float) -> Wire:
        """Times gains, plus offsets."""
        return replace(self, gains=self.gains * gains, offsets=self.offsets * gains + offsets)

    def computed(self) -> Wire:
        """The same with z for the numbers themselves."""
        ones = np.ones(self.channels)
        bounds = np.abs(self.gains) * self.bounds + np.abs(self.offsets)
        largest = float(bounds.max())
        if (self.gains == 1).all() and largest <= ldexp(1.0, self.unit + SUM - 1):
            if not self.offsets.any():
                return self
            nothing = np.zeros(0, np.int64)
            return self.after(Affine(nothing, nothing, self._whole(self.offsets, self.unit)), self.unit, bounds, ones)
        highest = float(np.abs(self.gains).max())
        unit = max(least_unit(largest, ROOM), self.unit + frexp(highest)[1] + 2)
        found = [multiplier(ldexp(float(gain), self.unit - unit)) for gain in self.gains]
        gains, shifts = (np.array(each, np.int64) for each in zip(*found, strict=True))
        offsets = self._whole(self.offsets, unit) if self.offsets.any() else np.zeros(0, np.int64)
        return self.after(Affine(gains, shifts, offsets), unit, bounds, ones)

    def _whole(self, values: Reals, unit: int) -> NDArray[np.int64]:
        return np.array([round(ldexp(float(value), -unit)) for value in values], np.int64)

    def after(self, operation: Change, unit: int, bounds: Reals, gains: Reals | None = None) -> Wire:
        """After an operation; with nothing left to compute, if `gains` are given."""
        after = replace(self, operations=(*self.operations, operation), unit=unit, bounds=bounds)
        return after if gains is None else replace(after, gains=gains, offsets=np.zeros(self.channels))

    def above(self, unit: int) -> Wire:
        """The same in a unit that is at least this one."""
        bits = unit - self.unit
        return self if bits <= 0 else self.after(Drop(bits), unit, self.bounds)

    def into(self, name: str, numbers: Numbers, module: str) -> StepOfC:
        """The step that stores them."""
        own = self.computed()
        target = Resident(name, self.height, self.width, self.channels, numbers, numbers.bound())
        gain, shift = multiplier(ldexp(1 / numbers.scale, own.unit)) if numbers.scale != 1 else (0, 0)
        return StepOfC(module, own.source, own.operations, own.unit, target, numbers, gain, shift)

    def origin(self) -> Resident | None:
        """A tensor whose numbers they are, if so."""
        found = self.source.chosen_from
        changed = found is None or self.operations or (self.gains != found.numbers.scale).any() or self.offsets.any()
        return None if changed else found

    def as_they_are(self, name: str, module: str) -> StepOfC:
        """The step that stores them without a format of their own: a tensor's numbers as it has them where blocks are
        kept, or whole if that is few bits, others in `WIDE_BITS`."""
        origin = self.origin()
        if origin is not None and self.source.keeps_blocks and not origin.stored.wide:
            return self.into(name, origin.stored, module)
        if origin is not None and (whole := origin.stored.without_codes()).bits < LIKE_A_FORMAT:
            return self.into(name, replace(whole, block=self.channels), module)
        own = self.computed()
        numbers = Numbers(-(1 << SUM), 1 << SUM, own.unit, 0, self.channels)
        target = Resident(name, self.height, self.width, self.channels, numbers, float(own.bounds.max()))
        return StepOfC(module, own.source, own.operations, own.unit, target, numbers)
