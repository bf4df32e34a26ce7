"""Sees every operator of a running network: which module computes it, and what of it depends on the input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from bitq.accuracy.kinds import ReadLayer, reader_of
from bitq.errors import BitqError
from bitq.nested import parts
from bitq.private_torch import (
    VALUE_NEEDED,
    HigherOrderOperator,
    TorchDispatchMode,
    decomposed,
    named_arguments,
    operator_name,
    storage_of,
)
from bitq.running import Running


class ValueNeededError(BitqError):
    """A network decides by values that the tensors of this run have not."""


@dataclass(frozen=True)
class Operation:
    """One operator that was just computed.

    Attributes:
        name: of the operator, such as "aten::mm".
        arguments: by the names of its schema, without those left to their defaults.
        activations: the tensors among them whose values depend on the network's input.
        results: the tensors that came of it.
        elementwise: whether each element of the result depends on elements in its place only.
        path, module: the innermost module whose forward is running.
    """

    name: str
    arguments: Mapping[str, Any]
    activations: tuple[Tensor, ...]
    results: tuple[Tensor, ...]
    elementwise: bool
    path: str
    module: nn.Module

    def is_activation(self, argument: Tensor) -> bool:
        """Whether the values of one of its arguments depend on the network's input."""
        return storage_of(argument) in map(storage_of, self.activations)

    @cached_property
    def layers(self) -> tuple[ReadLayer, ...] | None:
        """The layers that it computes, as its kind reads them; None if no kind does."""
        reader = reader_of(self.name)
        return None if reader is None else tuple(reader(self.name, self))

    @property
    def place(self) -> str:
        """Where it is computed, for messages."""
        return place(self.path)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, tells `notes` of every operation of a network on these inputs."""

    supports_higher_order_operators = True

    def __init__(self, network: nn.Module, inputs: Any, notes: Sequence[Callable[[Operation], None]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._notes = notes
        self._running = Running(network)
        # Storages (which views share) whose values depend on the input; held, so that no identity returns.
        self._activations = {storage_of(t): t for t in tensors(inputs)}

    def is_activation(self, tensor: Tensor) -> bool:
        """Whether a tensor's values depend on the inputs."""
        return storage_of(tensor) in self._activations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        path, module = self._running.innermost
        if isinstance(func, HigherOrderOperator):
            raise BitqError(f"{place(path)} computes {func}, which bitq does not model; leave it out of the network")
        if torch.is_inference_mode_enabled():
            with self:  # operators made of others arrive whole under torch.inference_mode
                result = decomposed(func, args, kwargs)
            if result is not NotImplemented:
                return result
        try:
            result = func(*args, **kwargs)
        except VALUE_NEEDED as error:
            raise ValueNeededError(
                f"{place(path)} depends on the values of a tensor ({func}), which shapes do not tell; give an example "
                "input with data, or let its control flow and its shapes follow from shapes alone"
            ) from error
        arguments = named_arguments(func, args, kwargs)
        activations = tuple(t for t in tensors((args, kwargs)) if self.is_activation(t))
        elementwise = torch.Tag.pointwise in func.tags
        operation = Operation(
            operator_name(func), arguments, activations, tuple(tensors(result)), elementwise, path, module
        )
        for note in self._notes:
            note(operation)
        if activations:
            self._activations |= {storage_of(t): t for t in operation.results}
        return result


def place(path: str) -> str:
    """A module, for messages."""
    return f"module {path!r}" if path else "the network"


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in `value` and the containers within it, those of packed sequences, too."""
    if isinstance(value, Tensor):
        yield value
        return
    held = value if isinstance(value, PackedSequence) else [part for _, part in parts(value) or ()]
    for part in held:
        yield from tensors(part)
