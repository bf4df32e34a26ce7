"""What a number becomes: block floating point values of a tensor, with a straight-through gradient."""

from __future__ import annotations

from collections.abc import Callable
from math import frexp, isfinite
from typing import Any

import torch
from torch import Tensor

from bitq.errors import BitqError
from bitq.formats import BlockFormat
from bitq.numerics import blocks, native
from bitq.numerics.blocks import Axes

LEAST_BIAS = -512  # far below every float32: all blocks are at the format's lowest exponent


def quantize(
    x: Tensor,
    fmt: BlockFormat,
    dim: int = 1,
    inner_dims: tuple[int, ...] = (),
    exponent_bias: int | None = None,
    rounding: str = "nearest",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Every element of x as the block floating point number that stands for it (our choice, bit-exact).

    A block is `fmt.block_size` consecutive indices along `dim` with the whole of `inner_dims`; the last one
    may be short. With e = floor(log2 max|x|) of the block, code = clip(e - exponent_bias, 0, 2^SE - 1),
    E = max(exponent_bias + code, -126 + m - 2) and step = 2^(E + 2 - m), an element becomes k·step with
    k = round(x / step) clipped to ±(2^(m-1) - 1). Zeros are +0.0. A block with NaN or infinity becomes NaN.

    The gradient is straight-through: identity, but zero for elements clipped because e of their block
    exceeds E.

    Args:
        x: float32, bfloat16 or float16 (computed in float32), any shape, strides and device.
        dim: the blocked axis. Activations and linear weights: channels or features. Convolution weights: 1.
        inner_dims: axes wholly inside every block; (2, 3) for a two-dimensional convolution's weight.
        exponent_bias: exponent of code 0; by default the largest e of the finite, nonzero blocks gets the
            top code.
        rounding: "nearest" (ties to even), "half_away" (ties away from zero), "toward_zero", or "stochastic"
            (up with the probability of the fraction, to 2^-24, so unbiased where nothing is clipped).
        generator: source of the stochastic draws, one float32 uniform per element in the order of indices.

    Returns:
        A tensor of x's shape, dtype and memory layout. Quantizing it again changes nothing.

    Raises:
        BitqError: another dtype, impossible axes, an unknown rounding, or an `exponent_bias` outside
            -512..127 (-512..15 for float16).
    """
    axes = blocks.resolve_axes(x, dim, inner_dims)
    check_bias(exponent_bias, x.dtype)
    if rounding not in ROUNDINGS:
        raise BitqError(f"rounding {rounding!r} is unknown; it must be one of {', '.join(ROUNDINGS)}")
    if x.requires_grad and torch.is_grad_enabled():
        apply: Callable[..., Tensor] = _StraightThrough.apply
        return apply(x, fmt, axes, exponent_bias, rounding, generator)
    return _quantize(x, fmt, axes, exponent_bias, rounding, generator, want_clipped=False)[0]


def exponent_bias_for(max_abs: float | Tensor, fmt: BlockFormat) -> int:
    """The exponent bias with which a block whose max|x| is `max_abs` gets the top code.

    Args:
        max_abs: a recorded maximum, or a tensor, of which the largest finite magnitude counts; 0 gives e = 0.
        fmt: the format.

    Raises:
        BitqError: a number that is negative or not finite.
    """
    if isinstance(max_abs, Tensor):
        max_abs = largest_magnitude(max_abs)
    if not (isfinite(max_abs) and max_abs >= 0):
        raise BitqError(f"an exponent bias needs a finite max|x| of at least 0, not {max_abs!r}")
    return (max(frexp(max_abs)[1] - 1, -127) if max_abs else 0) - fmt.top_code


def largest_magnitude(x: Tensor) -> float:
    """max|x| over the finite elements of x; 0 if there is none."""
    return float(x.detach().abs().nan_to_num(0.0, 0.0, 0.0).amax()) if x.numel() else 0.0


def check_bias(exponent_bias: int | None, dtype: torch.dtype) -> None:
    """Raises BitqError if block values of this bias could leave the range of `dtype`."""
    most = 15 if dtype == torch.float16 else 127
    if exponent_bias is not None and exponent_bias not in range(LEAST_BIAS, most + 1):
        raise BitqError(
            f"exponent_bias is {exponent_bias}; for {dtype} it must be whole and lie in {LEAST_BIAS}..{most}"
        )


def _nearest(q: Tensor, generator: torch.Generator | None) -> Tensor:
    return q.round()


def _half_away(q: Tensor, generator: torch.Generator | None) -> Tensor:
    whole = q.trunc()
    return whole + ((q - whole).abs() >= 0.5) * q.sign()


def _toward_zero(q: Tensor, generator: torch.Generator | None) -> Tensor:
    return q.trunc()


def _stochastic(q: Tensor, generator: torch.Generator | None) -> Tensor:
    whole = q.floor()
    return whole + (torch.rand(q.shape, generator=generator, device=q.device) < q - whole)


ROUNDINGS: dict[str, Callable[[Tensor, torch.Generator | None], Tensor]] = {
    "nearest": _nearest,
    "half_away": _half_away,
    "toward_zero": _toward_zero,
    "stochastic": _stochastic,
}


def _quantize(
    x: Tensor,
    fmt: BlockFormat,
    axes: Axes,
    exponent_bias: int | None,
    rounding: str,
    generator: torch.Generator | None,
    want_clipped: bool,
) -> tuple[Tensor, Tensor | None]:
    """The values, and if wanted the mask of elements that pass no gradient; None stands for an empty mask."""
    if not x.numel():
        return x.clone(), None
    if rounding == "nearest":
        fast = native.quantize(x, fmt, axes, exponent_bias, want_clipped)
        if fast is not None:
            return fast
    wide = x.float()
    dim = axes[0]
    peaks = blocks.peaks(wide, fmt.block_size, axes)
    bias = blocks.default_bias(peaks, fmt) if exponent_bias is None else exponent_bias
    shared = blocks.shared_exponents(peaks, fmt, bias)
    step = blocks.steps(shared, fmt).masked_fill(peaks >= blocks.INFINITE, torch.nan)
    step = blocks.spread(step, fmt.block_size, x.shape[dim], dim)
    k = ROUNDINGS[rounding](wide / step, generator)
    limit = fmt.largest_mantissa
    clipped = None
    if want_clipped and exponent_bias is not None:  # the default bias leaves no block above the top code
        above = blocks.exponents(peaks) > shared
        clipped = (k.abs() > limit) & blocks.spread(above, fmt.block_size, x.shape[dim], dim)
    return (k.clamp(-limit, limit) * step).to(x.dtype) + 0.0, clipped  # no -0.0


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        fmt: BlockFormat,
        axes: Axes,
        exponent_bias: int | None,
        rounding: str,
        generator: torch.Generator | None,
    ) -> Tensor:
        y, clipped = _quantize(x, fmt, axes, exponent_bias, rounding, generator, want_clipped=True)
        ctx.save_for_backward(clipped)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (clipped,) = ctx.saved_tensors
        return (grad if clipped is None else grad.masked_fill(clipped, 0.0), None, None, None, None, None)
