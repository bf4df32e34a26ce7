"""Convolutions and linear layers tile by tile: in the order and the tile sizes that the movement model found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from bitq.errors import shortened
from bitq.exporting.c99.kinds.convolving import ChannelRun, Convolve
from bitq.exporting.c99.steps import Resident, Schedule, StepOfC
from bitq.layers import Layer
from bitq.movement.model import Tiling, Widths
from bitq.movement.optimum import optimize

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
        inner, (height, width) = int(self.filters.k.shape[2]), self.walk.kernel
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


def fits(step: StepOfC, tiling: Tiling) -> bool:
    """Whether a step gives the same bits in these tiles: they have whole blocks of the output, which are rounded when
    all of them is there, and cut no run of channels whose products lose bits."""
    layer, grains = layer_of(step), _grains(step)
    if layer is None or grains is None:
        return False
    return all(
        tiling.size(layer, loop) in (layer.extent(loop), tiling.size(layer, loop) // grain * grain)
        for loop, grain in grains.items()
    )


def _grains(step: StepOfC) -> dict[str, int] | None:
    """What tiles along K and C have multiples of, or all; None, if a group has a part of a block."""
    source, layer = step.source, layer_of(step)
    assert isinstance(source, Convolve)
    assert layer is not None
    outputs, block = layer.extent("K"), step.numbers.block if step.numbers.top else 1
    if layer.groups > 1 and outputs % block:
        return None
    return {"K": min(block, outputs), "C": 1 if source.left >= source.tops else layer.C}


def best_tiling(step: StepOfC, capacity_bits: float) -> Tiling | None:
    """That of least movement of those that give the same bits, if all tiles lie unpacked in a memory; None, if there is
    none.

    Raises:
        Infeasible: a memory too small for the least tiles.
    """
    source, layer = step.source, layer_of(step)
    grains = None if layer is None else _grains(step)
    if layer is None or grains is None or not isinstance(source, Convolve):
        return None
    stored, filters, target = source.input, source.filters, step.target
    k, c = grains["K"], grains["C"]
    coarse = replace(layer, K=layer.groups * -(-layer.extent("K") // k), C=-(-layer.C // c))
    codes = 8 * filters.codes.size / filters.k.size if filters.code_bits else 0.0
    output = _unpacked_bits(target)
    own = Widths(
        c * _unpacked_bits(stored),
        k * output,
        k * c * (_BITS[filters.ctype] + codes),
        k * (output + (64 if source.wide else 32)),
    )
    found = optimize(coarse, own, capacity_bits).tiling
    sizes = {loop: min(size * grains.get(loop, 1), layer.extent(loop)) for loop, size in found.tiles.items()}
    return Tiling(found.permutation, sizes)


_BITS = {"int8_t": 8, "uint8_t": 8, "int16_t": 16, "int64_t": 64}


def _unpacked_bits(stored: Resident) -> float:
    """Of a number in a tile, with its share of a code."""
    kept = stored.stored
    codes = 8 * stored.blocks / stored.channels if kept.top else 0.0
    return max(_BITS[stored.numbers.ctype], _BITS[kept.ctype]) + codes


def tiled(network: Schedule, tilings: Mapping[int, Tiling]) -> Schedule:
    """The same network, with tiles in the steps of these numbers, which they have to fit."""

    def own(number: int, step: StepOfC) -> StepOfC:
        source = step.source
        if number not in tilings or not isinstance(source, Convolve):
            return step
        assert fits(step, tilings[number])
        given = {each.name: getattr(source, each.name) for each in fields(source)}
        return replace(step, source=Tiled(**given, tiling=tilings[number]))

    return replace(network, steps=tuple(own(number, step) for number, step in enumerate(network.steps)))


def in_tiles(network: Schedule, capacity_bits: float) -> Schedule:
    """The same network, whose layers have the tiles of least movement through a memory, where they can.

    Raises:
        Infeasible: a memory too small for the least tiles of a layer.
    """
    found = {number: best_tiling(step, capacity_bits) for number, step in enumerate(network.steps)}
    return tiled(network, {number: tiling for number, tiling in found.items() if tiling is not None})


def but(network: Schedule) -> str:
    """Which layers have no tiles, and why, to be said behind that others have; "", if all have."""
    names = [step.module for step in network.steps if type(step.source) is Convolve]
    if not names:
        return ""
    told = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f", but {len(names)} ({shortened(told)}): transposed, or with blocks of the output over several groups"
