"""What one number of a block is stored as: an integer, a small float, or one of a few levels.

Every element has `text`, as formats are written, `bits`, as stored, and, under a power of two or another scale, the
`largest` and the `smallest` positive number that it stands for. Integers count k·2^(2 - bits) under a power of two
(those that are never negative k·2^(1 - bits)), so that the largest lies in [1, 2) and the exponent of the scale is that
of the block; under a float they count k.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import inf
from typing import Literal, Protocol

import numpy as np

from bitq.errors import BitqError, shortened
from bitq.formats.whole import set_whole

FloatKind = Literal["f", "n", "i"]
"""What the largest codes of a float are: f numbers, n the all-ones one NaN, i the top exponent Inf and NaN."""

MOST_LEVELS = 256

_INTEGER_BITS = {"s": (2, 24), "i": (2, 24), "n": (1, 23), "u": (1, 16)}
_SHORT = {(8, 23): "f32", (5, 10): "f16", (8, 7): "bf16"}


class Element(Protocol):
    """What the kinds of elements share."""

    @property
    def text(self) -> str:
        """As formats are written."""

    @property
    def bits(self) -> int:
        """Width as stored (bits)."""

    def largest(self, power_of_two: bool) -> float:
        """The largest magnitude, under a power of two or another scale; exact."""

    def smallest(self, power_of_two: bool) -> float:
        """The smallest positive number; exact."""


@dataclass(frozen=True)
class Integer:
    """Whole numbers.

    Attributes:
        kind: "s" sign and magnitude or "i" two's complement, both ±(2^(bits-1) - 1); "n" 0..2^bits - 1, negative
            numbers count as 0; "u" 0..2^bits - 1 with a zero point per block.
        bits: width (bits): 2..24 with a sign, 1..23 for "n", 1..16 for "u".

    Raises:
        BitqError: another kind or width.
    """

    kind: Literal["s", "i", "n", "u"]
    bits: int

    def __post_init__(self) -> None:
        if self.kind not in _INTEGER_BITS:
            raise BitqError(f"an integer element is of kind s, i, n or u, not {shortened(repr(self.kind))}")
        set_whole(self, "bits", *_INTEGER_BITS[self.kind], f"an element {self.kind} has {{range}} bits, not {{given}}")

    @property
    def text(self) -> str:
        """Such as ``i8``."""
        return f"{self.kind}{self.bits}"

    @property
    def signed(self) -> bool:
        """Whether it holds negative numbers."""
        return self.kind in ("s", "i")

    @property
    def most(self) -> int:
        """Largest k."""
        return (1 << (self.bits - self.signed)) - 1

    def unit(self, power_of_two: bool) -> float:
        """What k = 1 stands for."""
        return 2.0 ** (1 + self.signed - self.bits) if power_of_two else 1.0

    def largest(self, power_of_two: bool) -> float:
        """Of `most`."""
        return self.most * self.unit(power_of_two)

    def smallest(self, power_of_two: bool) -> float:
        """Of 1."""
        return self.unit(power_of_two)


@dataclass(frozen=True)
class Float:
    """A sign, `exponent_bits` bits of exponent (bias 2^(exponent_bits - 1) - 1, subnormals) and a mantissa.

    Attributes:
        exponent_bits: 1..8.
        mantissa_bits: without the hidden one, 0..23.
        kind: what the largest codes are, a `FloatKind`; those with 8 exponent bits have to be "i", or they would reach
            beyond float32.

    Raises:
        BitqError: another kind or width, or a kind that leaves no numbers.
    """

    exponent_bits: int
    mantissa_bits: int
    kind: FloatKind

    def __post_init__(self) -> None:
        set_whole(self, "exponent_bits", 1, 8, "a float has {range} bits of exponent, not {given}")
        set_whole(self, "mantissa_bits", 0, 23, "a float has {range} bits of mantissa, not {given}")
        name = f"e{self.exponent_bits}m{self.mantissa_bits}"
        if self.kind not in ("f", "n", "i"):
            raise BitqError(f"a float is of kind f, n or i, not {shortened(repr(self.kind))}")
        if self.exponent_bits == 8 and self.kind != "i":
            raise BitqError(f"{name}{self.kind} reaches beyond float32; with 8 bits of exponent it has to be {name}i")
        if (self.kind == "i" and self.exponent_bits == 1) or self.largest() == 0:
            raise BitqError(f"{name}{self.kind} holds no numbers; give it more bits or kind f")

    @staticmethod
    def usual_kind(exponent_bits: int) -> FloatKind:
        """The kind that needs not be written."""
        return "i" if exponent_bits >= 5 else "n" if exponent_bits == 4 else "f"

    @property
    def text(self) -> str:
        """Such as ``e4m3``; ``f32``, ``f16`` and ``bf16`` for these."""
        usual = self.kind == self.usual_kind(self.exponent_bits)
        short = _SHORT.get((self.exponent_bits, self.mantissa_bits)) if usual else None
        return short or f"e{self.exponent_bits}m{self.mantissa_bits}" + ("" if usual else self.kind)

    @property
    def bits(self) -> int:
        """1 + exponent_bits + mantissa_bits."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """2^(exponent_bits - 1) - 1."""
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def least_exponent(self) -> int:
        """floor(log2) of the smallest normal number; subnormal ones lie as far apart as those above it."""
        return 1 - self.bias

    def largest(self, power_of_two: bool = True) -> float:
        """Of the largest code that is a number."""
        top = (1 << (self.exponent_bits + self.mantissa_bits)) - 1
        if self.kind == "i":
            top -= 1 << self.mantissa_bits
        elif self.kind == "n":
            top -= 1
        return self.value(top)

    def smallest(self, power_of_two: bool = True) -> float:
        """Of code 1: subnormal, unless there is no mantissa."""
        return self.value(1)

    def value(self, code: int) -> float:
        """The number of a code without its sign."""
        exponent, mantissa = divmod(code, 1 << self.mantissa_bits)
        whole = mantissa + ((1 << self.mantissa_bits) if exponent else 0)
        return whole * 2.0 ** (max(exponent, 1) - self.bias - self.mantissa_bits)


@dataclass(frozen=True)
class Levels:
    """A table of numbers, of which an element stores the index.

    Attributes:
        values: float32 numbers, ascending; 0 is one of them, for blocks of zeros.

    Raises:
        BitqError: fewer than 2 or more than 256 levels, one that is not finite, not in order or of a magnitude outside
            2^-20..2^20, or none that is 0.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.values) <= MOST_LEVELS:
            raise BitqError(f"a table of levels has 2..{MOST_LEVELS} of them, not {len(self.values)}")
        object.__setattr__(self, "values", tuple(map(_level, self.values)))
        if any(low >= high for low, high in zip(self.values, self.values[1:], strict=False)):
            raise BitqError("levels stand in ascending order, each once")
        if 0.0 not in self.values:
            raise BitqError("one of the levels has to be 0, for blocks of zeros")

    @property
    def text(self) -> str:
        """Such as ``l(-4;-1;0;1;4)``: the shortest decimals that give these float32 numbers."""
        return f"l({';'.join(np.format_float_positional(np.float32(v), trim='-') for v in self.values)})"

    @property
    def bits(self) -> int:
        """ceil(log2(number of levels))."""
        return (len(self.values) - 1).bit_length()

    def largest(self, power_of_two: bool = True) -> float:
        """The largest magnitude of a level."""
        return max(map(abs, self.values))

    def smallest(self, power_of_two: bool = True) -> float:
        """The smallest magnitude of a level that is not 0."""
        return min(abs(value) for value in self.values if value)


