"""Containers that run their children: of those that compute products, their own code sees nothing.

A `torch.nn.Sequential`, a `ModuleList` or a `ModuleDict` with a forward of its own may multiply, too. With products for
children it becomes an instance of a subclass of its class, of which `len`, indices and loops leave them out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, SupportsIndex

from torch import nn

from bitq.private_torch import but_for

PRODUCTS = "_bitq_products"
"""The attribute of a module whose calls are computed by children: by function and number of a call, or the name of a
parameter, the child's name."""

_PROTOCOL = ("__iter__", "__len__", "__getitem__", "__contains__", "keys", "values", "items")
"""By what the code of a container gets at its children."""


class _Container(nn.Module):
    """What containers with products share; the second base of its subclasses is the container's own class."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return _made, (type(self).__bases__[1],), self.__getstate__()  # type: ignore[no-untyped-call]


def hiding(cls: type[nn.Module]) -> type[nn.Module]:
    """The class of such containers as leave their products out; of any other modules the class itself."""
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    hides = issubclass(cls, containers) and not issubclass(cls, _Container)
    return _hiding(cls) if hides else cls  # type: ignore[arg-type]


def showing(cls: type[nn.Module]) -> type[nn.Module]:
    """The class that `hiding` was given; any other class itself."""
    return cls.__bases__[1] if cls.__bases__[0] is _Container else cls


@cache
def _hiding(cls: type[nn.Module]) -> type[nn.Module]:
    return type(cls.__name__, (_Container, cls), {name: _seen(name, cls) for name in _PROTOCOL if hasattr(cls, name)})


def _seen(name: str, cls: type[nn.Module]) -> Callable[..., Any]:
    """A method of a class that finds no products among the children."""

    def method(self: nn.Module, *args: Any) -> Any:
        return getattr(cls, name)(but_for(self, vars(self).get(PRODUCTS, {}).values(), cls), *args)

    return method


def _made(cls: type[nn.Module]) -> nn.Module:
    """An empty container that pickle or copy fills."""
    found = _hiding(cls)  # type: ignore[arg-type]
    return found.__new__(found)
