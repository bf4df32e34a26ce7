"""The compiled path of `quantize` for dense tensors in CPU memory; torch_path.py is its twin."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from bitq.formats.elements import Float, Integer
from bitq.formats.format import Format
from bitq.formats.scales import FloatScale, ScaledExponent
from bitq.numerics import blocks, grid_format
from bitq.numerics.general import precision
from bitq.numerics.grid_format import MOST_DIGITS, Described
from bitq.numerics.recipe import Axes, Recipe

try:
    import bitq.numerics._kernel as _kernel
except ImportError:  # a source tree that was not built: the torch path does everything
    _kernel = None

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def layout(shape: torch.Size, stride: tuple[int, ...], recipe: Recipe) -> blocks.Layout | None:
    """How the kernel reads memory with these strides.

    Returns:
        None where the kernel cannot: it is not built or has no such format, blocks lie scattered or are short along
        several axes, or draws have another order than memory.
    """
    return None if _kernel is None else _layout(shape, stride, recipe)


@lru_cache(4096)
def _layout(shape: torch.Size, stride: tuple[int, ...], recipe: Recipe) -> blocks.Layout | None:
    if described(recipe) is None:
        return None
    found = blocks.layout_for(shape, stride, recipe)
    return None if found is None or (recipe.rounding == "stochastic" and not found.in_order) else found


@lru_cache(4096)
def described(recipe: Recipe) -> Described | None:
    """None where the kernel cannot do it.

    It has no levels, zero points, sums, plain floats, whole numbers of more than 23 bits or floats without mantissa;
    none but whole numbers under the exponent of max|x| are rounded otherwise than to nearest.
    """
    found, fmt = grid_format.described(recipe), recipe.format
    if found is None or fmt.has_zero_point:
        return None
    element, fields = fmt.elements[0], found.fields
    if isinstance(element, Integer):
        possible = element.bits + (not element.signed) <= MOST_DIGITS
    else:
        possible = isinstance(element, Float) and element.mantissa_bits > 0
    if fields.get("bump") and fields["to_unit"] == 0:
        possible = False  # the unit may be 2^128
    if fields.get("least_second"):
        possible = possible and _exact_products(fmt)
    return found if possible and (recipe.rounding == "nearest" or fields.get("uniform")) else None


def _exact_products(fmt: Format) -> bool:
    """Whether every element's product with a scale is a normal float32."""
    if isinstance(fmt.scale, ScaledExponent):
        return True
    assert isinstance(fmt.scale, FloatScale)
    number = fmt.scale.number
    digits = precision(fmt.elements[0]) + 1 + number.mantissa_bits + 1
    least, most = fmt.smallest * number.smallest(), fmt.largest * number.largest()
    return digits <= 24 and least >= 2.0**-126 and most < 2.0**127


@lru_cache(4096)
def _struct(recipe: Recipe) -> Any:
    """The recipe as C has it."""
    known = described(recipe)
    return None if known is None else _kernel.ffi.new("bitq_format *", known.fields)


def quantize(
    x: Tensor, recipe: Recipe, key: Tensor | None, with_clipped: bool, out: Tensor | None = None
) -> tuple[Tensor, Tensor | None] | None:
    """Values as the torch path gives them, and a bit for each element of memory that passes no gradient, if any.

    `out`, which may be x, must have x's dtype and strides. The bits are uint8, lowest first, of ceil(numel/8) bytes.
    None where there is no `layout` of x.
    """
    if recipe.format.scale is None:
        plain = _cast(x, recipe, out)
        return None if plain is None else (plain, None)
    at, known = layout(x.shape, x.stride(), recipe), described(recipe)
    if at is None or known is None:
        return None
    y = torch.empty_like(x) if out is None else out
    bits = None
    if with_clipped and known.can_clip:
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
        _struct(recipe),
        0 if key is None else int(key) & (2**64 - 1),
        out is None,
        torch.get_num_threads(),
    )
    return y, bits if found else None


def _cast(x: Tensor, recipe: Recipe, out: Tensor | None) -> Tensor | None:
    """Plain floats with a mantissa, to nearest, of tensors without gaps; `general.quantize` is the twin."""
    number = recipe.format.elements[0]
    if _kernel is None or recipe.rounding != "nearest" or not (isinstance(number, Float) and number.mantissa_bits):
        return None
    if blocks.layout(x.shape, x.stride(), Axes(recipe.axes.dim, ()), 1) is None:
        return None
    y, ffi = torch.empty_like(x) if out is None else out, _kernel.ffi
    _kernel.lib.bitq_cast(
        ffi.cast("void *", x.data_ptr()),
        ffi.cast("void *", y.data_ptr()),
        x.numel(),
        KINDS[x.dtype],
        number.mantissa_bits,
        number.least_exponent,
        number.largest(),
        number.kind == "i",
        torch.get_num_threads(),
    )
    return y


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
