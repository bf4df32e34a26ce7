"""Lists of formats: ``8:e2..e6:b1..b48,mxint8,nvfp4,int3..int8``, as the search and the ladder are given them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product
from math import prod

from bitq.errors import BitqError, shortened
from bitq.formats.families import FEWEST, MOST, Choosable, integers
from bitq.formats.grammar import parse_format
from bitq.formats.grid import BLOCK_SIZES

FLOAT = "float32"
"""The network as it came."""

MOST_FORMATS = 1000

_LONGEST = 100_000  # characters of a list
_ALSO = {"float16": "f16", "bfloat16": "bf16"}
_RANGE = re.compile(r"([a-z]*?)(\d{1,9})\.\.([a-z]*?)(\d{1,9})", re.ASCII)
_INTEGERS = re.compile(r"int(\d{1,9})", re.ASCII)
_EXAMPLE = "8:e2..e6:b16"


def formats_of(text: str, example: str = f"{FLOAT},{_EXAMPLE},mxint8") -> tuple[Choosable | None, ...]:
    """Formats by a list of names, in its order and each once: None is float32.

    Args:
        text: commas between "float32", "float16", formats such as "8:e3:b16", presets such as "mxint8", integers such
            as "int8" (`bitq.formats.families.integers`), and ranges in any part of them: "8:e2..e6:b16" are five
            formats, "int3..int8" six, and "8:e4:b8..b32" those of the usual block sizes (1, 2, 4, 8, 16, 24, 32, 48)
            and of both ends.
        example: what to suggest if no format is named.

    Raises:
        BitqError: another text, a format that is impossible, or more than 1,000 of them.
    """
    found: dict[Choosable | None, None] = {}
    if len(text) > _LONGEST:
        raise BitqError(f"a list of formats has at most {_LONGEST} characters, not {len(text)}; name fewer")
    for part in filter(None, (each.strip().lower() for each in text.split(","))):
        for name in _named(part):
            found[_candidate(name)] = None
        if len(found) > MOST_FORMATS:
            raise _too_many(text)
    if not found:
        raise BitqError(f"no format is named; name some, such as {example}")
    return tuple(found)


def _named(part: str) -> Iterator[str]:
    """The names that a part with ranges stands for, the last range changing fastest."""
    pieces = part.split(":")
    if not any(map(_RANGE.fullmatch, pieces)):
        return iter([part])
    ways = [_between(piece, part) for piece in pieces]
    if prod(map(len, ways)) > MOST_FORMATS:
        raise _too_many(part)
    return (":".join(each) for each in product(*ways))


def _between(piece: str, part: str) -> Sequence[str]:
    ends = _RANGE.fullmatch(piece)
    if ends is None or ends[3] not in ("", ends[1]):
        return [piece]
    kind, first, last = ends[1], int(ends[2]), int(ends[4])
    if last < first:
        raise BitqError(f"the range {shortened(part)!r} ends below its begin; write the smaller number first")
    if kind in ("b", "v"):
        numbers: Sequence[int] = sorted({first, last, *(size for size in BLOCK_SIZES if first < size < last)})
    elif last - first >= MOST_FORMATS:
        raise _too_many(part)
    else:
        numbers = range(first, last + 1)
    return [f"{kind}{number}" for number in numbers]


def _candidate(name: str) -> Choosable | None:
    if name == FLOAT:
        return None
    if whole := _INTEGERS.fullmatch(name):
        if not FEWEST <= int(whole[1]) <= MOST:
            raise BitqError(f"{shortened(name)} is no format; integers have {FEWEST}..{MOST} bits, such as int8")
        return integers(int(whole[1]))
    try:
        return parse_format(_ALSO.get(name, name))
    except BitqError as error:
        raise BitqError(f"{error}; {FLOAT}, int8 and a range such as {_EXAMPLE} are possible, too") from None


def _too_many(text: str) -> BitqError:
    return BitqError(f"{shortened(text)!r} names more than {MOST_FORMATS} formats; name fewer")
