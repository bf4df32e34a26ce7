"""The geometry of one image axis: outputs, kernel taps, and the stored rows they use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from bitq.errors import BitqError
from bitq.layers import Layer
from bitq.movement._engine import ffi, lib
from bitq.movement.asking import UNWANTED, checked

MOST_BYTES = 1 << 29
"""Of the rows and tiles of one axis, which the engine makes lists of."""

OUTER, CURRENT, INNER = range(3)
"""Where a loop stands when some loop of the nest advances: outside of it, that loop itself, inside of it."""


@dataclass(frozen=True)
class Axis:
    """Height or width of a convolution; see `bitq.layers.Layer` for the fields (`size` is stored rows)."""

    out: int
    taps: int
    stride: int
    dilation: int
    padding: int
    size: int
    spread: int

    @classmethod
    def of(cls, layer: Layer, axis: int) -> Axis:
        """Axis 0 (P, R: rows) or 1 (Q, S: columns) of a layer."""
        out, taps = ((layer.P, layer.R), (layer.Q, layer.S))[axis]
        return cls(
            out=out,
            taps=taps,
            stride=layer.stride[axis],
            dilation=layer.dilation[axis],
            padding=layer.padding[axis],
            size=layer.size[axis],
            spread=layer.input_dilation[axis],
        )

    def part(self, out: range, taps: range) -> Axis:
        """The axis of some consecutive outputs and taps, a problem of its own. Interior parts of a shape are equal."""
        first = out.start * self.stride + taps.start * self.dilation - self.padding
        reach = (len(out) - 1) * self.stride + (len(taps) - 1) * self.dilation + 1
        stored = (self.size - 1) * self.spread + 1
        low = max(0, first) // self.spread * self.spread  # keep the phase of the stored places
        size = max(0, (min(first + reach, stored) - low - 1) // self.spread + 1)
        return replace(self, out=len(out), taps=len(taps), padding=low - first, size=size)


@lru_cache(maxsize=1024)
def axis_tiles(axis: Axis) -> Any:
    """All tile pairs of an axis worth trying, an array of the engine's `bitq_axis_tile`.

    Raises:
        BitqError: an axis that is too long.
    """
    _check_length(axis)
    room = 4096
    while True:
        tiles = ffi.new("bitq_axis_tile[]", room)
        count = checked(lib.bitq_axis_tiles(*_geometry(axis), tiles, room, UNWANTED), f"an axis of {axis.out} outputs")
        if count <= room:
            return ffi.new("bitq_axis_tile[]", [tiles[i] for i in range(count)])
        room = count


@lru_cache(maxsize=65536)
def kept_rows(axis: Axis, tile_out: int, tile_tap: int) -> tuple[int, ...]:
    """Rows a new tile shares with the held one, summed over the walk, for each pair of states.

    Returns:
        Nine sums, entry 3·(state of the output loop) + (state of the tap loop); entry 0, both outside, is the sum of
        the rows of all tiles.
    """
    tile = _summed(axis, tile_out, tile_tap)  # held while its field is read: that is a view of it
    return tuple(tile.kept)


@lru_cache(maxsize=65536)
def largest_rows(axis: Axis, tile_out: int, tile_tap: int) -> int:
    """Rows of the largest tile of these sizes."""
    _check_length(axis)
    return int(_summed(_shortened(axis, tile_out), tile_out, tile_tap).span)


def _shortened(axis: Axis, tile_out: int) -> Axis:
    """An axis with the same kinds of tiles of so many outputs: of those that no edge cuts, nor any tile that uses their
    rows, it has one for each phase of spread rows, which repeats after as many tiles as there are phases."""
    step, reach = tile_out * axis.stride, (axis.taps - 1) * axis.dilation
    before = -(-(axis.padding + reach) // step)
    over = (axis.out - 1) * axis.stride + reach - axis.padding - (axis.size - 1) * axis.spread
    after = (max(over, 0) + reach) // step + 2
    spare = axis.out // tile_out - before - after - axis.spread
    removed = max(spare // axis.spread, 0) * axis.spread
    return replace(axis, out=axis.out - removed * tile_out, size=axis.size - removed * step // axis.spread)


def _summed(axis: Axis, tile_out: int, tile_tap: int) -> Any:
    _check_length(axis)
    tile = ffi.new("bitq_axis_tile *", {"tile_out": tile_out, "tile_tap": tile_tap})
    checked(lib.bitq_axis_sums(*_geometry(axis), tile), f"an axis of {axis.out} outputs")
    return tile


def _check_length(axis: Axis) -> None:
    """Refuse an axis for which the engine's lists, an interval for each tile and a count for each row, are too long."""
    needed = axis.out * axis.taps * ffi.sizeof("int64_t[2]") + (axis.size * axis.spread + 1) * ffi.sizeof("int64_t")
    if needed > MOST_BYTES:
        raise BitqError(
            f"an axis of {axis.out} outputs, {axis.taps} taps and {axis.size} inputs takes {needed / 2**30:.1f} GiB to "
            f"tile, more than {MOST_BYTES / 2**30:.1f} GiB; give a smaller input shape"
        )


def _geometry(axis: Axis) -> tuple[int, ...]:
    return (axis.out, axis.taps, axis.stride, axis.dilation, axis.padding, axis.size, axis.spread)
