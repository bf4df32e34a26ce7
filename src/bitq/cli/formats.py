"""The formats that a command is given: one for every tensor, or those of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bitq.errors import BitqError
from bitq.formats import BlockFormat, TensorFormats
from bitq.layers import LOOPS, Layer

if TYPE_CHECKING:
    from bitq.tradeoff.plan import Plan


def uniform_formats(text: str) -> TensorFormats:
    """The format of this text, such as 8:e3:b16, for every tensor.

    Raises:
        BitqError: no such format.
    """
    fmt = BlockFormat.parse(text)
    return TensorFormats(fmt, fmt, fmt)


def planned_formats(path: Path, layers: Sequence[Layer]) -> list[TensorFormats]:
    """The formats that the plan in a file gives to these layers.

    Raises:
        BitqError: no plan, or one for other layers.
    """
    from bitq.tradeoff.plan import load_plan

    plan = load_plan(path)
    planned = {entry.name: entry for entry in plan.layers}
    for layer in layers:
        entry = planned.pop(layer.name, None)
        if entry is None:
            raise _other_network(path, plan, f"it has no layer {layer.name!r}")
        loops = {loop: getattr(layer, loop) for loop in LOOPS}
        if (entry.loops, entry.groups) != (loops, layer.groups):
            raise _other_network(path, plan, f"its layer {layer.name!r} has other loops")
    if planned:
        raise _other_network(path, plan, f"layer {next(iter(planned))!r} is only in the plan")
    by_name = {entry.name: entry.formats for entry in plan.layers}
    return [by_name[layer.name] for layer in layers]


def _other_network(path: Path, plan: Plan, difference: str) -> BitqError:
    return BitqError(
        f"{path} plans network {plan.network!r}, which is not this one on this input: {difference}; "
        "give the network and the input shape it was made for"
    )
