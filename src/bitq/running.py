"""Looking on while a network runs: which module is running, and what functions of torch give to its code."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import local
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from bitq.calls import Call
from bitq.multiplying import TOLD, instead, multiplies
from bitq.private_torch import COMPILER, uncompiled_path

_ATTRIBUTE = "__get__"
"""The name under which attributes of tensors, such as their shape, are asked for: most of what is seen."""


def uncompiled() -> AbstractContextManager[Any]:
    """Inside, what `torch.compile` made of functions and modules runs as it was before, so that all of it is seen.

    Where nothing has imported its compiler, it made nothing.
    """
    return torch.compiler.set_stance("force_eager") if COMPILER in sys.modules else nullcontext()


class Running:
    """Which of a network's modules is running, from now until `removed`."""

    def __init__(self, network: nn.Module) -> None:
        self._stack: list[tuple[str, nn.Module]] = [("", network)]
        self.multiplies = any(map(multiplies, network.modules()))
        """Whether children compute some of the network's calls (`bitq.multiplying`)."""
        self._handles = []
        for path, module in network.named_modules():
            if module is not network:
                entry = uncompiled_path(path), module
                self._handles += [
                    module.register_forward_pre_hook(lambda *_, e=entry: self._stack.append(e), prepend=True),
                    module.register_forward_hook(self._leave, always_call=True),
                ]

    @property
    def innermost(self) -> tuple[str, nn.Module]:
        """The path and the module."""
        return self._stack[-1]

    def removed(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _leave(self, *_: object) -> None:
        self._stack.pop()


@contextmanager
def calls_of(
    network: nn.Module, act: Callable[[Call, Any], Any], before: Callable[[Call, Any, Any, Any], None] | None = None
) -> Iterator[None]:
    """Inside, what every function of torch gives to the network's code is what `act` makes of it.

    What children compute of a module's calls (`bitq.multiplying`) they are let compute; then, or with `before`,
    functions that multiply inside are seen as what they call.

    Args:
        network: to run inside, or whose forward is running.
        act: called with the call and its result, unless a child computed it; gives the result to go on with.
        before: called with the call, the function, its arguments by place and by name, before it computes.
    """
    running = Running(network)
    seen = _Calls(running, act, before)
    again = network.register_forward_pre_hook(lambda *_: seen.start(), prepend=True)
    outer, _seen.networks = _seen.networks, (*_seen.networks, network)
    try:
        with uncompiled(), seen:
            yield
    finally:
        _seen.networks = outer
        again.remove()
        running.removed()


class _Seen(local):
    """By thread, the networks inside whose `calls_of` it is."""

    networks: tuple[nn.Module, ...] = ()


_seen = _Seen()


def is_seen(network: nn.Module) -> bool:
    """Whether the running thread is inside `calls_of` a network."""
    return any(each is network for each in _seen.networks)


class _Calls(TorchFunctionMode):
    """Sees every function that Python calls, but none that these call."""

    def __init__(
        self,
        running: Running,
        act: Callable[[Call, Any], Any],
        before: Callable[[Call, Any, Any, Any], None] | None,
    ) -> None:
        super().__init__()
        self._running, self._act, self._before = running, act, before
        self._told: Mapping[Any, Callable[..., Any]] = TOLD if before or running.multiplies else {}
        self._counts: Counter[tuple[str, str]] = Counter()

    def start(self) -> None:
        """Another pass begins."""
        self._counts.clear()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == _ATTRIBUTE:
            return func(*args, **kwargs)
        if (told := self._told.get(func)) is not None:
            with self:
                result = told(*args, **kwargs)
            if result is not NotImplemented:
                return result
        path, module = self._running.innermost
        call = Call(path, name, self._counts[path, name])
        if self._before is not None:
            self._before(call, func, args, kwargs)
        result = instead(module, call, func, args, kwargs) if self._running.multiplies else NotImplemented
        computed = result is not NotImplemented
        if not computed:
            result = func(*args, **kwargs)
        self._counts[path, name] += 1
        return result if computed else self._act(call, result)
