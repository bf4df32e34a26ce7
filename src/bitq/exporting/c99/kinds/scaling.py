"""Batch norms, and products, quotients and sums with constants: gains and offsets of channels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bitq.exporting.c99.kinds.gating import product
from bitq.exporting.c99.lowering import Flowing, Lowering, UnknownError, computes, values


@computes("batch_norm")
def _norm(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    if given.get("training"):
        raise UnknownError("it is in training mode")
    flow = lowering.along(given["input"], 0)
    wire = lowering.wire(flow)
    count = wire.channels
    variance, mean = values(given["running_var"], count), values(given["running_mean"], count)
    gain = 1 / np.sqrt(variance + given["eps"])
    if given.get("weight") is not None:
        gain = gain * values(given["weight"], count)
    bias = values(given["bias"], count) if given.get("bias") is not None else 0.0
    return replace(flow, content=wire.scaled(gain, bias - mean * gain), flat=False, recipe=None)


@computes("mul", "div", "sub")
def _scaled(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    one, other = given["self"], given["other"]
    name = str(lowering.node.target).split(".")[1].removesuffix("_")
    if name == "mul" and isinstance(one, Flowing) and isinstance(other, Flowing):
        return product(lowering, one, other)
    if name == "mul" and not isinstance(one, Flowing):
        one, other = other, one
    if not isinstance(one, Flowing) or isinstance(other, Flowing):
        raise UnknownError("both may not depend on the input, and what does comes first")
    if name == "sub":
        return times(lowering, one, 1.0, other, negative=True)
    return times(lowering, one, other, 0.0, inverse=name == "div")


def times(
    lowering: Lowering, flow: Flowing, gain: Any, offset: Any, negative: bool = False, inverse: bool = False
) -> Flowing:
    """Times a gain, or over it, plus an offset, or less it; each a number or a constant of each channel."""
    wire = lowering.wire(flow)

    def each(given: Any) -> Any:
        if isinstance(given, int | float):
            return float(given)
        if given.value.numel() != 1 and (
            flow.axis is None or given.value.dim() + flow.axis - len(flow.shape) < 0
            or given.value.shape[given.value.dim() + flow.axis - len(flow.shape)] != wire.channels
        ):
            raise UnknownError("it takes a constant that is not one of each channel")
        return values(given, wire.channels)

    gains, offsets = each(gain), each(offset)
    made = wire.scaled(1 / gains if inverse else gains, -offsets if negative else offsets)
    return replace(flow, content=made, flat=False, recipe=None)
