"""The compiled path of `quantize` for dense tensors in CPU memory; torch_path.py is its twin."""

from __future__ import annotations

import torch
from torch import Tensor

from bitq.numerics import blocks
from bitq.numerics.recipe import ROUNDINGS, Recipe

try:
    import bitq.numerics._kernel as _kernel
except ImportError:  # a source tree that was not built: the torch path does everything
    _kernel = None

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
ROUNDING: dict[str, int] = {name: number for number, name in enumerate(ROUNDINGS)}
MANTISSA_BITS = 23  # the most for which the kernel's roundings are exact


def layout(shape: torch.Size, stride: tuple[int, ...], recipe: Recipe) -> blocks.Layout | None:
    """How the kernel reads memory with these strides.

    Returns:
        None where the kernel cannot: it is not built, steps are not uniform, blocks lie scattered, draws have another
        order than memory, or mantissas have more than 23 bits.
    """
    uniform = None if _kernel is None else recipe.steps(shape)
    if uniform is None or uniform.never_negative or uniform.mantissa_bits > MANTISSA_BITS:
        return None
    found = blocks.layout(shape, stride, uniform.axes, uniform.block_size)
    return None if found is None or (recipe.rounding == "stochastic" and not found.in_order) else found


def quantize(
    x: Tensor, recipe: Recipe, key: Tensor | None, with_clipped: bool, out: Tensor | None = None
) -> tuple[Tensor, Tensor | None] | None:
    """Values as the torch path gives them, and a bit for each element of memory that passes no gradient, if any.

    `out`, which may be x, must have x's dtype and strides. The bits are uint8, lowest first, of ceil(numel/8) bytes.
    None where there is no `layout` of x.
    """
    at, uniform = layout(x.shape, x.stride(), recipe), recipe.steps(x.shape)
    if at is None or uniform is None:
        return None
    exponent_bias = uniform.exponent_bias
    y = torch.empty_like(x) if out is None else out
    bits = None
    if with_clipped and uniform.can_clip:
        bits = torch.zeros((x.numel() + 7) // 8, dtype=torch.uint8)
    ffi = _kernel.ffi
    found = _kernel.lib.bitq_quantize(
        ffi.cast("void *", x.data_ptr()),
        ffi.cast("void *", y.data_ptr()),
        ffi.NULL if bits is None else ffi.cast("uint8_t *", bits.data_ptr()),
        KINDS[x.dtype],
        at.outer,
        at.channels,
        at.inner,
        at.block,
        uniform.mantissa_bits,
        uniform.top_code,
        exponent_bias is not None,
        exponent_bias or 0,
        ROUNDING[recipe.rounding],
        0 if key is None else int(key) & (2**64 - 1),
        out is None,
        torch.get_num_threads(),
    )
    return y, bits if found else None


def pass_gradient(grad: Tensor, clipped: Tensor) -> Tensor | None:
    """`grad`, laid out as the bits `clipped` were, with zeros where they are set; None if the kernel is not built."""
    if _kernel is None or not grad.is_cpu or grad.element_size() not in (2, 4):
        return None
    passed, ffi = torch.empty_like(grad), _kernel.ffi
    _kernel.lib.bitq_pass(
        ffi.cast("void *", grad.data_ptr()),
        ffi.cast("void *", passed.data_ptr()),
        ffi.cast("uint8_t *", clipped.data_ptr()),
        grad.numel(),
        grad.element_size(),
        torch.get_num_threads(),
    )
    return passed
