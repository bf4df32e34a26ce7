"""Which modules of a network can take formats, and why the others cannot."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from bitq.accuracy.kinds.kind import Kind, class_names, has_kind, kind_of
from bitq.floating import ACTIVATIONS, StaysFloat
from bitq.layers import Layer
from bitq.multiplying import PROJECTING, Projection, TransposedProjection, multiplies
from bitq.private_torch import is_compiled, is_lazy, uncompiled_path

_IDLE = "was not called where the network was traced"
_COMPUTED = "multiplies by what is computed from parameters alone, which is no layer's weight"
_HIDDEN = "is wrapped by torch.compile, behind which no format reaches it; give the network as it was before"


def quantizable(model: nn.Module) -> dict[str, Kind]:
    """The modules whose tensors can take formats, by path (a shared module by its first one), in order of the network.

    They are those of a kind, but for what only looks like it: see `unquantizable`.
    """
    return {
        name: kind_of(module)
        for name, module in model.named_modules()
        if has_kind(module) and reason_against(model, name) is None
    }


def unquantizable(model: nn.Module) -> dict[str, str]:
    """Why the other modules that multiply stay float, each reason a clause after the module's name, by path.

    They are modules of a kind whose formats could have no effect, and modules of no kind with a weight of two axes or
    more, such as embeddings, recurrent layers and the projections within `torch.nn.MultiheadAttention`.
    """
    return {
        name: reason
        for name, module in model.named_modules()
        if (has_kind(module) or _multiplies(module)) and (reason := reason_against(model, name)) is not None
    }


def float_reasons(model: nn.Module, layers: Sequence[Layer]) -> dict[str, str]:
    """Why traced layers of a network stay float, each a clause after its module's name, by the layer's name.

    The layers that are not named take the formats of their module.
    """
    takes = quantizable(model)
    reasons = {}
    for layer in layers:
        kind = takes.get(layer.module)
        if not layer.weight_is_parameter and not (kind and kind.of_activations):
            reasons[layer.name] = ACTIVATIONS
        elif kind is None:
            reasons[layer.name] = _reason_for(model, layer.module)
    return reasons


def _reason_for(model: nn.Module, name: str) -> str:
    """Why a module that multiplies by what does not depend on the input stays float."""
    module = model.get_submodule(name)
    if is_compiled(module):
        return _HIDDEN
    return reason_against(model, name) or _HIDDEN if has_kind(module) or _multiplies(module) else _COMPUTED


def staying_float(model: nn.Module, layers: Sequence[Layer]) -> tuple[StaysFloat, ...]:
    """What of a network stays float: the layers of `float_reasons`, and modules that compute none of the layers.

    Args:
        model: the network.
        layers: as it was traced.

    Returns:
        One entry for each reason. What attention stores in its projection counts as its own.
    """
    modules: dict[str, dict[str, None]] = {}
    names: dict[str, list[str]] = {}
    module_of = {layer.name: layer.module for layer in layers}
    for name, reason in float_reasons(model, layers).items():
        modules.setdefault(reason, {})[module_of[name]] = None
        names.setdefault(reason, []).append(name)
    traced = {layer.module for layer in layers}
    lent = {id(weight) for module in model.modules() for weight in _projected(module)}
    idle = {
        path: _IDLE
        for path in quantizable(model)
        if uncompiled_path(path) not in traced and id(model.get_submodule(path).weight) not in lent
    }
    for path, reason in (*unquantizable(model).items(), *idle.items()):
        if not _projects_attention(model, path):
            modules.setdefault(reason, {})[path] = None
    return tuple(
        StaysFloat(
            reason,
            tuple(paths),
            tuple(names.get(reason, ())),
            0 if reason == ACTIVATIONS else sum(_stored_bytes(model.get_submodule(path)) for path in paths),
        )
        for reason, paths in modules.items()
    )


def reason_against(model: nn.Module, name: str) -> str | None:
    """Why the module of this path cannot take formats; None if it can."""
    module = model.get_submodule(name)
    if not has_kind(module):
        return f"is of class {type(module).__name__}; formats apply to {class_names()}"
    if _only_read(model, name, module):
        return (
            "is the projection of a torch.nn.MultiheadAttention, which computes with its weight and never calls it: "
            "formats could have no effect, so it stays float"
        )
    if "forward" in vars(module):
        return "has a forward of its own set on the object, so formats could have no effect; set it on its class"
    if "weight" in vars(module):
        return "gets its weight from a hook; take it off, as by torch.nn.utils.remove_weight_norm, to quantize it"
    return kind_of(module).refuses(module)


def _only_read(model: nn.Module, name: str, module: nn.Module) -> bool:
    """Whether torch's attention reads the module's weight and never calls it, as it does with a class made for this."""
    parent = model.get_submodule(name.rpartition(".")[0])
    if multiplies(parent):  # its calls are computed by children, its projections among them
        return False
    return _projects_attention(model, name) or isinstance(module, NonDynamicallyQuantizableLinear)


def _projects_attention(model: nn.Module, name: str) -> bool:
    parent, _, last = name.rpartition(".")
    return isinstance(model.get_submodule(parent), nn.MultiheadAttention) and last == "out_proj"


def _stored_bytes(module: nn.Module) -> int:
    """What a module stores itself, with the projection of attention."""
    owners = (module, module.out_proj) if isinstance(module, nn.MultiheadAttention) else (module,)
    own = (t for each in owners for t in (*each.parameters(recurse=False), *each.buffers(recurse=False)))
    return sum(tensor.nbytes for tensor in own if not is_lazy(tensor))


def _multiplies(module: nn.Module) -> bool:
    if isinstance(module, PROJECTING) and multiplies(module):  # its children do
        return False
    projected = {id(weight) for child in module.children() for weight in _projected(child)}
    return any(is_lazy(own) or (own.dim() > 1 and id(own) not in projected) for own in module.parameters(recurse=False))


def _projected(module: nn.Module) -> list[object]:
    """The weight of another module that it computes with."""
    return [module.weight] if isinstance(module, Projection | TransposedProjection) else []
