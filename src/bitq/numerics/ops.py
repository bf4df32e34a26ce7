"""The operators `torch.ops.bitq`, by which PyTorch's transformations see quantization, and its gradient.

What `quantize` calls directly on plain tensors goes through an operator wherever something looks on: `torch.compile`,
`torch.export`, `torch.func`, dispatch modes, tracing, other devices.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from bitq.formats import BlockFormat
from bitq.numerics import native, torch_path
from bitq.numerics.blocks import Axes

_ARGUMENTS = (
    "Tensor x, int mantissa_bits, int exponent_bits, int block_size, int dim, int[] inner_dims, "
    "int? exponent_bias, str rounding, Tensor? key"
)
_library = torch.library.Library("bitq", "DEF")  # type: ignore[no-untyped-call]
for _schema in (
    f"quantize({_ARGUMENTS}, bool with_clipped=False) -> (Tensor, Tensor)",
    f"quantize_into({_ARGUMENTS}, Tensor(a!) out) -> ()",
    "pass_gradient(Tensor grad, Tensor clipped, SymInt[] stride) -> Tensor",
):
    _library.define(_schema)  # type: ignore[no-untyped-call]


def quantize(
    x: Tensor,
    fmt: BlockFormat,
    axes: Axes,
    exponent_bias: int | None,
    rounding: str,
    key: Tensor | None,
    out: Tensor | None = None,
) -> Tensor:
    """The values, with their gradient; straight from the kernel where nothing looks on.

    `key` holds the 64 bits that stochastic rounding draws from; `out` is written to, and needs no gradient of x.
    """
    if out is not None:
        if _alike(x, out):
            _local(x, fmt, axes, exponent_bias, rounding, key, False, out)
        else:
            torch.ops.bitq.quantize_into(*_arguments(x, fmt, axes, exponent_bias, rounding, key), out)
        return out
    trained = x.requires_grad and torch.is_grad_enabled()
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    fused = torch.compiler.is_compiling() and x.device.type != "cpu"
    if transformed or (trained and (fused or _plain(x))):
        apply: Callable[..., Any] = _Transformed.apply if transformed else _StraightThrough.apply
        found = apply(x, fmt, axes, exponent_bias, rounding, key)
        values: Tensor = found[0] if transformed else found
        return values
    return _compute(x, fmt, axes, exponent_bias, rounding, key, trained)[0]


def _arguments(
    x: Tensor, fmt: BlockFormat, axes: Axes, exponent_bias: int | None, rounding: str, key: Tensor | None
) -> tuple[Any, ...]:
    """What the operator takes for these."""
    return x, fmt.mantissa_bits, fmt.exponent_bits, min(fmt.block_size, 2**31), *axes, exponent_bias, rounding, key


def quantize_in_place(y: Tensor, fmt: BlockFormat, axes: Axes, exponent_bias: int | None) -> Tensor:
    """y itself, rounded to nearest, with its gradient; for a `direct` y that no operation saved and that is no view."""
    if y.requires_grad and torch.is_grad_enabled():
        apply: Callable[..., Tensor] = _InPlace.apply
        return apply(y, fmt, axes, exponent_bias, "nearest", None)
    return _local(y, fmt, axes, exponent_bias, "nearest", None, False, y)[0]


def direct(x: Tensor) -> bool:
    """Whether x is memory to compute on now, and nothing records, transforms or replaces what is done with it."""
    return (
        not torch.compiler.is_compiling()
        and type(x) in (Tensor, Parameter)
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
        and torch._C._get_tracing_state() is None
        and forward_ad._current_level < 0
    )


def _plain(x: Tensor) -> bool:
    """Whether x is `direct` memory for which there are kernels."""
    return direct(x) and _kernels(x) is not None


def _kernels(x: Tensor) -> ModuleType | None:
    """What quantizes in one pass where x is: native.py, triton_path.py, or nothing."""
    return native if x.is_cpu else _gpu_kernels(x.device) if x.is_cuda else None


@cache
def _gpu_kernels(device: torch.device) -> ModuleType | None:
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
    """Whether the kernels can write to `out`: it lies as x does, in x's memory or apart from it."""
    if not (_plain(x) and type(out) in (Tensor, Parameter) and out.device == x.device) or out.stride() != x.stride():
        return False
    return out.data_ptr() == x.data_ptr() or out.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


