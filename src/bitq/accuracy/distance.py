"""How far a network's outputs are from the float network's: what predicts, without labels, the accuracy lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bitq.accuracy.evaluate import Loss, cross_entropy
from bitq.errors import BitqError

Distance = Callable[[Any, Any], float]
"""(output of the float network, output) for one batch to a number of at least 0, 0 for equal outputs."""


def kl_divergence(reference: Any, output: Any) -> float:
    """Mean KL(p ‖ q) over a batch, in nats, of the class probabilities that two outputs stand for.

    Args:
        reference, output: logits [n, classes, ...], as `torch.nn.functional.cross_entropy` takes them.
    """
    axis = 1 if output.dim() > 1 else 0
    p, q = (logits.float().log_softmax(axis) for logits in (reference, output))
    return float(functional.kl_div(q, p, reduction="sum", log_target=True) / max(q.numel() // q.shape[axis], 1))


def relative_error(reference: Any, output: Any) -> float:
    """Mean squared difference of two outputs, as a share of the first one's variance, over all their tensors.

    Raises:
        BitqError: outputs of unlike shapes, as a detector's lists of boxes are.
    """
    pairs = list(zip(_tensors(reference), _tensors(output), strict=False))
    if not pairs or any(a.shape != b.shape for a, b in pairs):
        raise BitqError(
            "the network's outputs have shapes that formats change, so they cannot be compared; "
            "give bitq.search a distance(reference, output) of your own"
        )
    shares = [
        (a - b).square().mean() / (a - a.mean()).square().mean().clamp_min(torch.finfo(torch.float32).tiny)
        for a, b in ((a.float(), b.float()) for a, b in pairs)
    ]
    return float(sum(shares) / len(shares))


def distance_of(loss: Loss) -> Distance:
    """The distance that suits what a network is trained with: of probabilities for cross entropy, else of numbers."""
    return kl_divergence if loss is cross_entropy else relative_error


def _tensors(output: Any) -> list[Tensor]:
    """The floating point tensors of an output that is a tensor, or any tuple, list or mapping of such outputs."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        return _tensors(list(output.values()))
    if isinstance(output, tuple | list):
        return [tensor for part in output for tensor in _tensors(part)]
    return []
