"""Whole tensors, block by block, element by element."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from math import copysign, inf, isinf, isnan, nan

import torch

from bitq.formats.blocking import Along
from bitq.formats.elements import Float, Integer
from bitq.formats.format import Format
from bitq.numerics.reference import elements, floats, scales, sums, zeros
from bitq.numerics.reference.scales import Range

_DTYPES = {
    torch.float32: floats.FLOAT32,
    torch.float16: Float(5, 10, "i"),
    torch.bfloat16: Float(8, 7, "i"),
}


def finished(value: Fraction, dtype: torch.dtype) -> float:
    """Rounded to float32 and to the dtype, not beyond the largest finite number of either."""
    size = min(abs(value), floats.largest(_DTYPES[dtype]))
    for number in dict.fromkeys((floats.FLOAT32, _DTYPES[dtype])):
        size = floats.rounded(size, number)
    return float(size if value > 0 else -size) + 0.0


def cast(x: float, number: Float, rounding: str, uniform: float, dtype: torch.dtype) -> float:
    """A plain float, as IEEE 754 converts; the sign of 0 stays."""
    if isnan(x) or isinf(x):
        return x if number.kind == "i" else nan
    size, largest = floats.rounded(abs(Fraction(x)), number, rounding, uniform), floats.largest(number)
    if size > largest and number.kind == "i" and rounding != "toward_zero":
        return copysign(inf, x)
    return copysign(finished(min(size, largest), dtype), x)


def quantize_block(
    block: list[float],
    fmt: Format,
    shared: int | Fraction | None,
    rounding: str = "nearest",
    uniforms: list[float] | None = None,
    given: Range | None = None,
) -> tuple[Sequence[Fraction | float], list[bool]]:
    """Values of one block before they are rounded to a dtype, and which pass no gradient; NaN if one is not finite.

    Args:
        block: its numbers.
        fmt: with a scale.
        shared: what the tensor shares, from `scales.shared_by`: the exponent bias of `eN`, a second scale, or None.
        rounding: one of `ROUNDINGS`.
        uniforms: draws of the stochastic one.
        given: the range that stands for the tensor's own.
    """
    draws, none = uniforms or [0.5] * len(block), [False] * len(block)
    if not scales.is_finite(block):
        return [nan] * len(block), none
    if len(fmt.elements) > 1:
        assert isinstance(shared, Fraction)
        return sums.quantize_block(block, fmt, shared), none
    element = fmt.elements[0]
    if isinstance(element, Integer) and element.kind == "u":
        return zeros.quantize_block(block, fmt, given, rounding, draws)
    step, low = scales.scale_of(block, fmt, shared, given)
    rounded = [elements.round_element(Fraction(x) / step, fmt, rounding, u) for x, u in zip(block, draws, strict=True)]
    lost = [x < 0 and elements.never_negative(fmt) for x in block]
    stopped = [(beyond and low) or sign for (_, beyond), sign in zip(rounded, lost, strict=True)]
    return [q * step for q, _ in rounded], stopped


def block_indices(
    shape: tuple[int, ...], block_size: int, dim: int, inner_dims: tuple[int, ...]
) -> list[list[tuple[int, ...]]]:
    """The element indices of every block of `block_size` along an axis, with others wholly inside."""
    return indices_of(shape, Along(block_size).lengths(shape, dim, inner_dims))


def indices_of(shape: Sequence[int], lengths: Sequence[int]) -> list[list[tuple[int, ...]]]:
    """The element indices of every block of these lengths along every axis."""
    starts = product(*(range(0, n, size) for n, size in zip(shape, lengths, strict=True)))
    ends = [
        [range(at, min(at + size, n)) for at, size, n in zip(start, lengths, shape, strict=True)] for start in starts
    ]
    return [list(product(*axes)) for axes in ends]


def quantize(
    x: torch.Tensor,
    fmt: Format,
    dim: int = 1,
    inner_dims: tuple[int, ...] = (),
    exponent_bias: int | None = None,
    tensor_range: Range | None = None,
    rounding: str | None = None,
    uniforms: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The twin of `bitq.quantize`: its result, and the mask of elements that pass no gradient.

    Args are those of `bitq.quantize`, with non-negative dims; `uniforms`, of x's shape, are the draws of the
    stochastic rounding.
    """
    how = fmt.rounding if rounding is None else rounding
    result, stopped = torch.full_like(x, inf), torch.zeros_like(x, dtype=torch.bool)
    places = list(product(*(range(n) for n in x.shape)))
    numbers = dict(zip(places, x.double().flatten().tolist(), strict=True))
    draws = dict.fromkeys(places, 0.5)
    if uniforms is not None:
        draws = dict(zip(places, uniforms.flatten().tolist(), strict=True))
    if fmt.geometry is None:
        assert isinstance(fmt.elements[0], Float)
        for at in places:
            result[at] = cast(numbers[at], fmt.elements[0], how, draws[at], x.dtype)
        return result, stopped
    indices = indices_of(x.shape, fmt.geometry.lengths(tuple(x.shape), dim, inner_dims)) if places else []
    blocks = [[numbers[at] for at in block] for block in indices]
    given = None if tensor_range is None else (min(tensor_range[0], 0.0), max(tensor_range[1], 0.0))
    shared = scales.shared_by(blocks, fmt, given) if exponent_bias is None else exponent_bias
    for at_all, block in zip(indices, blocks, strict=True):
        values, mask = quantize_block(block, fmt, shared, how, [draws[at] for at in at_all], given)
        for at, value, stop in zip(at_all, values, mask, strict=True):
            result[at] = value if isinstance(value, float) else finished(value, x.dtype)
            stopped[at] = stop
    return result, stopped
