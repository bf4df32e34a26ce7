"""How good a network is: its loss and its metric on some data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitq.accuracy.quantized import in_formats
from bitq.errors import BitqError

Batch = tuple[Any, Any]
"""Input and target; the input is a tensor, or a tuple of them that the network takes as arguments."""

Loss = Callable[[Any, Any], Tensor]
"""(output of the network, target) to a scalar, smaller is better."""

Metric = Callable[[nn.Module, Iterable[Batch]], float]
"""(network in evaluation mode, batches) to a number in [0, 1], larger is better."""


@dataclass(frozen=True)
class Score:
    """Mean loss and metric of a network on some batches."""

    loss: float
    accuracy: float


cross_entropy: Loss = functional.cross_entropy


def forward(model: nn.Module, inputs: Any) -> Any:
    """Run the network on one batch's input, on the network's device."""
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch, or any tuple or list in it, with its tensors on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple | list):
        return tuple(to_device(part, device) for part in batch)
    return batch


def inputs_in(batch: Any) -> int:
    """Inputs in a batch, or in its target alone, by its first tensor."""
    while isinstance(batch, tuple | list) and batch:
        batch = batch[0]
    return len(batch) if isinstance(batch, Tensor) and batch.dim() else 1


def device_of(model: nn.Module) -> torch.device:
    """Where a network's parameters are."""
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))


def loss_of(output: Any, target: Any, loss: Loss) -> Tensor:
    """The loss of one batch.

    Raises:
        BitqError: a loss that refuses the output or the target, such as a label of a class the network has not.
    """
    try:
        return loss(output, target)
    except (IndexError, TypeError, ValueError, RuntimeError) as error:
        shapes = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in (output, target)]
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise BitqError(f"the loss refuses output {shapes[0]} with target {shapes[1]}: {reason}") from error


def top1(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Share of inputs whose largest output is the target's class: the default metric."""
    correct = total = 0
    for inputs, target in _on_device(model, batches):
        correct += int((forward(model, inputs).argmax(-1) == target).sum())
        total += target.numel()
    return correct / max(total, 1)


def score(model: nn.Module, batches: Iterable[Batch], loss: Loss = cross_entropy, metric: Metric = top1) -> Score:
    """Mean loss and metric in evaluation mode; every module's mode is restored.

    Args:
        model: any network.
        batches: can be walked more than once.
        loss: averaged over batches.
        metric: `top1` costs no second pass over the data, another function does.

    Raises:
        BitqError: no batch, a loss that fails, a metric outside [0, 1], or a network that does not compute in the
            formats `bitq.apply` gave it.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode(), in_formats(model):
            losses, correct, total = [], 0, 0
            for inputs, target in _on_device(model, batches):
                output = forward(model, inputs)
                losses.append(float(loss_of(output, target, loss)))
                if metric is top1:
                    correct += int((output.argmax(-1) == target).sum())
                    total += target.numel()
            accuracy = correct / max(total, 1) if metric is top1 else float(metric(model, batches))
    finally:
        for module, training in modes.items():
            module.training = training
    if not losses:
        raise BitqError("there is no batch to measure on; give at least one batch of (input, target)")
    if not 0 <= accuracy <= 1:
        raise BitqError(f"the metric gave {accuracy!r}; it must be a number in [0, 1], larger being better")
    return Score(sum(losses) / len(losses), accuracy)


def _on_device(model: nn.Module, batches: Iterable[Batch]) -> Iterable[Batch]:
    device = device_of(model)
    for inputs, target in batches:
        yield to_device(inputs, device), to_device(target, device)
