"""How far the network's outputs move when one tensor alone takes a format, and what that says of accuracy.

Measured on the float network, without labels and without training. The score of a tensor is the square root of half
the KL divergence of the outputs: by Pinsker's inequality no event's probability, so no share of right answers, can
differ by more. Scores of tensors add up; what fine-tuning leaves of their sum is for `bitq.tradeoff.predict`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite, log2, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bitq.accuracy.distance import Distance
from bitq.accuracy.evaluate import Batch, device_of, forward, to_device
from bitq.accuracy.quantized import set_formats
from bitq.errors import BitqError
from bitq.formats import BlockFormat, TensorFormats

TENSORS = ("input", "weight", "output")
"""The order of a module's three formats in a choice."""

PROBED_BLOCKS = (1, 4, 16, 48)
"""Block sizes measured for every exponent width; the others are read off lines through them over log2 BS."""


def probed(formats: Sequence[BlockFormat], extent: int) -> tuple[BlockFormat, ...]:
    """The formats that are measured for a tensor of `extent` elements along its blocks.

    Of formats whose blocks are cut to the same size by the extent, the first; all, if the usual sizes are missing.
    """
    sizes = {min(size, extent) for size in PROBED_BLOCKS}
    widths = {fmt.exponent_bits for fmt in formats}
    found: dict[tuple[int, int], BlockFormat] = {}
    for fmt in formats:
        found.setdefault((fmt.exponent_bits, min(fmt.block_size, extent)), fmt)
    chosen = {place: fmt for place, fmt in found.items() if place[1] in sizes}
    complete = len(chosen) == len(sizes) * len(widths)
    return tuple((chosen if complete else found).values())


def float_outputs(model: nn.Module, batches: Sequence[Batch]) -> list[object]:
    """The network's outputs, batch by batch, in evaluation mode."""
    device = device_of(model)
    with torch.inference_mode():
        return [forward(model, to_device(inputs, device)) for inputs, _ in batches]


def distances(
    model: nn.Module,
    module: str,
    tensor: str,
    formats: Sequence[BlockFormat],
    batches: Sequence[Batch],
    references: Sequence[object],
    distance: Distance,
) -> list[float]:
    """Mean distance of the outputs from the float ones when one tensor alone takes a format.

    Args:
        model: quantized by `apply`, in evaluation mode; every other module is set to float.
        module, tensor: which tensor: a module's path and one of `TENSORS`.
        formats: that it takes one after the other.
        batches: inputs; their targets do not matter.
        references: what `float_outputs` gave for them.
        distance: of two outputs.

    Raises:
        BitqError: a distance that is no number of at least 0.
    """
    found = []
    for fmt in formats:
        set_formats(model, {module: replace(TensorFormats(), **{tensor: fmt})})
        each = [distance(a, b) for a, b in zip(references, float_outputs(model, batches), strict=True)]
        found.append(float(np.mean(each)))
        if not (isfinite(found[-1]) and found[-1] > -1e-6):
            raise BitqError(
                f"with the {tensor} of {module!r} in {fmt} the outputs have distance {found[-1]!r} from float ones; "
                "it must be a finite number of at least 0"
            )
    set_formats(model, {module: TensorFormats()})
    return [max(value, 0.0) for value in found]


def scores(formats: Sequence[BlockFormat], measured: Mapping[BlockFormat, float], extent: int) -> NDArray[np.float64]:
    """Scores of one tensor in every format, from the distances of those that were measured.

    Args:
        formats: all formats.
        measured: distances by format, of what `probed` chose.
        extent: elements of the tensor along its blocks; larger blocks are cut to it.

    Returns:
        Array (formats,), sqrt(distance / 2); interpolated for block sizes that were not measured, and never less for
        a coarser format (fewer mantissa bits or larger blocks) than for a finer one.
    """
    roots = {(fmt.exponent_bits, min(fmt.block_size, extent)): sqrt(value / 2) for fmt, value in measured.items()}
    return _ordered(formats, [_interpolated(fmt, roots, extent) for fmt in formats])


def _ordered(formats: Sequence[BlockFormat], values: Sequence[float]) -> NDArray[np.float64]:
    """Scores that never say a coarser format does better: that would be noise.

    The mean of the least such scores above the values and the largest below them.
    """
    axes = [sorted({fmt.exponent_bits for fmt in formats}), sorted({fmt.block_size for fmt in formats})]
    places = [(axes[0].index(fmt.exponent_bits), axes[1].index(fmt.block_size)) for fmt in formats]
    table = np.full((len(axes[0]), len(axes[1])), np.nan)
    table[tuple(zip(*places, strict=True))] = values
    above = np.fmax.accumulate(np.fmax.accumulate(table, axis=0), axis=1)
    below = np.fmin.accumulate(np.fmin.accumulate(table[::-1, ::-1], axis=0), axis=1)[::-1, ::-1]
    return np.array([(above[place] + below[place]) / 2 for place in places])


def _interpolated(fmt: BlockFormat, roots: Mapping[tuple[int, int], float], extent: int) -> float:
    sizes = sorted(size for width, size in roots if width == fmt.exponent_bits)
    values = [roots[fmt.exponent_bits, size] for size in sizes]
    return float(np.interp(log2(min(fmt.block_size, extent)), [log2(size) for size in sizes], values))
