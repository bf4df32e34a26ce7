"""What a batch is, in one place: a pair of the network's input and a target, or a mapping.

A mapping holds both, as those of a tokenizer: the network is called with the entries that its `forward` has arguments
of these names for, and the target is the whole mapping.

The input is what the network is called with:

- a tensor, whose first dimension counts the inputs of the batch;
- a tuple of positional or a mapping of keyword arguments, each of any kind named here;
- a list with one element for each input, such as images of unlike size.

PyTorch's default collation makes lists of tuples. So a list that is the whole input is one argument only where the
network's `forward` takes no other; elsewhere it holds the positional arguments. `((images,), target)` is always one.

A batch without a target, where data have no labels, is a tensor or a tuple of the input alone: `(images,)`, `((ids,
mask),)`. Searches and evaluations take it; `bitq.accuracy.agreement` says how.

The target has any structure of tuples, lists, mappings and dataclasses: only the loss and the metric look into it. What
stands in a batch beside tensors are None, numbers, strings, bytes and members of enumerations.
"""

from __future__ import annotations

import enum
import hashlib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from bitq.errors import BitqError
from bitq.nested import mapped, parts, walk
from bitq.usercode import users_own

Batch = tuple[Any, Any]
"""Input and target."""

_WALKED_ONCE = ("builtins", "itertools", "torch.utils.data.dataloader")
"""Where the iterators come from that cannot start anew; one of a user's own may, so each walk has to tell."""

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_PLAIN = (bool, int, float, complex, str, bytes, type(None), enum.Enum)


@dataclass(frozen=True)
class Parameters:
    """What a network's forward takes.

    Attributes:
        names: of its parameters, in order, those without a default in `needed`, too.
        any_number, any_names: whether it takes further arguments by place and by name.
    """

    names: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    any_number: bool = False
    any_names: bool = False


def parameters(model: nn.Module) -> Parameters:
    """What a network's forward takes; anything, where it does not tell."""
    try:
        found = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # made in C
        return Parameters(any_number=True, any_names=True)
    named = [each for each in found if each.kind in (*_POSITIONAL, inspect.Parameter.KEYWORD_ONLY)]
    return Parameters(
        tuple(each.name for each in named),
        tuple(each.name for each in named if each.default is inspect.Parameter.empty),
        any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in found),
        any(each.kind is inspect.Parameter.VAR_KEYWORD for each in found),
    )


