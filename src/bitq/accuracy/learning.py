"""What fine-tuning learns beside a network's parameters: the ranges of its formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bitq.accuracy.kinds import has_kind
from bitq.accuracy.learned import has_reach, reach_of, shares_reach, weight_cut
from bitq.accuracy.quantized import quantized_layers
from bitq.accuracy.ranges import WeightRows, clipped_weight
from bitq.formats import Format, TensorName
from bitq.multiplying import multiplies
from bitq.numerics.recipe import magnitude
from bitq.private_torch import own_parameters

_ACTIVATIONS: tuple[Literal["input", "output"], ...] = ("input", "output")


@contextmanager
def learning_ranges(model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Inside, a network's ranges are learned; at the end they are its own, and it computes the same without.

    Learned are the ranges of activations that share a float scale, from what calibration gave, and those of the blocks
    of weights under floats, from the least squared error. A weight under powers of two is clipped afresh in every pass
    where that gives the lesser error. At the end each weight is what it was clipped to, so that it is quantized, saved
    and packed as any other.

    Args:
        model: with the formats it is fine-tuned in.

    Yields:
        Logarithms of ranges, for an optimizer.
    """
    learned: list[nn.Parameter] = []
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    for _, layer in quantized_layers(model):
        state = layer._bitq
        for tensor in _ACTIVATIONS:
            fmt, span = getattr(state.formats, tensor), getattr(state, tensor).tensor_range
            if fmt is not None and span is not None and shares_reach(fmt):
                learned.append(_learn(layer, tensor, torch.tensor(magnitude(span, fmt)), device))
    for layer, weight, fmt in _clippable(model):
        if has_reach(fmt):
            with torch.no_grad():
                at = WeightRows.of(layer, weight, fmt)
                learned.append(_learn(layer, "weight", at.limits(at.arranged(weight)), device))
        else:
            layer._bitq.clipping = True
    try:
        yield learned
        for _, layer in quantized_layers(model):
            _keep(layer)
    finally:
        for _, layer in quantized_layers(model):
            layer._bitq.reaches, layer._bitq.clipping = {}, False


def clip_weights(model: nn.Module) -> None:
    """Clip every weight with a format as `clipped_weight` does, in place."""
    for layer, weight, fmt in _clippable(model):
        with torch.no_grad():
            weight.copy_(clipped_weight(layer, weight, fmt))


def _learn(layer: Any, tensor: TensorName, reach: Tensor, device: torch.device) -> nn.Parameter:
    least = torch.finfo(torch.float32).tiny  # where all is zero
    found = nn.Parameter(reach.to(device, torch.float32).clamp(min=least).log())
    layer._bitq.reaches[tensor] = found
    return found


def _keep(layer: Any) -> None:
    """Make what a layer learned its own."""
    state, formats = layer._bitq, layer._bitq.formats
    with torch.no_grad():
        if "weight" in state.reaches:
            layer.weight.copy_(weight_cut(layer, layer.weight, state.reaches["weight"], formats.weight))
        elif state.clipping:
            layer.weight.copy_(clipped_weight(layer, layer.weight, formats.weight))
    found = {}
    for tensor in _ACTIVATIONS:
        if tensor in state.reaches:
            reach, (low, _) = reach_of(state.reaches[tensor]), getattr(state.ranges, tensor)
            found[tensor] = (-reach if low < 0 else 0.0, reach)
    state.change(formats, state.ranges._replace(**found))


def _clippable(model: nn.Module) -> Iterator[tuple[Any, nn.Parameter, Format]]:
    """Layers with their weights and the weights' formats, where nothing else has the weight and it may change."""
    storing = (module for module in model.modules() if has_kind(module) or not multiplies(module))
    owned = Counter(id(parameter) for module in storing for parameter in own_parameters(module).values())
    for _, layer in quantized_layers(model):
        weight, fmt = own_parameters(layer).get("weight"), layer._bitq.formats.weight
        if weight is None or fmt is None or fmt.scale is None or len(fmt.elements) > 1:
            continue
        if weight.requires_grad and weight.numel() and owned[id(weight)] == 1:
            yield layer, weight, fmt
