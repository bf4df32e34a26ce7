"""What each layer of a plan takes of a device: work, room in flash and RAM, traffic, energy.

All of it is counted, from network, formats and sizes of memories alone, but energy, which hangs on an assumed energy
per bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitq.formats import TensorFormats
from bitq.movement.widths import weight_sizes
from bitq.tradeoff.plan import Plan, PlanLayer


@dataclass(frozen=True)
class Taken:
    """What a layer takes.

    Attributes:
        name: of the layer.
        macs: multiply-accumulates.
        flash: its packed weight, in bytes; None if that stands in another line or is not known.
        ram: activations that live while it runs, in bytes; None in plans of earlier versions.
        bits: moved between each pair of `boundaries`; None where the layer has no such pair.
        energy_pj: of moving them.
    """

    name: str
    macs: int
    flash: int | None
    ram: int | None
    bits: tuple[float | None, ...]
    energy_pj: float


def boundaries(plan: Plan) -> tuple[str, ...]:
    """The pairs of neighbouring memories that a plan moves bits between, outermost first."""
    return tuple(dict.fromkeys(f"{level.source} ↔ {level.memory}" for layer in plan.layers for level in layer.levels))


def flash(plan: Plan) -> Sequence[int | None]:
    """Bytes of each layer's packed weight, as `bitq.movement.widths.weight_sizes` tells them."""
    formats = [layer.formats for layer in plan.layers]
    floating = {layer.name for layer, own in zip(plan.layers, formats, strict=True) if own == TensorFormats()}
    return weight_sizes([layer.layer for layer in plan.layers], formats, floating)


def taken(plan: Plan) -> tuple[Taken, ...]:
    """What every layer of a plan takes, and last the whole network."""
    pairs = boundaries(plan)
    every = [_taken(layer, size, pairs) for layer, size in zip(plan.layers, flash(plan), strict=True)]
    return (*every, _total(plan, every))


def _total(plan: Plan, every: Sequence[Taken]) -> Taken:
    """Weights with all else that is stored, the memory that holds all activations, and sums over the layers."""
    bits = tuple(sum(each.bits[at] or 0.0 for each in every) for at in range(len(boundaries(plan))))
    ram = None if plan.ram is None else plan.ram.bytes
    energy = sum(each.energy_pj for each in every)
    return Taken("the network", sum(each.macs for each in every), plan.totals.model_bytes, ram, bits, energy)


def _taken(layer: PlanLayer, size: int | None, pairs: Sequence[str]) -> Taken:
    moved = {f"{level.source} ↔ {level.memory}": level.traffic_bits.total for level in layer.levels}
    return Taken(
        layer.name, layer.layer.macs, size, layer.ram_bytes, tuple(map(moved.get, pairs)), layer.energy_pj
    )
