"""Which modules of a network can take formats, and why the others cannot."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from bitq.accuracy.kinds.kind import Kind, class_names, has_kind, kind_of
from bitq.private_torch import is_lazy


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


def reason_against(model: nn.Module, name: str) -> str | None:
    """Why the module of this path cannot take formats; None if it can."""
    module = model.get_submodule(name)
    if not has_kind(module):
        return f"is a {type(module).__name__}; formats apply to {class_names()}"
    if _only_read(model, name, module):
        return (
            "is the projection of a torch.nn.MultiheadAttention, which computes with its weight and never calls it: "
            "formats could have no effect, so it stays float"
        )
    if "forward" in vars(module):
        return "has a forward of its own set on the object, so formats could have no effect; set it on its class"
    if "weight" in vars(module):
        return "gets its weight from a hook; take it off, as by torch.nn.utils.remove_weight_norm, to quantize it"
    return None


def _only_read(model: nn.Module, name: str, module: nn.Module) -> bool:
    """Whether torch's attention reads the module's weight and never calls it, as it does with a class made for this."""
    parent, _, last = name.rpartition(".")
    attention = isinstance(model.get_submodule(parent), nn.MultiheadAttention) and last == "out_proj"
    return attention or isinstance(module, NonDynamicallyQuantizableLinear)


def _multiplies(module: nn.Module) -> bool:
    return any(is_lazy(weight) or weight.dim() > 1 for weight in module.parameters(recurse=False))
