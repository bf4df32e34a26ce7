"""Which calls of a running network are products of two activations, each of one layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from bitq.calls import Call
from bitq.layers import Layer
from bitq.multiplying import Operands, can_multiply
from bitq.private_torch import transforming
from bitq.tracing.watch import Watch


class FoundProducts:
    """Finds them as they are computed.

    Attributes:
        calls: by the path of the child that a module would be given for it.
    """

    def __init__(self) -> None:
        self.calls: dict[str, Call] = {}
        self._waiting: tuple[Call, int] | None = None

    def before(self, watch: Watch, layers: int, call: Call, multiplied: Operands | None) -> None:
        """Note a call that is about to compute, with how many layers were computed before."""
        self._waiting = None
        if multiplied is None or transforming():
            return
        if watch.is_activation(multiplied.first) and watch.is_activation(multiplied.second):
            self._waiting = call, layers

    def after(self, network: nn.Module, call: Call, layers: Sequence[Layer]) -> None:
        """Note that it has computed, and what the layers are now."""
        if self._waiting is None or self._waiting[0] != call or len(layers) != self._waiting[1] + 1:
            return
        layer = layers[-1]
        try:
            module = network.get_submodule(call.module)
        except AttributeError:  # behind torch.compile
            return
        if can_multiply(module) and layer.module == call.module and not hasattr(module, _last(layer.name)):
            self.calls[layer.name] = call


def _last(path: str) -> str:
    return path.rpartition(".")[2]
