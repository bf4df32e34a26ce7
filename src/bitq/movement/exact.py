"""All plans of a layer's memories looked at, as far as a budget goes: the best of them, and what none comes below.

The method is branch and bound:

1. *Branches.* A plan chooses a tiling of the outermost memory, then one of the next memory for the tiles that this
   makes, and so on inward. The order of a memory's loops decides the traffic into that memory alone: all that the
   next one sees are the tiles. So each vector of tile sizes is one branch, with the order that is best for it. Edge
   tiles count as they are.
2. *Bound.* The traffic into the memories that have their tiling is known. Into each memory further in moves at
   least the larger of two amounts: every tile that it is given once (compulsory traffic), and what any plan moves
   through a memory of its capacity. The price of all this is the bound of a branch: no plan that begins so takes
   less.
3. *Search.* The branch of the lowest bound is followed first. A branch whose bound is not below the best plan known
   is dropped, and with it all branches after it, whose bounds are no lower.
4. *Passes.* The first pass tries few tile sizes and soon finds a good plan, so that the later ones can drop more.
   The second tries the smallest tile of each number of tiles, the third every integer tile. Only the third proves
   anything.
5. *Budget.* A search that runs out of its budget leaves branches out. The least of their bounds is what it could
   still have found, and so the lower bound of the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from bitq.devices import Device
from bitq.layers import LOOPS, Layer
from bitq.movement.expression import Parts, split, traffic, whole
from bitq.movement.model import Tiling, Widths
from bitq.movement.parts import InnerMemory, Question, TriedSizes, every_size, few_sizes, smallest_sizes, tilings_below
from bitq.movement.tiled import Tilings, interior

ROUNDING = 1e-12
"""Relative difference of prices that counts as none."""

SHARE, RESERVE = 4, 64
"""What lies further in than one tiling may use a fourth of the budget that is left, so that other tilings get their
turn. They stop having it when a 64th is left of what there was at first."""

CALL = 1000
"""Making the tables of one memory takes as long as finding the best orders of so many tile vectors."""


@dataclass(frozen=True)
class BestKnown:
    """The best plan found, its price, and the price below which no plan comes: the same, up to rounding, if proven."""

    tilings: Tilings
    price: float
    least: float


def improved(
    layer: Layer,
    widths: Widths,
    device: Device,
    known: Tilings,
    price: float,
    least_bits: Sequence[float],
    budget: int,
) -> BestKnown:
    """Look for a better plan than the one that is known. Time plays no part: the same arguments give the same plan.

    Args:
        layer: any layer.
        widths: bits per element, partial sums as the device has them.
        device: its memories, and what is minimized.
        known: a plan.
        price: of it.
        least_bits: for each memory, what moves into it whatever the plan.
        budget: tile vectors (tile sizes of all loops) to find the best order for.
    """
    search = _Search(layer, widths, device, known, price, least_bits)
    for sizes, limit in ((few_sizes, budget // 4), (smallest_sizes, budget // 2), (every_size, budget)):
        missed = search.explore(sizes, (), layer.group, whole(layer), 0.0, search.least, limit)
    return BestKnown(search.tilings, search.price, min(missed, search.price))


class _Search:
    """The best plan so far, and the count of tile vectors whose order was found."""

    def __init__(
        self, layer: Layer, widths: Widths, device: Device, known: Tilings, price: float, least_bits: Sequence[float]
    ) -> None:
        self.layer, self.widths = layer, widths
        self.capacities = [memory.capacity_bits for memory, _ in device.boundaries]
        self.prices = device.prices
        self.least_bits = least_bits
        self.least = sum(bits * price for bits, price in zip(least_bits, self.prices, strict=True))
        self.tilings, self.price = known, price
        self.solved = 0

    def explore(
        self,
        sizes: Callable[[Layer], TriedSizes],
        outer: tuple[Tiling, ...],
        problem: Layer,
        parts: Parts,
        spent: float,
        least: float,
        limit: int,
    ) -> float:
        """Look for a better plan among those that begin with the tilings `outer`.

        Args:
            sizes: gives the tile sizes to try. At the innermost memory all are tried.
            outer: tilings of the outer memories, outermost first.
            problem: the largest of the parts, as a layer of one group.
            parts: what `outer` cuts one group of the layer into.
            spent: price of the traffic into the memories of `outer`.
            least: bound of this branch: no plan that begins with `outer` takes less.
            limit: stop when the count of tile vectors is here.

        Returns:
            The least bound of all that the limit left out. All plans of these sizes that begin with `outer` take at
            least this, or no less than the best plan known. Infinite if nothing was left out.
        """
        level = len(outer)
        innermost = level + 1 == len(self.prices)
        solved, found = tilings_below(
            self._question(level, problem, parts),
            self.widths,
            (every_size if innermost else sizes)(problem),
            self._wanted - spent,
            limit - self.solved,
        )
        self.solved += solved + CALL
        if found is None:
            return least
        missed, reserve = inf, max(0, limit - self.solved) // RESERVE
        for branch in found:
            bound, now = spent + branch.bound, spent + branch.bits * self.prices[level]
            if bound >= self._wanted:
                break
            tilings = (*outer, branch.tiling)
            if innermost:
                self.tilings, self.price = tilings, now
                break
            if limit - self.solved <= reserve:
                return min(missed, bound)
            share = limit if level + 2 == len(self.prices) else self.solved + (limit - self.solved) // SHARE
            tile, tiles = interior(problem, branch.tiling), split(parts, branch.tiling)
            missed = min(missed, self.explore(sizes, tilings, tile, tiles, now, bound, share))
        return missed

    @property
    def _wanted(self) -> float:
        """What a plan has to take less than to be better than the best one."""
        return self.price * (1 - ROUNDING)

    def _question(self, level: int, problem: Layer, parts: Parts) -> Question:
        """What to ask of the memory at this place, counted from the outermost."""
        sizes = {loop: problem.extent(loop) for loop in LOOPS}
        once = traffic(self.layer, Tiling((), sizes), parts).bits(self.widths)
        inner = tuple(map(InnerMemory, self.prices[level + 1 :], self.least_bits[level + 1 :]))
        least = max(self.least_bits[level], once)
        return Question(self.layer, problem, parts, self.capacities[level], self.prices[level], least, inner)
