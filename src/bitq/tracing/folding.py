"""Batch norm folded into the layers before it, as deployed networks have it, before formats are chosen."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from bitq.accuracy.kinds import has_kind, kind_of
from bitq.accuracy.quantized import is_quantized
from bitq.batches import arguments
from bitq.errors import BitqError
from bitq.nested import walk
from bitq.private_torch import has_hooks, storage_of, uncompiled_path
from bitq.tracing.copies import Copies, shown
from bitq.tracing.watch import Operation, Watch, tensors

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold(model: nn.Module, example_input: Any) -> dict[str, str]:
    """Fold batch norms into the convolutions and linear layers whose results go to them and nowhere else, in place.

    In evaluation a batch norm multiplies every channel and adds to it. The layer before it does so with its weight and
    its bias, which it gets if it has none; the norm becomes a `torch.nn.Identity` of the same name. If several layers
    come before it, whose results are added up or concatenated along the channels, each takes its part. The network
    computes the same, to float rounding. Layers keep their parameter objects, folded norms vanish from the state.

    Where results go shows a run of a copy, as for `trace`; where the network decides by values, that of this example.

    A norm is left alone if it takes anything that is no result of such layers alone, such as an activation function's
    or a shortcut, or a result twice, as sums of ever more results have it. So it is if another module shares the layer
    or its parameters, if either has hooks, parametrizations or a forward of its own, or if the norm has no running
    statistics.

    Args:
        model: a float network in evaluation mode; is changed.
        example_input: a tensor, a tuple of positional or a mapping of keyword arguments. Only shapes and types matter,
            unless the network decides by values.

    Returns:
        By the path of each folded layer the path of its norm, the norms in order of execution.

    Raises:
        BitqError: a network that cannot be traced on the example, has formats already, or whose norms are in training
            mode.
    """
    for name, module in model.named_modules():
        if is_quantized(module):
            raise BitqError(f"module {name!r} has formats already; fold before bitq.apply, or after bitq.restore")
        if isinstance(module, NORMS) and module.training:
            raise BitqError(f"batch norm {name!r} is in training mode; only model.eval() has statistics to fold")
    args, kwargs = arguments(model, example_input)
    shares = _shares(model, shown(model, kwargs or args, _run))
    computed = [_folded(model.get_submodule(share.layer), model.get_submodule(share.norm), share) for share in shares]
    for share, (weight, bias) in zip(shares, computed, strict=True):
        layer = model.get_submodule(share.layer)
        with torch.no_grad():
            layer.weight.copy_(weight)  # type: ignore[operator]
            if layer.bias is not None:
                layer.bias.copy_(bias)  # type: ignore[operator]
            elif share.shifted:
                layer.bias = nn.Parameter(bias, requires_grad=layer.weight.requires_grad)
    for norm in {share.norm for share in shares}:
        parent, _, last = norm.rpartition(".")
        setattr(model.get_submodule(parent), last, nn.Identity())
    return {share.layer: share.norm for share in shares}


@dataclass(frozen=True)
class _Share:
    """What a layer computes of what a norm takes.

    Attributes:
        layer, norm: their paths.
        first: the norm's channel that the layer's first one is.
        shifted: whether the layer does what the norm adds; of layers whose results are added up, one does.
    """

    layer: str
    norm: str
    first: int = 0
    shifted: bool = True


@dataclass(frozen=True)
class _Made:
    """What layers alone made: a tensor [batch, channels, …] of so many channels and axes."""

    channels: int
    axes: int
    shares: tuple[_Share, ...]


class _Run:
    """What a run shows of where results go.

    Attributes:
        joined: by storage, the sum or the concatenation that lies there.
        taken: by storage, the operations that take it.
        results: by path of a layer, what its calls give.
        norms: by path of a norm, what its calls are given.
        kept: storages that the network returns, or that lie in its modules.
    """

    def __init__(self, network: nn.Module) -> None:
        self.joined: dict[int, Operation] = {}
        self.taken: dict[int, list[Operation]] = defaultdict(list)
        self.results: dict[str, list[Tensor]] = defaultdict(list)
        self.norms: dict[str, list[Any]] = defaultdict(list)
        self.kept: set[int] = set()
        self.parameters = {path: [storage_of(t) for t in module.parameters()] for path, module in _followed(network)}
        for path, module in _followed(network):
            if has_kind(module):
                module.register_forward_hook(lambda _, args, y, path=path: self.results[path].append(y))
            else:
                module.register_forward_pre_hook(
                    lambda _, args, kwargs, path=path: self.norms[path].extend((*args, *kwargs.values())),
                    with_kwargs=True,
                )

    def note(self, operation: Operation) -> None:
        """Note an operation."""
        for storage in {storage_of(t) for t in tensors(operation.arguments)}:
            self.taken[storage].append(operation)
        if operation.name in ("aten::add", "aten::cat"):
            self.joined[storage_of(operation.results[0])] = operation


def _followed(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers and norms, by path."""
    return ((path, module) for path, module in network.named_modules() if has_kind(module) or type(module) in NORMS)


