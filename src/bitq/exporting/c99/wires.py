"""Fixed-point numbers on their way from what they come from to where they are stored, with a bound of each channel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import frexp, ldexp

import numpy as np
from numpy.typing import NDArray

from bitq.exporting.c99.filters import Filters
from bitq.exporting.c99.numbers import Numbers
from bitq.exporting.c99.steps import (
    ROOM,
    Add,
    Affine,
    Change,
    Clamp,
    Convolve,
    Copy,
    Divide,
    Drop,
    Leak,
    Lift,
    Origin,
    Pool,
    Resident,
    StepOfC,
    View,
    Walk,
    bits_of,
    least_unit,
    multiplier,
)

SUM = 61
"""Bits that a number may take wherever it is."""

Reals = NDArray[np.float64]


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

    def divided(self, count: int) -> Wire:
        """By a whole number, in units that were chosen for larger ones."""
        if count & (count - 1) == 0:
            return self.scaled(1 / count, 0.0)
        after = self._with(Divide(count), self.unit, self.bounds / count)
        return replace(after, offsets=self.offsets / count)

    def computed(self) -> Wire:
        """The same with z for the numbers themselves."""
        ones = np.ones(self.channels)
        bounds = np.abs(self.gains) * self.bounds + np.abs(self.offsets)
        largest = float(bounds.max())
        if (self.gains == 1).all() and largest <= ldexp(1.0, self.unit + SUM - 1):
            if not self.offsets.any():
                return self
            nothing = np.zeros(0, np.int64)
            return self._with(Affine(nothing, nothing, self._whole(self.offsets, self.unit)), self.unit, bounds, ones)
        highest = float(np.abs(self.gains).max())
        unit = max(least_unit(largest, ROOM), self.unit + frexp(highest)[1] + 2)
        found = [multiplier(ldexp(float(gain), self.unit - unit)) for gain in self.gains]
        gains, shifts = (np.array(each, np.int64) for each in zip(*found, strict=True))
        offsets = self._whole(self.offsets, unit) if self.offsets.any() else np.zeros(0, np.int64)
        return self._with(Affine(gains, shifts, offsets), unit, bounds, ones)

    def _whole(self, values: Reals, unit: int) -> NDArray[np.int64]:
        return np.array([round(ldexp(float(value), -unit)) for value in values], np.int64)

    def _with(self, operation: Change, unit: int, bounds: Reals, gains: Reals | None = None) -> Wire:
        """After an operation; with nothing left to compute, if `gains` are given."""
        after = replace(self, operations=(*self.operations, operation), unit=unit, bounds=bounds)
        return after if gains is None else replace(after, gains=gains, offsets=np.zeros(self.channels))

    def above(self, unit: int) -> Wire:
        """The same in a unit that is at least this one."""
        bits = unit - self.unit
        return self if bits <= 0 else self._with(Drop(bits), unit, self.bounds)

    def plus(self, stored: Resident) -> Wire:
        """The sum with a tensor."""
        left, numbers = self.computed(), stored.numbers
        largest = max(float(left.bounds.max()), stored.bound)
        left = left.above(least_unit(largest, SUM - 1))
        if numbers.scale == 1:
            operation = Add(Lift(stored, numbers.highest - left.unit))
        else:
            lift = SUM - 1 - bits_of(numbers.most)
            left = left.above(frexp(numbers.scale)[1] + 2 - lift)
            operation = Add(Lift(stored, lift), *multiplier(ldexp(numbers.scale, -left.unit - lift)))
        return left._with(operation, left.unit, left.bounds + stored.bound)

    def held(self, low: float | None, high: float | None) -> Wire:
        """Within bounds."""
        own = self.computed()
        limit = ldexp(1.0, own.unit + SUM)
        ends = [None if each is None or abs(each) > limit else round(ldexp(each, -own.unit)) for each in (low, high)]
        return own._with(Clamp(ends[0], ends[1]), own.unit, own.bounds)

    def leaking(self, slope: float) -> Wire:
        """Where they are negative, times a slope from 0 to 1."""
        own = self.computed()
        own = own.above(least_unit(float(own.bounds.max()), SUM - 3))
        return own._with(Leak(*multiplier(slope / 4)), own.unit, own.bounds)

    def into(self, name: str, numbers: Numbers, module: str) -> StepOfC:
        """The step that stores them."""
        own = self.computed()
        target = Resident(name, self.height, self.width, self.channels, numbers, numbers.bound())
        gain, shift = multiplier(ldexp(1 / numbers.scale, own.unit)) if numbers.scale != 1 else (0, 0)
        return StepOfC(module, own.source, own.operations, own.unit, target, gain, shift)

    def as_they_are(self, name: str, module: str) -> StepOfC:
        """The step that stores them in 64 bits."""
        own = self.computed()
        numbers = Numbers(-(1 << SUM), 1 << SUM, own.unit, 0, self.channels)
        target = Resident(name, self.height, self.width, self.channels, numbers, float(own.bounds.max()))
        return StepOfC(module, own.source, own.operations, own.unit, target)


def _units(stored: Resident) -> float:
    """The largest |k| under the top code."""
    return stored.bound / ldexp(stored.numbers.scale, stored.numbers.highest)


def read(parts: tuple[Resident, ...], view: View = "same") -> Wire:
    """Resident tensors one after the other along the channels."""
    first, highest = parts[0], max(part.numbers.highest + bits_of(_units(part)) for part in parts)
    unit = highest - ROOM
    lifts = tuple(Lift(part, part.numbers.highest - unit) for part in parts)
    height, width = {"same": (first.height, first.width), "flat": (1, 1), "turned": (1, first.channels)}[view]
    spread = {"same": 1, "flat": first.positions, "turned": first.positions / first.channels}[view]
    counts = [round(part.channels * spread) for part in parts]
    gains = np.repeat([part.numbers.scale for part in parts], counts)
    bounds = np.repeat([part.bound / part.numbers.scale for part in parts], counts)
    return Wire(Copy(lifts, view), (), unit, bounds, gains, np.zeros(len(gains)), height, width)


def pooled(stored: Resident, walk: Walk, largest: bool, height: int, width: int) -> Wire:
    """The largest number of windows, or their sum."""
    numbers, count = stored.numbers, 1 if largest else walk.kernel[0] * walk.kernel[1]
    unit = numbers.highest + bits_of(_units(stored) * count) - ROOM
    bounds = np.full(stored.channels, count * stored.bound / numbers.scale)
    gains = np.full(stored.channels, numbers.scale)
    source = Pool(Lift(stored, numbers.highest - unit), walk, largest)
    return Wire(source, (), unit, bounds, gains, np.zeros(stored.channels), height, width)


def convolved(stored: Resident, filters: Filters, walk: Walk, groups: int, extents: tuple[int, int]) -> Wire:
    """Sums of products with a weight."""
    numbers, k = stored.numbers, np.abs(filters.k).astype(np.float64)
    highest = numbers.highest + filters.lowest + filters.top
    codes = np.repeat(filters.codes, filters.block, axis=2)[:, :, : k.shape[2]]
    sums = numbers.most * (k * np.exp2(codes - float(filters.top))).sum((1, 2))
    trial = Convolve(stored, filters, walk, groups, 0, True, 0)
    segments = [trial.segments(group) for group in range(groups)]
    product = numbers.most * max(
        float(k[:, :, each.first : each.last].sum(2).max()) for each in {one for own in segments for one in own}
    )
    terms = k.shape[1] * max(map(len, segments))
    sum_bits, product_bits = bits_of(float(sums.max()) + terms * 2.0**-20), bits_of(product)
    assert product_bits <= 31
    left, tops = min(ROOM - sum_bits, SUM - product_bits), trial.tops
    exact = tops + max(sum_bits, product_bits) <= 30
    source = replace(trial, left=tops, wide=False, lift=left - tops) if exact else replace(trial, left=left)
    bounds = np.ldexp(sums + terms * 2.0**-20, highest)
    gains = filters.scales * numbers.scale
    return Wire(source, (), highest - left, bounds, gains, np.zeros(len(gains)), *extents)
