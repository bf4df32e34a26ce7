"""Which operators of PyTorch are layers: each kind's file says it of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor


class ComputedOperation(Protocol):
    """One operator that was just computed, as far as a kind asks: see `bitq.tracing.watch.Operation`."""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """By the names of its schema."""

    @property
    def results(self) -> tuple[Tensor, ...]:
        """What came of it."""

    @property
    def place(self) -> str:
        """Where it is computed, for messages."""

    def is_activation(self, argument: Tensor) -> bool:
        """Whether the values of an argument depend on the network's input."""


class ReadLayer(NamedTuple):
    """One layer that an operator computes.

    Attributes:
        word: what it is called where its module computes more than it, such as "conv".
        input: the tensor of its `input` that a device reads; None for what has no format, such as indices.
        weight: the other one.
        loops: and geometry, as `bitq.Layer` takes them.
    """

    word: str
    input: Tensor | None
    weight: Tensor
    loops: dict[str, Any]


Reader = Callable[[str, ComputedOperation], Iterator[ReadLayer]]
"""From the name of an operator and what it computed to its layers."""

_readers: dict[str, Reader] = {}


def register_operators(names: tuple[str, ...], reader: Reader) -> None:
    """Make the operators of these names, such as "aten::mm", known as layers; one that ends with "_" begins several."""
    _readers.update(dict.fromkeys(names, reader))


def reader_of(name: str) -> Reader | None:
    """What reads layers off an operator; None if it is none."""
    families = (reader for start, reader in _readers.items() if start.endswith("_") and name.startswith(start))
    return _readers.get(name) or next(families, None)
