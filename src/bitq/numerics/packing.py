"""The packed form of a tensor in a number format: its elements' codes and those of their scales, bit by bit."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bitq.errors import BitqError, shortened
from bitq.formats import Format
from bitq.formats.scales import SharedExponent
from bitq.numerics import bitstream, coding
from bitq.numerics import native_packing as native
from bitq.numerics.quantize import draw_key
from bitq.numerics.recipe import Recipe, recipe_for


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


@dataclass(frozen=True, eq=False)
class Packed:
    """A tensor as its number format stores it (our choice of layout).

    The payload is one little-endian stream of bits:

    - the elements, in row-major order;
    - for each block its scale and, of "u" elements, its zero point; blocks stand in row-major order of the tensor whose
      axes count blocks;
    - the second scale, if the format has one.

    A whole number is stored as m - 1 bits of magnitude below a sign bit ("s"), in two's complement ("i"), or as it is
    ("n", "u"); a float as mantissa, exponent and, on top, the sign; of a table the index. Of summed elements the code
    is that of the first below that of the second, q1 | q2 << bits1, and a block has the scale of the first before that
    of the second. A power of two is stored as its exponent plus the bias of its kind, that of `eN` as the exponent of
    the block's largest magnitude less `exponent_bias`; a float scale as a float, sign included; a second scale as a
    float32 or as exponent + 127. The last byte is filled up with zeros. A zero has no sign, but in a format without a
    scale.

    Attributes:
        payload: uint8, one-dimensional, on the CPU.
        format, shape, dtype, dim, inner_dims: the header; axes are non-negative.
        exponent_bias: the header's, too, of a format `eN`; None of others.

    Raises:
        BitqError: the payload's size is not what the header says, or the header's values do not fit together.
    """

    payload: Tensor
    format: Format
    shape: tuple[int, ...]
    dtype: torch.dtype
    dim: int
    inner_dims: tuple[int, ...]
    exponent_bias: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.format.scale, SharedExponent) and self.exponent_bias is None:
            raise BitqError(f"a packed {shortened(self.format.text)} tensor needs its exponent_bias")
        self._recipe()  # refuses axes that the shape has not
        size = -(-self.num_bits // 8)
        if self.payload.dtype != torch.uint8 or tuple(self.payload.shape) != (size,):
            raise BitqError(
                f"a packed {shortened(self.format.text)} tensor of shape {self.shape} has {size} bytes, "
                f"not {tuple(self.payload.shape)} of {self.payload.dtype}"
            )

    def _recipe(self) -> Recipe:
        like = torch.empty(self.shape, dtype=self.dtype, device="meta")
        return recipe_for(like, self.format, self.dim, self.inner_dims, self.exponent_bias)

    @property
    def num_bits(self) -> int:
        """Size of the payload before the last byte is filled up: `format.num_bits` (bits)."""
        return self.format.num_bits(self.shape, self.dim, self.inner_dims)

    def unpack(self) -> Tensor:
        """The quantized tensor, contiguous on the CPU, bit-identical to what `quantize` gives.

        Raises:
            BitqError: codes or filling bits that `pack` never writes.
        """
        if not prod(self.shape):
            return torch.empty(self.shape, dtype=self.dtype)
        payload = np.ascontiguousarray(self.payload.numpy())
        if payload[-1] >> ((self.num_bits - 1) % 8 + 1):
            raise BitqError("a packed tensor whose last byte is not filled up with zeros is damaged")
        recipe = self._recipe()
        fast = native.unpack(payload, recipe, self.shape, self.dtype)
        if fast is not None:
            return fast
        return coding.decode(self._codes(payload), recipe, self.shape, self.dtype).contiguous()

    def _codes(self, payload: bitstream.Bytes) -> coding.Codes:
        fmt, count, runs, at = self.format, prod(self.shape), [], 0
        blocks = prod(fmt.blocks(self.shape, self.dim, self.inner_dims))
        tensor = [fmt.tensor_bits] if fmt.tensor_bits else []
        for number, widths in ((count, [fmt.element_bits]), (blocks, coding.block_widths(fmt)), (1, tensor)):
            found = bitstream.read(payload, at, number, widths)
            runs.append(tuple(coding.CodeRun(torch.from_numpy(f), w) for f, w in zip(found, widths, strict=True)))
            at += number * sum(widths)
        elements, shared, second = runs
        return coding.Codes(elements[0].codes.view(self.shape), shared, second, self.exponent_bias)


def pack(
    x: Tensor,
    fmt: Format,
    dim: int = 1,
    inner_dims: tuple[int, ...] = (),
    exponent_bias: int | None = None,
    tensor_range: tuple[float, float] | None = None,
    rounding: str | None = None,
    generator: torch.Generator | None = None,
) -> Packed:
    """x quantized and packed; arguments are those of `bitq.quantize`.

    Raises:
        BitqError: what `quantize` refuses, or a tensor with NaN or infinity. A plain float that knows infinity stores
            it where a finite x overflows.
    """
    recipe = recipe_for(x, fmt, dim, inner_dims, exponent_bias, tensor_range, rounding)
    key = draw_key(x.device, generator).cpu() if recipe.rounding == "stochastic" else None
    x = x.detach().cpu().contiguous()
    bias = recipe.exponent_bias
    if not x.numel():
        payload = np.empty(0, np.uint8)
        bias = bias or (0 if isinstance(fmt.scale, SharedExponent) else None)
    elif (fast := native.pack(x, recipe)) is not None:
        payload, bias = fast
    else:
        _check_finite(x)
        codes = coding.encode(x, recipe, key)
        payload, bias = _payload(codes, fmt), codes.exponent_bias
    return Packed(torch.from_numpy(payload), fmt, tuple(x.shape), x.dtype, *recipe.axes, bias)


def _check_finite(x: Tensor) -> None:
    endless = int((~x.isfinite()).sum())
    if endless:
        raise BitqError(
            f"cannot pack a tensor of shape {tuple(x.shape)}: {endless} of its {x.numel()} elements are NaN or "
            "infinite; a packed tensor holds finite numbers only"
        )


def _payload(codes: coding.Codes, fmt: Format) -> bitstream.Bytes:
    elements = coding.CodeRun(codes.elements.reshape(-1), fmt.element_bits)
    runs = [run for run in ((elements,), codes.blocks, codes.tensor) if run]
    return bitstream.write([[bitstream.Fields(f.codes.numpy(), f.width) for f in run] for run in runs])
