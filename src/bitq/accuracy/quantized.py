"""Formats applied to a network as it is: its layers compute on block floating point, its code stays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, NamedTuple, Protocol, SupportsIndex

import torch
from torch import Tensor, nn

from bitq.accuracy import straight
from bitq.errors import BitqError
from bitq.formats import BlockFormat, MaxAbs, TensorFormats
from bitq.numerics import exponent_bias_for, largest_magnitude, quantize
from bitq.numerics.ops import direct
from bitq.numerics.packing import WeightBlocks, weight_blocks

LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)
"""The modules that can be quantized, with their subclasses."""


UNKNOWN = MaxAbs()


class Planned(Protocol):
    """What `apply` asks of a plan."""

    def formats(self) -> Mapping[str, TensorFormats]:
        """By module path."""

    def max_abs(self) -> Mapping[str, MaxAbs]:
        """By module path."""


def apply(
    model: nn.Module,
    formats: Mapping[str, TensorFormats] | Planned,
    max_abs: Mapping[str, MaxAbs] | None = None,
) -> None:
    """Makes the named modules of `model` compute on quantized input, weight and output.

    Each becomes, in place, an instance of a subclass of its class: parameters, buffers, hooks, names and
    state_dict stay, optimizers go on with the float weight, and `module.weight` reads as the quantized one.
    Blocks run along the channels (features) of activations, and along the input channels of one output
    channel in weights, kernel window included and groups apart. Modules that are quantized already change
    their formats.

    The quantized weight is kept until the weight or its format changes: as its version counter tells, and, on the
    CPU, a checksum, for what is written through `weight.data`.

    A training step keeps no more for backward than the float network does: `bitq.accuracy.straight` says how.

    Args:
        model: the network; is changed.
        formats: by module path; or a plan, which brings its calibration, too.
        max_abs: by module path what `observing` recorded, from which activations get their exponent bias.
            A module it does not name keeps what it had, or else gives every activation its own bias.

    Raises:
        BitqError: a path that names no module of `LAYERS`, or two paths of one module with unlike formats.
    """
    if not isinstance(formats, Mapping):
        max_abs = formats.max_abs() if max_abs is None else max_abs
        formats = formats.formats()
    for name, module, wanted in _named(model, formats):
        if not isinstance(module, _Quantized):
            module.__class__ = _quantized_class(type(module))  # type: ignore[arg-type]
            module._bitq = _State(wanted)
        module._bitq.formats = wanted
        if max_abs is not None and name in max_abs:
            module._bitq.max_abs = max_abs[name]


def set_formats(model: nn.Module, formats: Mapping[str, TensorFormats]) -> None:
    """Changes the formats of modules to which `apply` gave some; cheap enough for every step of a training.

    Raises:
        BitqError: as `apply` does, and for a module that is not quantized.
    """
    for name, module, wanted in _named(model, formats):
        if not isinstance(module, _Quantized):
            raise BitqError(f"module {name!r} is not quantized; apply formats to it first")
        module._bitq.formats = wanted


def restore(model: nn.Module) -> None:
    """Makes every quantized module of `model` what it was before `apply`."""
    for module in model.modules():
        if isinstance(module, _Quantized):
            del module._bitq
            module.__class__ = type(module).__bases__[1]


@contextmanager
def observing(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, MaxAbs]]:
    """Records the largest finite |input| and |output| of the named modules over all forward passes inside.

    Yields:
        By name; a module that has not run yet is missing. NaN and infinities are passed over.

    Raises:
        BitqError: a path that names no module of `LAYERS`.
    """
    seen: dict[str, MaxAbs] = {}

    def record(name: str, x: Tensor, y: Tensor) -> None:
        before = seen.get(name, MaxAbs(0.0, 0.0))
        seen[name] = MaxAbs(*(max(b or 0.0, largest_magnitude(t)) for b, t in zip(before, (x, y), strict=True)))

    handles = [
        module.register_forward_hook(
            lambda _, args, kwargs, y, name=name: record(name, args[0] if args else kwargs["input"], y),
            with_kwargs=True,
        )
        for name in names
        for module in [_layer(model, name)]
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


class _CachedWeight(NamedTuple):
    parameter: Tensor
    memory: Tensor  # the parameter's when it was quantized; held, so that nothing else comes to lie there
    version: int
    checksum: int
    format: BlockFormat
    quantized: Tensor

    def serves(self, parameter: Tensor, fmt: BlockFormat) -> bool:
        return (
            self.parameter is parameter
            and self.memory.data_ptr() == parameter.data_ptr()
            and self.version == parameter._version
            and self.format == fmt
            and self.checksum == _checksum(parameter)
        )


def _checksum(x: Tensor) -> int:
    """The sum of x's bits, read as integers, at a small part of the price of quantizing; 0 on other devices."""
    if x.device.type != "cpu" or not x.numel():
        return 0
    x = x.detach()
    if x.is_contiguous() and not x.nbytes % 8:
        return int(x.view(-1).view(torch.int64).sum())
    return int(x.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]).sum())


@dataclass
class _State:
    formats: TensorFormats
    max_abs: MaxAbs = UNKNOWN
    cached: _CachedWeight | None = None

    def activation(self, tensor: Literal["input", "output"]) -> tuple[BlockFormat | None, int | None]:
        """Format and exponent bias of an activation."""
        fmt, largest = getattr(self.formats, tensor), getattr(self.max_abs, tensor)
        return fmt, None if fmt is None or largest is None else exponent_bias_for(largest, fmt)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "cached": None}


