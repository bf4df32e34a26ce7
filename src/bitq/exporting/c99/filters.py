"""Weights as integers and as the bits that exported C holds of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bitq.exporting.c99.fixed_point import IntArray, rounded
from bitq.exporting.c99.numbers import MOST_CODE, UNDER_A_FLOAT, NotIntegersError
from bitq.exporting.whole_numbers import whole_numbers
from bitq.formats.elements import Integer
from bitq.formats.scales import FloatScale, ScaledExponent
from bitq.numerics import bitstream
from bitq.numerics.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Filters:
    """A weight: of output channel o, tap t and input channel c of its group, k·2^(lowest + code)·scale[o].

    Attributes:
        k: whole numbers [outputs, taps, channels].
        codes: of blocks [outputs, 1 or taps, blocks], 0..31.
        block: input channels that share a code.
        lowest: exponent of a step of code 0.
        scales: float64 [outputs].
        element_bits: of an element as stored.
        table: what the codes of elements stand for, ascending; empty, if they are k in two's complement.
        folded: whether products take k·2^code as one whole number.
    """

    k: IntArray
    codes: IntArray
    block: int
    lowest: int
    scales: NDArray[np.float64]
    element_bits: int
    table: tuple[int, ...] = ()
    folded: bool = False

    @property
    def factors(self) -> IntArray:
        """What products take: k, or k·2^code."""
        if not self.folded:
            return self.k
        codes = np.repeat(self.codes, self.block, axis=2)[:, :, : self.k.shape[2]]
        found: IntArray = self.k << codes
        return found

    @property
    def shifted_top(self) -> int:
        """The largest code that products are shifted by."""
        return 0 if self.folded else self.top

    @property
    def top(self) -> int:
        """Largest code."""
        return int(self.codes.max())

    @property
    def code_bits(self) -> int:
        """Of a block as stored."""
        return self.top.bit_length()

    @property
    def ctype(self) -> str:
        """The type in C that holds k once it is unpacked."""
        factors = self.factors
        return "int8_t" if factors.min() >= -128 and factors.max() <= 127 else "int16_t"

    def stream(self) -> bytes:
        """All elements, then all codes, bit by bit, little-endian."""
        flat = self.k.reshape(-1)
        mask = (1 << self.element_bits) - 1
        coded = np.searchsorted(np.asarray(self.table), flat) if self.table else flat & mask
        runs = [[bitstream.Fields(coded, self.element_bits)]]
        if self.code_bits:
            runs.append([bitstream.Fields(self.codes.reshape(-1), self.code_bits)])
        return bitstream.write(runs).tobytes()


def filters_of(weight: Tensor, recipe: Recipe, order: tuple[int, ...], outputs: int, taps: int) -> Filters:
    """A float weight in its format.

    Args:
        weight: in the shape that it is blocked in.
        recipe: of its quantization.
        order: of the weight's axes, so that those of the output channels come first, of the taps next, and the input
            channels last.
        outputs, taps: how many there are.

    Raises:
        NotIntegersError: a format that this cannot express.
    """
    fmt, element = recipe.format, recipe.format.elements[0]
    if len(fmt.elements) > 1 or fmt.scale is None or fmt.has_zero_point or recipe.rounding == "stochastic":
        raise NotIntegersError("which are no integers under scales; block floating point, mxint8, mxfp4 or int8 are")
    found = whole_numbers(weight, recipe, 15)
    if found is None:
        raise NotIntegersError("whose elements are no multiples of one of less than 2^15 times it")
    at = found.at
    steps = at.restored(found.steps.expand(at.arranged(found.k).shape))

    def arranged(each: Tensor) -> NDArray[np.float64]:
        own: NDArray[np.float64] = each.double().permute(order).reshape(outputs, taps, -1).numpy()
        return own

    k = arranged(found.k).astype(np.int64)
    block, window = at.lengths[order[-1]], [(at.lengths[axis], weight.shape[axis]) for axis in recipe.axes.inner]
    inner = all(length == extent for length, extent in window)
    if not inner and any(length != 1 for length, _ in window):
        raise NotIntegersError("whose blocks hold a part of the kernel window")
    step = arranged(steps)[:, :: taps if inner else 1, ::block]
    bits = element.bits
    if isinstance(element, Integer):
        table: tuple[int, ...] = ()
        bits += not element.signed
    else:
        table = tuple(sorted({int(value) for value in np.unique(k)}))
    if isinstance(fmt.scale, ScaledExponent):
        raise NotIntegersError(UNDER_A_FLOAT)
    if isinstance(fmt.scale, FloatScale):
        if (step != step[:, :1, :1]).any():
            raise NotIntegersError("whose blocks have float scales of their own; only output channels may")
        codes = np.zeros((outputs, 1, 1), np.int64)
        return Filters(k, codes, k.shape[2], 0, step[:, 0, 0].copy(), bits, table)
    exponents = np.frexp(step)[1].astype(np.int64) - 1
    used = np.add.reduceat(np.abs(k), np.arange(0, k.shape[2], block), axis=2)
    used = used.sum(1, keepdims=True) if inner else used
    highest = int(exponents[used > 0].max(initial=int(exponents.min())))
    lowest = max(int(exponents[used > 0].min(initial=highest)), highest - MOST_CODE)
    late = np.clip(lowest - exponents, 0, 62)  # blocks so small that they are rounded to the lowest step
    drop = np.repeat(late, block, axis=2)[:, :, : k.shape[2]]
    k = rounded(k, drop, int(np.abs(k).max()))
    codes = np.clip(exponents - lowest, 0, highest - lowest)
    return Filters(k, codes, block, lowest, np.ones(outputs), bits, table)
