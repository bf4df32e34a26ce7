"""Traffic and energy against the size of one memory: how much of it a format saves.

Sizes are the powers of two and the halves between them; at each of them all memories are planned anew. Only
distinct (shape, widths) are solved, all widths of a shape at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import floor, fsum, inf, isfinite, log2

import numpy as np
from numpy.typing import NDArray

from bitq.devices import Device
from bitq.errors import BitqError, shortened
from bitq.formats import TensorFormats
from bitq.layers import Layer
from bitq.movement.asking import heard
from bitq.movement.bound import compulsory
from bitq.movement.levels import movement_many
from bitq.movement.model import Widths
from bitq.movement.widths import widths
from bitq.planning import Planning

FLOAT = "float32"
LEAST_BYTES, MOST_BYTES = 1 << 10, 4 << 20
"""Sizes that a sweep spans if not told otherwise, as far as the neighbouring memories leave room for them, in bytes."""


InWidths = tuple[Layer, Widths]


@dataclass(frozen=True)
class Series:
    """A network in given formats, at every size of the memory.

    Attributes:
        name: of the formats.
        traffic_bits: between the memory and the next outer one, at each size.
        energy_pj: of the traffic at all memories of the device, at each size; may rise where it is not minimized.
        floor_bits: compulsory traffic, which no size goes below: every tensor once.
        float_bytes: the least of the sizes that moves no more than float32 does at `Sweep.reference_bytes`; None: none.
        floor_bytes: the least of the sizes that moves the compulsory traffic alone; None: none.
    """

    name: str
    traffic_bits: tuple[float, ...]
    energy_pj: tuple[float, ...]
    floor_bits: float
    float_bytes: float | None
    floor_bytes: float | None


@dataclass(frozen=True)
class Sweep:
    """What a network moves as one memory of a device varies in size, float32 first, the other memories as they are.

    Attributes:
        device: its name.
        memory: that varies.
        source: the next outer memory.
        sizes_bytes: of the memory, growing.
        reference_bytes: the size at which float32 is what others are compared with: the device's own, or the nearest
            to it of a sweep without it.
        series: one for float32 and one for each set of formats.

    Raises:
        BitqError: series of another length than the sizes, an amount that is not a positive number, or a reference that
            is none of the sizes.
    """

    device: str
    memory: str
    source: str
    sizes_bytes: tuple[float, ...]
    reference_bytes: float
    series: tuple[Series, ...]

    def __post_init__(self) -> None:
        if self.reference_bytes not in self.sizes_bytes:
            raise BitqError(f"a sweep needs its reference of {self.reference_bytes!r} bytes among its sizes")
        for each in self.series:
            if not len(each.traffic_bits) == len(each.energy_pj) == len(self.sizes_bytes):
                raise BitqError(f"series {each.name!r} of a sweep must have one entry for each size")
            amounts = (*self.sizes_bytes, *each.traffic_bits, each.floor_bits)
            if not all(isfinite(amount) and amount > 0 for amount in amounts):
                raise BitqError(f"series {each.name!r} of a sweep must hold positive numbers")
            if not all(isfinite(energy) and energy >= 0 for energy in each.energy_pj):
                raise BitqError(f"series {each.name!r} of a sweep must hold finite energies of at least 0")

    @property
    def reference(self) -> int:
        """Index of `reference_bytes` in the sizes."""
        return self.sizes_bytes.index(self.reference_bytes)


def by_module(layers: Sequence[Layer], formats: Mapping[str, TensorFormats]) -> tuple[TensorFormats, ...]:
    """The formats of every layer, from those of modules; other modules are float32, and so is a product of two
    activations that a module computes beside its own."""
    return tuple(
        formats.get(layer.module if layer.weight_is_parameter or layer.module == layer.name else "", TensorFormats())
        for layer in layers
    )


def sweep(
    layers: Sequence[Layer],
    formats: Mapping[str, Sequence[TensorFormats]],
    device: Device,
    memory: str | None = None,
    least_bytes: float | None = None,
    most_bytes: float | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Sweep:
    """Move a network through a memory of many sizes, in float32 and in other formats.

    Args:
        layers: of the network.
        formats: by name, those of every layer.
        device: the memories and their energies.
        memory: the one that varies; by default the outermost on the chip.
        least_bytes: where the sizes begin; by default 1 KiB (or the memory's own size, if that is less), and at least
            what the next inner memory holds.
        most_bytes: where they end; by default 4 MiB (or the memory's own size, if that is more), and at most what the
            next outer memory holds.
        progress: called with (what, done, total) before each distinct shape and size, and now and then meanwhile.

    Raises:
        BitqError: no such memory, sizes out of order or beyond the neighbouring memories, or formats called float32.
        Infeasible: a size too small for one element of each tensor.
    """
    if not layers or FLOAT in formats:
        raise BitqError(f"a sweep needs at least one layer, and formats with other names than {FLOAT!r}")
    at = _place(device, memory)
    sizes, reference = _sizes(device, at, least_bytes, most_bytes)
    boundary = len(device.memories) - 2 - at
    prices = np.array([source.energy_pj_per_bit for _, source in device.boundaries])
    sums = device.partial_sum_bits
    problems = {
        name: [(layer.unnamed, widths(layer, each, sums)) for layer, each in zip(layers, own, strict=True)]
        for name, own in {FLOAT: by_module(layers, {}), **formats}.items()
    }
    resized = [_resized(device, at, size) for size in sizes]
    moved = _moved([problem for own in problems.values() for problem in own], resized, progress)

    traffic, energy, floors = {}, {}, {}
    for name, own in problems.items():
        tables = [moved[problem] for problem in own]
        traffic[name] = tuple(fsum(column) for column in zip(*(table[:, boundary] for table in tables), strict=True))
        energy[name] = tuple(fsum(column) for column in zip(*(table @ prices for table in tables), strict=True))
        floors[name] = fsum(compulsory(shape).bits(width) for shape, width in own)
    float_bits = traffic[FLOAT][sizes.index(reference)]
    return Sweep(
        device=device.name,
        memory=device.memories[at].name,
        source=device.memories[at + 1].name,
        sizes_bytes=sizes,
        reference_bytes=reference,
        series=tuple(
            Series(
                name=name,
                traffic_bits=traffic[name],
                energy_pj=energy[name],
                floor_bits=floors[name],
                float_bytes=_first(sizes, traffic[name], float_bits),
                floor_bytes=_first(sizes, traffic[name], floors[name]),
            )
            for name in problems
        ),
    )


def _moved(
    problems: Sequence[InWidths], devices: Sequence[Device], progress: Callable[[str, int, int], None]
) -> dict[InWidths, NDArray[np.float64]]:
    """For each distinct problem an array (devices, boundaries) of traffic in bits, outermost boundary first.

    The memory grows from device to device: what was planned for a smaller one is kept until a plan is better.
    """
    shapes: dict[Layer, dict[Widths, None]] = {}
    for shape, width in problems:
        shapes.setdefault(shape, {})[width] = None
    moved, total = {}, len(shapes) * len(devices)
    for number, (shape, distinct) in enumerate(shapes.items()):
        triples = [[width.input, width.weight, width.output] for width in distinct]
        tables: list[NDArray[np.float64]] = []
        for done, device in enumerate(devices, number * len(devices)):
            tell = partial(progress, "trying every size", done, total)
            tell()
            with heard(tell):
                bits = movement_many(shape, triples, device)
            if tables and device.planned is Planning.together:
                worse = bits @ device.prices > tables[-1] @ device.prices
                bits = np.where(worse[:, None], tables[-1], bits)
            tables.append(bits)
        for width, table in zip(distinct, np.stack(tables, axis=1), strict=True):
            moved[shape, width] = table
    return moved


def _place(device: Device, memory: str | None) -> int:
    """Index of the memory that varies."""
    names = [each.name for each in device.memories[:-1]]
    if memory is None:
        return len(names) - 1
    if memory not in names:
        given = shortened(memory)
        raise BitqError(f"device {device.name} has no memory {given!r} of limited size; give {', '.join(names)}")
    return names.index(memory)


def _sizes(
    device: Device, at: int, least_bytes: float | None, most_bytes: float | None
) -> tuple[tuple[float, ...], float]:
    """The sizes of a sweep and the reference among them, in bytes."""
    name, own = device.memories[at].name, device.memories[at].capacity_bits / 8
    inner = device.memories[at - 1].capacity_bits / 8 if at else 0.0
    outer = device.memories[at + 1].capacity_bits / 8
    least = max(min(LEAST_BYTES, own), inner) if least_bytes is None else least_bytes
    most = min(max(MOST_BYTES, own), outer) if most_bytes is None else most_bytes
    if not 0 < least <= most < inf:
        raise BitqError(f"{name} cannot span {least:g} to {most:g} bytes; the first size must be the smaller")
    if least < inner:
        inside = device.memories[at - 1].name
        raise BitqError(f"{name} of {least:g} bytes is less than {inside} inside of it; begin with {inner:g} or more")
    if most > outer:
        outside = device.memories[at + 1].name
        raise BitqError(f"{name} of {most:g} bytes is more than {outside} outside of it; end with {outer:g} or less")
    reference = min(max(own, least), most)
    halves = (step * 2.0**power for power in range(floor(log2(least)), floor(log2(most)) + 1) for step in (1, 1.5))
    inside_range = (size for size in halves if least <= size <= most)
    return tuple(sorted(map(float, {least, most, reference, *inside_range}))), float(reference)


def _resized(device: Device, at: int, size_bytes: float) -> Device:
    memories = list(device.memories)
    memories[at] = replace(memories[at], capacity_bits=8 * size_bytes)
    return replace(device, memories=tuple(memories))


def _first(sizes: Sequence[float], traffic: Sequence[float], target: float) -> float | None:
    return next((size for size, bits in zip(sizes, traffic, strict=True) if bits <= target), None)
