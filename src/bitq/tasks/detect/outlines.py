"""Outlines of objects, as polygons or as runs of pixels, and the masks that they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitq.errors import BitqError

_FIRST, _BITS = 48, 5
"""COCO's text of runs: the character of 0, and how many bits of a number each character has."""

_LONGEST = 8
"""Characters of a number in such a text, at most: runs have less than 2^40 pixels."""


@dataclass(frozen=True)
class Outline:
    """Which pixels an object covers.

    Attributes:
        polygons: x and y of the corners of each part, float64 [k, 2].
        runs: where there are none: lengths of runs of pixels outside and inside, in turn, column by column.
    """

    polygons: tuple[NDArray[np.float64], ...] = ()
    runs: tuple[int, ...] = field(default=())

    def scaled(self, width: float, height: float) -> Outline:
        """With corners in pixels, of shares of the image's sides."""
        return Outline(tuple(each * (width, height) for each in self.polygons), self.runs)

    def text(self, size: tuple[int, int]) -> str:
        """Its runs as COCO writes them.

        Args:
            size: height and width of the image, in whose pixels corners are; what lies outside is cut.

        Raises:
            BitqError: the package that fills polygons is not installed.
        """
        if not self.polygons:
            return text_of(self.runs)
        height, width = size
        utilities = mask_utilities()
        flat = [np.clip(each, 0, (width, height)).ravel().tolist() for each in self.polygons]
        found: bytes = utilities.merge(utilities.frPyObjects(flat, height, width))["counts"]
        return found.decode("ascii")


def mask_utilities() -> Any:
    """The functions that fill polygons and count pixels as COCO does.

    Raises:
        BitqError: their package is not installed.
    """
    try:
        from faster_coco_eval.core import mask
    except ModuleNotFoundError as error:
        raise BitqError("masks need the package faster-coco-eval: pip install 'bitq[detect]'") from error
    return mask


def text_of(runs: Sequence[int]) -> str:
    """Runs as COCO writes them: each but the first three less the one two before, in groups of five bits."""
    found = []
    for place, run in enumerate(runs):
        number = run - (runs[place - 2] if place > 2 else 0)
        while True:
            bits, number = number & 31, number >> _BITS
            done = number == (-1 if bits & 16 else 0)
            found.append(chr(_FIRST + (bits if done else bits | 32)))
            if done:
                break
    return "".join(found)


def runs_of(text: str) -> tuple[int, ...]:
    """The runs in a text that COCO writes.

    Raises:
        ValueError: it is no such text.
    """
    runs: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - _FIRST
        if not 0 <= bits < 64 or shift >= _BITS * _LONGEST:
            raise ValueError("no text of runs")
        number |= (bits & 31) << shift
        shift += _BITS
        if not bits & 32:
            number -= (1 << shift) if bits & 16 else 0
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    if shift or any(run < 0 for run in runs):
        raise ValueError("no text of runs")
    return tuple(runs)


def mask_of(text: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask [height, width] that a text of runs is of."""
    ends = np.cumsum((0, *runs_of(text)))
    found = np.zeros(size[0] * size[1], np.bool_)
    for place, (start, end) in enumerate(pairwise(ends.tolist())):
        if place % 2:
            found[start:end] = True
    return found.reshape(size[1], size[0]).T
