"""What a network moves, layer by layer, with its tensors in given formats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from bitq.devices import Device
from bitq.formats import TensorFormats
from bitq.layers import Layer
from bitq.movement.asking import heard
from bitq.movement.levels import LayerPlan, plan
from bitq.movement.model import Traffic, Widths
from bitq.movement.tiled import LevelMovement, LevelTotal
from bitq.movement.widths import taken, widths


@dataclass(frozen=True)
class LayerMovement:
    """A layer's traffic at every memory of a device, outermost first.

    Attributes:
        layer: what is computed.
        formats: what its tensors are kept in.
        widths: what that comes to, in bits per element.
        planned: its plan, with what the device minimizes and how far from the least that may be.
    """

    layer: Layer
    formats: TensorFormats
    widths: Widths
    planned: LayerPlan

    @property
    def levels(self) -> tuple[LevelMovement, ...]:
        """One entry for each pair of neighbouring memories."""
        return self.planned.levels

    @property
    def bits(self) -> float:
        """Traffic over all memories, in bits."""
        return sum(level.bits for level in self.levels)

    @property
    def energy_pj(self) -> float:
        """Energy of that traffic, in pJ (paper, Eq. 8)."""
        return sum(level.energy_pj for level in self.levels)

    @property
    def energy_by_tensor(self) -> dict[str, float]:
        """Energy that "input", "weight" and "output" each take, in pJ."""
        energy = dict.fromkeys(("input", "weight", "output"), 0.0)
        for level in self.levels:
            for part, bits in traffic_bits(level.traffic, self.widths).items():
                energy[part.partition("_")[0]] += level.energy_pj * bits / level.bits
        return energy


def layer_movement(layer: Layer, formats: TensorFormats, device: Device) -> LayerMovement:
    """Least movement of one layer.

    Args:
        layer: any layer.
        formats: for its tensors, which have those it takes (`bitq.movement.widths.taken`).
        device: its memories, and what is minimized.

    Raises:
        Infeasible: a memory too small for one element of each tensor.
    """
    formats = taken(layer, formats)
    sizes = widths(layer, formats, device.partial_sum_bits)
    return LayerMovement(layer, formats, sizes, plan(layer, sizes, device))


def network_movement(
    layers: Sequence[Layer],
    formats: Sequence[TensorFormats],
    device: Device,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[LayerMovement, ...]:
    """Least movement of every layer; layers of equal shape and formats are solved once.

    Args:
        layers: of one network or of several.
        formats: of each layer's tensors.
        device: its memories, and what is minimized.
        progress: called with (done, total) before each layer, and now and then while one is solved.

    Raises:
        Infeasible: a memory too small for one element of each tensor.
    """
    questions = [(layer.unnamed, own) for layer, own in zip(layers, formats, strict=True)]
    solved: dict[tuple[Layer, TensorFormats], LayerMovement] = {}
    moved = []
    for done, (layer, question) in enumerate(zip(layers, questions, strict=True)):
        tell = partial(progress, done, len(layers))
        tell()
        if question not in solved:
            with heard(tell):
                solved[question] = layer_movement(layer, question[1], device)
        moved.append(replace(solved[question], layer=layer))
    return tuple(moved)


def traffic_bits(traffic: Traffic, sizes: Widths) -> dict[str, float]:
    """Traffic by tensor and direction, in bits: "input", "weight", "output_writes" and "output_reads"."""
    finishing = (sizes.output - sizes.accumulated) * traffic.outputs
    return {
        "input": sizes.input * traffic.input_reads,
        "weight": sizes.weight * traffic.weight_reads,
        "output_writes": sizes.accumulated * traffic.output_writes + finishing,
        "output_reads": sizes.accumulated * traffic.output_reads,
    }


def level_totals(moved: Iterable[LayerMovement]) -> tuple[LevelTotal, ...]:
    """Sums over the layers of a network at every memory, outermost first."""
    return tuple(
        LevelTotal(
            levels[0].memory,
            levels[0].source,
            sum(level.bits for level in levels),
            sum(level.energy_pj for level in levels),
            sum(level.lower_bound_bits for level in levels),
        )
        for levels in zip(*(layer.levels for layer in moved), strict=True)
    )
