"""Quantization of CUDA tensors by Triton: kernels that take a tensor in one pass over its memory.

The twin of torch_path.py and general.py, bit for bit. Uniform steps under powers of two have a kernel of their own.
"""

from __future__ import annotations

from math import ceil

import torch
import triton
import triton.language as tl
from torch import Tensor

from bitq.formats import BlockFormat
from bitq.numerics import torch_path, triton_grids, triton_uniform
from bitq.numerics.blocks import Layout
from bitq.numerics.recipe import Axes, Recipe
from bitq.numerics.triton_tiles import TILE


def layout(shape: torch.Size, stride: tuple[int, ...], recipe: Recipe) -> Layout | None:
    """How the kernels read memory with these strides; None where they cannot."""
    return triton_uniform.layout(shape, stride, recipe) or triton_grids.layout(shape, stride, recipe)


def quantize(
    x: Tensor, recipe: Recipe, key: Tensor | None, with_clipped: bool, out: Tensor | None = None
) -> tuple[Tensor, Tensor | None] | None:
    """Values as the torch path gives them, and a bit for each element of memory that passes no gradient, if any could.

    `out`, which may be x, must have x's dtype and strides. The bits are uint8, lowest first, of ceil(numel/8) bytes.
    Nothing waits for the device. None where there is no `layout` of x.
    """
    found = triton_uniform.quantize(x, recipe, key, with_clipped, out)
    return triton_grids.quantize(x, recipe, key, with_clipped, out) if found is None else found


def pass_gradient(grad: Tensor, clipped: Tensor) -> Tensor | None:
    """`grad`, dense and laid out as the bits `clipped` were, with zeros where they are set; None for others."""
    if grad.element_size() not in (2, 4) or not grad.numel():
        return None
    passed, pattern = torch.empty_like(grad), torch.int32 if grad.element_size() == 4 else torch.int16
    with torch.cuda.device_of(grad):
        _pass[(ceil(grad.numel() / TILE),)](grad.view(pattern), passed.view(pattern), clipped, grad.numel(), TILE // 8)
    return passed


def agrees(device: torch.device) -> bool:
    """Whether these kernels give the torch path's bits there, for a few numbers that go wrong first."""
    fmt, axes = BlockFormat(8, 4, 16), Axes(1)
    powers = 2.0 ** torch.arange(-24, 24, 3, dtype=torch.float64)
    rows = [powers * (1 - 2.0**-24), -powers, powers * 2.0**-126, powers.where(powers != 1, torch.nan), 0 * powers]
    x = torch.stack(rows).float().to(device)
    grad = torch.ones_like(x)
    for bias in (None, -8):  # the second clips
        recipe = Recipe(fmt, axes, bias)
        exact, over = torch_path.quantize(x, recipe, None, True)
        found = quantize(x, recipe, None, True)
        if found is None or not torch.equal(_one_nan(found[0]), _one_nan(exact)):
            return False
        if over is not None:
            passed = None if found[1] is None else pass_gradient(grad, found[1])
            if passed is None or not torch.equal(passed, grad.masked_fill(over, 0)):
                return False
    return True


def _one_nan(x: Tensor) -> Tensor:
    """The bit patterns of float32 numbers, with one for every NaN: what PyTorch computes has another than ours."""
    return x.masked_fill(x.isnan(), torch.nan).view(torch.int32)


@triton.jit
def _pass(grad, passed, clipped, count, OCTETS: tl.constexpr):
    """Copies `count` elements, with zeros where their bits are set."""
    octet = tl.program_id(0).to(tl.int64) * OCTETS + tl.arange(0, OCTETS)[:, None]
    bit = tl.arange(0, 8)[None, :]
    at = octet * 8 + bit
    blocked = (tl.load(clipped + octet, octet * 8 < count, other=0).to(tl.int32) >> bit) & 1
    raw = tl.load(grad + at, at < count, other=0)
    tl.store(passed + at, tl.where(blocked == 1, 0, raw).to(raw.dtype), at < count)
