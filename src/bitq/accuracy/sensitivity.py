"""How much worse the network gets when one tensor alone changes its format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import log2
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bitq.formats import BlockFormat, TensorFormats

Tensor3 = Literal["input", "weight", "output"]
TENSORS: tuple[Tensor3, ...] = ("input", "weight", "output")

PROBED_BLOCKS = (2, 8, 48)
"""Block sizes measured for every exponent width; the others are read off a line through them over log2 BS."""


def probed_formats(formats: Sequence[BlockFormat]) -> tuple[BlockFormat, ...]:
    """The candidates that are measured: every exponent width with the block sizes of `PROBED_BLOCKS`."""
    return tuple(fmt for fmt in formats if fmt.block_size in PROBED_BLOCKS) or tuple(formats)


def changed(
    base: Mapping[str, TensorFormats], module: str, tensor: Tensor3, fmt: BlockFormat
) -> dict[str, TensorFormats]:
    """A plan with one tensor's format replaced."""
    formats = dict(base)
    if tensor == "input":
        formats[module] = replace(base[module], input=fmt)
    elif tensor == "weight":
        formats[module] = replace(base[module], weight=fmt)
    else:
        formats[module] = replace(base[module], output=fmt)
    return formats


def sensitivities(
    base: Mapping[str, TensorFormats],
    formats: Sequence[BlockFormat],
    loss: Callable[[Mapping[str, TensorFormats]], float],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, NDArray[np.float64]]:
    """Change of the loss when one tensor of a plan takes another format, for every tensor and every format.

    Args:
        base: the plan that everything else keeps, by module path.
        formats: the candidates.
        loss: evaluates a plan.
        progress: called with (evaluations done, evaluations).

    Returns:
        For each module an array (3, formats): loss with that format minus loss of the base, for its input, weight and
        output. Block sizes that were not measured are interpolated.
    """
    probed = probed_formats(formats)
    reference = loss(base)
    total, done = len(base) * len(TENSORS) * len(probed), 0
    scores = {}
    for module in base:
        table = np.empty((len(TENSORS), len(formats)))
        for row, tensor in enumerate(TENSORS):
            measured = {}
            for fmt in probed:
                measured[fmt] = loss(changed(base, module, tensor, fmt)) - reference
                done += 1
                progress(done, total)
            table[row] = [_interpolated(fmt, measured) for fmt in formats]
        scores[module] = table
    return scores


def _interpolated(fmt: BlockFormat, measured: Mapping[BlockFormat, float]) -> float:
    same = {known.block_size: value for known, value in measured.items() if known.exponent_bits == fmt.exponent_bits}
    sizes: Iterable[int] = sorted(same)
    return float(np.interp(log2(fmt.block_size), [log2(size) for size in sizes], [same[size] for size in sizes]))