def _compute(
    x: Tensor,
    fmt: BlockFormat,
    axes: Axes,
    exponent_bias: int | None,
    rounding: str,
    key: Tensor | None,
    with_clipped: bool,
) -> tuple[Tensor, Tensor | None]:
    """Values, and what was clipped: None, bits (uint8) in order of memory, or the torch path's mask (bool).

    The kernels do what is plain, `torch.compile` fuses the torch path for other devices, the operator does the rest.
    """
    if _plain(x) or (torch.compiler.is_compiling() and x.device.type != "cpu"):
        return _local(x, fmt, axes, exponent_bias, rounding, key, with_clipped)
    found: tuple[Tensor, Tensor] = torch.ops.bitq.quantize(
        *_arguments(x, fmt, axes, exponent_bias, rounding, key), with_clipped
    )
    return found


def _local(
    x: Tensor,
    fmt: BlockFormat,
    axes: Axes,
    exponent_bias: int | None,
    rounding: str,
    key: Tensor | None,
    with_clipped: bool,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    kernels = None if torch.compiler.is_compiling() else _kernels(x)
    if kernels is not None:
        fast: tuple[Tensor, Tensor | None] | None = kernels.quantize(
            x, fmt, axes, exponent_bias, rounding, key, with_clipped, out
        )
        if fast is not None:
            return fast
    y, clipped = torch_path.quantize(x, fmt, axes, exponent_bias, rounding, key, with_clipped)
    return y if out is None else out.copy_(y), clipped


class _StraightThrough(torch.autograd.Function):
    """The operator's gradient with less overhead, and with nothing kept if nothing was clipped."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        fmt: BlockFormat,
        axes: Axes,
        exponent_bias: int | None,
        rounding: str,
        key: Tensor | None,
    ) -> Tensor:
        y, clipped = _local(x, fmt, axes, exponent_bias, rounding, key, True)
        ctx.save_for_backward(clipped)
        ctx.stride = y.stride()
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (clipped,) = ctx.saved_tensors
        return grad if clipped is None else _pass(grad, clipped, ctx.stride), None, None, None, None, None


class _InPlace(_StraightThrough):
    @staticmethod
    def forward(ctx: Any, y: Tensor, *settings: Any) -> Tensor:
        fmt, axes, exponent_bias, rounding, key = settings
        _, clipped = _local(y, fmt, axes, exponent_bias, rounding, key, True, y)
        ctx.save_for_backward(clipped)
        ctx.stride = y.stride()
        ctx.mark_dirty(y)
        return y


class _Transformed(torch.autograd.Function):
    """The same for `torch.func` and forward-mode differentiation."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = torch.ops.bitq.quantize(*_arguments(*args), True)
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
        return _pass(grad, ctx.saved_tensors[0], ctx.stride), None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> tuple[Tensor, None]:
        return _pass(tangent, ctx.saved_tensors[0], ctx.stride), None


def _pass(grad: Tensor, clipped: Tensor, stride: tuple[int, ...]) -> Tensor:
    if clipped.dtype != torch.bool:
        if not torch.is_grad_enabled() and _plain(grad):
            return _pass_gradient(grad, clipped, stride)
        clipped = _from_bits(clipped, grad.shape, stride)
    return grad.masked_fill(clipped, 0.0)


@lru_cache
def _format(mantissa_bits: int, exponent_bits: int, block_size: int) -> BlockFormat:
    return BlockFormat(mantissa_bits + exponent_bits, exponent_bits, block_size)


def _quantize(
    x: Tensor,
    mantissa_bits: int,
    exponent_bits: int,
    block_size: int,
    dim: int,
    inner_dims: list[int],
    exponent_bias: int | None,
    rounding: str,
    key: Tensor | None,
    with_clipped: bool = False,
) -> tuple[Tensor, Tensor]:
    fmt, axes = _format(mantissa_bits, exponent_bits, block_size), (dim, tuple(inner_dims))
    y, clipped = _local(x, fmt, axes, exponent_bias, rounding, key, with_clipped)
    if clipped is None:
        return y, x.new_zeros((x.numel() + 7) // 8 if with_clipped else 0, dtype=torch.uint8)
    return y, _to_bits(clipped, y) if clipped.dtype == torch.bool else clipped


def _quantize_into(
    x: Tensor,
    mantissa_bits: int,
    exponent_bits: int,
    block_size: int,
    dim: int,
    inner_dims: list[int],
    exponent_bias: int | None,
    rounding: str,
    key: Tensor | None,
    out: Tensor,
) -> None:
    fmt, axes = _format(mantissa_bits, exponent_bits, block_size), (dim, tuple(inner_dims))
    out.copy_(_local(x, fmt, axes, exponent_bias, rounding, key, False)[0])


def _pass_gradient(grad: Tensor, clipped: Tensor, stride: list[int] | tuple[int, ...]) -> Tensor:
    """`grad`, with zeros where the bits of a tensor with these strides are set."""
    kernels = _kernels(grad)
    if kernels is not None and grad.stride() == tuple(stride):
        fast: Tensor | None = kernels.pass_gradient(grad, clipped)
        if fast is not None:
            return fast
    return grad.clone().masked_fill_(_from_bits(clipped, grad.shape, tuple(stride)), 0.0)


def _to_bits(mask: Tensor, y: Tensor) -> Tensor:
    """A mask as a bit for each element of y in the order of memory, which y fills without gaps."""
    flat = torch.empty_like(y, dtype=torch.bool).copy_(mask).as_strided((y.numel(),), (1,))
    octets = torch.nn.functional.pad(flat, (0, -y.numel() % 8)).view(-1, 8)
    return (octets << torch.arange(8, device=mask.device)).sum(1).to(torch.uint8)


def _from_bits(bits: Tensor, shape: torch.Size, stride: tuple[int, ...]) -> Tensor:
    flat = (bits.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8, device=bits.device)) & 1
    return flat.flatten().bool().as_strided(shape, stride)


def _fake_quantize(x: Tensor, *args: Any, with_clipped: bool = False) -> tuple[Tensor, Tensor]:
    with_clipped = args[8] if len(args) > 8 else with_clipped
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
    return (torch.ops.bitq.pass_gradient(grad, clipped, ctx.stride), *[None] * 9)


def _remember_bits(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, clipped, ctx.stride = inputs
    ctx.save_for_backward(clipped)


def _backward_of_pass(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return torch.ops.bitq.pass_gradient(grad, ctx.saved_tensors[0], ctx.stride), None, None


def _batched_quantize(info: Any, in_dims: tuple[Any, ...], x: Tensor, *args: Any) -> tuple[Any, Any]:
    """Each sample as if it were alone: with its own default bias, its own draws, its own bits."""
    m, e, block_size, dim, inner_dims, exponent_bias, rounding, key, with_clipped = args
    samples = _samples(x, in_dims[0], info.batch_size)
    if exponent_bias is not None and key is None and not with_clipped:
        inner = [d + 1 for d in inner_dims]
        y, bits = torch.ops.bitq.quantize(samples, m, e, block_size, dim + 1, inner, exponent_bias, rounding, None)
        return (y, bits), (0, None)
    keys = _samples(key, in_dims[8], info.batch_size)
    results = [
        torch.ops.bitq.quantize(sample, *args[:-2], k, with_clipped) for sample, k in zip(samples, keys, strict=True)
    ]
    return tuple(torch.stack(part) for part in zip(*results, strict=True)), (0, 0)


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
