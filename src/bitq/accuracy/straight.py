"""Quantization within a training step, straight through, that keeps no tensor twice.

A float network keeps for backward what a convolution reads and what the activation function before it gave, one and the
same tensor. Quantizing it would leave both alive. So where a layer saves its quantized input, the input itself is held
instead and quantized once more in backward; and what a layer has just computed is quantized where it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from bitq import private_torch
from bitq.formats import Format
from bitq.numerics.ops import direct, quantize_in_place
from bitq.numerics.quantize import quantize
from bitq.numerics.recipe import recipe_for

WORTH_IT = 1 << 14  # elements; the bookkeeping costs more than a smaller tensor


def quantized_fresh(
    y: Tensor, fmt: Format, axis: int, bias: int | None = None, tensor_range: tuple[float, float] | None = None
) -> Tensor:
    """y quantized in its own memory, for a y that nobody else has, as an operation's result that it does not save."""
    if not direct(y) or private_torch.is_view(y) or fmt.rounding == "stochastic":
        return quantize(y, fmt, axis, exponent_bias=bias, tensor_range=tensor_range)
    return quantize_in_place(y, recipe_for(y, fmt, axis, exponent_bias=bias, tensor_range=tensor_range))


def saving_raw(
    x: Tensor, quantized: Tensor, fmt: Format, again: Callable[[Tensor], Tensor]
) -> AbstractContextManager[object]:
    """Inside, an operation that saves `quantized` for backward saves x, from which it is made `again` when needed.

    A format that draws would make another one, so of such `quantized` itself is saved.
    """
    if (
        fmt.rounding == "stochastic"
        or not (direct(x) and direct(quantized))
        or not torch.is_grad_enabled()
        or x.numel() < WORTH_IT
        or not private_torch.saved_tensors_are_free()  # they have somebody's own hooks, as of checkpointing
    ):
        return nullcontext()
    raw, at, shape = _Saved(x.detach(), private_torch.version(x), again), quantized.data_ptr(), quantized.shape

    def pack(tensor: Tensor) -> _Saved:
        same = tensor.data_ptr() == at and tensor.shape == shape
        return raw if same else _Saved(tensor.detach(), private_torch.version(tensor))

    return saved_tensors_hooks(pack, _Saved.value)


class _Saved(NamedTuple):
    tensor: Tensor
    version: int
    again: Callable[[Tensor], Tensor] | None = None

    def value(self) -> Tensor:
        if private_torch.version(self.tensor) != self.version:
            raise RuntimeError(
                "a tensor needed for the gradient of a quantized layer, of shape "
                f"{tuple(self.tensor.shape)}, has been modified by an inplace operation since"
            )
        with torch.no_grad():
            return self.tensor if self.again is None else self.again(self.tensor)
