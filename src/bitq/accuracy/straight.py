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

from bitq.formats import BlockFormat
from bitq.numerics import quantize
from bitq.numerics.blocks import resolve_axes
from bitq.numerics.ops import direct, quantize_in_place
from bitq.numerics.quantize import check_bias

WORTH_IT = 1 << 14  # elements; the bookkeeping costs more than a smaller tensor


def quantized_fresh(y: Tensor, fmt: BlockFormat, axis: int, bias: int | None) -> Tensor:
    """y quantized in its own memory, for a y that nobody else has, as an operation's result that it does not save."""
    if not direct(y) or y._is_view():
        return quantize(y, fmt, axis, exponent_bias=bias)
    check_bias(bias, y.dtype)
    return quantize_in_place(y, fmt, resolve_axes(y, axis, ()), bias)


def saving_raw(x: Tensor, quantized: Tensor, again: Callable[[Tensor], Tensor]) -> AbstractContextManager[object]:
    """Inside, an operation that saves `quantized` for backward saves x, from which it is made `again` when needed."""
    if (
        not (direct(x) and direct(quantized))
        or not torch.is_grad_enabled()
        or x.numel() < WORTH_IT
        or not torch._C._autograd._saved_tensors_hooks_is_enabled()  # type: ignore[attr-defined]
        or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None  # somebody's own, as of checkpointing
    ):
        return nullcontext()
    raw, at, shape = _Saved(x.detach(), x._version, again), quantized.data_ptr(), quantized.shape

    def pack(tensor: Tensor) -> _Saved:
        same = tensor.data_ptr() == at and tensor.shape == shape
        return raw if same else _Saved(tensor.detach(), tensor._version)

    return saved_tensors_hooks(pack, _Saved.value)


class _Saved(NamedTuple):
    tensor: Tensor
    version: int
    again: Callable[[Tensor], Tensor] | None = None

    def value(self) -> Tensor:
        if self.tensor._version != self.version:
            raise RuntimeError(
                "a tensor needed for the gradient of a quantized layer, of shape "
                f"{tuple(self.tensor.shape)}, has been modified by an inplace operation since"
            )
        with torch.no_grad():
            return self.tensor if self.again is None else self.again(self.tensor)
