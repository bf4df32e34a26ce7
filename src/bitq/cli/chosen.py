"""The formats that a command is given: one for every tensor, or those of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bitq.errors import BitqError, shortened
from bitq.formats import TENSORS, Choosable, TensorFormats, format_for, formats_of
from bitq.layers import GEOMETRY, LOOPS, Layer

if TYPE_CHECKING:
    from bitq.tradeoff.plan import Plan, PlanLayer

NAMES = ("--formats", "--format")
"""The option; one format is asked for in the singular, too."""

HELP = (
    "BITS:eEXPONENT_BITS:bBLOCK_SIZE for every tensor, such as 8:e3:b16: 8 bits per element of which 3 are an exponent "
    "that 16 elements share; or a name such as mxint8 or msfp12; or the folder (or plan.json) of a finished search: "
    "every tensor in its own format."
)


@dataclass(frozen=True)
class Uniform:
    """One format, or what one name means, for every tensor; None for 32-bit float."""

    format: Choosable | None = None

    def __str__(self) -> str:
        return str(self.format) if self.format else "32-bit float"

    def of(self, layers: Sequence[Layer]) -> list[TensorFormats]:
        """The formats of these layers."""
        if self.format is None:
            return [TensorFormats()] * len(layers)
        return [TensorFormats(*(format_for(self.format, tensor) for tensor in TENSORS))] * len(layers)


@dataclass(frozen=True)
class Planned:
    """Those of a plan, from this file."""

    plan: Plan
    path: Path

    def __str__(self) -> str:
        return f"plan {self.path}"

    def of(self, layers: Sequence[Layer]) -> list[TensorFormats]:
        """The formats of these layers.

        Raises:
            BitqError: the plan is for other layers.
        """
        planned = {entry.name: entry for entry in self.plan.layers}
        for layer in layers:
            entry = planned.pop(layer.name, None)
            if entry is None:
                raise self._other_network(f"it has no layer {layer.name!r}")
            if difference := _difference(entry, layer):
                raise self._other_network(f"its layer {layer.name!r} has {difference}")
        if planned:
            raise self._other_network(f"layer {next(iter(planned))!r} is only in the plan")
        by_name = {entry.name: entry.formats for entry in self.plan.layers}
        return [by_name[layer.name] for layer in layers]

    def _other_network(self, difference: str) -> BitqError:
        return BitqError(
            f"{self.path} plans network {self.plan.network!r}, which is not this one on this input: {difference}; "
            "give the network and the input shape it was made for"
        )


def _difference(entry: PlanLayer, layer: Layer) -> str | None:
    """How a plan's layer differs from a network's, as far as the plan knows."""
    if entry.loops != {loop: getattr(layer, loop) for loop in LOOPS}:
        return "other loops"
    for name in ("groups", "depth", *GEOMETRY):
        planned, own = getattr(entry, name), getattr(layer, name)
        if planned not in (None, own):
            return f"{name.replace('_', ' ')} {planned}, not {own}"
    return None


def read_formats(text: str | None) -> Uniform | Planned:
    """What the option says; None is 32-bit float.

    Raises:
        BitqError: neither a possible format nor a plan.
    """
    if text is None:
        return Uniform()
    path, folder, file = Path(text), False, False
    with suppress(OSError):  # no file has so long a name
        folder, file = path.is_dir(), path.is_file()
    if folder or file or path.suffix == ".json":
        from bitq.tradeoff.plan import load_plan

        plan = path / "plan.json" if folder else path
        return Planned(load_plan(plan), plan)
    try:
        found = formats_of(text)
    except BitqError as error:
        if ":" in text:
            raise
        raise BitqError(
            f"formats {shortened(text)!r} are neither such as 8:e3:b16 nor the plan.json of a finished search: {error}"
        ) from None
    if len(found) > 1:
        raise BitqError(f"formats {shortened(text)!r} are several; give one, or compare them by `bitq evaluate`")
    return Uniform(found[0])
