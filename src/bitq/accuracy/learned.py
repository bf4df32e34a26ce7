"""Ranges as parameters: what is gained and lost by a larger one has a gradient (LSQ, Esser et al. 2020).

A format under a float s gives y = s·Q(x/s), with s = a/M for a range a, and y = ±a beyond it. So y grows with x and a
as one does with the other, and Euler's theorem on such functions gives a·∂y/∂a = y − x·∂y/∂x; straight through, ∂y/∂x
is 1 within the range and 0 beyond. That is LSQ's gradient of s, by log a. Optimizers are given log a: their steps are
then shares of a. LSQ divides the gradient by sqrt(numel·M), which AdamW undoes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bitq.accuracy.ranges import WeightRows, clipped_weight
from bitq.formats import Format
from bitq.formats.blocking import Whole
from bitq.formats.elements import Float, Integer
from bitq.formats.scales import FloatScale, ScaledExponent
from bitq.numerics import quantize

Compute = Callable[[Tensor, Tensor], Tensor]
"""From x and its range to y."""


def has_reach(fmt: Format) -> bool:
    """Whether blocks of a format, or tensors, have a float for a scale, and how far it reaches is one number."""
    return (
        isinstance(fmt.scale, FloatScale | ScaledExponent)
        and len(fmt.elements) == 1
        and isinstance(fmt.elements[0], Integer | Float)
        and not fmt.has_zero_point
    )


def shares_reach(fmt: Format) -> bool:
    """Whether it is one number for all of an activation, which calibration fixes and fine-tuning learns."""
    return has_reach(fmt) and (isinstance(fmt.geometry, Whole) or isinstance(fmt.scale, ScaledExponent))


def quantized_within(x: Tensor, log_reach: Tensor, fmt: Format, axis: int) -> Tensor:
    """x in a format of which `shares_reach` holds, with a gradient to x and to the logarithm of the range (0-d).

    The same as `quantize` within ±`reach_of(log_reach)`.
    """

    def compute(x: Tensor, reach: Tensor) -> Tensor:
        return quantize(x, fmt, axis, tensor_range=(-float(reach), float(reach)))

    return _compute(x, log_reach.exp(), compute, fmt.never_negative)


def reach_of(log_reach: Tensor) -> float:
    """The range whose logarithm is learned."""
    return float(log_reach.detach().exp())


def weight_within(layer: nn.Module, weight: Tensor, log_reach: Tensor, fmt: Format) -> Tensor:
    """A layer's weight in a format of which `has_reach` holds, each block clipped to a range first, or all to one.

    Args:
        layer: whose blocks they are.
        weight: its weight.
        log_reach: as `WeightRows.limits` gives ranges. Beyond the largest number of a block that number counts.
        fmt: of the weight.
    """
    at = WeightRows.of(layer, weight, fmt)
    rows = at.arranged(weight)

    def compute(rows: Tensor, reach: Tensor) -> Tensor:
        return at.quantized(rows.clamp(-reach, reach))

    y = at.restored(_compute(rows, torch.minimum(log_reach.exp(), at.peaks(rows)), compute, False))
    return torch.empty_like(weight).copy_(y)  # convolutions give activations the layout of their weight


def weight_cut(layer: nn.Module, weight: Tensor, log_reach: Tensor, fmt: Format) -> Tensor:
    """The weight, without a gradient, that `quantize` makes what `weight_within` gives."""
    with torch.no_grad():
        at = WeightRows.of(layer, weight, fmt)
        rows = at.arranged(weight)
        reach = torch.minimum(log_reach.exp(), at.peaks(rows))
        return at.restored(rows.clamp(-reach, reach))


def _compute(x: Tensor, reach: Tensor, compute: Compute, positive: bool) -> Tensor:
    apply: Callable[..., Tensor] = _Within.apply
    return apply(x, reach, compute, positive)


class _Within(torch.autograd.Function):
    """y = Q(x) within a range; nothing but x is kept, and y made again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, reach: Tensor, compute: Compute, positive: bool) -> Tensor:
        ctx.save_for_backward(x, reach)
        ctx.compute, ctx.positive = compute, positive
        return compute(x, reach)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, reach = ctx.saved_tensors
        inside = (x <= reach) & (x >= 0) if ctx.positive else x.abs() <= reach
        passed = grad * inside if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return passed, None, None, None
        slope = ctx.compute(x, reach).sub_(x * inside).mul_(grad).float().sum_to_size(reach.shape)
        return passed, slope / reach.clamp(min=torch.finfo(torch.float32).tiny), None, None


def weight_clipped(layer: nn.Module, weight: Tensor, fmt: Format) -> Tensor:
    """`clipped_weight`, with a gradient that passes straight: what is clipped in one step need not be in the next."""
    return straight_through(weight, clipped_weight(layer, weight, fmt))


def straight_through(x: Tensor, y: Tensor) -> Tensor:
    """y, whose gradient is x's."""
    apply: Callable[..., Tensor] = _Straight.apply
    return apply(x, y)


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, None
