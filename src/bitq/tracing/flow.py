"""Which layers of a running network write and read the same stored tensor, what of it is stored, and how long."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bitq.calls import Call
from bitq.layers import Layer
from bitq.movement.widths import FLOAT_BITS
from bitq.private_torch import storage_of, transforming
from bitq.tracing.lifetimes import CHOOSING, Activation, Lying, activations
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
        operands: all that an elementwise operator computed it from, of other stored tensors too.
        used: the last step that takes it.
    """

    number: int
    sources: list[_Value]
    tensor: Tensor
    read: bool = False
    taken: bool = False
    call: Call | None = None
    operands: Sequence[_Value] = ()
    used: int = -1


@dataclass
class _Stored:
    """A stored tensor.

    Attributes:
        lying: its memory.
        values: in order.
        ends: that meet it.
        of_activations: whether it is a product of two activations.
        behind: the number of the last stored tensor which it follows from, or is, that a layer writes; -1 for none.
    """

    lying: Lying
    values: list[_Value] = field(default_factory=list)
    ends: dict[End, None] = field(default_factory=dict)
    of_activations: bool = False
    behind: int = -1


class Flow:
    """Follows stored tensors through a network's operations.

    Args:
        layers: of the network, those of an operation before it is noted.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers
        self._stored: list[_Stored] = []
        self._in_order: list[_Value] = []
        self._step = -1
        self.steps: list[int] = []
        """By layer, the step that computes it."""
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
            self.steps += [max(self._step, 0)] * len(layers)
            return
        values = [self._value(t) for t in operands]
        if len(layers) == 1:
            layer = self._layers[-1]
            self._begin(values)
            for value in values:
                value.read = True
            for tensor, read in (("input", layers[0].input), ("weight", layers[0].weight)):
                if read is not None and operation.is_activation(read):
                    lying = self._stored[self._value(read).number].lying
                    lying.reader = lying.reader or (layer, tensor)
            if (read := layers[0].input) is not None:
                self._stored[self._value(read).number].ends[path, "input"] = None
            number = self._new(results[0], Lying(layer.name, *_size(results[0]), self._step, writer=layer)).number
            self._stored[number].ends[path, "output"] = None
            self._stored[number].of_activations = operation.is_activation(layers[0].weight)
            self._stored[number].behind = number
            self._written[path].append(number)
        elif (operation.elementwise or operation.name in _FUSED) and not self._may_be_infinite(operation, values):
            alike = [value for value, t in zip(values, operands, strict=True) if t.shape == results[0].shape]
            number = max((value.number for value in alike), key=self._arrival, default=-1)
            if not alike:
                self._begin(values)
            for value in values:
                value.used = max(value.used, self._step)
                value.taken = True
                value.read |= value.number != number
            if alike:
                sources = [value for value in values if value.number == number]
                self._also(results[0], _Value(number, sources, results[0], operands=values))
                self._follow(number, values)
            else:
                made = self._new(results[0], Lying(_called(operation), *_size(results[0]), self._step))
                self._follow(made.number, values)
        elif not (operation.name in _VIEWS and results[0].shape[-1:] == operands[0].shape[-1:]):
            if any(storage_of(each) not in self._lying for each in results):
                self._begin(values)
            for value in values:
                value.used = max(value.used, self._step)
            for each in results:
                viewed = self._lying.get(storage_of(each))
                if viewed is None or each.shape != operands[0].shape:
                    for value in values:
                        value.read = True
                    lying = self._made(operation, each, values) if viewed is None else self._lying_of(viewed)
                    self._follow(self._new(each, lying).number, values)
        self.steps += [max(self._step, 0)] * len(layers)

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

    def activations(self, returned: Iterable[Tensor]) -> tuple[Activation, ...]:
        """The stored tensors and how long they live, as `Traced.activations` has them.

        Args:
            returned: what the network returns.
        """
        for tensor in returned:
            if (value := self._lying.get(storage_of(tensor))) is not None:
                value.used = self._step
        kept = [_kept(stored.values) for stored in self._stored]
        seen: set[int] = set()
        for value in reversed(self._in_order):
            stored = self._stored[value.number]
            stored.lying.last = max(stored.lying.last, value.used)
            if value is kept[value.number]:
                seen.add(value.number)
                stored.lying.changed |= value is not stored.values[0]
            elif value.number not in seen:  # what comes behind what is kept is computed where it is read
                for operand in value.operands:
                    operand.used = max(operand.used, value.used)
        return activations({id(stored.lying): stored.lying for stored in self._stored}.values())

    def _point(self, path: str, values: list[_Value]) -> Call | None:
        """The call that returned the last value through which all that is read of a stored tensor goes.

        None, if that is the layer's own result, or no call returned such a value.
        """
        for value in _through(values):
            if value.call is not None and value.call.module != path:
                return value.call
        return None

    def _arrival(self, number: int) -> tuple[int, int]:
        """What orders the operands of a sum: it is stored by the layer that computes the last of them.

        A shortcut that is padded after that layer, of what was there before, does not come later.
        """
        return self._stored[number].behind, number

    def _follow(self, number: int, operands: Iterable[_Value]) -> None:
        """Note what a stored tensor was computed from."""
        stored = self._stored[number]
        stored.behind = max(stored.behind, *(self._stored[each.number].behind for each in operands))

    def _may_be_infinite(self, operation: Operation, values: list[_Value]) -> bool:
        """Whether an elementwise operator changes scores, where a mask writes infinities that no format holds.

        Of a product of two activations only what a factor makes is stored in its place.
        """
        scaled = len(values) == 1 and operation.name in _SCALING
        return not scaled and any(self._stored[value.number].of_activations for value in values)

    def _begin(self, operands: Iterable[_Value]) -> None:
        """Another step, which takes these."""
        self._step += 1
        for value in operands:
            value.used = self._step

    def _made(self, operation: Operation, result: Tensor, operands: Iterable[_Value]) -> Lying:
        """What an operation that no layer is makes anew."""
        chosen = [self._lying_of(value) for value in operands] if operation.name in CHOOSING else ()
        found = Lying(_called(operation), *_size(result), self._step, chosen_from=chosen)
        for each in chosen:
            each.chosen_into.append(found)
        return found

    def _lying_of(self, value: _Value) -> Lying:
        return self._stored[value.number].lying

    def _value(self, tensor: Tensor) -> _Value:
        """What lies in a tensor's memory; if nothing was seen there, it is an input of the network."""
        return self._lying.get(storage_of(tensor)) or self._new(tensor, Lying("input", *_size(tensor), 0))

    def _new(self, tensor: Tensor, lying: Lying) -> _Value:
        """What was just computed, or is another view of what lies there: a stored tensor of its own."""
        self._stored.append(_Stored(lying))
        return self._also(tensor, _Value(len(self._stored) - 1, [], tensor))

    def _also(self, tensor: Tensor, value: _Value) -> _Value:
        """What was just computed: another value of its stored tensor."""
        self._lying[storage_of(tensor)] = value
        self._stored[value.number].values.append(value)
        self._in_order.append(value)
        return value


def _called(operation: Operation) -> str:
    """An operator, as people call it."""
    return operation.name.removeprefix("aten::").strip("_")


def _size(tensor: Tensor) -> tuple[int, float]:
    """Elements of a tensor, and bits of one."""
    return tensor.numel(), FLOAT_BITS if tensor.is_floating_point() else 8.0 * tensor.element_size()


def _through(values: list[_Value]) -> Iterator[_Value]:
    """From the last on, what elementwise operators made of a stored tensor that all that is read of it goes through."""
    read = [value for value in values if value.read or not value.taken]
    return (value for value in reversed(values[1:]) if all(_only_by(value, each) for each in read))


def _kept(values: list[_Value]) -> _Value:
    """The last value of a stored tensor that all that is read of it follows from."""
    return next(_through(values), values[0])


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
