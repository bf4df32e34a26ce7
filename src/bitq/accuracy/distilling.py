"""The float network as a teacher of the quantized one: what it answers is a second target (Hinton et al., 2015)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitq.accuracy.evaluate import InTraining, Loss, cross_entropy, loss_of, telling
from bitq.batches import described, forward
from bitq.errors import BitqError
from bitq.nested import tensors

TEMPERATURE = 4.0
"""By which logits are divided before they are compared: the classes that the teacher does not choose tell most."""

Lesson = Callable[[Any, Any, Any], Tensor]
"""(input, output of the network, target) to a scalar, smaller is better."""


def lesson(teacher: nn.Module | None, loss: Loss) -> Lesson:
    """What a network is fine-tuned by.

    Without a teacher it is the loss; with one, how far its output lies from the teacher's is added. Where the loss is
    cross entropy, the default, that is the divergence of their softened probabilities, KL(teacher, network) at
    `TEMPERATURE` times its square, so that its gradient does not hang on it; else the mean squared difference of floats
    by the variance of the teacher's. A teacher alone gained on CIFAR-10 and lost on the
    demo (`benchmarks/recipe.py`): both are asked.

    Args:
        teacher: a float network for the same inputs; is not changed.
        loss: of (output, target).
    """
    if teacher is None or loss == InTraining():
        return lambda inputs, output, target: loss_of(output, target, loss)
    knowing = copy.deepcopy(teacher).eval().requires_grad_(False)

    def taught(inputs: Any, output: Any, target: Any) -> Tensor:
        own = loss_of(output, target, loss)
        with torch.no_grad(), telling(knowing, loss):
            right = forward(knowing, inputs)
        return own + (divergence if loss is cross_entropy else distance)(output, right)

    return taught


def divergence(output: Tensor, right: Tensor) -> Tensor:
    """KL divergence of softened class probabilities from right ones, mean over all but the classes.

    Args:
        output, right: logits [n, classes, ...], or [classes] without a batch, as cross entropy takes them.
    """
    axis = min(1, output.dim() - 1)
    given, wanted = (functional.log_softmax(each.float() / TEMPERATURE, axis) for each in (output, right))
    return TEMPERATURE**2 * (wanted.exp() * (wanted - given)).sum(axis).mean()


def distance(output: Any, right: Any) -> Tensor:
    """Mean squared difference of all floats in two outputs, by the variance of the right ones; 0 without any.

    In evaluation, as the teacher is asked, a network may answer more than in training, such as boxes beside the maps
    that tell them: each tensor is held against the next one of its shape. A single number, as a loss among the outputs,
    has no variance and is left out.

    Raises:
        BitqError: a tensor that the right output has no such one for, as of a network that decides by values.
    """
    rest, found = iter(tensors(right)), []
    for given in tensors(output):
        wanted = next((each for each in rest if each.shape == given.shape), None)
        if wanted is None:
            raise BitqError(
                f"the network gives {described(output)} in training and {described(right)} in evaluation, where the "
                "float network is learned from; let it give the former as a part of the latter, or train with "
                "taught=False"
            )
        if wanted.is_floating_point() and wanted.numel() > 1:
            spread = wanted.float().var(correction=0).clamp(min=1e-12)
            found.append((given.float() - wanted.float()).square().mean() / spread)
    return torch.stack(found).mean() if found else torch.zeros(())
