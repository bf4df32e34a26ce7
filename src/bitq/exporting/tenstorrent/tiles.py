"""Tiles of 32 x 32 numbers in block floating point, byte for byte as Tenstorrent's host code packs them.

tenstorrent/tt-metal, tt_metal/impl/data_format/blockfloat_common.cpp (`pack_as_bfp_tiles`, `convert_u32_to_bfp`), with
exponents of kind B, says: a tile is four faces of 16 x 16 in row-major order. Each row of a face shares a byte, the
largest exponent field of its float32 numbers. The 64 bytes of a tile, face by face and row by row, come first; then the
numbers in the same order, each a sign above a magnitude of 7, 3 or 1 bits, the first in the lowest bits of a
little-endian word. A magnitude is the 24 bits of a float32's significand, shifted down by the difference of the
exponents, which drops what falls out, and rounded to nearest, ties to even, at most all ones; 0 has no sign.

It differs in two inputs, which no number of a format is: NaN and infinities are refused here, and subnormal numbers,
to which that code gives the leading one that they lack, are zeros, as on the devices.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitq.errors import BitqError

SIDE, FACE = 32, 16
_ROWS = SIDE * SIDE // FACE
"""Rows of faces in a tile, each with an exponent of its own."""

_STRIP = 1 << 20  # numbers packed at a time


class TileFormat(NamedTuple):
    """A block floating point format of these devices.

    Attributes:
        name: in tt-metal's `DataFormat`.
        bits: of a number, sign included.
    """

    name: str
    bits: int

    @property
    def tile_bytes(self) -> int:
        """Of a tile: 1088, 576 or 320."""
        return _ROWS + SIDE * SIDE * self.bits // 8


TILE_FORMATS = TileFormat("Bfp2_b", 2), TileFormat("Bfp4_b", 4), TileFormat("Bfp8_b", 8)
"""The narrowest first."""


def pack_tiles(matrix: NDArray[np.float32], fmt: TileFormat) -> NDArray[np.uint8]:
    """A matrix as tiles, filled up with zeros to whole ones.

    Args:
        matrix: float32, [rows, columns].
        fmt: of the tiles.

    Returns:
        uint8, [rows of tiles, columns of tiles, bytes of a tile].

    Raises:
        BitqError: NaN or infinity.
    """
    high, wide = (-(-extent // SIDE) for extent in matrix.shape)
    found = np.empty((high, wide, fmt.tile_bytes), np.uint8)
    step = max(_STRIP // (max(wide, 1) * SIDE * SIDE), 1)
    for first in range(0, high, step):
        strip = matrix[first * SIDE : (first + step) * SIDE]
        count = min(step, high - first)
        whole = np.zeros((count * SIDE, wide * SIDE), np.float32)
        whole[: strip.shape[0], : strip.shape[1]] = strip
        faces = whole.reshape(count, 2, FACE, wide, 2, FACE).transpose(0, 3, 1, 4, 2, 5)
        found[first : first + count] = _packed(faces.reshape(count, wide, _ROWS, FACE), fmt)
    return found


def unpack_tiles(tiles: NDArray[np.uint8], fmt: TileFormat, shape: tuple[int, int]) -> NDArray[np.float32]:
    """The matrix of this shape that tiles hold: k·2^(exponent - 125 - bits) for a magnitude k."""
    high, wide, _ = tiles.shape
    per = 8 // fmt.bits
    bytes_of = tiles[..., _ROWS:].reshape(high, wide, _ROWS, FACE // per)
    codes = np.stack([bytes_of >> (place * fmt.bits) & ((1 << fmt.bits) - 1) for place in range(per)], -1)
    codes = codes.reshape(high, wide, _ROWS, FACE)
    top = 1 << (fmt.bits - 1)
    k = np.where(codes & top, -1.0, 1.0) * (codes & (top - 1))
    exponents = tiles[..., :_ROWS, None].astype(np.int32) - 125 - fmt.bits
    values = np.ldexp(k, exponents).astype(np.float32)
    faces = values.reshape(high, wide, 2, 2, FACE, FACE).transpose(0, 2, 4, 1, 3, 5)
    return np.ascontiguousarray(faces.reshape(high * SIDE, wide * SIDE)[: shape[0], : shape[1]])


def _packed(rows: NDArray[np.float32], fmt: TileFormat) -> NDArray[np.uint8]:
    """The bytes of tiles of which the rows of faces are given: [..., 64, 16] to [..., bytes]."""
    patterns = np.ascontiguousarray(rows).view(np.uint32)
    fields = patterns >> 23 & 0xFF
    if (fields == 0xFF).any():
        raise BitqError("a weight has NaN or infinity, which block floating point does not hold")
    significands = np.where(fields > 0, patterns & 0x7FFFFF | 1 << 23, 0)
    shared = fields.max(-1, keepdims=True)
    aligned = significands >> np.minimum(shared - fields, 31)
    most, shift = (1 << (fmt.bits - 1)) - 1, 25 - fmt.bits
    k, rest, tie = aligned >> shift, aligned & ((1 << shift) - 1), 1 << (shift - 1)
    k = np.minimum(k + ((rest > tie) | ((rest == tie) & (k % 2 == 1))), most)
    codes = k | np.where(k > 0, patterns >> 31, 0) << (fmt.bits - 1)
    per = 8 // fmt.bits
    apart = codes.reshape(*codes.shape[:-2], -1, per)
    numbers = (apart << (fmt.bits * np.arange(per))).sum(-1)
    return np.concatenate([shared[..., 0], numbers], -1).astype(np.uint8)