def pairs(model: nn.Module, batches: Iterable[Any]) -> Iterator[Batch]:
    """The batches of some data, each checked to be a pair, with the positional arguments of `model` as a tuple.

    Raises:
        BitqError: data that cannot be walked, an exception out of them, or a batch that is no pair.
    """
    if not (hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")):
        raise BitqError(f"the data is {described(batches)}; give batches (input, target), in a list or a DataLoader")
    for batch in walked(batches):
        yield pair(model, batch)


def pair(model: nn.Module, batch: Any) -> Batch:
    """Input and target of one batch as the data give it.

    Raises:
        BitqError: it is no batch.
    """
    if any(isinstance(part, Tensor) and part.is_nested for _, part in walk(batch)):
        raise BitqError("a batch holds a nested tensor; give a list with a tensor for each input, or padded ones")
    if isinstance(batch, Mapping):
        return _taken(model, batch), batch
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise BitqError(f"a batch is {described(batch)}; it must be a pair (input, target)")
    inputs, target = batch
    return _as_called(model, inputs), target


def is_bare(batch: Any) -> bool:
    """Whether what data give is an input alone, without a target: a tensor, or a tuple or list of one input."""
    return isinstance(batch, Tensor) or (isinstance(batch, tuple | list) and len(batch) == 1)


def input_of(batch: Any) -> Any:
    """The input in what data give, alone or beside a target."""
    return batch if isinstance(batch, Tensor) else batch[0]


def _taken(model: nn.Module, batch: Mapping[Any, Any]) -> dict[str, Any]:
    """What a network takes of a batch that is a mapping."""
    takes = parameters(model)
    found = {name: part for name, part in batch.items() if takes.any_names or name in takes.names}
    missing = [name for name in takes.needed if name not in found]
    if missing or not found:
        needed = " and ".join(map(repr, missing[:3] or takes.names[:3])) or "no arguments"
        raise BitqError(
            f"a batch is {described(batch)}, but the network's forward takes {needed}; it must be a pair (input, "
            "target), or have entries of these names"
        )
    return found


def walked(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches of some data as they are.

    Raises:
        UserCodeError: an exception out of them.
    """
    with users_own(lambda: "the data give no batch"):
        walk = iter(batches)
    while True:
        with users_own(lambda: "the data give no further batch"):
            try:
                batch = next(walk)
            except StopIteration:
                return
        yield batch


def no_batch(data: str) -> BitqError:
    """What to say of data, such as "the training data", that give none."""
    return BitqError(
        f"{data} has no batch, or none left; give at least one batch of (input, target), in what can be walked again "
        "and again, such as a list or a DataLoader, and no generator"
    )


def check_lasting(batches: Any, data: str) -> None:
    """Refuse what can be walked only once, as a generator.

    Args:
        batches: nothing is taken from them.
        data: what they are, such as "the training data".

    Raises:
        BitqError: they, or the data set that a DataLoader draws from, are such.
    """
    source = batches.dataset if isinstance(batches, DataLoader) else batches
    if source is not batches and not isinstance(source, IterableDataset):
        return
    if not isinstance(source, Iterable):
        return
    with users_own(lambda: f"{data} cannot be walked"):
        walk, again = iter(source), iter(source)
    if walk is again and type(walk).__module__ in _WALKED_ONCE:
        raise BitqError(
            f"{data} can be walked only once, being a {_kind(walk)}, and a search walks them again and again; give a "
            "list, a DataLoader, or an object whose __iter__ starts anew"
        )


def arguments(model: nn.Module, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments that a network is called with for a batch's input.

    Raises:
        BitqError: a mapping whose keys are not the names of arguments.
    """
    if isinstance(inputs, Mapping):
        if wrong := [key for key in inputs if not isinstance(key, str)]:
            raise BitqError(f"a batch's input has the key {wrong[0]!r}; keys must be names of the network's arguments")
        return (), dict(inputs)
    given = _as_called(model, inputs)
    return (tuple(given) if isinstance(given, tuple) and parts(given) is not None else (given,)), {}


def _as_called(model: nn.Module, inputs: Any) -> Any:
    """A batch's input, a tuple if it is a list of positional arguments."""
    return tuple(inputs) if isinstance(inputs, list) and not _takes_one(model) else inputs


def forward(model: nn.Module, inputs: Any) -> Any:
    """Run the network on one batch's input, which lies on the network's device.

    Raises:
        UserCodeError: an exception out of the network.
    """
    args, kwargs = arguments(model, inputs)
    with users_own(lambda: f"the network cannot run on an input as {described(inputs)}", model):
        return model(*args, **kwargs)


def to_device(part: Any, device: torch.device, name: str = "a batch") -> Any:
    """A batch, or its input or target, with all its tensors on a device; containers keep their types.

    Raises:
        BitqError: something that no batch can hold; says where (`name` and the path in it) and what.
    """

    def moved(path: str, leaf: Any) -> Any:
        return leaf.to(device, non_blocking=True) if isinstance(leaf, Tensor) else _plain(path, leaf)

    return mapped(part, moved, name)


def count_inputs(inputs: Any) -> int:
    """Inputs in a batch, by its input alone: the first dimension of its first tensor, or the length of its first list.

    Whichever comes first counts, except tensors without dimensions; 1 if there is neither.
    """
    return next((len(part) for _, part in walk(inputs) if _has_length(part)), 1)


def _has_length(part: Any) -> bool:
    return isinstance(part, list) or (isinstance(part, Tensor) and part.dim() > 0)


def one_example(inputs: Any) -> Any:
    """One input of a batch's input, as a batch of one, whose tensors are views.

    It is the first; where a list holds tensors of unlike size, the first of the middle size, by elements. Tensors and
    lists that are as long as the batch are cut to that element, all else stays whole.

    Raises:
        BitqError: as `to_device` does, or a tensor that is not dense.
    """
    count, place = count_inputs(inputs), _middle(_sizes(inputs))

    def one(path: str, part: Any) -> Any:
        if isinstance(part, list):
            return mapped(part[place : place + 1], kept, path)
        if isinstance(part, Tensor) and part.layout != torch.strided:
            raise BitqError(f"{path} is a tensor of layout {part.layout}; it must be dense (torch.strided)")
        return kept(path, part[place : place + 1] if _has_length(part) and len(part) == count else part)

    def kept(path: str, leaf: Any) -> Any:
        return leaf if isinstance(leaf, Tensor) else _plain(path, leaf)

    return mapped(inputs, one, "a batch[0]", lambda part: isinstance(part, list) and len(part) == count)


def unlike_inputs(inputs: Any) -> str | None:
    """What to say of a batch whose inputs are of unlike size, of which `one_example` takes one; None of others."""
    sizes = _sizes(inputs)
    if len(set(sizes)) < 2:
        return None
    return (
        f"the inputs of a batch have {min(sizes)} to {max(sizes)} elements; movement is counted for one of "
        f"{sizes[_middle(sizes)]}, the middle size; their mean is {round(sum(sizes) / len(sizes))}"
    )


def _sizes(inputs: Any) -> list[int]:
    """By input, the elements of the tensors that lists as long as the batch hold."""
    count = count_inputs(inputs)
    held = (part for _, part in walk(inputs) if isinstance(part, list) and len(part) == count)
    lists = [part for part in held if all(isinstance(each, Tensor) for each in part)]
    return [sum(each.numel() for each in together) for together in zip(*lists, strict=True)]


def _middle(sizes: Sequence[int]) -> int:
    """The place of the first of the middle size; 0, where nothing has any."""
    return sizes.index(sorted(sizes)[(len(sizes) - 1) // 2]) if sizes else 0


def digest(*batches: Any) -> str:
    """A short name for all that batches hold: structure, keys, types, shapes and every value.

    Raises:
        BitqError: as `to_device` does, or a tensor whose values cannot be read.
    """
    found = hashlib.sha256()
    for path, part in (each for batch in batches for each in walk(batch, "a batch")):
        held = parts(part)
        if held is not None:
            found.update(repr((path, type(part).__qualname__, len(held))).encode())
        elif isinstance(part, Tensor):
            found.update(repr((path, str(part.dtype), str(part.layout), tuple(part.shape))).encode())
            try:
                found.update(contents(part))
            except (RuntimeError, TypeError) as error:
                reason = str(error).partition("\n")[0]
                raise BitqError(f"{path} is {described(part)} whose values cannot be read: {reason}") from error
        else:
            plain = _plain(path, part)
            value = plain.name if isinstance(plain, enum.Enum) else repr(plain)
            found.update(repr((path, type(plain).__qualname__, value)).encode())
    return found.hexdigest()[:16]


def outline(batch: Any) -> list[str]:
    """What a batch holds without its values: path, type and shape of every tensor, the type of all else."""
    return [
        f"{path} {str(part.dtype)[6:]} {tuple(part.shape)}" if isinstance(part, Tensor) else f"{path} {_kind(part)}"
        for path, part in walk(batch)
        if parts(part) is None
    ]


def described(value: Any) -> str:
    """A value in a few words, for messages."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    held = parts(value)
    if isinstance(value, Mapping):
        return f"a {_kind(value)} of {', '.join([repr(key) for key in value][:4]) or 'nothing'}"
    return "None" if value is None else f"a {_kind(value)}" + ("" if held is None else f" of {len(held)}")


def contents(tensor: Tensor) -> memoryview:
    """A tensor's values as bytes, in order."""
    plain = tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()
    plain = plain.cpu().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().data


def _plain(path: str, leaf: Any) -> Any:
    """What stands beside tensors in a batch."""
    if isinstance(leaf, np.ndarray | np.generic) and not isinstance(leaf, _PLAIN):
        raise BitqError(f"{path} is a numpy.{_kind(leaf)}; make it a tensor with torch.as_tensor")
    if not isinstance(leaf, _PLAIN):
        raise BitqError(
            f"{path} is a {_kind(leaf)}; a batch holds tensors, numbers and strings, in tuples, lists, mappings and "
            "dataclasses"
        )
    return leaf


def _kind(value: Any) -> str:
    return type(value).__name__


def _takes_one(model: nn.Module) -> bool:
    """Whether a network's forward has one positional argument and no other."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # made in C
        return True
    several = any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters)
    return not several and sum(each.kind in _POSITIONAL for each in parameters) == 1
