"""Which calls of a running network are products that a module of their own can compute, each one layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from bitq.accuracy.kinds import has_kind
from bitq.calls import Call, Transposed
from bitq.layers import Layer
from bitq.multiplying import PROJECTING, Computed, linears, operands, rows_of
from bitq.private_torch import own_parameters, storage_of, transforming, uncompiled_path
from bitq.tracing.watch import Watch


class FoundProducts:
    """Finds them as they are computed.

    Args:
        network: that runs.

    Attributes:
        computed: by the path of the child that a module would be given for it, as `bitq.multiplying.install` takes it.
    """

    def __init__(self, network: nn.Module) -> None:
        self.computed: dict[str, Computed] = {}
        self._network = network
        self._owners = {
            storage_of(weight): (path, module, name)
            for path, module in network.named_modules()
            for name, weight in own_parameters(module).items()
            if weight is not None and weight.dim() == 2 and (_lends(module) or not has_kind(module))
        }
        self._having = {
            (uncompiled_path(path), storage_of(weight))
            for path, module in network.named_modules()
            for weight in own_parameters(module).values()
            if weight is not None and has_kind(module)
        }
        self._waiting: tuple[Call, int, Computed] | None = None

    def before(self, watch: Watch, layers: int, call: Call, function: Any, args: Any, kwargs: Any) -> None:
        """Note a call that is about to compute, with how many layers were computed before."""
        self._waiting = None
        if transforming():
            return
        multiplied = operands(function, args, kwargs)
        if multiplied is not None and watch.is_activation(multiplied.first) and watch.is_activation(multiplied.second):
            self._waiting = call, layers, call
            return
        named = (self._parameter(call.module, layer.weight) for layer in linears(function, args, kwargs))
        if (parameter := next((each for each in named if each is not None), None)) is not None:
            self._waiting = call, layers, parameter

    def _parameter(self, running: str, weight: Tensor) -> str | None:
        """The name of the parameter whose rows a weight is, if the running module may have a child with it."""
        storage = storage_of(weight)
        if storage not in self._owners or (running, storage) in self._having:
            return None
        path, owner, name = self._owners[storage]
        parameter = own_parameters(owner)[name]
        if parameter is None or not (_lends(owner) or path == running):
            return None
        stored = f"{path}.{name}".lstrip(".")
        if rows_of(parameter, weight) is not None:
            return stored
        if _lends(owner) or rows_of(parameter.mT, weight) is None:
            return None  # the blocks of what it computes itself run along the rows
        return Transposed(stored)

    def after(self, call: Call, layers: Sequence[Layer]) -> None:
        """Note that it has computed, and what the layers are now."""
        if self._waiting is None or self._waiting[0] != call or len(layers) != self._waiting[1] + 1:
            return
        computed, layer = self._waiting[2], layers[-1]
        try:
            module = self._network.get_submodule(call.module)
        except AttributeError:  # behind torch.compile
            return
        path = layer.name
        if isinstance(computed, str) and isinstance(module, PROJECTING):
            name = computed.rpartition(".")[2].removeprefix("weight_").removesuffix("_weight")
            path = f"{call.module}.{name}".lstrip(".")
        known = isinstance(computed, str) and any(
            other == computed and each.rpartition(".")[0] == call.module for each, other in self.computed.items()
        )
        if not known and layer.module == call.module and not hasattr(module, _last(path)):
            self.computed[path] = computed


def _lends(module: nn.Module) -> bool:
    """Whether others may compute with its weight, as with that of a linear layer which they never call."""
    return isinstance(module, nn.Embedding | nn.Linear) and not isinstance(module, NonDynamicallyQuantizableLinear)


def _last(path: str) -> str:
    return path.rpartition(".")[2]
