"""Formats act where a module is called: what else a network does with its weight is noticed and told."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bitq.errors import BitqError
from bitq.private_torch import own_parameters, transforming
from bitq.running import uncompiled

_PRODUCTS = re.compile(
    r"(add|b|badd|addb)?mm|(add)?mv|v?dot|inner|(bi)?linear|(__r?)?matmul(__)?|einsum|tensordot|chain_matmul|multi_dot|"
    r"conv(_transpose)?[123]d|(_convolution|convolution)|scaled_dot_product_attention|multi_head_attention_forward|"
    r"_native_multi_head_attention|_transformer_encoder_layer_fwd"
)
"""The functions of torch that multiply by a weight, by their own names."""


@contextmanager
def watching(model: nn.Module, names: Iterable[str], doing: str, whole: bool = True) -> Iterator[None]:
    """Inside, whatever runs the network calls each named module, and computes with its weight nowhere else.

    Torch's fused encoder layers and attention, which read weights and call no layer, do not run inside: with a mode of
    torch functions around, torch takes its own modules' plain path.

    Args:
        model: the network.
        names: paths of the modules.
        doing: what is done with the network, for messages: "measured".
        whole: whether the data are all that is to be done so: some networks call a module for few inputs.

    Raises:
        BitqError: as soon as a product is computed with such a module's weight past the module; and at the end, if the
            network ran on whole data and a module was never called.
    """
    watched = {name: model.get_submodule(name) for name in names}
    watch = _Watch(watched)
    first: dict[nn.Module, str] = {}
    for name, module in watched.items():
        first.setdefault(module, name)
    called: set[str] = set()
    handles = [model.register_forward_pre_hook(lambda *_: called.add(""))]
    for module, name in first.items():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: called.add(name)))
    for module in model.modules():
        for weight in watch.starts_of(module):
            handles.append(module.register_forward_pre_hook(lambda *_, at=weight: watch.enter(at), prepend=True))
            handles.append(module.register_forward_hook(lambda *_, at=weight: watch.leave(at), always_call=True))
    try:
        with uncompiled(), watch:
            yield
    finally:
        for handle in handles:
            handle.remove()
    never = next((name for name in first.values() if name not in called), None)
    if whole and called and never is not None:
        raise BitqError(
            f"module {never!r} was never called while the network was {doing}, so its formats have no effect there; "
            "let the network call it there, too, and not compute with its weight past it"
        )


class _Watch(TorchFunctionMode):
    """Sees every function of torch that Python calls, and refuses a product with the weight of a module not running."""

    def __init__(self, watched: Mapping[str, nn.Module]) -> None:
        super().__init__()
        weights = {name: own_parameters(module).get("weight") for name, module in watched.items()}
        placed = {weight.data_ptr(): (name, weight) for name, weight in weights.items() if weight is not None}
        self._starts = sorted(placed)
        self._ends = {at: at + weight.nbytes for at, (_, weight) in placed.items()}
        self._names = {at: name for at, (name, _) in placed.items()}
        self._running: Counter[int] = Counter()

    def starts_of(self, module: nn.Module) -> list[int]:
        """Where the watched weights begin that are a module's own parameters: it may compute with them."""
        own = (p.data_ptr() for p in own_parameters(module).values() if p is not None)
        return [at for at in own if at in self._ends]

    def enter(self, weight: int) -> None:
        self._running[weight] += 1

    def leave(self, weight: int) -> None:
        self._running[weight] -= 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _PRODUCTS.fullmatch(getattr(func, "__name__", "")) and not transforming():  # where tensors have no place
            for operand in _tensors((*args, *kwargs.values())):
                self._check(func.__name__, operand)
        return func(*args, **kwargs)

    def _check(self, product: str, operand: Tensor) -> None:
        before = bisect_right(self._starts, operand.data_ptr())
        weight = self._starts[before - 1] if before else 0
        if weight and operand.data_ptr() < self._ends[weight] and not self._running[weight]:
            raise BitqError(
                f"{product} computes with the weight of module {self._names[weight]!r} past the module, where its "
                "formats have no effect; call the module"
            )


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if type(value) in (Tensor, nn.Parameter):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
