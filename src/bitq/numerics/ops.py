"""The operators `torch.ops.bitq`, by which PyTorch's transformations see quantization, and its gradient.

What `quantize` calls directly on plain tensors goes through an operator wherever something looks on: `torch.compile`,
`torch.export`, `torch.func`, dispatch modes, tracing, other devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from bitq import private_torch
from bitq.formats import parse_format
from bitq.formats.blocking import Along, Channel
from bitq.numerics import paths
from bitq.numerics.recipe import Axes, Recipe

_ARGUMENTS = (
    "Tensor x, str format, int dim, int[] inner_dims, int? exponent_bias, float[]? tensor_range, str rounding, "
    "Tensor? key"
)
_library = torch.library.Library("bitq", "DEF")  # type: ignore[no-untyped-call]
for _schema in (
    f"quantize({_ARGUMENTS}, bool with_clipped=False) -> (Tensor, Tensor)",
    f"quantize_into({_ARGUMENTS}, Tensor(a!) out) -> ()",
    "pass_gradient(Tensor grad, Tensor clipped, SymInt[] stride) -> Tensor",
):
    _library.define(_schema)  # type: ignore[no-untyped-call]


def quantize(x: Tensor, recipe: Recipe, key: Tensor | None, out: Tensor | None = None) -> Tensor:
    """The values, with their gradient; straight from the kernel where nothing looks on.

    `key` holds the 64 bits that stochastic rounding draws from; `out` is written to, and needs no gradient of x.
    """
    if out is not None:
        if _plain(x) and _plain(out):
            return paths.quantize(x, recipe, key, out=out)[0]
        torch.ops.bitq.quantize_into(x, *_flat(recipe), key, out)
        return out
    trained = x.requires_grad and torch.is_grad_enabled()
    transformed = private_torch.transforming() or private_torch.differentiating_forward()
    fused = _fused(x)
    if transformed or (trained and (fused or _plain(x))):
        apply: Callable[..., Any] = _Transformed.apply if transformed else _StraightThrough.apply
        found = apply(x, recipe, key)
        values: Tensor = found[0] if transformed else found
        return values
    if fused or _plain(x):
        return paths.quantize(x, recipe, key, trained)[0]
    seen: Tensor = torch.ops.bitq.quantize(x, *_flat(recipe), key, trained)[0]
    return seen


def _flat(recipe: Recipe) -> tuple[Any, ...]:
    """A recipe as the operators' schemas take it: numbers, lists of them and text."""
    return recipe.format.text, *recipe.axes, recipe.exponent_bias, recipe.tensor_range, recipe.rounding


def _recipe(flat: Sequence[Any]) -> Recipe:
    """The inverse of `_flat`."""
    text, dim, inner_dims, exponent_bias, given, rounding = flat
    tensor_range = None if given is None else (given[0], given[1])
    return Recipe(parse_format(text), Axes(dim, tuple(inner_dims)), exponent_bias, rounding, tensor_range)


def quantize_in_place(y: Tensor, recipe: Recipe) -> Tensor:
    """y itself, not rounded stochastically, with its gradient; for a `direct` y that no operation saved, no view."""
    if y.requires_grad and torch.is_grad_enabled():
        apply: Callable[..., Tensor] = _InPlace.apply
        return apply(y, recipe)
    return paths.quantize(y, recipe, None, out=y)[0]


def direct(x: Tensor) -> bool:
    """Whether x is memory to compute on now, and nothing records, transforms or replaces what is done with it."""
    return (
        not torch.compiler.is_compiling()
        and type(x) in (Tensor, Parameter)
        and not private_torch.transforming()
        and not private_torch.dispatching()
        and not private_torch.jit_tracing()
        and not private_torch.differentiating_forward()
    )


def _fused(x: Tensor) -> bool:
    """Whether `torch.compile` fuses the torch path: on all devices but the CPU, where the kernel is faster."""
    return torch.compiler.is_compiling() and x.device.type != "cpu"


def _plain(x: Tensor) -> bool:
    """Whether x is `direct` memory for which there are kernels."""
    return direct(x) and paths.kernels_of(x) is not None


class _StraightThrough(torch.autograd.Function):
    """The operator's gradient with less overhead, and with nothing kept if nothing was clipped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, recipe: Recipe, key: Tensor | None) -> Tensor:
        y, clipped = paths.quantize(x, recipe, key, True)
        ctx.save_for_backward(clipped)
        ctx.stride = y.stride()
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (clipped,) = ctx.saved_tensors
        return grad if clipped is None else _pass(grad, clipped, ctx.stride), None, None


class _InPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, recipe: Recipe) -> Tensor:
        _, clipped = paths.quantize(y, recipe, None, True, y)
        ctx.save_for_backward(clipped)
        ctx.stride = y.stride()
        ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _StraightThrough.backward(ctx, grad)[:2]


class _Transformed(torch.autograd.Function):
    """The same for `torch.func` and forward-mode differentiation."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, recipe: Recipe, key: Tensor | None) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = torch.ops.bitq.quantize(x, *_flat(recipe), key, True)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        y, clipped = output
        ctx.mark_non_differentiable(clipped)
        ctx.save_for_backward(clipped)
        ctx.save_for_forward(clipped)
        ctx.stride = y.stride()

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return _pass(grad, ctx.saved_tensors[0], ctx.stride), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> tuple[Tensor, None]:
        return _pass(tangent, ctx.saved_tensors[0], ctx.stride), None


