"""Quantization of CUDA tensors by Triton: kernels that take a tensor in one pass over its memory.

The twin of torch_path.py and general.py, bit for bit. Uniform steps under powers of two have a kernel of their own.
"""

from __future__ import annotations

from math import ceil

import torch
import triton
import triton.language as tl
from torch import Tensor

from bitq.formats import parse_format
from bitq.numerics import general, torch_path, triton_grids, triton_uniform
from bitq.numerics.blocks import Layout
from bitq.numerics.recipe import Recipe, recipe_for
from bitq.numerics.triton_tiles import TILE

_CHECKED = (  # formats of every kernel and of every kind of arithmetic; the second bias clips
    ("8:e4:b16", None),
    ("8:e4:b16", -8),
    ("n4:e4:b16:half_away", -8),
    ("e2m1:e8m0:v16", None),
    ("s24:e8m0.ceil:v8:toward_zero", None),
    ("e2m1:e4m3.up*f32:v16", None),
    ("e4m3:f32*f32:v4", None),
    ("u4:f16:channel", None),
    ("l(-1;-0.25;0;0.5;0.75):f32:v8", None),
    ("i8:f32:tensor", None),
    ("e4m3", None),
)


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
    powers = 2.0 ** torch.arange(-24, 24, 3, dtype=torch.float64)
    rows = [powers * (1 - 2.0**-24), -powers, powers * 2.0**-126, powers.where(powers != 1, torch.nan), 0 * powers]
    x = torch.stack(rows).float().to(device)
    return all(_agrees(x, recipe_for(x, parse_format(text), 1, exponent_bias=bias)) for text, bias in _CHECKED)


def _agrees(x: Tensor, recipe: Recipe) -> bool:
    exact, over = (general if recipe.steps(x.shape) is None else torch_path).quantize(x, recipe, None, True)
    found = quantize(x, recipe, None, True)
    if found is None or not torch.equal(_one_nan(found[0]), _one_nan(exact)):
        return False
    if over is None:
        return True
    grad = torch.ones_like(x)
    passed = grad if found[1] is None else pass_gradient(grad, found[1])
    return passed is not None and torch.equal(passed, grad.masked_fill(over, 0))


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
