"""Better plans near a known one: other tile sizes of one memory at a time, edge tiles of all memories counted.

Plans that are found as paths (`bitq.movement.chain`) leave out what the edge tiles of one memory cost those further in.
Where that matters, a plan whose tiles divide each other better is near: one loop of one memory takes another size, such
as a multiple of the inner memory's tile, and another loop what room that leaves or needs. Tiles further in that no
longer fit into the new one are cut to it. The first plan that takes less is gone on from, until no such step helps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import inf

from bitq.layers import LOOPS, Layer
from bitq.movement.expression import Parts, split, whole
from bitq.movement.model import Tiling, Widths
from bitq.movement.parts import BoundedTiling, Question, tilings_below
from bitq.movement.tiled import Tilings, held_in, interior

MOST_STEPS = 8
"""Of sizes tried on each side: up to so many times the inner tile, and so many parts of the outer one."""

MOST_WORK, PARTS = 3000, 50
"""Memories whose traffic is counted at most, as which so many parts of loops count, too: about a second."""

TileSizes = tuple[int, ...]
"""Tile size of each of `LOOPS`."""

Chain = tuple[TileSizes, ...]
"""Of each memory, the outermost first."""


def best_nearby(
    layer: Layer, widths: Widths, capacities: Sequence[float], prices: Sequence[float], known: Tilings
) -> Tilings:
    """The plan that steps from a known one lead to; that one itself if none helps.

    Args:
        layer: any layer.
        widths: bits per element, partial sums as the device has them.
        capacities: of the memories in bits, the outermost first.
        prices: of one bit into each of them.
        known: a plan; if it does not fit, it is what is returned.
    """
    counted = _Counted(layer, widths, capacities, prices)
    chain = tuple(tuple(tiling.tiles[loop] for loop in LOOPS) for tiling in known)
    price = counted.price(chain, inf)
    if price == inf:
        return known
    while counted.work < MOST_WORK:
        steps = (step for step in _steps(counted, chain) if counted.price(step, price) < price)
        better = next(steps, None)
        if better is None:
            break
        chain, price = better, counted.price(better, inf)
    return counted.tilings(chain)


def _steps(counted: _Counted, chain: Chain) -> Iterator[Chain]:
    """Plans in which one memory has another size of one loop, and perhaps of a second one."""
    for level, own in enumerate(chain):
        outer = chain[level - 1] if level else counted.extents
        inner = chain[level + 1] if level + 1 < len(chain) else (1,) * len(LOOPS)
        for loop in range(len(LOOPS)):
            for size in _sizes(outer[loop], inner[loop], own[loop]):
                changed = (*own[:loop], size, *own[loop + 1 :])
                for tile in (changed, *_filled(counted, chain[:level], outer, changed, loop)):
                    further = (tuple(map(min, each, tile)) for each in chain[level + 1 :])
                    yield (*chain[:level], tile, *further)
                    if counted.work >= MOST_WORK:
                        return


def _sizes(outer: int, inner: int, own: int) -> list[int]:
    """Sizes of a loop to try between an outer and an inner tile."""
    parts = {-(-outer // count) for count in range(1, MOST_STEPS + 1)}
    multiples = {count * inner for count in range(1, MOST_STEPS + 1)}
    return sorted({size for size in parts | multiples | {own - 1, own + 1} if 1 <= size <= outer} - {own})


def _filled(
    counted: _Counted, before: Chain, outer: TileSizes, tile: TileSizes, kept: int
) -> Iterator[TileSizes]:
    """The tile with the largest size of one other loop that fits."""
    for loop, extent in enumerate(outer):
        if loop == kept or extent == 1:
            continue
        low, high = 0, len(sizes := _smallest(extent))
        while low < high:
            middle = (low + high) // 2
            fits = counted.fits(before, (*tile[:loop], sizes[middle], *tile[loop + 1 :]))
            low, high = (middle + 1, high) if fits else (low, middle)
        if low and sizes[low - 1] != tile[loop]:
            yield (*tile[:loop], sizes[low - 1], *tile[loop + 1 :])


@lru_cache(maxsize=1024)
def _smallest(extent: int) -> list[int]:
    """The smallest tile for each number of tiles, growing."""
    return sorted({-(-extent // count) for count in range(1, extent + 1)})


class _Counted:
    """The traffic of chains, each memory counted once for the same tiles of it and of those further out."""

    def __init__(
        self, layer: Layer, widths: Widths, capacities: Sequence[float], prices: Sequence[float]
    ) -> None:
        self.layer, self.widths, self.capacities, self.prices = layer, widths, capacities, prices
        self.extents = tuple(layer.group.extent(loop) for loop in LOOPS)
        self.work = 0
        self._problems: dict[Chain, tuple[Layer, Parts]] = {(): (layer.group, whole(layer))}
        self._found: dict[Chain, BoundedTiling | None] = {}

    def price(self, chain: Chain, limit: float) -> float:
        """What is minimized, if it is below the limit and every tile fits; infinite if not."""
        price = 0.0
        for level in range(len(chain)):
            tiled = self._tiled(chain[: level + 1])
            price += tiled.bound if tiled else inf
            if not price < limit:
                return inf
        return price

    def tilings(self, chain: Chain) -> Tilings:
        """With the best order of every memory, of a chain that fits."""
        found = (self._tiled(chain[: level + 1]) for level in range(len(chain)))
        return tuple(tiled.tiling for tiled in found if tiled)

    def fits(self, before: Chain, tile: TileSizes) -> bool:
        """Whether the next memory holds such a tile."""
        held = held_in(self._problem(before)[0], dict(zip(LOOPS, tile, strict=True)))
        return held.bits(self.widths) <= self.capacities[len(before)]

    def _tiled(self, chain: Chain) -> BoundedTiling | None:
        if chain not in self._found:
            (problem, parts), level = self._problem(chain[:-1]), len(chain) - 1
            self.work += 1 + sum(map(len, parts.values())) // PARTS
            asked = Question(self.layer, problem, parts, self.capacities[level], self.prices[level], 0.0, ())
            _, found = tilings_below(asked, self.widths, tuple((size,) for size in chain[-1]), inf, MOST_WORK)
            self._found[chain] = next(found, None) if found else None
        return self._found[chain]

    def _problem(self, chain: Chain) -> tuple[Layer, Parts]:
        """What the next memory is given: the largest part, and all of them."""
        if chain not in self._problems:
            problem, parts = self._problem(chain[:-1])
            tiling = Tiling(LOOPS, dict(zip(LOOPS, chain[-1], strict=True)))
            self._problems[chain] = interior(problem, tiling), split(parts, tiling)
        return self._problems[chain]
