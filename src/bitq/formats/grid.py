"""The grid of block floating point formats that the paper searches."""

from __future__ import annotations

from functools import cache

from bitq.errors import BitqError
from bitq.formats.format import BlockFormat, Format

EXPONENT_BITS = {16: range(1, 8), 8: range(2, 7)}
"""Widths of the shared exponent that the grid holds, by `bits` (paper, Table 2)."""

BLOCK_SIZES = (1, 2, 4, 8, 16, 24, 32, 48)
"""Block sizes that the grid holds, in elements (paper, Table 2)."""


@cache
def grid(bits: int) -> tuple[BlockFormat, ...]:
    """All formats of the paper's Table 2 with elements of `bits` bits (8 or 16), ordered by SE, then BS.

    Raises:
        BitqError: `bits` is neither 8 nor 16.
    """
    if bits not in EXPONENT_BITS:
        raise BitqError(f"the grid of formats has 8 or 16 bits per element, not {bits!r}")
    return tuple(BlockFormat(bits, se, bs) for se in EXPONENT_BITS[bits] for bs in BLOCK_SIZES)


def effective_width(fmt: Format, channels: int, inner: int = 1) -> float:
    """Bits per element of one row of `channels` elements along its blocked axis (our choice).

    Exact: each block, the last perhaps short, stores its scale.
    `inner` counts the elements of one channel of a weight's window: R·S for a convolution weight, 1 elsewhere.

    Raises:
        BitqError: `channels` or `inner` below 1.
    """
    if channels < 1 or inner < 1:
        raise BitqError(
            f"effective width needs at least one channel and inner element, not {channels} and {inner}"
        )
    return fmt.bits_per_element((channels, inner), 0, (1,))


def paper_width(fmt: BlockFormat, inner: int = 1) -> float:
    """Bits per element by the paper's closed form, Eq. 6: (q_b - SE) + SE / (BS·inner), all blocks full.

    Raises:
        BitqError: `inner` below 1.
    """
    if inner < 1:
        raise BitqError(f"the width of a format needs at least one inner element, not {inner}")
    return fmt.mantissa_bits + fmt.exponent_bits / (fmt.block_size * inner)
