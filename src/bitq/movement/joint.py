"""The plan of all memories jointly: least energy over the tilings of every level at once, edge tiles included.

`bitq.movement.levels` lets every memory minimize its own traffic, outermost first. A tile that costs DRAM nothing or
little more may suit the inner memories better; here the sum over all boundaries of traffic times energy decides.

Branch and bound: the tilings of the outer memory, the lowest bound first, each with the best plan further in. The order
of an outer memory's loops does not matter further in, so each tile vector has its best order. What a memory further in
moves is at least the compulsory traffic of the tiles it is given, and at least the lower bound on any schedule with its
capacity. A first pass tries few tile sizes, for a good plan soon, a second one the smallest tile of each number of
tiles, a third one all integer tiles, for the proof. What the budget leaves out counts with its bound.
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
from bitq.movement.parts import Inner, Question, Sizes, choices, every_size, few_sizes, smallest_sizes

BUDGET = 500_000
"""Tile vectors to solve for one layer: a second or so on one core."""

ROUNDING = 1e-12
"""Relative difference of energies that counts as none."""

SHARE, RESERVE = 4, 64
"""A tiling of an outer memory gets a fourth of the budget left, until a 64th of it is left: others get their turn."""

CALL = 1000
"""What making the tables of one memory costs, in tile vectors solved."""


@dataclass(frozen=True)
class JointMovement:
    """A plan of all memories of a device for one layer.

    Attributes:
        levels: movement at every memory, outermost (DRAM's traffic) first.
        energy_pj: of all of it, in pJ.
        lower_bound_pj: no plan of tilings takes less.
        proven: the plan is optimal (up to rounding): `lower_bound_pj` is its energy.
    """

    levels: tuple[LevelMovement, ...]
    energy_pj: float
    lower_bound_pj: float
    proven: bool

    @property
    def gap(self) -> float:
        """Part of the energy that a better plan could at most save."""
        return 1 - self.lower_bound_pj / self.energy_pj if self.energy_pj else 0.0


def joint_movement(layer: Layer, widths: Widths, device: Device, budget: int = BUDGET) -> JointMovement:
    """The least energy that a layer's traffic through all memories of a device takes, as far as the budget goes.

    Args:
        layer: groups are independent convolutions, done one after the other.
        widths: bits per element; partial sums take at least those of the device.
        device: its memories; the tile of one is the problem of the next inner one, as for `levels.movement`.
        budget: about how many tile vectors to solve. The result never takes more energy than `levels.movement`,
            and depends on nothing but the arguments.

    Returns:
        The best plan found, with a bound on all others: over all integer tiles and all orders at every level.

    Raises:
        Infeasible: a memory too small for one element of each tensor.
    """
    widths = widths.with_partial_sums(device.partial_sum_bits)
    greedy = movement(layer, widths, device)
    search = _Search(layer, widths, device, greedy)
    for sizes, limit in ((few_sizes, budget // 4), (smallest_sizes, budget // 2), (every_size, budget)):
        left = search.explore(sizes, (), layer.group, whole(layer), 0.0, search.least_pj, limit)
    levels = search.levels()
    energy = sum(level.energy_pj for level in levels)
    proven = left >= energy * (1 - ROUNDING)
    return JointMovement(levels, energy, energy if proven else left, proven)


class _Search:
    """The best plan so far, and how many tile vectors were solved."""

    def __init__(self, layer: Layer, widths: Widths, device: Device, greedy: tuple[LevelMovement, ...]) -> None:
        self.layer, self.widths, self.boundaries, self.greedy = layer, widths, device.boundaries, greedy
        self.least_bits = [greedy[0].bits, *(level.lower_bound_bits for level in greedy[1:])]  # the first is optimal
        self.least_pj = sum(
            bits * source.energy_pj_per_bit for bits, (_, source) in zip(self.least_bits, self.boundaries, strict=True)
        )
        self.tilings = tuple(level.tiling for level in greedy)
        self.energy_pj = sum(level.energy_pj for level in greedy)
        self.solved = 0

    def explore(
        self,
        sizes: Callable[[Layer], Sizes],
        outer: tuple[Tiling, ...],
        problem: Layer,
        parts: Parts,
        spent_pj: float,
        least_pj: float,
        limit: int,
    ) -> float:
        """Improve on the best plan with the plans that begin with the tilings `outer`.

        Args:
            sizes: tile sizes to try at every memory but the innermost, where all are.
            outer: tilings of the outer memories.
            problem: the largest part, a layer of one group.
            parts: what `outer` cuts the layer into.
            spent_pj: energy of the traffic into the outer memories.
            least_pj: energy below which no plan that begins so comes.
            limit: stop when so many tile vectors were solved.

        Returns:
            Energy below which none of the plans with these sizes that were left out comes, infinite if none was that
            is better than the best one.
        """
        level = len(outer)
        innermost = level + 1 == len(self.boundaries)
        energy_pj_per_bit = self.boundaries[level][1].energy_pj_per_bit
        solved, found = choices(
            self._question(level, problem, parts),
            self.widths,
            (every_size if innermost else sizes)(problem),
            self._wanted_pj - spent_pj,
            limit - self.solved,
        )
        self.solved += solved + CALL
        if found is None:
            return least_pj
        left, reserve = inf, max(0, limit - self.solved) // RESERVE
        for choice in found:
            bound_pj, now_pj = spent_pj + choice.bound_pj, spent_pj + choice.bits * energy_pj_per_bit
            if bound_pj >= self._wanted_pj:
                break
            tilings = (*outer, choice.tiling)
            if innermost:
                self.tilings, self.energy_pj = tilings, now_pj
                break
            if limit - self.solved <= reserve:
                return min(left, bound_pj)
            share = limit if level + 2 == len(self.boundaries) else self.solved + (limit - self.solved) // SHARE
            tile, tiles = interior(problem, choice.tiling), split(parts, choice.tiling)
            left = min(left, self.explore(sizes, tilings, tile, tiles, now_pj, bound_pj, share))
        return left

    @property
    def _wanted_pj(self) -> float:
        return self.energy_pj * (1 - ROUNDING)

    def _question(self, level: int, problem: Layer, parts: Parts) -> Question:
        memory, source = self.boundaries[level]
        sizes = {loop: problem.extent(loop) for loop in LOOPS}
        compulsory = traffic(self.layer, Tiling((), sizes), parts).bits(self.widths)
        inner = tuple(
            Inner(further.energy_pj_per_bit, least)
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