def _level(value: float) -> float:
    """The float32 number next to it."""
    try:
        exact = float(value)
    except OverflowError:
        exact = inf
    except (TypeError, ValueError):
        raise BitqError(f"a level is a number, not {shortened(repr(value))}") from None
    near = float(np.float32(exact)) if abs(exact) < 2.0**21 else exact
    if exact != 0 and not 2.0**-20 <= abs(near) <= 2.0**20:
        raise BitqError(f"a level's magnitude lies in 2^-20..2^20, or is 0, unlike that of {exact:g}")
    return near + 0.0  # no -0


def values(element: Element, power_of_two: bool) -> tuple[Fraction, ...]:
    """All numbers that an element of at most 16 bits stands for, ascending, each once.

    Those of "u" are as without a zero point.

    Raises:
        BitqError: an element of more than 16 bits.
    """
    if element.bits > 16:
        raise BitqError(f"{element.text} stands for more than 2^16 numbers; list those of at most 16 bits")
    if isinstance(element, Integer):
        low = -element.most if element.signed else 0
        return tuple(k * Fraction(element.unit(power_of_two)) for k in range(low, element.most + 1))
    if isinstance(element, Float):
        above = (Fraction(element.value(code)) for code in range(1, 1 << (element.bits - 1)))
        positive = sorted({value for value in above if value <= element.largest()})
        return (*(-value for value in reversed(positive)), Fraction(0), *positive)
    assert isinstance(element, Levels)
    return tuple(map(Fraction, element.values))
