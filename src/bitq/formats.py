"""The block floating point format and the grid of formats that the search walks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from operator import index
from typing import Literal, NamedTuple, Self, get_args

from bitq.errors import BitqError, shortened

EXPONENT_BITS = {16: range(1, 8), 8: range(2, 7)}
"""Widths of the shared exponent that the grid holds, by `bits` (paper, Table 2)."""

BLOCK_SIZES = (1, 2, 4, 8, 16, 24, 32, 48)
"""Block sizes that the grid holds, in elements (paper, Table 2)."""

_TEXT = re.compile(r"(\d{1,9}):e(\d{1,9}):b(\d{1,9})", re.ASCII)

_PRESETS = {
    "mxint8": (16, 8, 32),
    **{f"msfp{bits}": (bits, 8, 16) for bits in (11, 12, 13, 14, 15, 16)},
    **{f"hbfp{mantissa}": (mantissa + 8, 8, 64) for mantissa in (4, 6, 8)},
}


@dataclass(frozen=True, order=True)
class BlockFormat:
    """Block floating point: elements of a block share one exponent and keep a signed mantissa each.

    Attributes:
        bits: width of one element if nothing were shared (paper: q_b), 3..32 bits.
        exponent_bits: width of the shared exponent (paper: SE), 1..8 bits, as many as a float32 has.
        block_size: elements along the blocked axis that share an exponent (paper: BS), at least 1.

    Raises:
        BitqError: a width out of range, or a mantissa that is not 2..24 bits wide: one bit is the sign, and
            a float32 holds no more than 24 bits exactly.
    """

    bits: int
    exponent_bits: int
    block_size: int

    def __post_init__(self) -> None:
        for field, least, most in (("bits", 3, 32), ("exponent_bits", 1, 8), ("block_size", 1, None)):
            value = getattr(self, field)
            try:
                whole = index(value)
            except TypeError:
                whole = least - 1
            if isinstance(value, bool) or whole < least or (most is not None and whole > most):
                bounds = f"{least}..{most}" if most is not None else f"at least {least}"
                raise BitqError(f"block format: {field} is {value!r}; it must be a whole number, {bounds}")
            object.__setattr__(self, field, whole)
        if not 2 <= self.mantissa_bits <= 24:
            raise BitqError(
                f"block format {self}: bits - exponent_bits leaves a mantissa of {self.mantissa_bits} bits; "
                "it must have 2..24, sign included"
            )

    @property
    def mantissa_bits(self) -> int:
        """Width of one element's signed mantissa, sign included (bits)."""
        return self.bits - self.exponent_bits

    @property
    def top_code(self) -> int:
        """Largest code of the shared exponent: 2^SE - 1."""
        return (1 << self.exponent_bits) - 1

    @property
    def largest_mantissa(self) -> int:
        """Largest magnitude of a mantissa: 2^(m-1) - 1."""
        return (1 << (self.mantissa_bits - 1)) - 1

    @property
    def lowest_exponent(self) -> int:
        """Least shared exponent: below it the step 2^(E+2-m) would not be a normal float32."""
        return -126 + self.mantissa_bits - 2

    def __str__(self) -> str:
        return f"{self.bits}:e{self.exponent_bits}:b{self.block_size}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The format that `str` wrote, such as ``8:e3:b16``, or a name of `PRESETS`, such as ``mxint8``.

        Raises:
            BitqError: the text is no such format, or the format is impossible.
        """
        preset = _PRESETS.get(text.strip().lower())
        if preset is not None:
            return cls(*preset)
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            raise BitqError(
                f"block format {shortened(text, 60)!r} must read BITS:eEXPONENT_BITS:bBLOCK_SIZE, such as 8:e3:b16, "
                f"or be one of {', '.join(_PRESETS)}"
            )
        return cls(*map(int, match.groups()))


PRESETS = {name: BlockFormat(*widths) for name, widths in _PRESETS.items()}
"""Formats that others have named, by name; `bits` counts the shared exponent, so 16 for an 8-bit element of MXINT8.

mxint8: MXINT8 of the OCP Microscaling Formats v1.0 specification. Its scale is 2^E, its element k/64. The values are
    equal but for two choices: bitq never uses k = -128, which the specification lets implementations leave out (what
    rounds to it becomes -127), and below E = -120 bitq keeps the step a normal float32 where E8M0 reaches E = -127.
    With an exponent bias of -127 the codes are those of E8M0.
msfp11..msfp16: Microsoft Floating Point (Darvish Rouhani et al., NeurIPS 2020): a sign, 2..7 bits of mantissa without a
    hidden one, and 8 bits of exponent for 16 elements.
hbfp4, hbfp6, hbfp8: Hybrid BFP (Drumond et al., NeurIPS 2018; Harma et al., 2022) with 64 elements in a block. Its
    exponents have 10 bits; a float32 has 8, so the values are the same and the packed size smaller by 2 bits a block.
"""


TensorName = Literal["input", "weight", "output"]
"""What a layer's three tensors are called."""

TENSORS: tuple[TensorName, ...] = get_args(TensorName)
"""All of them, in the order of a choice of formats."""


@dataclass(frozen=True)
class TensorFormats:
    """The formats of a layer's input activations, weight and output activations; None leaves one as float."""

    input: BlockFormat | None = None
    weight: BlockFormat | None = None
    output: BlockFormat | None = None


class MaxAbs(NamedTuple):
    """The largest finite |x| a module met in calibration; None leaves each tensor its own exponent bias."""

    input: float | None = None
    output: float | None = None


@cache
def grid(bits: int) -> tuple[BlockFormat, ...]:
    """All formats of the paper's Table 2 with elements of `bits` bits (8 or 16), ordered by SE, then BS.

    Raises:
        BitqError: `bits` is neither 8 nor 16.
    """
    if bits not in EXPONENT_BITS:
        raise BitqError(f"the grid of formats has 8 or 16 bits per element, not {bits!r}")
    return tuple(BlockFormat(bits, se, bs) for se in EXPONENT_BITS[bits] for bs in BLOCK_SIZES)


def effective_width(fmt: BlockFormat, channels: int, inner: int = 1) -> float:
    """Packed bits per element of a tensor with `channels` along its blocked axis (our choice).

    Exact: each of the ceil(channels / BS) blocks, the last perhaps short, stores one exponent.
    `inner` counts the elements of one channel inside a block: R·S for a convolution weight, 1 elsewhere.

    Raises:
        BitqError: `channels` or `inner` below 1.
    """
    if channels < 1 or inner < 1:
        raise BitqError(
            f"effective width needs at least one channel and inner element, not {channels} and {inner}"
        )
    elements, blocks = channels * inner, -(-channels // fmt.block_size)
    return (fmt.mantissa_bits * elements + fmt.exponent_bits * blocks) / elements


def paper_width(fmt: BlockFormat, inner: int = 1) -> float:
    """Bits per element by the paper's closed form, Eq. 6: (q_b - SE) + SE / (BS·inner), all blocks full.

    Raises:
        BitqError: `inner` below 1.
    """
    if inner < 1:
        raise BitqError(f"the width of a format needs at least one inner element, not {inner}")
    return fmt.mantissa_bits + fmt.exponent_bits / (fmt.block_size * inner)
