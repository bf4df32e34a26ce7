"""What a number becomes: values of a tensor in a number format, with a straight-through gradient."""

from __future__ import annotations

from math import isfinite

import torch
from torch import Tensor

from bitq.errors import BitqError
from bitq.formats import Format
from bitq.numerics import ops
from bitq.numerics.recipe import exponent_bias_of, recipe_for


def quantize(
    x: Tensor,
    fmt: Format,
    dim: int = 1,
    inner_dims: tuple[int, ...] = (),
    exponent_bias: int | None = None,
    tensor_range: tuple[float, float] | None = None,
    rounding: str | None = None,
    generator: torch.Generator | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Every element of x as the number of a format that stands for it, bit-exact.

    Elements of a block share a scale s, and an element becomes RN(round(x/s)·s), where round gives one of the numbers
    that the format's elements stand for, the largest beyond it. Whatever is stored is the exact number rounded once. A
    block with NaN or infinity becomes NaN and counts in nothing that is shared. Zeros are +0.0, but in plain floats,
    which are those that IEEE 754 converts to.

    Of `BITS:eSE:bBS`, a `BlockFormat`: with e = floor(log2 max|x|) of the block, code = clip(e - exponent_bias, 0,
    2^SE - 1), E = max(exponent_bias + code, -126 + m - 2) and step = 2^(E + 2 - m), an element becomes k·step with
    k = round(x / step) clipped to ±(2^(m-1) - 1).

    The gradient is straight-through: identity, but zero for elements beyond the largest one where something that is
    limited or calibrated makes the scale less than what the block alone would get, and for negative ones where the
    format has none.

    Args:
        x: float32, bfloat16 or float16 (computed in float32), any shape, strides and device.
        fmt: a format, as `bitq.parse_format` gives one.
        dim: the blocked axis. Activations and linear weights: channels or features. Convolution weights: 1.
        inner_dims: the axes of a convolution weight's window, (2, 3) for a two-dimensional one: `b` blocks and channels
            hold it whole.
        exponent_bias: of a format `eN`, exponent of code 0; by default the largest e of the finite, nonzero blocks gets
            the top code.
        tensor_range: least and largest number, of calibration, that stand for the tensor's own in what the whole of it
            shares: the bias of `eN`, a second scale, the scale or zero point of `tensor` geometry. 0 counts as between
            them. Ignored by formats that share nothing, so that callers need not know.
        rounding: of elements, the format's by default. "nearest" (ties to even), "half_away" (ties away from zero),
            "toward_zero", or "stochastic" (away from zero with the probability of the fraction, to 2^-24: unbiased
            where nothing is clipped).
        generator: source of the stochastic rounding: one draw of 64 bits, from which every element gets its own by a
            counter-based generator (Philox). So the same state gives the same bits on every device, for every memory
            layout and number of threads. By default PyTorch's generator of x's device.
        out: where the values go, of x's shape, dtype and device; x itself, to quantize in place. For tensors that
            need no gradient.

    Returns:
        A tensor of x's shape, dtype and memory layout, or `out`. Under powers of two, quantizing it again changes
        nothing.

    Raises:
        BitqError: another dtype, impossible axes, an unknown rounding, an `exponent_bias` outside -512..127
            (-512..15 for float16) or for a format without, a `tensor_range` that is none or comes with a bias, or an
            `out` that does not fit x or would lose a gradient.
    """
    recipe = recipe_for(x, fmt, dim, inner_dims, exponent_bias, tensor_range, rounding)
    if out is not None:
        _check_out(out, x)
    key = draw_key(x.device, generator) if recipe.rounding == "stochastic" else None
    return ops.quantize(x, recipe, key, out)


def exponent_bias_for(max_abs: float | Tensor, fmt: Format) -> int:
    """The exponent bias with which a block whose max|x| is `max_abs` gets the top code.

    Args:
        max_abs: a recorded maximum, or a tensor, of which the largest finite magnitude counts; 0 gives e = 0.
        fmt: a format with a scale `eN`.

    Raises:
        BitqError: a number that is negative or not finite, or a format of another scale.
    """
    if isinstance(max_abs, Tensor):
        max_abs = largest_magnitude(max_abs)
    if not (isfinite(max_abs) and max_abs >= 0):
        raise BitqError(f"an exponent bias needs a finite max|x| of at least 0, not {max_abs!r}")
    return exponent_bias_of(max_abs, fmt)


def largest_magnitude(x: Tensor) -> float:
    """max|x| over the finite elements of x; 0 if there is none."""
    return float(x.detach().abs().nan_to_num(0.0, 0.0, 0.0).amax()) if x.numel() else 0.0


def _check_out(out: Tensor, x: Tensor) -> None:
    if (out.shape, out.dtype, out.device) != (x.shape, x.dtype, x.device):
        raise BitqError(
            f"out is {tuple(out.shape)} {out.dtype} on {out.device}; "
            f"it must be as x is: {tuple(x.shape)} {x.dtype} on {x.device}"
        )
    if torch.is_grad_enabled() and (x.requires_grad or out.requires_grad):
        raise BitqError("quantize with out= passes no gradient; call it within torch.no_grad() or without out=")


def draw_key(device: torch.device, generator: torch.Generator | None) -> Tensor:
    """64 random bits, int64 of shape (1,)."""
    source = device if generator is None else generator.device
    return torch.randint(-(2**63), 2**63 - 1, (1,), generator=generator, device=source)
