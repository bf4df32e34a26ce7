"""What layers store where a network goes on from it: after activation functions and sums, and quantized there once."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, wraps
from threading import local
from typing import Any, ClassVar, SupportsIndex

import torch
from torch import Tensor, fx, nn

from bitq.calls import Call
from bitq.errors import BitqError
from bitq.formats import Format
from bitq.multiplying import Computed, hiding, install, multiplies, showing
from bitq.private_torch import version
from bitq.running import calls_of, is_seen
from bitq.usercode import UserCodeError, reason


def strayed(name: str) -> BitqError:
    """What to say where the result of a layer never came to the point at which it is stored."""
    return BitqError(
        f"the network goes on from module {name!r} in another way than when it was traced, so what that stores is not "
        "known; let its control flow follow from shapes alone, or store as in the paper"
    )


@dataclass(frozen=True)
class AsStored:
    """What a tensor is that a layer stored.

    Attributes:
        fmt, axis: as it was quantized.
        raw, again: what it was made of, and how, for those that keep it for backward.
        version: of the tensor, which shows whether it was written to since.
    """

    MARK: ClassVar = "_bitq_stored"
    """The attribute of a tensor that says so."""

    fmt: Format
    axis: int
    raw: Tensor
    again: Callable[[Tensor], Tensor]
    version: int

    @classmethod
    def note(cls, x: Tensor, raw: Tensor, fmt: Format, axis: int, again: Callable[[Tensor], Tensor]) -> None:
        """Note of x that it is stored."""
        if not torch.compiler.is_compiling():
            kept = raw.detach() if torch.is_grad_enabled() else x.detach()
            setattr(x, cls.MARK, cls(fmt, axis % x.dim(), kept, again, version(x)))

    @classmethod
    def of(cls, x: Tensor, fmt: Format, axis: int) -> AsStored | None:
        """What was noted of x, if it is in this format already."""
        found: AsStored | None = getattr(x, cls.MARK, None)
        if found is None or (found.fmt, found.axis, found.version) != (fmt, axis % x.dim(), version(x)):
            return None
        return found


class Pass(local):
    """By thread, the pass through a network with points that is under way.

    Attributes:
        due: by path of a layer, results that are not stored yet; None between passes.
    """

    due: Counter[str] | None = None


passing = Pass()


_OWN_FORWARD = "_bitq_forward"
"""Where a network that was given a `forward` of its own, past its class, keeps it meanwhile."""


class _Root(nn.Module):
    """What networks with points, or with children that multiply, share; the second base of its subclasses is the
    network's own class."""

    _bitq_points: dict[Call, str]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network computes, from what its layers store."""
        if torch.compiler.is_compiling():  # by what knows no modes that replace results
            return torch.compiler.disable(self._stored)(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self._stored(*args, **kwargs)

    def _stored(self, *args: Any, **kwargs: Any) -> Any:
        own = vars(self).get(_OWN_FORWARD, super().forward)
        if not self._bitq_points and is_seen(self):  # by what lets children multiply
            return own(*args, **kwargs)
        outer, due = passing.due, Counter[str]()

        def store(call: Call, result: Any) -> Any:
            name = self._bitq_points.get(call)
            if name is None:
                if call.function.endswith("_") and hasattr(result, AsStored.MARK):  # it was written to in place
                    delattr(result, AsStored.MARK)
                return result
            layer: Any = self.get_submodule(name)
            due[name] -= 1
            return layer._bitq_store(result)

        passing.due = due
        try:
            with calls_of(self, store):
                y = own(*args, **kwargs)
        finally:
            passing.due = outer
        if lost := next((name for name, results in due.items() if results > 0), None):
            raise strayed(lost)
        return y

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        network = type(self).__bases__[1]
        return _made_root, (showing(network), network is not showing(network)), self.__getstate__()  # type: ignore[no-untyped-call]


def root(network: nn.Module, points: dict[Call, str]) -> None:
    """Let what a network goes on from be what its layers store at these points, or, without any, its own results; and
    let children that multiply (`bitq.multiplying`) do so."""
    model: Any = network
    if points or any(map(multiplies, network.modules())):
        if not isinstance(model, _Root):
            model.__class__ = _root_class(type(model))  # type: ignore[arg-type]
            _moved(model, "forward", _OWN_FORWARD)
        model._bitq_points = points
    elif isinstance(model, _Root):
        del model._bitq_points
        model.__class__ = showing(type(model).__bases__[1])  # type: ignore[assignment]
        _moved(model, _OWN_FORWARD, "forward")


def _moved(model: nn.Module, name: str, to: str) -> None:
    if name in vars(model):
        vars(model)[to] = vars(model).pop(name)


def multiply_in_children(network: nn.Module, products: Mapping[str, Computed]) -> None:
    """Let children compute these products in every pass through a network.

    Args:
        network: is changed: it becomes an instance of a subclass of its class.
        products: by path, as `bitq.tracing.Traced.products` has them.

    Raises:
        BitqError: a network without such modules.
    """
    points = getattr(network, "_bitq_points", {})
    if isinstance(network, _Root):  # it stays the outermost class
        network.__class__ = type(network).__bases__[1]
    try:
        install(network, products)
    finally:
        root(network, points)
    for name in products:
        _copied_whole(network.get_submodule(name.rpartition(".")[0]))


def with_products(network: nn.Module, products: Mapping[str, Computed]) -> nn.Module:
    """A network of the same parameters in which children compute these products; itself, if there are none.

    Args:
        network: is not changed.
        products: as for `multiply_in_children`.

    Raises:
        BitqError: a network that cannot be copied.
    """
    if not products:
        return network
    own = (*network.parameters(), *network.buffers())
    try:
        found = copy.deepcopy(network, {id(tensor): tensor for tensor in own})
    except Exception as error:
        raise UserCodeError(f"the network cannot be copied: {reason(error, network)}") from error
    multiply_in_children(found, products)
    return found


def _copied_whole(module: nn.Module) -> None:
    """Let copies of a module be made as of any other: a `__deepcopy__` of its own would leave out new children."""
    if hasattr(type(module), "__deepcopy__") and not isinstance(module, fx.GraphModule):
        vars(module)["__deepcopy__"] = None


@cache
def _root_class(network: type[nn.Module]) -> type[_Root]:
    @wraps(network.forward)  # what it takes is the network's
    def forward(self: _Root, *args: Any, **kwargs: Any) -> Any:
        return _Root.forward(self, *args, **kwargs)

    return type(network.__name__, (_Root, network), {"forward": forward})


def _made_root(network: type[nn.Module], hides: bool = False) -> _Root:
    """An empty network that pickle or copy fills."""
    cls = _root_class(hiding(network) if hides else network)  # type: ignore[arg-type]
    return cls.__new__(cls)
