"""What the elements of a block share: a power of two under one bias or one float, one of its own, or a float."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal, get_args

from bitq.errors import BitqError, shortened
from bitq.formats.elements import Float, FloatKind
from bitq.formats.float32 import LEAST_NORMAL, floor_log2
from bitq.formats.whole import set_whole

Mode = Literal["floor", "ceil", "even", "rceil"]
"""How the exponent of an own power of two is found; `PowerOfTwo` says what each means."""

MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class SharedExponent:
    """Code c of `bits` bits stands for 2^(c + bias), with one integer bias per tensor (SPEC: SE).

    Raises:
        BitqError: a width outside 1..8, as many as a float32 has.
    """

    bits: int

    def __post_init__(self) -> None:
        set_whole(self, "bits", 1, 8, "a shared exponent has {range} bits, not {given}")

    @property
    def text(self) -> str:
        """Such as ``e4``."""
        return f"e{self.bits}"

    @property
    def top_code(self) -> int:
        """Largest code: 2^bits - 1."""
        return (1 << self.bits) - 1


@dataclass(frozen=True)
class ScaledExponent:
    """Code c of `bits` bits stands for t · 2^(c - top_code), with one float32 t per tensor.

    t makes the tensor's largest number the largest element, where the bias of `SharedExponent` leaves up to a half of
    the elements' reach unused; so it is a range, which calibration can fit and fine-tuning learn. Our own.

    Raises:
        BitqError: a width outside 1..5: more would leave t no room above the smallest normal float32.
    """

    bits: int

    def __post_init__(self) -> None:
        set_whole(self, "bits", 1, 5, "an exponent under a float has {range} bits, not {given}")

    @property
    def text(self) -> str:
        """Such as ``e4*f32``."""
        return f"e{self.bits}*f32"

    @property
    def top_code(self) -> int:
        """Largest code: 2^bits - 1."""
        return (1 << self.bits) - 1

    @property
    def tensor_bits(self) -> int:
        """Of t (bits)."""
        return 32

    @property
    def reach(self) -> tuple[float, float]:
        """The smallest and the largest power of two of a block."""
        return 2.0**-self.top_code, 1.0


@dataclass(frozen=True)
class PowerOfTwo:
    """A power of two with a bias of its own, 2^(bits - 1) - 1, as E8M0 of OCP MX is.

    With a = max|x| of a block, M the largest element and P = floor(log2 M), the exponent is, within the codes,

    - floor: floor(log2 a) - P
    - ceil: ceil(log2 a) - P
    - even: floor(log2 of a rounded to the mantissa bits of the element, halves up) - P
    - rceil: ceil(log2(a / M))

    Attributes:
        bits: width (bits), 1..8.
        kind: codes 0..2^bits - 2 ("n", one is left for NaN), 0..2^bits - 1 ("f"), 1..2^bits - 2 ("i").
        mode: one of `MODES`.

    Raises:
        BitqError: another width, kind or mode, or a kind that leaves no codes.
    """

    bits: int
    kind: FloatKind = "n"
    mode: Mode = "floor"

    def __post_init__(self) -> None:
        set_whole(self, "bits", 1, 8, "a scale eXm0 has {range} bits, not {given}")
        if self.kind not in ("f", "n", "i") or self.mode not in MODES:
            raise BitqError(f"a scale eXm0 is of kind f, n or i, and found by {', '.join(MODES)}")
        if self.codes[0] > self.codes[1]:
            raise BitqError(f"a scale e{self.bits}m0{self.kind} has no codes; give it more bits or kind f")

    @property
    def text(self) -> str:
        """Such as ``e8m0`` or ``e5m0f.even``."""
        return (
            f"e{self.bits}m0"
            + ("" if self.kind == "n" else self.kind)
            + ("" if self.mode == "floor" else f".{self.mode}")
        )

    @property
    def bias(self) -> int:
        """2^(bits - 1) - 1."""
        return (1 << (self.bits - 1)) - 1

    @property
    def codes(self) -> tuple[int, int]:
        """The least and the largest."""
        return int(self.kind == "i"), (1 << self.bits) - (1 if self.kind == "f" else 2)

    @property
    def exponents(self) -> tuple[int, int]:
        """Those of the least and the largest code."""
        return self.codes[0] - self.bias, self.codes[1] - self.bias


@dataclass(frozen=True)
class FloatScale:
    """A float for each block, perhaps times one for the whole tensor.

    Attributes:
        number: what a block stores, with at least one bit of mantissa.
        up: whether it is rounded up; to nearest else.
        signed: whether its sign is used.
        second: "f32" or "e8m0", that the tensor stores once; None for none.

    Raises:
        BitqError: a number without mantissa, or another `second`.
    """

    number: Float
    up: bool = False
    signed: bool = False
    second: Literal["f32", "e8m0"] | None = None

    def __post_init__(self) -> None:
        if self.number.mantissa_bits < 1:
            raise BitqError(f"a float scale has at least one bit of mantissa, unlike {self.number.text}")
        if self.second not in (None, "f32", "e8m0"):
            raise BitqError(f"the second scale is f32 or e8m0, not {shortened(repr(self.second))}")

    @property
    def text(self) -> str:
        """Such as ``f32`` or ``e4m3*f32``."""
        ends = ("s" if self.signed else ""), (".up" if self.up else ""), (f"*{self.second}" if self.second else "")
        return self.number.text + "".join(ends)

    @property
    def bits(self) -> int:
        """Of one block (bits), sign included."""
        return self.number.bits

    @property
    def tensor_bits(self) -> int:
        """Of the second scale (bits)."""
        return {None: 0, "f32": 32, "e8m0": 8}[self.second]

    def reach(self, smallest: float) -> tuple[float, float]:
        """The smallest and the largest number of a block.

        The smallest is that of its type, or that which makes the smallest result a normal float32.

        Args:
            smallest: positive element.
        """
        number = self.number
        least = LEAST_NORMAL / smallest  # nearer to the exact quotient than that is to any number of 24 bits
        unit = 2.0 ** (max(floor_log2(least), number.least_exponent) - number.mantissa_bits)
        return max(number.smallest(), ceil(least / unit) * unit), number.largest()


Scale = SharedExponent | ScaledExponent | PowerOfTwo | FloatScale
