"""What results depend on: weights, data and versions, in a few characters each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from bitq.accuracy.evaluate import Batch
from bitq.formats import TensorFormats
from bitq.tradeoff.measure import seeded


def fingerprint(model: nn.Module) -> str:
    """Digest of a network's weights and their names."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(_bytes(tensor))
    return found.hexdigest()[:16]


def first_batches(*data: Iterable[Batch]) -> str:
    """Digest of the first batch of each."""
    found = hashlib.sha256()
    with seeded():
        for batches in data:
            for batch in islice(iter(batches), 1):
                for part in leaves(batch):
                    found.update(_bytes(part))
    return found.hexdigest()[:16]


def first_shapes(batches: Iterable[Batch]) -> list[list[int]]:
    """Shapes of the tensors of the first batch."""
    with seeded():
        return [list(part.shape) for batch in islice(iter(batches), 1) for part in leaves(batch)]


def leaves(batch: Any) -> list[Tensor]:
    """The tensors of a batch, or of any tuple or list in it."""
    if isinstance(batch, Tensor):
        return [batch]
    if isinstance(batch, tuple | list):
        return [leaf for part in batch for leaf in leaves(part)]
    return []


def digest(value: object) -> str:
    """A short name for a value that its `repr` tells apart from others."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def name_of(function: object) -> str:
    """What a function calls itself."""
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def formats_text(formats: Mapping[str, TensorFormats]) -> dict[str, list[str | None]]:
    """Formats of input, weight and output by module path, for JSON."""
    return {
        name: [str(fmt) if fmt else None for fmt in (entry.input, entry.weight, entry.output)]
        for name, entry in formats.items()
    }


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
