"""Convolutions and linear layers tile by tile: in the order and the tile sizes that the movement model found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from bitq.exporting.c99.kinds.convolving import ChannelRun, Convolve
from bitq.exporting.c99.steps import Schedule, StepOfC
from bitq.layers import Layer
from bitq.movement.model import Tiling

REDUCTIONS = ("C", "R", "S")
"""Loops over what is summed up."""


@dataclass(frozen=True, eq=False)
class Tiled(Convolve):
    """The same sums, with every tensor's tile in memory of its own.

    Attributes:
        tiling: of one group's loops.
    """

    tiling: Tiling

    def size(self, loop: str) -> int:
        """Of a tile along a loop of C, R and S."""
        return self.tiling.tiles.get(loop, self.extent(loop))

    def extent(self, loop: str) -> int:
        """Of a group's loop of C, R and S."""
        inner, (height, width) = self.filters.k.shape[2], self.walk.kernel
        return {"C": inner, "R": height, "S": width}[loop]

    def runs(self, group: int, part: int) -> tuple[ChannelRun, ...]:
        """Those of a group that lie in a tile along its channels, told from the tile's begin on."""
        size, inner, block = self.size("C"), self.extent("C"), self.input.numbers.block
        begin, end = part * size, min((part + 1) * size, inner)
        code = (group * inner + begin) // block if self.input.numbers.top else 0
        weight_code = begin // self.filters.block if self.filters.shifted_top else 0
        return tuple(
            ChannelRun(
                max(run.first, begin) - begin,
                min(run.last, end) - begin,
                run.code - code,
                run.weight_code - weight_code,
            )
            for run in self.segments(group)
            if run.first < end and begin < run.last
        )


def layer_of(step: StepOfC) -> Layer | None:
    """The loops of a step as the movement model takes them; None, if it is none that can be walked tile by tile."""
    source, target = step.source, step.target
    if not isinstance(source, Convolve) or source.walk.transposed:
        return None
    walk = source.walk
    return Layer(
        step.module,
        K=target.channels,
        C=source.filters.k.shape[2],
        P=target.height,
        Q=target.width,
        R=walk.kernel[0],
        S=walk.kernel[1],
        stride=walk.stride,
        dilation=walk.dilation,
        padding=walk.padding,
        groups=source.groups,
        input_size=(source.input.height, source.input.width),
        module=step.module,
    )


def walkable(step: StepOfC, tiling: Tiling) -> Tiling | None:
    """The tiling of whole blocks that comes next to one of a step's layer; None, if there is none.

    A block of the output is rounded when all of it is there, so a tile has whole ones.
    """
    layer, source = layer_of(step), step.source
    if layer is None or not isinstance(source, Convolve):
        return None
    block, outputs, size = step.numbers.block, layer.extent("K"), tiling.size(layer, "K")
    if step.numbers.top and size < outputs:
        size = min(max(size // block, 1) * block, outputs)
    if step.numbers.top and layer.groups > 1 and outputs % block:
        return None
    found = Tiling(tiling.permutation, {**tiling.tiles, "K": size})
    return found if _keeps_sums(source, found.size(layer, "C")) else None


def _keeps_sums(source: Convolve, size: int) -> bool:
    """Whether sums are the same if runs are cut at tiles' ends: where no bit is lost, or none is cut."""
    runs = [run for group in range(source.groups) for run in source.segments(group)]
    return source.left >= source.tops or all(run.first // size == (run.last - 1) // size for run in runs)


def tiled(network: Schedule, tilings: Mapping[int, Tiling]) -> Schedule:
    """The same network, with tiles in the steps of these numbers, as far as `walkable` tells."""

    def own(number: int, step: StepOfC) -> StepOfC:
        tiling = walkable(step, tilings[number]) if number in tilings else None
        source = step.source
        if tiling is None or not isinstance(source, Convolve):
            return step
        given = {each.name: getattr(source, each.name) for each in fields(source)}
        return replace(step, source=Tiled(**given, tiling=tiling))

    return replace(network, steps=tuple(own(number, step) for number, step in enumerate(network.steps)))
