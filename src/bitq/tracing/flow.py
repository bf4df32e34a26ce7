"""Which layers of a running network write and read the same stored tensor, and what of it is stored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bitq.calls import Call
from bitq.private_torch import storage_of, transforming
from bitq.tracing.watch import Operation

End = tuple[str, str]
"""A module's path, and "output" where it writes, "input" where it reads."""

# Operators that a device computes on the way out, although PyTorch does not call them elementwise.
_FUSED = {
    f"aten::{name}"
    for name in (
        "batch_norm",
        "cudnn_batch_norm",
        "native_batch_norm",
        "_native_batch_norm_legit_no_training",
        "hardswish",
        "hardswish_",
        "_prelu_kernel",
    )
}
_SCALING = {"aten::mul", "aten::div", "aten::mul_", "aten::div_"}
# Operators that give another shape to the same memory.
_VIEWS = {"aten::view", "aten::_unsafe_view", "aten::unsqueeze", "aten::squeeze", "aten::_reshape_alias"}


@dataclass(eq=False)
class _Value:
    """What a stored tensor is at one moment: as a layer computed it, or as an elementwise operator changed it.

    Attributes:
        number: of the stored tensor.
        sources: the values of the same stored tensor that it was computed from.
        tensor: held, so that its storage's identity does not return.
        read: whether anything but an elementwise operator on the same stored tensor takes it.
        taken: whether anything takes it.
        call: the first that returned it.
    """

    number: int
    sources: list[_Value]
    tensor: Tensor
    read: bool = False
    taken: bool = False
    call: Call | None = None


@dataclass
class _Stored:
    """A stored tensor: its values in order, the ends that meet it, and whether it is a product of two activations."""

    values: list[_Value] = field(default_factory=list)
    ends: dict[End, None] = field(default_factory=dict)
    of_activations: bool = False


class Flow:
    """Follows stored tensors through a network's operations."""

    def __init__(self) -> None:
        self._stored: list[_Stored] = []
        self._lying: dict[int, _Value] = {}
        """What lies in a storage now."""
        self._written: dict[str, list[int]] = defaultdict(list)
        """By path of a layer, the stored tensors that its calls write."""
        self._constant: set[str] = set()
        """Paths of layers that some calls give what does not depend on the input, as a first state."""

    def note(self, operation: Operation) -> None:
        """Note what a result is made of, and which layer reads and writes it."""
        operands, results, path = operation.activations, operation.results, operation.path
        layers = operation.layers or ()
        if operation.layers is not None and not operands:
            self._constant.add(path)
        if not operands or not results:
            return
        values = [self._value(t) for t in operands]
        if len(layers) == 1:
            for value in values:
                value.read = True
            if (read := layers[0].input) is not None:
                self._stored[self._value(read).number].ends[path, "input"] = None
            number = self._new(results[0]).number
            self._stored[number].ends[path, "output"] = None
            self._stored[number].of_activations = operation.is_activation(layers[0].weight)
            self._written[path].append(number)
        elif (operation.elementwise or operation.name in _FUSED) and not self._may_be_infinite(operation, values):
            alike = [value for value, t in zip(values, operands, strict=True) if t.shape == results[0].shape]
            number = max((value.number for value in alike), default=-1)
            for value in values:
                value.taken = True
                value.read |= value.number != number
            sources = [value for value in values if value.number == number]
            self._new(results[0], *((number, sources) if alike else ()))
        elif not (operation.name in _VIEWS and results[0].shape[-1:] == operands[0].shape[-1:]):
            for each in results:
                if storage_of(each) not in self._lying or each.shape != operands[0].shape:
                    for value in values:
                        value.read = True
                    self._new(each)

    def returned(self, call: Call, result: Any) -> Any:
        """Note which call gives a tensor to the network's code."""
        if isinstance(result, Tensor) and not transforming():
            value = self._lying.get(storage_of(result))
            if value is not None and value.call is None:
                value.call = call
        return result

    def groups(self) -> tuple[tuple[End, ...], ...]:
        """The ends of every stored tensor that meets two or more, as `Traced.stored` has them."""
        groups: dict[int, dict[End, None]] = {}
        group_of: dict[End, int] = {}
        for number, stored in enumerate(self._stored):
            met = sorted({group_of[end] for end in stored.ends if end in group_of})
            groups[number] = {end: None for each in met for end in groups.pop(each)} | stored.ends
            group_of.update(dict.fromkeys(groups[number], number))
        return tuple(tuple(group) for group in groups.values() if len(group) > 1)

    def points(self) -> Mapping[str, tuple[Call, ...]]:
        """By path of a layer, the calls whose results are what it stores, as `Traced.points` has them."""
        found = {}
        for path, numbers in self._written.items():
            if path in self._constant:
                continue
            calls = [self._point(path, self._stored[number].values) for number in numbers]
            known = tuple(call for call in calls if call is not None)
            if len(known) == len(calls):
                found[path] = known
        return found

    def _point(self, path: str, values: list[_Value]) -> Call | None:
        """The call that returned the last value through which all that is read of a stored tensor goes.

        None, if that is the layer's own result, or no call returned such a value.
        """
        read = [value for value in values if value.read or not value.taken]
        for value in reversed(values[1:]):
            call = value.call
            if call is not None and call.module != path and all(_only_by(value, each) for each in read):
                return call
        return None

    def _may_be_infinite(self, operation: Operation, values: list[_Value]) -> bool:
        """Whether an elementwise operator changes scores, where a mask writes infinities that no format holds.

        Of a product of two activations only what a factor makes is stored in its place.
        """
        scaled = len(values) == 1 and operation.name in _SCALING
        return not scaled and any(self._stored[value.number].of_activations for value in values)

    def _value(self, tensor: Tensor) -> _Value:
        return self._lying.get(storage_of(tensor)) or self._new(tensor)

    def _new(self, tensor: Tensor, number: int | None = None, sources: list[_Value] | None = None) -> _Value:
        """What was just computed: of a stored tensor of its own, or another value of that number."""
        if number is None:
            number = len(self._stored)
            self._stored.append(_Stored())
        value = self._lying[storage_of(tensor)] = _Value(number, sources or [], tensor)
        self._stored[number].values.append(value)
        return value


def _only_by(value: _Value, read: _Value) -> bool:
    """Whether all that a value was computed from, back to the layer's result, goes through another one, or is it."""
    waiting, seen = [read], {id(value)}
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if not each.sources:
            return False
        waiting += each.sources
    return True
