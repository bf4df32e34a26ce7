"""How good a network is: its loss and its metric on some data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitq.accuracy.quantized import in_formats
from bitq.batches import Batch, described, forward, pairs, to_device
from bitq.errors import BitqError
from bitq.memory import memory_told, out_of_memory

Loss = Callable[[Any, Any], Tensor]
"""(output of the network, target) to a scalar, smaller is better."""

Metric = Callable[[nn.Module, Iterable[Batch]], float]
"""(network in evaluation mode, batches) to a number in [0, 1], larger is better."""


@dataclass(frozen=True)
class Score:
    """Mean loss and metric of a network on some batches."""

    loss: float
    accuracy: float


def finite(found: Score) -> Score:
    """The same score, unless its loss is no finite number: then its metric says nothing.

    Raises:
        BitqError: it is not.
    """
    if not isfinite(found.loss):
        raise BitqError(
            f"the loss is {found.loss} instead of a finite number; give the network, and --mean and --std, that the "
            "search was given"
        )
    return found


cross_entropy: Loss = functional.cross_entropy
_IGNORED = -100
"""Label that cross entropy leaves out."""
_LABELS = (torch.long, torch.uint8)
"""Types of targets that cross entropy takes for classes."""


def device_of(model: nn.Module) -> torch.device:
    """Where a network's parameters are."""
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))


def loss_of(output: Any, target: Any, loss: Loss) -> Tensor:
    """The loss of one batch: one number.

    Memory that runs out and a device that fails are not the loss's: they pass as they are.

    Raises:
        BitqError: a loss that refuses the output or the target, such as a label of a class the network has not, or
            that gives no single number.
    """
    if loss is cross_entropy:
        _check_classes(output, target)
    try:
        value = loss(output, target)
    except BitqError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if out_of_memory(error) or str(error).startswith("CUDA error"):
            raise
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise BitqError(f"the loss refuses {_fit(output, target)}: {reason}") from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise BitqError(f"the loss gave {described(value)} for {_fit(output, target)}; it must give one number")
    return value


def _check_classes(output: Any, target: Any) -> None:
    """Refuse a label of a class that the network has not, before a device fails on it."""
    if not (isinstance(output, Tensor) and isinstance(target, Tensor)) or target.dtype not in _LABELS:
        return
    if output.dim() and target.numel():
        classes = output.shape[min(1, output.dim() - 1)]
        for label in torch.stack(target.where(target != _IGNORED, 0).aminmax()).tolist():
            if not 0 <= label < classes:
                raise BitqError(
                    f"label {label} in a batch's target, but the network has {classes} outputs; labels count classes "
                    f"from 0 to {classes - 1}"
                )


def top1(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Share of inputs whose largest output is the target's class: the default metric.

    Raises:
        BitqError: a target that is not one class for each of the network's answers.
    """
    correct = total = 0
    for inputs, target in _on_device(model, batches):
        correct += _hits(forward(model, inputs), target)
        total += target.numel()
    return correct / max(total, 1)


def _hits(output: Any, target: Any) -> int:
    if not (isinstance(output, Tensor) and isinstance(target, Tensor) and output.shape[:-1] == target.shape):
        raise BitqError(
            f"top-1 accuracy cannot judge {_fit(output, target)}: they must be scores [..., classes], classes [...]; "
            "give a metric of your own"
        )
    return int((output.argmax(-1) == target).sum())


def _fit(output: Any, target: Any) -> str:
    shapes = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in (output, target)]
    return f"output {shapes[0]} with target {shapes[1]}"


def score(model: nn.Module, batches: Iterable[Batch], loss: Loss = cross_entropy, metric: Metric = top1) -> Score:
    """Mean loss and metric in evaluation mode; every module's mode is restored.

    Args:
        model: any network.
        batches: can be walked more than once.
        loss: averaged over batches.
        metric: `top1` costs no second pass over the data, another function does.

    Raises:
        BitqError: no batch or one that is none (see `bitq.batches`), a loss that fails, a metric outside [0, 1], a
            network that does not compute in the formats `bitq.apply` gave it, or memory that runs out.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode(), memory_told("evaluating the network"), in_formats(model):
            losses, correct, total = [], 0, 0
            for inputs, target in _on_device(model, batches):
                output = forward(model, inputs)
                losses.append(float(loss_of(output, target, loss)))
                if metric is top1:
                    correct += _hits(output, target)
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


def output_shape(model: nn.Module, inputs: Any) -> tuple[int, ...] | None:
    """The shape of a network's output for one input, None if that is no tensor.

    Args:
        model: in evaluation mode.
        inputs: of a batch of one.

    Raises:
        BitqError: the network cannot run on the input, or memory runs out.
    """
    with torch.inference_mode(), memory_told("running the network on one input"):
        try:
            output = forward(model, to_device(inputs, device_of(model)))
        except BitqError:
            raise
        except Exception as error:
            if out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise BitqError(f"the network cannot run on an input as {described(inputs)}: {reason}") from error
    return tuple(output.shape) if isinstance(output, Tensor) else None


def _on_device(model: nn.Module, batches: Iterable[Batch]) -> Iterable[Batch]:
    device = device_of(model)
    for batch in pairs(model, batches):
        yield to_device(batch, device)
