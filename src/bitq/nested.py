"""Containers within containers: what counts as one, for all that walks them or copies them with other contents.

A tuple, a list, a mapping and a dataclass are containers; all else is a leaf. What is copied keeps its type: a
namedtuple stays the namedtuple it is, a mapping of a library's own its class.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from bitq.errors import BitqError

DEEPEST = 64
"""Containers within containers that are followed; one that holds itself has no end."""


def parts(value: object) -> list[tuple[str, Any]] | None:
    """What a container holds, each with what is written behind its name to get it (`[0]`, `['x']`, `.x`).

    None for a leaf. A `PackedSequence` is one, although it is made as a tuple: its sizes stay on the CPU.
    """
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, tuple | list) and not isinstance(value, PackedSequence):
        names = getattr(value, "_fields", None)
        return [(f".{names[place]}" if names else f"[{place}]", part) for place, part in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f".{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value)]
    return None


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in `value` with its path, containers before what they hold.

    Raises:
        BitqError: a container that holds itself, or more than `DEEPEST` within each other.
    """

    def walked(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
        yield path, value
        held = parts(value)
        if held:
            _check(depth, path)
            for step, part in held:
                yield from walked(part, path + step, depth + 1)

    return walked(value, path, 0)


def tensors(value: Any) -> list[Tensor]:
    """The tensors in `value`, in order.

    Raises:
        BitqError: as `walk` does.
    """
    return [part for _, part in walk(value) if isinstance(part, Tensor)]


def mapped(
    value: Any,
    function: Callable[[str, Any], Any],
    path: str = "",
    is_leaf: Callable[[Any], bool] = lambda part: False,
) -> Any:
    """A copy of `value` with `function` of (path, leaf) in place of every leaf; containers keep their types.

    Args:
        value: what to copy.
        function: gives what stands in a leaf's place.
        path: of `value` itself.
        is_leaf: containers to hand to `function` whole.

    Raises:
        BitqError: as `walk` does, or a container whose class cannot be copied with other contents.
    """

    def copied(value: Any, path: str, depth: int) -> Any:
        held = None if is_leaf(value) else parts(value)
        if held is None:
            return function(path, value)
        _check(depth, path)
        new = [copied(part, path + step, depth + 1) for step, part in held]
        try:
            return _like(value, new)
        except Exception as error:  # whatever a class of the user's own objects to
            raise BitqError(
                f"{path or 'a value'} is a {type(value).__name__}, which cannot be copied with other contents "
                f"({type(error).__name__}: {error}); give a tuple, list, dictionary or dataclass"
            ) from error

    return copied(value, path, 0)


def _like(value: Any, contents: list[Any]) -> Any:
    """A container like another one with other contents, in the order of its parts."""
    kind = type(value)
    if kind in (tuple, list):
        return kind(contents)
    if isinstance(value, tuple):
        return kind._make(contents) if hasattr(kind, "_make") else kind(contents)
    if kind is dict or (isinstance(value, Mapping) and not isinstance(value, MutableMapping)):
        return kind(dict(zip(value, contents, strict=True)))
    new = copy.copy(value)
    if isinstance(value, MutableMapping):
        new.update(zip(value, contents, strict=True))
    elif isinstance(value, list):
        new[:] = contents
    else:
        for field, part in zip(dataclasses.fields(value), contents, strict=True):
            object.__setattr__(new, field.name, part)  # frozen ones, too
    return new


def _check(depth: int, path: str) -> None:
    if depth >= DEEPEST:
        raise BitqError(
            f"containers lie more than {DEEPEST} deep within each other, as in one that holds itself "
            f"({path[:40]}…); give a flatter one"
        )
