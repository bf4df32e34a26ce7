"""One little-endian stream of bits: fields of any width, one after the other, the last byte filled up with zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Words = NDArray[np.int64]

AT_ONCE = 1 << 18
"""Fields that are taken apart into bits, of a byte each, at a time; whole bytes of the stream, whatever their width."""


class Fields(NamedTuple):
    """Codes of `width` bits, 1..32, each; lowest bit first."""

    codes: Words
    width: int


def write(runs: Sequence[Sequence[Fields]]) -> Bytes:
    """The stream of some runs. The fields of a run alternate: a code of each, then the next of each."""
    stream, rest = [], np.empty(0, np.uint8)
    for run in runs:
        for start in range(0, len(run[0].codes), AT_ONCE):
            columns = [_bits(codes[start : start + AT_ONCE], width) for codes, width in run]
            bits = np.concatenate([rest, np.concatenate(columns, 1).reshape(-1)])
            whole = len(bits) // 8 * 8
            stream.append(np.packbits(bits[:whole], bitorder="little"))
            rest = bits[whole:]
    return np.concatenate([*stream, np.packbits(rest, bitorder="little")])


def read(stream: Bytes, at: int, count: int, widths: Sequence[int]) -> list[Words]:
    """The codes of a run of `count` fields of each of these widths, which begins at bit `at` of a stream."""
    found = [np.empty(count, np.int64) for _ in widths]
    total = sum(widths)
    for start in range(0, count, AT_ONCE):
        some = min(AT_ONCE, count - start)
        first, last = at + start * total, at + (start + some) * total
        bits = np.unpackbits(stream[first // 8 : -(-last // 8)], bitorder="little")
        rows = bits[first % 8 : first % 8 + some * total].reshape(some, total)
        column = 0
        for codes, width in zip(found, widths, strict=True):
            codes[start : start + some] = _words(rows[:, column : column + width])
            column += width
    return found


def _bits(codes: Words, width: int) -> Bytes:
    """A row of 0 and 1 for each code, lowest first."""
    words = np.ascontiguousarray(codes).astype("<u4").reshape(-1, 1)
    return np.unpackbits(words.view(np.uint8), axis=1, count=width, bitorder="little")


def _words(bits: Bytes) -> NDArray[np.uint32]:
    """The inverse of `_bits`."""
    octets = np.packbits(bits, axis=1, bitorder="little")
    words = np.zeros((len(octets), 4), np.uint8)
    words[:, : octets.shape[1]] = octets
    return words.view("<u4").reshape(-1)
