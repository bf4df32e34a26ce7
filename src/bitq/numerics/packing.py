"""The packed form of a block floating point tensor: its mantissas and exponent codes, bit by bit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitq.errors import BitqError
from bitq.formats import BlockFormat
from bitq.numerics import blocks
from bitq.numerics import native_packing as native
from bitq.numerics.quantize import quantize
from bitq.numerics.recipe import Axes, Recipe, recipe_for

Words = NDArray[np.uint32]


class WeightBlocks(NamedTuple):
    """Where the blocks of a weight lie: along `dim` of the weight seen in `shape`, `inner_dims` inside every block."""

    shape: tuple[int, ...]
    dim: int
    inner_dims: tuple[int, ...]


def weight_blocks(shape: tuple[int, ...], transposed: bool = False, groups: int = 1) -> WeightBlocks:
    """Blocks along the input channels of one output channel, kernel window included and groups apart.

    Args:
        shape: (output channels, input channels of a group, *window) of a convolution, (outputs, inputs) of a linear
            layer; of a transposed convolution (input channels of all groups, output channels of a group, *window),
            whose groups are set apart in front.
        transposed: whether it is a transposed convolution's.
        groups: of a transposed convolution.

    Raises:
        BitqError: fewer than two axes, or groups that do not divide the input channels.
    """
    if len(shape) < 2:
        raise BitqError(f"a weight of shape {shape} has no input channels to run blocks along")
    window = tuple(range(2, len(shape)))
    if not transposed:
        return WeightBlocks(shape, 1, window)
    if shape[0] % groups:
        raise BitqError(f"a weight of shape {shape} cannot have {groups} groups")
    return WeightBlocks((groups, shape[0] // groups, *shape[1:]), 1, tuple(axis + 1 for axis in window))


def packed_bits(fmt: BlockFormat, shape: tuple[int, ...], dim: int, inner_dims: tuple[int, ...]) -> int:
    """Bits of a tensor's mantissas and exponent codes: m·numel + SE·blocks."""
    return fmt.mantissa_bits * prod(shape) + fmt.exponent_bits * prod(_block_shape(fmt, shape, dim, inner_dims))


