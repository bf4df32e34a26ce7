"""How long activations stay in memory: from the step that writes them to the last that reads them.

A step is an operation that makes a stored tensor anew: a layer with all that is computed on its way out, pooling, a
concatenation, a copy. What it reads lives while it runs, and so does what it writes: nothing is written over what is
read in the same step, but for a sum, which is stored in place of the tensor that was computed last. What is computed on
the way into a step, as a gate is multiplied where the next layer reads, keeps alive what it is computed from. Inputs of
the network live from the first step on, what it returns lives until the last. Views lie where their tensor lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from bitq.layers import Layer
from bitq.movement.widths import FLOAT_BITS

CHOOSING = {
    f"aten::{name}"
    for name in (
        "max_pool2d_with_indices",
        "max_pool3d_with_indices",
        "adaptive_max_pool2d",
        "adaptive_max_pool3d",
        "cat",
        "stack",
        "clone",
        "copy",
        "constant_pad_nd",
        "pixel_shuffle",
        "pixel_unshuffle",
        "upsample_nearest1d",
        "upsample_nearest2d",
        "upsample_nearest3d",
        "index",
        "index_select",
        "gather",
        "roll",
        "flip",
        "repeat",
        "im2col",
    )
}
"""Operators whose results hold nothing but elements of their operands, and zeros."""


@dataclass(frozen=True)
class Portion:
    """Elements of a stored tensor that have one format.

    Attributes:
        elements: how many.
        layer: that writes or reads them; None: no layer does.
        tensor: which of its tensors they are: "input", "weight" or "output"; "" if there is no layer.
        width: bits of an element if there is no layer.
    """

    elements: int
    layer: Layer | None = None
    tensor: str = ""
    width: float = FLOAT_BITS


@dataclass(frozen=True)
class Activation:
    """A stored tensor of a network's run.

    Attributes:
        name: of the layer that writes it, "input", or the operator that does.
        parts: what it holds: in the format that its layer writes; if none does, in the one that the first layer which
            reads it takes; or, if its operator only chooses elements, in those of what it chooses from; or, if elements
            of it are chosen for a layer, in the one that this takes; else 32-bit floats, and integers as they are.
        first, last: steps from and to which it lives, both included, counted from 0.
    """

    name: str
    parts: tuple[Portion, ...]
    first: int
    last: int


@dataclass(eq=False)
class Lying:
    """What a run shows of the memory of one tensor.

    Attributes:
        name: as of an `Activation`.
        elements, width: how many there are, and the bits of one as it is computed.
        first, last: steps, as of an `Activation`; -1 if nothing reads it.
        writer: the layer that writes it.
        reader: which tensor of which layer the first that reads it takes it for.
        chosen_from: operands, if its operator only chooses elements.
        chosen_into: results of such operators that have it among their operands.
        changed: whether it is stored with what elementwise operators made of it.
    """

    name: str
    elements: int
    width: float
    first: int
    last: int = -1
    writer: Layer | None = None
    reader: tuple[Layer, str] | None = None
    chosen_from: Sequence[Lying] = ()
    chosen_into: list[Lying] = field(default_factory=list)
    changed: bool = False

    def parts(self) -> tuple[Portion, ...]:
        """As of an `Activation`."""
        if self.writer is not None:
            return (Portion(self.elements, self.writer, "output"),)
        if self.reader is not None:
            return (Portion(self.elements, *self.reader),)
        if not self.changed and self.chosen_from:
            shared = tuple(_merged(_shared(self.elements, self.chosen_from)))
            if any(part.layer is not None for part in shared):
                return shared
        if (reader := self._read_as()) is not None:
            return (Portion(self.elements, *reader),)
        return (Portion(self.elements, width=self.width),)

    def _read_as(self) -> tuple[Layer, str] | None:
        """What the first layer takes that reads it, or elements that were chosen from it."""
        found = (each._read_as() for each in self.chosen_into)
        return self.reader or next((each for each in found if each is not None), None)


def activations(lying: Iterable[Lying]) -> tuple[Activation, ...]:
    """The stored tensors that a layer writes or anything reads, by their first steps."""
    kept = [each for each in lying if each.writer is not None or each.last >= 0]
    return tuple(
        Activation(each.name, each.parts(), each.first, max(each.first, each.last))
        for each in sorted(kept, key=lambda each: each.first)
    )


def _shared(elements: int, operands: Sequence[Lying]) -> Iterator[Portion]:
    """As many elements, of each part of what they are chosen from its share."""
    parts = [part for each in operands for part in each.parts()]
    whole = sum(part.elements for part in parts)
    end = taken = 0
    for part in parts:
        end += part.elements
        share = elements * end // whole - taken
        taken += share
        yield replace(part, elements=share)


def _merged(parts: Iterable[Portion]) -> Iterator[Portion]:
    """Parts of one format as one."""
    elements: dict[Portion, int] = {}
    for part in parts:
        kind = replace(part, elements=0)
        elements[kind] = elements.get(kind, 0) + part.elements
    return (replace(kind, elements=count) for kind, count in elements.items())
