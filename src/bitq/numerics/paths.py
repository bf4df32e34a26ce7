"""Which code quantizes a tensor: kernels in one pass over memory, on a copy if x lies awkwardly, or plain PyTorch."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from bitq.formats.blocking import Along, Whole
from bitq.formats.format import made
from bitq.numerics import blocks, general, native, torch_path
from bitq.numerics.block_rows import BlockRows
from bitq.numerics.recipe import Axes, Recipe

ValuesAndMask = tuple[Tensor, Tensor | None]
"""Values, and what was clipped: None, bits (uint8) in order of the values' memory, or a mask (bool)."""


def quantize(
    x: Tensor, recipe: Recipe, key: Tensor | None, with_clipped: bool = False, out: Tensor | None = None
) -> ValuesAndMask:
    """Values of x, in `out` if that is given, which may be x.

    `key` holds the 64 bits that stochastic rounding draws from. What was clipped is told if that is wanted.
    """
    kernels = None if torch.compiler.is_compiling() else kernels_of(x)
    found: ValuesAndMask | None = None
    if kernels is not None and (out is None or _alike(x, out)):
        found = kernels.quantize(x, recipe, key, with_clipped, out)
    if kernels is not None and found is None:
        y = torch.empty_like(x) if out is None or not _apart(x, out) else out
        found = _on_a_copy(kernels, x, recipe, key, with_clipped, y) or _as_rows(kernels, x, recipe, key, with_clipped)
    y, clipped = found or plain(x, recipe, key, with_clipped)
    if out is None or y is out:
        return y, clipped
    if clipped is not None and clipped.dtype != torch.bool and y.stride() != out.stride():
        clipped = from_bits(clipped, y.shape, y.stride())
    return out.copy_(y), clipped


def plain(x: Tensor, recipe: Recipe, key: Tensor | None, with_clipped: bool) -> ValuesAndMask:
    """Values and mask (bool) by PyTorch's own operations."""
    if recipe.steps(tuple(x.shape)) is None:
        return general.quantize(x, recipe, key, with_clipped)
    return torch_path.quantize(x, recipe, key, with_clipped)


def _on_a_copy(
    kernels: ModuleType, x: Tensor, recipe: Recipe, key: Tensor | None, with_clipped: bool, y: Tensor
) -> ValuesAndMask | None:
    """The same into y, apart from x, quantized in place where x was copied to; None if kernels take no copy at all.

    A kernel reads memory once, a copy once more. The torch path reads it some twenty times.
    """
    uniform = recipe.steps(tuple(x.shape))
    axes = recipe.axes if uniform is None else uniform.axes
    for stride in (y.stride(), *blocks.dense_strides(x.shape, axes)):
        if kernels.layout(x.shape, stride, recipe) is None:
            continue
        if stride == y.stride():
            return y, kernels.quantize(y.copy_(x), recipe, key, with_clipped, y)[1]
        copy = x.new_empty_strided(x.shape, stride).copy_(x)
        clipped = kernels.quantize(copy, recipe, key, with_clipped, copy)[1]
        return y.copy_(copy), None if clipped is None else from_bits(clipped, x.shape, stride)
    return None


def _as_rows(
    kernels: ModuleType, x: Tensor, recipe: Recipe, key: Tensor | None, with_clipped: bool
) -> ValuesAndMask | None:
    """The same of blocks that lie scattered, however memory is ordered: each is made a row of a matrix.

    None if kernels do not take these either, or draws have the order of x.
    """
    fmt = recipe.format
    if key is not None or fmt.scale is None or isinstance(fmt.geometry, Whole) or not x.numel():
        return None
    at = BlockRows.of(recipe, tuple(x.shape))
    rows = at.arranged(x)
    along = made(fmt.elements, fmt.scale, Along(rows.shape[1]), fmt.rounding)
    found = kernels.quantize(rows, replace(recipe, format=along, axes=Axes(1)), None, with_clipped)
    if found is None:
        return None
    y, clipped = found
    mask = None if clipped is None else at.restored(from_bits(clipped, y.shape, y.stride()))
    return torch_path.laid_as(x, at.restored(y)), mask


def pass_gradient(grad: Tensor, clipped: Tensor, stride: tuple[int, ...]) -> Tensor:
    """`grad`, with zeros where the bits of a dense tensor with these strides are set."""
    kernels = kernels_of(grad)
    ordered = grad if grad.stride() == stride else grad.new_empty_strided(grad.shape, stride).copy_(grad)
    fast: Tensor | None = None if kernels is None else kernels.pass_gradient(ordered, clipped)
    if fast is None:
        return grad.clone().masked_fill_(from_bits(clipped, grad.shape, stride), 0.0)
    if ordered is grad:
        return fast
    passed = torch.empty_like(grad)
    return fast if passed.stride() == stride else passed.copy_(fast)


def kernels_of(x: Tensor) -> ModuleType | None:
    """What quantizes in one pass where x is: native.py, triton_path.py, or nothing."""
    return native if x.is_cpu else gpu_kernels(x.device) if x.is_cuda else None


@cache
def gpu_kernels(device: torch.device) -> ModuleType | None:
    """triton_path.py, where PyTorch's build brings Triton and its kernels give the torch path's bits on this device."""
    try:
        from bitq.numerics import triton_path

        same = triton_path.agrees(device)
    except ImportError:
        return None
    except Exception as error:  # whatever Triton misses: a C compiler, a newer device, a driver
        same, reason = False, str(error).strip().partition("\n")[0]
    else:
        reason = "its bits are not those of PyTorch"
    if not same:
        warnings.warn(f"Triton does not work on {device} ({reason}): quantization there is slower", stacklevel=2)
    return triton_path if same else None


def _alike(x: Tensor, out: Tensor) -> bool:
    """Whether `out` lies as x does, in x's memory or apart from it."""
    return out.stride() == x.stride() and (out.data_ptr() == x.data_ptr() or _apart(x, out))


def _apart(x: Tensor, out: Tensor) -> bool:
    a, b = x.untyped_storage(), out.untyped_storage()
    return a.data_ptr() + a.nbytes() <= b.data_ptr() or b.data_ptr() + b.nbytes() <= a.data_ptr()


def to_bits(mask: Tensor, y: Tensor) -> Tensor:
    """A mask as a bit for each element of y in the order of memory, which y fills without gaps."""
    flat = torch.empty_like(y, dtype=torch.bool).copy_(mask).as_strided((y.numel(),), (1,))
    octets = torch.nn.functional.pad(flat, (0, -y.numel() % 8)).view(-1, 8)
    return (octets << torch.arange(8, device=mask.device)).sum(1).to(torch.uint8)


def from_bits(bits: Tensor, shape: torch.Size, stride: tuple[int, ...]) -> Tensor:
    """The mask that `to_bits` of a tensor with these strides was given."""
    flat = (bits.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8, device=bits.device)) & 1
    return flat.flatten().bool().as_strided(shape, stride)
