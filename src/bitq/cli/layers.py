"""How commands tell of a network's layers, and of what stays float."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from rich.table import Table

from bitq.cli.output import bits_text, bytes_text, count_text, energy_text, ratio_text
from bitq.cli.tables import TextColumn, table_of
from bitq.floating import names_text
from bitq.formats import TENSORS, TensorFormats
from bitq.layers import Layer

if TYPE_CHECKING:
    from bitq.tradeoff.plan import FloatPart

SHAPES = "shape: channels in → out, kernel, height × width of the output"
UNCOUNTED = " (computes no product, so its movement is not counted)"

T = TypeVar("T")


@dataclass(frozen=True)
class Line:
    """A line of a table: a layer, and how many follow that are like it, such as the steps of a recurrence.

    Attributes:
        layer: the first of them.
        formats: of its tensors.
        weight_bytes: what its weight takes, None if that stands in another line or is not known.
        count: how many they are.
    """

    layer: Layer
    formats: TensorFormats
    weight_bytes: int | None
    count: int


def alike(items: Sequence[T], about: Callable[[T], tuple[Layer, TensorFormats]]) -> list[tuple[T, int]]:
    """The first of each run of items about layers that differ by name alone, and the length of the run."""

    def key(item: T) -> tuple[Layer, TensorFormats]:
        layer, formats = about(item)
        return replace(layer, name=""), formats

    return [(next(run), 1 + sum(1 for _ in run)) for _, run in groupby(items, key)]


def name_column(lines: Sequence[Line]) -> TextColumn:
    """What layers are called."""
    names = [
        line.layer.name if line.count == 1 else f"{line.layer.name} and {line.count - 1} more" for line in lines
    ]
    return TextColumn("layer", names, "total", left=True)


def kind_column(lines: Sequence[Line]) -> TextColumn:
    """What layers compute."""
    return TextColumn("kind", [kind(line.layer) for line in lines], left=True)


def shape_column(lines: Sequence[Line]) -> TextColumn:
    """How large layers are, as `SHAPES` explains."""
    return TextColumn("shape", [shape(line.layer) for line in lines], left=True)


def macs_column(lines: Sequence[Line]) -> TextColumn:
    """Their multiply-accumulates."""
    return TextColumn.of("MACs", [line.count * line.layer.macs for line in lines], count_text)


def weights_column(lines: Sequence[Line]) -> TextColumn:
    """What their weights take."""
    return TextColumn.of("weights", [line.weight_bytes for line in lines], bytes_text)


def format_columns(lines: Sequence[Line]) -> list[TextColumn]:
    """The three formats: one column where each layer has one for all tensors, none where all is float."""
    cells = {tensor: [str(getattr(line.formats, tensor) or "float32") for line in lines] for tensor in TENSORS}
    first = cells["input"]
    if any(each != first for each in cells.values()):
        return [TextColumn(tensor, own, left=True) for tensor, own in cells.items()]
    return [] if set(first) == {"float32"} else [TextColumn("formats", first, left=True)]


def kind(layer: Layer) -> str:
    """What a layer computes, in a word."""
    if layer.table is not None:
        return "embedding"
    if _is_product(layer):
        return "linear" if layer.weight_is_parameter else "product"
    if layer.transposed:
        return "transposed"
    if layer.groups == 1:
        return "conv"
    return "depthwise" if layer.C == 1 else "grouped"


def shape(layer: Layer) -> str:
    """The extents that tell layers of a kind apart."""
    if kind(layer) == "product":
        times = f", {layer.groups} times" if layer.groups > 1 else ""
        return f"{layer.N}×{layer.C} · {layer.C}×{layer.K // layer.groups}{times}"
    if layer.table is not None:
        return f"{layer.groups} of {layer.table[0]}×{layer.table[1]}"
    parts = [f"{layer.C * layer.groups}→{layer.K}"]
    if not _is_product(layer):
        parts += [f"{layer.R}×{layer.S}", f"{layer.P}×{layer.Q}"]
    if layer.groups > 1 and kind(layer) != "depthwise":
        parts.append(f"{layer.groups} groups")
    if layer.N > 1:
        parts.append(f"{layer.N} {'rows' if _is_product(layer) else 'images'}")
    return ", ".join(parts)


def _is_product(layer: Layer) -> bool:
    return (layer.P, layer.Q, layer.R, layer.S, *layer.size) == (1,) * 6


def float_table(parts: Sequence[FloatPart]) -> Table:
    """What stays float and why, with its shares of the movement and of the energy."""

    def column(heading: str, amount: Callable[[FloatPart], float], text: Callable[[float], str]) -> TextColumn:
        """An amount of each; none of what computes no product."""
        return TextColumn.of(heading, [amount(part) if part.layers else None for part in parts], text)

    def share(ratio: float) -> str:
        return ratio_text(ratio, 1)

    told = [
        f"{names_text(part.modules or part.layers)}: {part.reason}{'' if part.layers else UNCOUNTED}" for part in parts
    ]
    whys = TextColumn("stays float", told, "total", left=True)
    return table_of(
        [
            [whys],
            [
                column("bits moved", lambda part: part.movement_bits, bits_text),
                column("of all", lambda part: part.movement_share, share),
            ],
            [
                column("energy", lambda part: part.energy_pj, energy_text),
                column("of all", lambda part: part.energy_share, share),
            ],
            [TextColumn.of("stored", [part.stored_bytes for part in parts], bytes_text)],
        ]
    )
