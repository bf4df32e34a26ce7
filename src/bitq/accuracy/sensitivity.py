"""How much worse the network gets when one tensor alone changes its format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log2

import numpy as np
from numpy.typing import NDArray

from bitq.formats import BlockFormat

TENSORS = ("input", "weight", "output")
"""The order of a module's three formats in a choice."""

PROBED_BLOCKS = (4, 48)
"""Block sizes measured for every exponent width; the others are read off a line through them over log2 BS."""

Choice = tuple[int, int, int]


def sensitivities(
    base: Sequence[Choice],
    formats: Sequence[BlockFormat],
    loss: Callable[[Sequence[Choice]], float],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[NDArray[np.float64]]:
    """Change of the loss when one tensor of a plan takes another format, for every tensor and every format.

    Args:
        base: the plan that everything else keeps: indices into formats of input, weight and output, by module.
        formats: the candidates.
        loss: evaluates a plan.
        progress: called with (evaluations done, evaluations).

    Returns:
        For each module an array (3, formats): loss with that format minus loss of the base, for its input, weight and
        output. Block sizes that were not measured are interpolated, and coarser formats never score better.
    """
    probed = [i for i, fmt in enumerate(formats) if fmt.block_size in PROBED_BLOCKS] or list(range(len(formats)))
    reference = loss(base)
    total, done = len(base) * len(TENSORS) * len(probed), 0
    scores = []
    for module in range(len(base)):
        table = np.empty((len(TENSORS), len(formats)))
        for tensor in range(len(TENSORS)):
            measured = {}
            for index in probed:
                measured[formats[index]] = loss(_changed(base, module, tensor, index)) - reference
                done += 1
                progress(done, total)
            table[tensor] = _ordered(formats, [_interpolated(fmt, measured) for fmt in formats])
        scores.append(table)
    return scores


def _ordered(formats: Sequence[BlockFormat], values: Sequence[float]) -> NDArray[np.float64]:
    """Scores that never say a coarser format (fewer mantissa bits, larger blocks) does better: that would be noise.

    The mean of the least such scores above the values and the largest below them.
    """
    axes = [sorted({(fmt.exponent_bits) for fmt in formats}), sorted({fmt.block_size for fmt in formats})]
    places = [(axes[0].index(fmt.exponent_bits), axes[1].index(fmt.block_size)) for fmt in formats]
    table = np.full((len(axes[0]), len(axes[1])), np.nan)
    table[tuple(zip(*places, strict=True))] = values
    above = np.fmax.accumulate(np.fmax.accumulate(table, axis=0), axis=1)
    below = np.fmin.accumulate(np.fmin.accumulate(table[::-1, ::-1], axis=0), axis=1)[::-1, ::-1]
    return np.array([(above[place] + below[place]) / 2 for place in places])


def _changed(base: Sequence[Choice], module: int, tensor: int, index: int) -> list[Choice]:
    choices = [list(choice) for choice in base]
    choices[module][tensor] = index
    return [(i, w, o) for i, w, o in choices]


def _interpolated(fmt: BlockFormat, measured: Mapping[BlockFormat, float]) -> float:
    same = {known.block_size: value for known, value in measured.items() if known.exponent_bits == fmt.exponent_bits}
    sizes = sorted(same)
    return float(np.interp(log2(fmt.block_size), [log2(size) for size in sizes], [same[size] for size in sizes]))