def _run(copies_of: Callable[[], Copies]) -> _Run:
    copies = copies_of()
    run = _Run(copies.network)
    returned = copies.run(Watch(copies.network, copies.inputs, (run.note,)))
    held = [returned, *(vars(module) for module in copies.network.modules())]
    run.kept |= {storage_of(t) for t in _held(held, set())}
    return run


def _held(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """The tensors in containers, and in objects of any class within them."""
    for _, part in walk(value):
        if isinstance(part, Tensor):
            yield part
        elif hasattr(part, "__dict__") and not isinstance(part, type | nn.Module) and id(part) not in seen:
            seen.add(id(part))
            yield from _held(vars(part), seen)


def _shares(model: nn.Module, run: _Run) -> list[_Share]:
    """What layers take of the norms that can be folded."""
    owners = Counter(id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False))
    alone = {path for path, module in _followed(model) if _is_alone(path, module, owners, run)}
    layers = {storage_of(y): (path, y) for path, (y, *more) in run.results.items() if path in alone and not more}

    def made(tensor: Tensor, takes: Callable[[Operation], bool]) -> _Made | None:
        """What lies in a tensor that only these operations take."""
        storage = storage_of(tensor)
        others = [operation for operation in run.taken[storage] if not takes(operation)]
        if storage in run.kept:
            return None
        if storage in layers:
            path, y = layers[storage]
            layer = model.get_submodule(path)
            fits = y.ndim + kind_of(layer).channel_axis(layer) == 1 and all(_in(path, each) for each in others)
            return _Made(y.shape[1], y.ndim, (_Share(path, ""),)) if fits else None
        operation = run.joined.get(storage)
        if operation is None or others:
            return None
        given = operation.arguments
        parts = given["tensors"] if operation.name == "aten::cat" else [given["self"], given["other"]]
        found = [made(part, lambda each: each is operation) if isinstance(part, Tensor) else None for part in parts]
        known = [each for each in found if each is not None]
        if len(known) < len(found) or len({each.axes for each in known}) > 1:
            return None
        return _added(known, given) if operation.name == "aten::add" else _concatenated(known, given)

    found: list[_Share] = []
    for path, (given, *more) in run.norms.items():
        norm: Any = model.get_submodule(path)
        if path not in alone or more or norm.running_mean is None:
            continue
        before = made(given, lambda operation, path=path: _in(path, operation))  # type: ignore[misc]
        if before is not None and len({share.layer for share in before.shares}) == len(before.shares):
            found += (replace(share, norm=path) for share in before.shares)
    return found


def _is_alone(path: str, module: nn.Module, owners: Counter[int], run: _Run) -> bool:
    """Whether nothing but the module's own forward, as its class has it, computes with its parameters."""
    as_torch = type(module) in NORMS or (hasattr(module, "bias") and kind_of(module).computes_as_torch(type(module)))
    return (
        as_torch
        and not has_hooks(module)
        and not hasattr(module, "parametrizations")
        and "forward" not in vars(module)
        and all(owners[id(parameter)] == 1 for parameter in module.parameters())
        and all(_in(path, each) for storage in run.parameters[path] for each in run.taken[storage])
    )


def _in(path: str, operation: Operation) -> bool:
    """Whether an operation is computed in the forward of a module."""
    return operation.path == uncompiled_path(path)


def _added(parts: list[_Made], given: Any) -> _Made | None:
    first, second = parts
    if first.channels != second.channels or given.get("alpha", 1) != 1:
        return None
    return replace(first, shares=(*first.shares, *(replace(share, shifted=False) for share in second.shares)))


def _concatenated(parts: list[_Made], given: Any) -> _Made | None:
    axes = parts[0].axes
    if given.get("dim", 0) % axes != 1:
        return None
    *before, channels = accumulate((part.channels for part in parts), initial=0)
    shares = (
        replace(share, first=start + share.first)
        for start, part in zip(before, parts, strict=True)
        for share in part.shares
    )
    return _Made(channels, axes, tuple(shares))


def _folded(layer: Any, norm: Any, share: _Share) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer that does its share of what the norm after it did; computed in float64."""
    with torch.no_grad():
        kind = kind_of(layer)
        shape = kind.blocks(layer, tuple(layer.weight.shape)).shape
        outputs = [size if axis in kind.output_axes else 1 for axis, size in enumerate(shape)]
        own = slice(share.first, share.first + prod(outputs))
        mean, variance = norm.running_mean[own].double(), norm.running_var[own].double()
        scale = (variance + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight[own].double()
        weight = layer.weight.double().reshape(shape) * scale.reshape(outputs)
        bias = torch.zeros_like(mean) if layer.bias is None else layer.bias.double()
        if share.shifted:
            bias = (bias - mean) * scale + (0.0 if norm.bias is None else norm.bias[own].double())
        else:
            bias = bias * scale
        dtype = layer.weight.dtype
        return weight.reshape(layer.weight.shape).to(dtype), bias.to(dtype)
