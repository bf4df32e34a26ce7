"""Batch norm folded into the layer before it, as deployed networks have it, before formats are chosen."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from bitq.accuracy.kinds import has_kind, kind_of
from bitq.accuracy.quantized import is_quantized
from bitq.batches import arguments
from bitq.errors import BitqError
from bitq.private_torch import has_hooks
from bitq.usercode import UserCodeError, reason

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold(model: nn.Module, example_input: Any) -> dict[str, str]:
    """Fold batch norms into the convolutions and linear layers whose results go to them and nowhere else, in place.

    In evaluation a batch norm multiplies every channel and adds to it. The layer before it does so with its weight and
    its bias, which it gets if it has none; the norm becomes a `torch.nn.Identity` of the same name. The network
    computes the same, to float rounding. Layers keep their parameter objects, folded norms vanish from the state.

    A pair is left alone if another module shares the layer's parameters or the layer, if either has hooks,
    parametrizations or a forward of its own, or if the norm has no running statistics.

    Args:
        model: a float network in evaluation mode; is changed.
        example_input: a tensor, a tuple of positional or a mapping of keyword arguments, that the network runs on once.

    Returns:
        By the path of each folded layer the path of its norm, in order of execution.

    Raises:
        BitqError: a network whose code torch.fx cannot follow, that does not run on the example, has formats already,
            or whose norms are in training mode.
    """
    for name, module in model.named_modules():
        if is_quantized(module):
            raise BitqError(f"module {name!r} has formats already; fold before bitq.apply, or after bitq.restore")
        if isinstance(module, NORMS) and module.training:
            raise BitqError(f"batch norm {name!r} is in training mode; only model.eval() has statistics to fold")
    args, kwargs = arguments(model, example_input)
    pairs = _pairs(model, _graph(model, args, kwargs))
    fitting = _channels_second(model, [layer for layer, _ in pairs], args, kwargs)
    folded = {layer: norm for layer, norm in pairs if layer in fitting}
    computed = {name: _folded(model.get_submodule(name), model.get_submodule(norm)) for name, norm in folded.items()}
    for name, (weight, bias) in computed.items():
        layer = model.get_submodule(name)
        with torch.no_grad():
            layer.weight.copy_(weight)  # type: ignore[operator]
            if layer.bias is None:
                layer.bias = nn.Parameter(bias, requires_grad=layer.weight.requires_grad)
            else:
                layer.bias.copy_(bias)  # type: ignore[operator]
        parent, _, last = folded[name].rpartition(".")
        setattr(model.get_submodule(parent), last, nn.Identity())
    return folded


class _Tracer(fx.Tracer):
    """Does not look into layers and norms of any class, and walks the parts that a tensor is cut into."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return has_kind(m) or isinstance(m, NORMS) or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return super().proxy(node) if _parts(node) is None else _Parts(node, self)


class _Parts(fx.Proxy):
    """The parts that a call cuts a tensor into."""

    def __len__(self) -> int:
        return _parts(self.node) or 0

    def __iter__(self) -> Iterator[Any]:
        return iter([self[part] for part in range(len(self))])  # type: ignore[index]


def _parts(node: fx.Node) -> int | None:
    """Into how many parts a call cuts a tensor, if its arguments tell: of `chunk`, and of `split` into given sizes."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    given = (*node.args[1:], *(node.kwargs[key] for key in _PARTS if key in node.kwargs))
    if name == "chunk" and given and isinstance(given[0], int):
        return given[0]
    if name == "split" and given and isinstance(given[0], list | tuple):
        return len(given[0])
    return None


_PARTS = ("chunks", "split_size_or_sections", "split_size")
"""Names of the argument that says so."""


def _graph(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> fx.Graph:
    try:
        given = inspect.signature(model.forward).bind(*args, **kwargs).arguments
        fixed = {
            name: parameter.default
            for name, parameter in inspect.signature(model.forward).parameters.items()
            if name not in given and parameter.default is not parameter.empty
        }
        return _Tracer().trace(model, fixed or None)
    except Exception as error:  # whatever the network's own code does with a tensor that has no value
        raise BitqError(
            "the network's code cannot be followed, so where the results of its layers go is not known and no "
            f"batch norm can be folded: {type(error).__name__}: {_first_line(error)}"
        ) from error


def _pairs(model: nn.Module, graph: fx.Graph) -> list[tuple[str, str]]:
    """Layers that are called once, whose result goes to one norm alone, which is called once."""
    modules = dict(model.named_modules(remove_duplicate=False))
    calls = Counter(id(modules[str(node.target)]) for node in graph.nodes if node.op == "call_module")
    owners = Counter(
        id(parameter) for module in set(modules.values()) for parameter in module.parameters(recurse=False)
    )
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}

    def alone(node: fx.Node) -> bool:
        name, module = str(node.target), modules[str(node.target)]
        return (
            calls[id(module)] == 1
            and not has_hooks(module)
            and not hasattr(module, "parametrizations")
            and all(owners[id(parameter)] == 1 for parameter in module.parameters())
            and not any(other.startswith(f"{name}.") for other in read)
        )

    pairs = []
    for node in graph.nodes:
        if node.op != "call_module" or len(node.args) != 1 or not isinstance(node.args[0], fx.Node):
            continue
        before, norm = node.args[0], modules[str(node.target)]
        if type(norm) not in NORMS or norm.running_mean is None or before.op != "call_module":
            continue
        layer = modules[str(before.target)]
        as_torch = has_kind(layer) and kind_of(layer).computes_as_torch(type(layer))
        if as_torch and len(before.users) == 1 and alone(before) and alone(node):
            pairs.append((str(before.target), str(node.target)))
    return pairs


def _channels_second(model: nn.Module, names: list[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> set[str]:
    """The layers whose result has its channels where a batch norm has them, behind the batch."""
    found = set()

    def look(name: str, layer: nn.Module, y: Tensor) -> None:
        if y.ndim + kind_of(layer).channel_axis(layer) == 1:
            found.add(name)

    handles = [
        layer.register_forward_hook(lambda module, _, y, name=name: look(name, module, y))
        for name in names
        for layer in [model.get_submodule(name)]
    ]
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception as error:
        raise UserCodeError(f"the network cannot run on the example input: {reason(error, model)}") from error
    finally:
        for handle in handles:
            handle.remove()
    return found


def _folded(layer: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer that does what the norm after it did; computed in float64."""
    with torch.no_grad():
        mean, variance = norm.running_mean.double(), norm.running_var.double()
        scale = (variance + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.double()
        kind = kind_of(layer)
        shape = kind.blocks(layer, tuple(layer.weight.shape)).shape
        per_output = scale.reshape([size if axis in kind.output_axes else 1 for axis, size in enumerate(shape)])
        weight = layer.weight.double().reshape(shape) * per_output
        bias = -mean if layer.bias is None else layer.bias.double() - mean
        bias = bias * scale + (0.0 if norm.bias is None else norm.bias.double())
        dtype = layer.weight.dtype
        return weight.reshape(layer.weight.shape).to(dtype), bias.to(dtype)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
