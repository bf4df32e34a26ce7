"""Tensors that are read as they are, one after the other or in another order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bitq.exporting.c99.fixed_point import IntArray
from bitq.exporting.c99.integers import Slots, drawn, lifted
from bitq.exporting.c99.steps import ROOM, Lift, Origin, Resident, StepOfC, bits_of
from bitq.exporting.c99.wires import Wire
from bitq.exporting.c99.writing import LinesOfC, Writer, source_in_c

View = Literal["same", "flat", "turned"]


@dataclass(frozen=True)
class Copy(Origin):
    """Tensors as they are, one after the other along the channels.

    Attributes:
        parts: of the same positions.
        view: "flat": positions become channels, each channel's together, as flattening has it; "turned": positions
            become channels, and channels positions.
    """

    parts: tuple[Lift, ...]
    view: View = "same"

    @property
    def reads(self) -> tuple[Resident, ...]:
        """The tensors."""
        return tuple(part.stored for part in self.parts)

    @property
    def chosen_from(self) -> Resident | None:
        """The tensor, if it is one."""
        return self.parts[0].stored if len(self.parts) == 1 else None

    @property
    def keeps_blocks(self) -> bool:
        """Whether nothing is moved."""
        return self.view == "same"


def read(parts: tuple[Resident, ...], view: View = "same") -> Wire:
    """Resident tensors one after the other along the channels."""
    first, highest = parts[0], max(part.numbers.highest + bits_of(part.largest) for part in parts)
    unit = highest - ROOM
    lifts = tuple(Lift(part, part.numbers.highest - unit) for part in parts)
    height, width = {"same": (first.height, first.width), "flat": (1, 1), "turned": (1, first.channels)}[view]
    spread = {"same": 1, "flat": first.positions, "turned": first.positions / first.channels}[view]
    counts = [round(part.channels * spread) for part in parts]
    gains = np.repeat([part.numbers.scale for part in parts], counts)
    bounds = np.repeat([part.bound / part.numbers.scale for part in parts], counts)
    return Wire(Copy(lifts, view), (), unit, bounds, gains, np.zeros(len(gains)), height, width)


@drawn.register
def _copy_in_integers(source: Copy, memory: Slots, target: Resident) -> IntArray:
    parts = [lifted(lift, *memory[lift.stored.name]) for lift in source.parts]
    whole = np.concatenate(parts, axis=2)
    turned = whole.transpose(2, 0, 1)
    shapes = {"same": whole, "flat": turned.reshape(1, 1, -1), "turned": turned.reshape(1, len(turned), -1)}
    return shapes[source.view]


@source_in_c.register
def _copy_in_c(source: Copy, writer: Writer, number: int, step: StepOfC) -> LinesOfC:
    lines, first = [], 0
    if source.view == "turned":
        return LinesOfC([f"v = {writer.lifted(source.parts[0], 'k', 'at + t')};"])
    if source.view == "flat":
        (lift,) = source.parts
        positions = lift.stored.positions
        return LinesOfC([f"v = {writer.lifted(lift, f'k % {positions}', f'k / {positions}')};"])
    for part in source.parts:
        last = first + part.stored.channels
        condition = "" if last == step.target.channels else f"if (k < {last}) "
        lines.append(f"{'else ' if first else ''}{condition}v = {writer.lifted(part, 'at + t', f'(k - {first})')};")
        first = last
    return LinesOfC([" ".join(lines)] if len(lines) == 1 else lines)