def packed_bytes(fmt: BlockFormat, shape: tuple[int, ...], dim: int, inner_dims: tuple[int, ...]) -> int:
    """Bytes of a tensor's payload."""
    return -(-packed_bits(fmt, shape, dim, inner_dims) // 8)


def _block_shape(fmt: BlockFormat, shape: tuple[int, ...], dim: int, inner_dims: tuple[int, ...]) -> tuple[int, ...]:
    """Number of blocks along every axis."""
    counts = [1 if d in inner_dims else n for d, n in enumerate(shape)]
    counts[dim] = -(-shape[dim] // fmt.block_size)
    return tuple(counts) if prod(shape) else (0,)


@dataclass(frozen=True, eq=False)
class Packed:
    """A tensor as block floating point stores it (our choice of layout).

    The payload is one little-endian stream of bits: the mantissas of all elements in row-major order, each
    with m - 1 bits of magnitude below a sign bit; then the exponent codes of all blocks, in row-major order
    of the tensor whose blocked axis counts blocks. The last byte is filled up with zeros.

    Attributes:
        payload: uint8, one-dimensional, on the CPU.
        format, shape, dtype, dim, inner_dims, exponent_bias: the header; axes are non-negative.

    Raises:
        BitqError: the payload's size is not what the header says, or the header's values do not fit together.
    """

    payload: Tensor
    format: BlockFormat
    shape: tuple[int, ...]
    dtype: torch.dtype
    dim: int
    inner_dims: tuple[int, ...]
    exponent_bias: int

    def __post_init__(self) -> None:
        like = torch.empty(self.shape, dtype=self.dtype, device="meta")
        recipe_for(like, self.format, self.dim, self.inner_dims, self.exponent_bias)
        size = -(-self.num_bits // 8)
        if self.payload.dtype != torch.uint8 or tuple(self.payload.shape) != (size,):
            raise BitqError(
                f"a packed {self.format} tensor of shape {self.shape} has {size} bytes, "
                f"not {tuple(self.payload.shape)} of {self.payload.dtype}"
            )

    @property
    def num_bits(self) -> int:
        """Size of the payload before the last byte is filled up: m·numel + SE·blocks (bits)."""
        return packed_bits(self.format, self.shape, self.dim, self.inner_dims)

    def unpack(self) -> Tensor:
        """The quantized tensor, contiguous on the CPU, bit-identical to what `quantize` gives.

        Raises:
            BitqError: an exponent or filling bits that `pack` never writes.
        """
        fmt, count = self.format, prod(self.shape)
        if not count:
            return torch.empty(self.shape, dtype=self.dtype)
        payload = np.ascontiguousarray(self.payload.numpy())
        if payload[-1] >> ((self.num_bits - 1) % 8 + 1):
            raise BitqError("a packed tensor whose last byte is not filled up with zeros is damaged")
        recipe = Recipe(fmt, Axes(self.dim, self.inner_dims), self.exponent_bias)
        at = native.bands(self.shape, recipe)
        if at is None:
            bits = np.unpackbits(payload, count=self.num_bits, bitorder="little")
            split = count * fmt.mantissa_bits
            codes = _words(bits[split:], fmt.exponent_bits).astype(np.uint8)
        else:
            codes = native.read_codes(payload, recipe, count, at)
        highest, most = self.exponent_bias + int(codes.max()), 15 if self.dtype == torch.float16 else 127
        if highest > max(most, self.exponent_bias):
            raise BitqError(f"a packed {self.dtype} tensor with an exponent of {highest}, above {most}, is damaged")
        if at is None:
            values = _values(_words(bits[:split], fmt.mantissa_bits), codes, self.shape, recipe)
        else:
            values = torch.from_numpy(native.read(payload, codes, recipe, count, at))
        values = values.view(self.shape)
        return values if self.dtype == torch.float32 else values.to(self.dtype) + 0.0  # no -0.0 of what underflows


def pack(
    x: Tensor,
    fmt: BlockFormat,
    dim: int = 1,
    inner_dims: tuple[int, ...] = (),
    exponent_bias: int | None = None,
) -> Packed:
    """x quantized to nearest and packed; arguments are those of `bitq.quantize`.

    Raises:
        BitqError: what `quantize` refuses, or a tensor with NaN or infinity, which no code stands for.
    """
    recipe = recipe_for(x, fmt, dim, inner_dims, exponent_bias)
    axes = recipe.axes
    wide = x.detach().cpu().contiguous().float()
    if not x.numel():
        return Packed(torch.empty(0, dtype=torch.uint8), fmt, tuple(x.shape), x.dtype, *axes, exponent_bias or 0)
    at = native.bands(tuple(x.shape), recipe)
    if at is None:
        peaks = blocks.peaks(wide, fmt.block_size, axes)
        highest = int(peaks.amax())
    else:
        flat = wide.reshape(-1).numpy()
        block_peaks = native.peaks(flat, at)
        highest = int(block_peaks.max())
    if highest >= blocks.INFINITE:
        raise BitqError(
            f"cannot pack a tensor of shape {tuple(x.shape)}: {int((~x.isfinite()).sum())} of its {x.numel()} elements "
            "are NaN or infinite; block floating point stores finite numbers only"
        )
    default = ((highest >> 23) - 127 if highest else 0) - fmt.top_code
    bias = default if exponent_bias is None else exponent_bias
    recipe = replace(recipe, exponent_bias=bias)
    if at is None:
        payload = _payload(wide, peaks, recipe)
    else:
        payload = native.write(flat, native.codes(block_peaks, recipe), recipe, at)
    return Packed(torch.from_numpy(payload), fmt, tuple(x.shape), x.dtype, *axes, bias)


# The twin of the compiled path: slow, for blocks of any axes, and right by inspection.


def _payload(x: Tensor, peaks: Tensor, recipe: Recipe) -> NDArray[np.uint8]:
    """Every bit as a byte, in order, packed at the end."""
    fmt, axes, bias = recipe.format, recipe.axes, recipe.exponent_bias
    assert bias is not None  # `pack` has chosen it
    codes = (blocks.exponents(peaks) - bias).clamp(0, fmt.top_code).masked_fill(peaks == 0, 0)
    step = blocks.steps(blocks.shared_exponents(peaks, fmt, bias), fmt)
    step = blocks.spread(step, fmt.block_size, x.shape[axes.dim], axes.dim)
    k = (quantize(x, fmt, *axes, bias) / step).int()
    stored = torch.where(k < 0, fmt.largest_mantissa + 1 - k, k)
    bits = np.concatenate([_bits(stored, fmt.mantissa_bits), _bits(codes, fmt.exponent_bits)])
    return np.packbits(bits, bitorder="little")


def _values(words: Words, codes: NDArray[np.uint8], shape: tuple[int, ...], recipe: Recipe) -> Tensor:
    """Mantissas times the steps of their blocks."""
    fmt, axes, bias = recipe.format, recipe.axes, recipe.exponent_bias
    assert bias is not None  # the header tells it
    stored = torch.from_numpy(words.astype(np.int32)).view(shape)
    exponents = torch.from_numpy(codes.astype(np.int32)).view(_block_shape(fmt, shape, *axes)) + bias
    step = blocks.steps(exponents.clamp(min=fmt.lowest_exponent), fmt)
    k = torch.where(stored > fmt.largest_mantissa, fmt.largest_mantissa + 1 - stored, stored)
    return k * blocks.spread(step, fmt.block_size, shape[axes.dim], axes.dim) + 0.0


def _bits(values: Tensor, width: int) -> NDArray[np.uint8]:
    """The `width` lowest bits of every value, lowest first, as 0 and 1."""
    words = values.contiguous().numpy().astype("<u4").reshape(-1, 1)
    return np.unpackbits(words.view(np.uint8), axis=1, count=width, bitorder="little").reshape(-1)


def _words(bits: NDArray[np.uint8], width: int) -> Words:
    """The inverse of `_bits`."""
    bytes_ = np.packbits(bits.reshape(-1, width), axis=1, bitorder="little")
    words = np.zeros((len(bytes_), 4), np.uint8)
    words[:, : bytes_.shape[1]] = bytes_
    return words.view("<u4").reshape(-1)