class _Quantized(nn.Module):
    """What all quantized layers share; the second base of its subclasses is the layer's own class."""

    _bitq: _State
    _fresh: bool  # what `forward` gives is new memory that no operation saved

    @property
    def weight(self) -> Tensor:
        """The weight as the layer computes with it."""
        own = self._parameters.get("weight")
        weight: Tensor = super().weight if own is None else own  # type: ignore[misc]  # a parametrized one
        fmt = self._bitq.formats.weight
        if fmt is None:
            return weight
        if own is None or not direct(own) or own.is_inference():
            return quantized_weight(self, weight, fmt)
        kept = self._bitq.cached
        if kept is None or not kept.serves(own, fmt):
            kept = self._bitq.cached = None  # its memory first
            with torch.inference_mode(False), torch.no_grad():
                raw = own.detach()
                told = (own, raw, own._version, _checksum(own), fmt)
                kept = _CachedWeight(*told, quantized_weight(self, raw, fmt))
            self._bitq.cached = kept
        return straight.attached(own, kept.quantized) if torch.is_grad_enabled() else kept.quantized

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return _made, (type(self).__bases__[1],), self.__getstate__()  # type: ignore[no-untyped-call]

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's own forward, between quantized activations."""
        state, axis = self._bitq, channel_axis(self)
        fmt, bias = state.activation("input")
        if fmt is None:
            y: Tensor = super().forward(input, *args, **kwargs)
        else:
            again = partial(quantize, fmt=fmt, dim=axis, exponent_bias=bias)
            x = again(input)
            with straight.saving_raw(input, x, again):
                y = super().forward(x, *args, **kwargs)
        fmt, bias = state.activation("output")
        if fmt is None:
            return y
        if self._fresh:
            return straight.quantized_fresh(y, fmt, axis, bias)
        return quantize(y, fmt, axis, exponent_bias=bias)


def is_quantized(module: nn.Module) -> bool:
    """Whether `apply` gave a module formats."""
    return isinstance(module, _Quantized)


def computes_as_torch(layer: type[nn.Module]) -> bool:
    """Whether a class is one of `LAYERS` or computes just as one does."""
    return any(
        issubclass(layer, kind)
        and layer.forward is kind.forward
        and getattr(layer, "_conv_forward", None) is getattr(kind, "_conv_forward", None)
        for kind in LAYERS
    )


@cache
def _quantized_class(layer: type[nn.Module]) -> type[_Quantized]:
    return type(f"Quantized{layer.__name__}", (_Quantized, layer), {"_fresh": computes_as_torch(layer)})


def _made(layer: type[nn.Module]) -> _Quantized:
    """An empty module that pickle or copy fills."""
    kind = _quantized_class(layer)  # type: ignore[arg-type]  # of a class, whatever mypy thinks of its hash
    return kind.__new__(kind)


def channel_axis(layer: nn.Module) -> int:
    """The channels' axis counted from the last, so the same with a batch and without."""
    return -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)  # type: ignore[arg-type]


def is_transposed(layer: nn.Module) -> bool:
    """Whether a layer's weight has its input channels first."""
    return isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d)


def blocks_of(layer: nn.Module, shape: tuple[int, ...]) -> WeightBlocks:
    """Where the blocks of a layer's weight of this shape lie."""
    transposed = is_transposed(layer)
    return weight_blocks(shape, transposed, layer.groups if transposed else 1)  # type: ignore[arg-type]


def blocked_weight(layer: nn.Module, weight: Tensor) -> tuple[Tensor, int, tuple[int, ...]]:
    """A layer's weight as it is blocked: the tensor, its blocked axis, and the axes wholly inside every block."""
    shape, dim, inner = blocks_of(layer, tuple(weight.shape))
    return weight.reshape(shape), dim, inner


def quantized_weight(layer: nn.Module, weight: Tensor, fmt: BlockFormat) -> Tensor:
    """A layer's weight in a format, blocked as the layer has it; of the weight's shape."""
    seen, dim, inner = blocked_weight(layer, weight)
    return quantize(seen, fmt, dim=dim, inner_dims=inner).reshape(weight.shape)


def _layer(model: nn.Module, name: str) -> nn.Module:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise BitqError(f"the model has no module {name!r}") from None
    if not isinstance(module, LAYERS):
        kinds = ", ".join(kind.__name__ for kind in LAYERS)
        raise BitqError(f"module {name!r} is a {type(module).__name__}; formats apply to {kinds}")
    if "weight" in vars(module):
        raise BitqError(
            f"module {name!r} gets its weight from a hook; torch.nn.utils.parametrizations can be quantized"
        )
    return module


def _named(model: nn.Module, formats: Mapping[str, TensorFormats]) -> Iterator[tuple[str, Any, TensorFormats]]:
    """Name, module and formats of each entry, once all are known to be right."""
    modules = {name: _layer(model, name) for name in formats}
    first: dict[nn.Module, str] = {}
    for name, module in modules.items():
        other = first.setdefault(module, name)
        if formats[other] != formats[name]:
            raise BitqError(f"modules {other!r} and {name!r} are one module; they need the same formats")
    return ((name, module, formats[name]) for name, module in modules.items())
