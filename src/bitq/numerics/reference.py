"""Block quantization in exact arithmetic, one element at a time: slow, and right by inspection."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import floor, inf, isfinite, nan

import torch

from bitq.formats import BlockFormat


def floor_log2(value: Fraction) -> int:
    """Largest e with 2^e <= value, for a positive value."""
    e = value.numerator.bit_length() - value.denominator.bit_length()
    return e if Fraction(2) ** e <= value else e - 1


def exponent(block: list[float]) -> int | None:
    """e of a block, -127 for subnormals as their exponent field says; None for zeros, NaN or infinity."""
    if not all(isfinite(x) for x in block) or not any(block):
        return None
    return max(floor_log2(max(abs(Fraction(x)) for x in block)), -127)


def default_bias(blocks: list[list[float]], fmt: BlockFormat) -> int:
    """The bias that gives the largest e of the finite, nonzero blocks the top code."""
    known = [e for block in blocks if (e := exponent(block)) is not None]
    return max(known, default=0) - ((1 << fmt.exponent_bits) - 1)


def code(e: int | None, fmt: BlockFormat, bias: int) -> int:
    """The stored code of a block's exponent; 0 for a block that has none."""
    return 0 if e is None else min(max(e - bias, 0), 2**fmt.exponent_bits - 1)


def round_exact(value: Fraction, rounding: str, uniform: float) -> int:
    """`value` as a whole number; `uniform` in (0, 1) decides the stochastic one."""
    if rounding == "nearest":
        return round(value)
    size = abs(value)
    below = floor(size)
    if rounding == "half_away":
        below = floor(size + Fraction(1, 2))
    elif rounding == "stochastic":
        below += Fraction(uniform) < size - below
    return below if value > 0 else -below


def philox(counter: int, key: int) -> list[int]:
    """The four 32-bit words of Philox 4x32-10 for a counter of 128 bits and a key of 64 (Salmon et al., 2011)."""
    c = [counter >> shift & 0xFFFFFFFF for shift in (0, 32, 64, 96)]
    k = [key & 0xFFFFFFFF, key >> 32]
    for _ in range(10):
        first, second = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [second >> 32 ^ c[1] ^ k[0], second & 0xFFFFFFFF, first >> 32 ^ c[3] ^ k[1], first & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def uniforms(key: int, count: int) -> list[float]:
    """The draws of the first `count` elements: 64 elements share 16 counters, 16 of them the first words, and so on."""
    words = [philox(i // 64 * 16 + i % 16, key)[i % 64 // 16] for i in range(count)]
    return [((word >> 8) | 1) / 2**24 for word in words]


def quantize_block(
    block: list[float],
    fmt: BlockFormat,
    bias: int,
    rounding: str = "nearest",
    uniforms: list[float] | None = None,
) -> tuple[list[float], list[bool]]:
    """Values of one block after quantization, and which were clipped because e lies above the top code."""
    if not all(isfinite(x) for x in block):
        return [nan] * len(block), [False] * len(block)
    e, m = exponent(block), fmt.mantissa_bits
    shared = max(bias + code(e, fmt, bias), -126 + (m - 2))
    step = Fraction(2) ** (shared + 2 - m)
    limit = 2 ** (m - 1) - 1
    draws = uniforms or [0.5] * len(block)
    ks = [round_exact(Fraction(x) / step, rounding, u) for x, u in zip(block, draws, strict=True)]
    values = [float(min(max(k, -limit), limit) * step) for k in ks]
    above = e is not None and e > shared
    return values, [above and abs(k) > limit for k in ks]


def block_indices(
    shape: tuple[int, ...], block_size: int, dim: int, inner_dims: tuple[int, ...]
) -> list[list[tuple[int, ...]]]:
    """The element indices of every block."""
    outer = [range(1) if d == dim or d in inner_dims else range(n) for d, n in enumerate(shape)]
    inner = [range(n) if d in inner_dims else range(1) for d, n in enumerate(shape)]
    blocks = []
    for start in range(0, shape[dim], block_size):
        channels = range(start, min(start + block_size, shape[dim]))
        for base in product(*outer):
            block = []
            for c, offset in product(channels, product(*inner)):
                at = [b + o for b, o in zip(base, offset, strict=True)]
                at[dim] = c
                block.append(tuple(at))
            blocks.append(block)
    return blocks


def quantize(
    x: torch.Tensor,
    fmt: BlockFormat,
    dim: int = 1,
    inner_dims: tuple[int, ...] = (),
    exponent_bias: int | None = None,
    rounding: str = "nearest",
    uniforms: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The twin of `bitq.quantize`: its result, and the mask of elements that pass no gradient.

    Args are those of `bitq.quantize`, with non-negative dims; `uniforms`, of x's shape, are the draws of the
    stochastic rounding.
    """
    indices = [block for block in block_indices(tuple(x.shape), fmt.block_size, dim, inner_dims) if block]
    blocks = [[float(x[at]) for at in block] for block in indices]
    bias = default_bias(blocks, fmt) if exponent_bias is None else exponent_bias
    result, clipped = torch.full_like(x, inf), torch.zeros_like(x, dtype=torch.bool)
    for block, at in zip(blocks, indices, strict=True):
        draws = None if uniforms is None else [float(uniforms[i]) for i in at]
        values, mask = quantize_block(block, fmt, bias, rounding, draws)
        for i, value, cut in zip(at, values, mask, strict=True):
            result[i], clipped[i] = value, cut
    return result + 0.0, clipped
