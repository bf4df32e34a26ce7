"""Loops over the tiles of a layer, in C."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from bitq.exporting.c99.kinds.in_tiles import REDUCTIONS, Tiled, layer_of
from bitq.exporting.c99.steps import StepOfC

BOUNDS = {"k": "k", "c": "c", "r": "r", "s": "s", "y": "p", "x": "q"}
"""By an index in C the loop whose tile it runs over."""


class Nest:
    """The loops of one group of a step, in the order and the tile sizes of its tiling.

    Attributes:
        layer, tiling: of the step.
        order: loops of several tiles, the outermost first.
    """

    def __init__(self, source: Tiled, step: StepOfC) -> None:
        layer = layer_of(step)
        assert layer is not None
        self.layer, self.tiling = layer, source.tiling
        self.order = [loop for loop in self.tiling.permutation if self.trips(loop) > 1]

    def extent(self, loop: str) -> int:
        """Of a loop of a group."""
        return self.layer.extent(loop)

    def size(self, loop: str) -> int:
        """Of its tiles."""
        return self.tiling.size(self.layer, loop)

    def trips(self, loop: str) -> int:
        """How many tiles it has."""
        return self.tiling.trips(self.layer, loop)

    def tiles(self, loop: str) -> list[range]:
        """All of them."""
        extent, size = self.extent(loop), self.size(loop)
        return [range(at, min(at + size, extent)) for at in range(0, extent, size)]

    def depth(self, loops: Iterable[str]) -> int:
        """How many of the nest's loops, from the outermost on, say which tile is there."""
        return max((self.order.index(loop) + 1 for loop in loops if loop in self.order), default=0)

    @property
    def split(self) -> bool:
        """Whether sums are summed up tile by tile."""
        return any(loop in self.order for loop in REDUCTIONS)

    def reaches(self, block: int, group: int = 0) -> int:
        """Blocks that a tile of a group's channels reaches into, at most."""
        begin = group * self.extent("C")
        tiles = [range(begin + own.start, begin + own.stop) for own in self.tiles("C")]
        return max(own[-1] // block - own[0] // block + 1 for own in tiles)

    def begins(self) -> list[str]:
        """Declarations of where the tile of each loop begins."""
        return [f"int32_t {', '.join(f'{loop.lower()}_from' for loop in self.order)};"] if self.order else []

    def whole(self) -> dict[str, str]:
        """Where the tile of each loop of one tile begins and ends."""
        alone = [loop for loop in "KCPQRS" if loop not in self.order]
        begins = {f"{loop.lower()}_from": "0" for loop in alone}
        return begins | {f"{loop.lower()}_to": str(self.extent(loop)) for loop in alone}

    def over_tiles(self, loop: str, inner: Sequence[str]) -> list[str]:
        """The loop over the tiles of one of the nest's loops."""
        low, size, extent = loop.lower(), self.size(loop), self.extent(loop)
        end = f"{low}_from + {size}"
        if extent % size:
            end = f"{extent} - {low}_from < {size} ? {extent} : {end}"
        return [
            f"for ({low}_from = 0; {low}_from < {extent}; {low}_from += {size}) {{",
            f"    const int32_t {low}_to = {end};",
            *indented(inner),
            "}",
        ]


def over(index: str, inner: Sequence[str], begin: str = "", end: str = "") -> list[str]:
    """A loop within a tile: of an index of `BOUNDS`, by default over all of the tile."""
    low, high = begin or f"{BOUNDS[index]}_from", end or f"{BOUNDS[index]}_to"
    return [f"for ({index} = {low}; {index} < {high}; {index}++) {{", *indented(inner), "}"]


def indented(lines: Iterable[str]) -> list[str]:
    """Lines within braces."""
    return [f"    {each}" for each in lines]


def mentions(lines: Iterable[str], name: str) -> bool:
    """Whether any line has a name."""
    return any(re.search(rf"\b{name}\b", each) for each in lines)


def used(values: Mapping[str, str], lines: Sequence[str]) -> list[str]:
    """Constants that some lines mention."""
    return [f"const int32_t {name} = {value};" for name, value in values.items() if mentions(lines, name)]
