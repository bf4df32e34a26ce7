"""The tilings of all memories of a device, chosen together for the least energy.

`bitq.movement.levels` lets every memory minimize the traffic into it, outermost first. That need not be the least
energy: another outer tiling may cost DRAM little or nothing more and suit the memories further in much better. Here the
energy of the traffic into all memories is minimized as one sum. Edge tiles count as they are.

The method is branch and bound:

1. *Branches.* A plan chooses a tiling of the outermost memory, then one of the next memory for the tiles that this
   makes, and so on inward. The order of a memory's loops decides the traffic into that memory alone: all that the next
   one sees are the tiles. So each vector of tile sizes is one branch, with the order that is best for it.
2. *Bound.* The traffic into the memories that have their tiling is known. Into each memory further in moves at least
   the larger of two amounts: every tile that it is given once (compulsory traffic), and what any schedule moves through
   a memory of its capacity (`bitq.movement.bound`). The energy of all this is the bound of a branch: no plan that
   begins so takes less.
3. *Search.* The branch of the lowest bound is followed first. A branch whose bound is not below the best plan known is
   dropped, and with it all branches after it, whose bounds are no lower.
4. *Passes.* The first pass tries few tile sizes and soon finds a good plan, so that the later ones can drop more. The
   second tries the smallest tile of each number of tiles, the third every integer tile. Only the third proves anything.
5. *Budget.* A search that runs out of its budget leaves branches out. The least of their bounds is what it could still
   have found, and so the lower bound of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

from bitq.devices import Device
from bitq.layers import LOOPS, Layer
from bitq.movement.expression import Parts, split, traffic, whole
from bitq.movement.levels import LevelMovement, interior, movement
from bitq.movement.model import Tiling, Widths
from bitq.movement.parts import InnerMemory, Question, TriedSizes, every_size, few_sizes, smallest_sizes, tilings_below

BUDGET = 500_000
"""Tile vectors (tile sizes of all loops) to find the best order for, for one layer: a second or so on one core."""

ROUNDING = 1e-12
"""Relative difference of energies that counts as none."""

SHARE, RESERVE = 4, 64
"""What lies further in than one tiling may use a fourth of the budget that is left, so that other tilings get their
turn. They stop having it when a 64th is left of what there was at first."""

CALL = 1000
"""Making the tables of one memory takes as long as finding the best orders of so many tile vectors."""


@dataclass(frozen=True)
class JointMovement:
    """A plan of all memories of a device for one layer.

    Attributes:
        levels: movement at every memory, outermost (DRAM's traffic) first.
        energy_pj: of all of it, in pJ.
        lower_bound_pj: no choice of tilings for all memories takes less.
        proven: whether the plan is optimal, up to rounding; `lower_bound_pj` is its energy then.
    """

    levels: tuple[LevelMovement, ...]
    energy_pj: float
    lower_bound_pj: float
    proven: bool

    @property
    def gap(self) -> float:
        """Share of the energy, in [0, 1], that a better plan could save at most."""
        return 1 - self.lower_bound_pj / self.energy_pj if self.energy_pj else 0.0


def joint_movement(layer: Layer, widths: Widths, device: Device, budget: int = BUDGET) -> JointMovement:
    """The plan of least energy for a layer's traffic through all memories of a device, as far as the budget goes.

    Args:
        layer: groups are independent convolutions, done one after the other.
        widths: bits per element; partial sums take at least those of the device.
        device: its memories; the tile of one is the problem of the next inner one, as for `levels.movement`.
        budget: for about how many tile vectors to find the best order. With any budget the plan takes no more energy
            than that of `levels.movement`. Time plays no part: the same arguments give the same plan.

    Returns:
        The best plan found, and a lower bound over all integer tiles and all orders of all memories.

    Raises:
        Infeasible: a memory too small for one element of each tensor.
    """
    widths = widths.with_partial_sums(device.partial_sum_bits)
    greedy = movement(layer, widths, device)
    search = _Search(layer, widths, device, greedy)
    for sizes, limit in ((few_sizes, budget // 4), (smallest_sizes, budget // 2), (every_size, budget)):
        missed = search.explore(sizes, (), layer.group, whole(layer), 0.0, search.least_pj, limit)
    levels = search.levels()
    energy = sum(level.energy_pj for level in levels)
    proven = missed >= energy * (1 - ROUNDING)
    return JointMovement(levels, energy, energy if proven else missed, proven)


class _Search:
    """The best plan so far, at first that of `levels.movement`, and the count of tile vectors whose order was found.

    `least_bits` is, for each memory, what moves into it whatever the plan.
    """

    def __init__(self, layer: Layer, widths: Widths, device: Device, greedy: tuple[LevelMovement, ...]) -> None:
        self.layer, self.widths, self.boundaries, self.greedy = layer, widths, device.boundaries, greedy
        self.least_bits = [greedy[0].bits, *(level.lower_bound_bits for level in greedy[1:])]  # DRAM's optimum
        self.least_pj = sum(
            bits * source.energy_pj_per_bit for bits, (_, source) in zip(self.least_bits, self.boundaries, strict=True)
        )
        self.tilings = tuple(level.tiling for level in greedy)
        self.energy_pj = sum(level.energy_pj for level in greedy)
        self.solved = 0

    def explore(
        self,
        sizes: Callable[[Layer], TriedSizes],
        outer: tuple[Tiling, ...],
        problem: Layer,
        parts: Parts,
        spent_pj: float,
        least_pj: float,
        limit: int,
    ) -> float:
        """Look for a better plan among those that begin with the tilings `outer`.

        Args:
            sizes: gives the tile sizes to try. At the innermost memory all are tried.
            outer: tilings of the outer memories, outermost first.
            problem: the largest of the parts, as a layer of one group.
            parts: what `outer` cuts one group of the layer into.
            spent_pj: energy of the traffic into the memories of `outer`.
            least_pj: bound of this branch: no plan that begins with `outer` takes less.
            limit: stop when the count of tile vectors is here.

        Returns:
            The least bound of all that the limit left out. All plans of these sizes that begin with `outer` take at
            least this, or no less than the best plan known. Infinite if nothing was left out.
        """
        level = len(outer)
        innermost = level + 1 == len(self.boundaries)
        energy_pj_per_bit = self.boundaries[level][1].energy_pj_per_bit
        solved, found = tilings_below(
            self._question(level, problem, parts),
            self.widths,
            (every_size if innermost else sizes)(problem),
            self._wanted_pj - spent_pj,
            limit - self.solved,
        )
        self.solved += solved + CALL
        if found is None:
            return least_pj
        missed, reserve = inf, max(0, limit - self.solved) // RESERVE
        for branch in found:
            bound_pj, now_pj = spent_pj + branch.bound_pj, spent_pj + branch.bits * energy_pj_per_bit
            if bound_pj >= self._wanted_pj:
                break
            tilings = (*outer, branch.tiling)
            if innermost:
                self.tilings, self.energy_pj = tilings, now_pj
                break
            if limit - self.solved <= reserve:
                return min(missed, bound_pj)
            share = limit if level + 2 == len(self.boundaries) else self.solved + (limit - self.solved) // SHARE
            tile, tiles = interior(problem, branch.tiling), split(parts, branch.tiling)
            missed = min(missed, self.explore(sizes, tilings, tile, tiles, now_pj, bound_pj, share))
        return missed

    @property
    def _wanted_pj(self) -> float:
        """What a plan has to take less than to be better than the best one."""
        return self.energy_pj * (1 - ROUNDING)

    def _question(self, level: int, problem: Layer, parts: Parts) -> Question:
        """What to ask of the memory at this place, counted from the outermost."""
        memory, source = self.boundaries[level]
        sizes = {loop: problem.extent(loop) for loop in LOOPS}
        compulsory = traffic(self.layer, Tiling((), sizes), parts).bits(self.widths)
        inner = tuple(
            InnerMemory(further.energy_pj_per_bit, least)
            for (_, further), least in zip(self.boundaries[level + 1 :], self.least_bits[level + 1 :], strict=True)
        )
        least = max(self.least_bits[level], compulsory)
        return Question(self.layer, problem, parts, memory.capacity_bits, source.energy_pj_per_bit, least, inner)

    def levels(self) -> tuple[LevelMovement, ...]:
        """Movement of the best plan."""
        levels, parts = [], whole(self.layer)
        for level, tiling, (_, source) in zip(self.greedy, self.tilings, self.boundaries, strict=True):
            moved = traffic(self.layer, tiling, parts)
            bits = moved.bits(self.widths)
            energy = bits * source.energy_pj_per_bit
            levels.append(replace(level, tiling=tiling, traffic=moved, bits=bits, energy_pj=energy))
            parts = split(parts, tiling)
        return tuple(levels)