def _pass(grad: Tensor, clipped: Tensor, stride: tuple[int, ...]) -> Tensor:
    if clipped.dtype != torch.bool:
        if not torch.is_grad_enabled() and _plain(grad):
            return paths.pass_gradient(grad, clipped, stride)
        clipped = paths.from_bits(clipped, grad.shape, stride)
    return grad.masked_fill(clipped, 0.0)


def _quantize(x: Tensor, *args: Any, with_clipped: bool = False) -> tuple[Tensor, Tensor]:
    *flat, key = args[:7]
    with_clipped = args[7] if len(args) > 7 else with_clipped
    y, clipped = paths.quantize(x, _recipe(flat), key, with_clipped)
    if clipped is None:
        return y, x.new_zeros((x.numel() + 7) // 8 if with_clipped else 0, dtype=torch.uint8)
    return y, paths.to_bits(clipped, y) if clipped.dtype == torch.bool else clipped


def _quantize_into(x: Tensor, *args: Any) -> None:
    *flat, key, out = args
    paths.quantize(x, _recipe(flat), key, out=out)


def _pass_gradient(grad: Tensor, clipped: Tensor, stride: list[int] | tuple[int, ...]) -> Tensor:
    return paths.pass_gradient(grad, clipped, tuple(stride))


def _fake_quantize(x: Tensor, *args: Any, with_clipped: bool = False) -> tuple[Tensor, Tensor]:
    with_clipped = args[7] if len(args) > 7 else with_clipped
    return torch.empty_like(x), x.new_empty((x.numel() + 7) // 8 if with_clipped else 0, dtype=torch.uint8)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *args, with_clipped = inputs
    y, clipped = output
    ctx.mark_non_differentiable(clipped)
    ctx.stride, ctx.settings = y.stride(), args[1:-1]
    ctx.save_for_backward(*((clipped,) if with_clipped else (args[0], args[-1])))


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    clipped, *rest = ctx.saved_tensors
    if rest:  # called without the bits: x and its draws give them again
        clipped = torch.ops.bitq.quantize(clipped.detach(), *ctx.settings, rest[0], True)[1]
    return (torch.ops.bitq.pass_gradient(grad, clipped, ctx.stride), *[None] * 8)


def _remember_bits(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, clipped, ctx.stride = inputs
    ctx.save_for_backward(clipped)


def _backward_of_pass(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return torch.ops.bitq.pass_gradient(grad, ctx.saved_tensors[0], ctx.stride), None, None


def _batched_quantize(info: Any, in_dims: tuple[Any, ...], x: Tensor, *args: Any) -> tuple[Any, Any]:
    """Each sample as if it were alone: with its own default bias, its own draws, its own bits."""
    text, dim, inner_dims, exponent_bias, tensor_range, rounding, key, with_clipped = args
    samples = _samples(x, in_dims[0], info.batch_size)
    if exponent_bias is not None and key is None and not with_clipped and _keeps_apart(text):
        inner = [d + 1 for d in inner_dims]
        y, bits = torch.ops.bitq.quantize(samples, text, dim + 1, inner, exponent_bias, tensor_range, rounding, None)
        return (y, bits), (0, None)
    keys = _samples(key, in_dims[7], info.batch_size)
    results = [
        torch.ops.bitq.quantize(sample, *args[:-2], k, with_clipped) for sample, k in zip(samples, keys, strict=True)
    ]
    return tuple(torch.stack(part) for part in zip(*results, strict=True)), (0, 0)


def _keeps_apart(text: str) -> bool:
    """Whether no block reaches over an axis before the others."""
    return isinstance(parse_format(text).geometry, Along | Channel)


def _batched_pass(
    info: Any, in_dims: tuple[Any, ...], grad: Tensor, clipped: Tensor, stride: list[int]
) -> tuple[Any, Any]:
    pairs = zip(*(_samples(t, d, info.batch_size) for t, d in ((grad, in_dims[0]), (clipped, in_dims[1]))), strict=True)
    return torch.stack([torch.ops.bitq.pass_gradient(g, c, stride) for g, c in pairs]), 0


def _samples(x: Any, batch_dim: int | None, count: int) -> Any:
    """The samples of a batch along a new first axis, each laid out in order; what is no batch, for every sample."""
    return [x] * count if batch_dim is None else x.movedim(batch_dim, 0).contiguous()


for _name, _implementation in (
    ("quantize", _quantize),
    ("quantize_into", _quantize_into),
    ("pass_gradient", _pass_gradient),
):
    _library.impl(_name, _implementation, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("bitq::quantize", _fake_quantize, lib=_library)
torch.library.register_fake("bitq::quantize_into", lambda *args: None, lib=_library)
torch.library.register_fake("bitq::pass_gradient", lambda grad, *_: torch.empty_like(grad), lib=_library)
torch.library.register_autograd("bitq::quantize", _backward, setup_context=_remember, lib=_library)
torch.library.register_autograd("bitq::pass_gradient", _backward_of_pass, setup_context=_remember_bits, lib=_library)
torch.library.register_vmap("bitq::quantize", _batched_quantize, lib=_library)
torch.library.register_vmap("bitq::pass_gradient", _batched_pass, lib=_library)
