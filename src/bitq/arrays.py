"""Inputs of any kind, with labels or without, in memory: signals, tables, token ids, several inputs by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

ALONE = ""
"""Stands for the name of a network's only input."""


@dataclass(frozen=True)
class ArrayInputs:
    """Inputs in memory, given to the network as they are: `arrays` [n, …] by name, `labels` int64 [n], or None.

    A map-style dataset: an index gives (input, label), a tensor of indices or a slice gives a batch; without labels it
    gives (input,). The input is a tensor where the only array is `ALONE`, else a mapping of tensors by the names of the
    network's parameters. Whole numbers are given as int64, whatever they are kept in.
    """

    arrays: Mapping[str, Tensor]
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int | slice | Tensor) -> tuple[Any, ...]:
        found = {name: array[index].to(_given(array.dtype)) for name, array in self.arrays.items()}
        inputs = found[ALONE] if found.keys() == {ALONE} else found
        return (inputs,) if self.labels is None else (inputs, self.labels[index])

    @property
    def bytes_each(self) -> int:
        """Of one input, as it is given."""
        return sum(prod(array.shape[1:]) * _given(array.dtype).itemsize for array in self.arrays.values())

    @property
    def told(self) -> str:
        """What they are, for messages."""
        shapes = [f"{name} {tuple(array.shape[1:])}".strip() for name, array in self.arrays.items()]
        return f"inputs of shape {', '.join(shapes)}"

    def subset(self, indices: Tensor) -> ArrayInputs:
        """The inputs at `indices` alone."""
        arrays = {name: array[indices] for name, array in self.arrays.items()}
        return replace(self, arrays=arrays, labels=labels_at(self.labels, indices))


def labels_at(labels: Tensor | None, indices: Tensor) -> Tensor | None:
    """The labels at `indices`, where there are any."""
    return None if labels is None else labels[indices]


def _given(dtype: torch.dtype) -> torch.dtype:
    """The type that a network is given for what is kept in another."""
    return dtype if dtype.is_floating_point or dtype == torch.bool else torch.int64
