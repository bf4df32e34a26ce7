"""Modules for products that no module of its own computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitq.calls import Call, Transposed
from bitq.errors import BitqError
from bitq.multiplying.attention import attention
from bitq.multiplying.containers import PRODUCTS, hiding, showing
from bitq.multiplying.einsum import pairwise
from bitq.multiplying.operands import Linear, Multiply, linears, operands
from bitq.multiplying.recurrent import RECURRENT
from bitq.private_torch import storage_of, with_its_calls_seen

Computed = Call | str
"""What a child computes: this call of the module above it, or all its linear layers with the parameter of this name."""

PROJECTING = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)
"""Modules of torch whose own parameters are the weights of linear layers and nothing else."""


class Product(nn.Module):
    """One call of a function that multiplies two activations.

    Both operands have the axis along which they are summed up last, and the product its columns.
    """

    def forward(self, input: Tensor, weight: Tensor | None = None, multiply: Multiply | None = None) -> Tensor:
        """The product of the first operand and the second, in the shapes that `Operands` has them in.

        Raises:
            BitqError: the network runs it as one of a module's own children.
        """
        if weight is None or multiply is None:
            raise BitqError(
                "a module that multiplies runs all its children (children()), so that none can compute its product; "
                "let it run those of a torch.nn.ModuleList"
            )
        return multiply(input, weight)


class Projection(nn.Linear):
    """A linear layer with a weight of another module, which goes on being stored as that's.

    Args:
        weight: of the other module.
        stored: its name in the state of the network.
    """

    stored: str

    def __init__(self, weight: nn.Parameter, stored: str) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        _hold(self, weight, stored)
        self.register_parameter("bias", None)

    @property
    def matrix(self) -> Tensor:
        """The weight as [outputs, features]."""
        return self.weight

    def forward(self, input: Tensor, rows: slice = slice(None), bias: Tensor | None = None) -> Tensor:
        """The outputs of these rows of the weight; the bias is as the other module has it."""
        return functional.linear(input, self.weight[rows], bias)


class TransposedProjection(nn.Module):
    """The same with a weight that has its inputs first.

    Args:
        weight, stored: as of `Projection`.
    """

    stored: str
    groups = 1

    def __init__(self, weight: nn.Parameter, stored: str) -> None:
        super().__init__()
        _hold(self, weight, stored)

    @property
    def matrix(self) -> Tensor:
        """The weight as [outputs, features]."""
        weight: Tensor = self.weight  # type: ignore[assignment]
        return weight.mT

    def forward(self, input: Tensor, rows: slice = slice(None), bias: Tensor | None = None) -> Tensor:
        """The outputs of these columns of the weight."""
        return functional.linear(input, self.matrix[rows], bias)


def _hold(projection: nn.Module, weight: nn.Parameter, stored: str) -> None:
    """Give a projection a weight of another module, under whose name alone it is saved and loaded."""
    projection.weight, projection.stored = weight, stored  # type: ignore[assignment]
    projection.register_state_dict_post_hook(_unsaved)  # type: ignore[no-untyped-call]
    projection.register_load_state_dict_pre_hook(_unloaded)  # type: ignore[no-untyped-call]


def _unsaved(projection: nn.Module, state: dict[str, Any], prefix: str, *rest: object) -> None:
    del state[f"{prefix}weight"]


def _unloaded(projection: nn.Module, state: dict[str, Any], prefix: str, *rest: object) -> None:
    state[f"{prefix}weight"] = projection.weight


TOLD: Mapping[Any, Callable[..., Any]] = {
    functional.scaled_dot_product_attention: attention,
    functional.multi_head_attention_forward: with_its_calls_seen(functional.multi_head_attention_forward),
    torch.einsum: pairwise,
    **RECURRENT,
}
"""Functions that multiply inside, each as one that calls functions to multiply, or gives NotImplemented."""


def install(network: nn.Module, products: Mapping[str, Computed]) -> None:
    """Give a network's modules children that compute these products; what has one already keeps it.

    Args:
        network: is changed.
        products: by path of the child.

    Raises:
        BitqError: a network without such modules or parameters, or one that has something else of that name.
    """
    for path, computed in products.items():
        above, _, name = path.rpartition(".")
        module = computed.module if isinstance(computed, Call) else above
        try:
            parent = network.get_submodule(above)
            weight = None if isinstance(computed, Call) else network.get_parameter(computed)
        except AttributeError:
            missing = f"module {above!r}" if isinstance(computed, Call) else f"parameter {computed!r}"
            raise BitqError(f"the model has no {missing}, whose product {path!r} has formats") from None
        if above != module or not name or (weight is not None and weight.dim() != 2):
            raise BitqError(f"module {module!r} cannot have a product {path!r}")
        own = vars(parent).setdefault(PRODUCTS, {})
        key = (computed.function, computed.number) if isinstance(computed, Call) else computed
        if own.get(key) == name:
            continue
        if hasattr(parent, name):
            raise BitqError(f"module {above!r} has another {name!r} than a product that has formats")
        parent.__class__ = hiding(type(parent))
        parent.add_module(name, Product() if weight is None else _projection(weight, computed))
        own[key] = name


def _projection(weight: nn.Parameter, computed: Computed) -> nn.Module:
    kind = TransposedProjection if isinstance(computed, Transposed) else Projection
    return kind(weight, str(computed))


def remove(network: nn.Module) -> None:
    """Take away what `install` gave."""
    for module in list(network.modules()):
        for name in vars(module).pop(PRODUCTS, {}).values():
            delattr(module, name)
        module.__class__ = showing(type(module))


def instead(module: nn.Module, call: Call, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a child of a module gives for one of its calls; NotImplemented, where none computes it.

    Raises:
        BitqError: the call multiplies in another way than when the network was traced.
    """
    own = vars(module).get(PRODUCTS)
    if own is None:
        return NotImplemented
    name = own.get((call.function, call.number))
    if name is None:
        projected = (_projected(module, layer) for layer in linears(function, args, kwargs))
        return next((each for each in projected if each is not NotImplemented), NotImplemented)
    found = operands(function, args, kwargs)
    if found is None:
        raise BitqError(
            f"{call.function} of module {call.module!r} multiplies in another way than when the network was traced; "
            "let its control flow and its shapes follow from shapes alone"
        )
    return found.finish(module.get_submodule(name)(found.first, found.second, found.multiply))


def _projected(module: nn.Module, layer: Linear) -> Any:
    """What the child with a linear layer's weight computes."""
    if isinstance(module, nn.MultiheadAttention) and layer.weight is module.out_proj.weight:
        return layer.finish(module.out_proj(layer.input))
    for child in module.children():
        if not isinstance(child, Projection | TransposedProjection):
            continue
        if (rows := rows_of(child.matrix, layer.weight)) is not None:
            return layer.finish(child(layer.input, rows, layer.bias))
    return NotImplemented


def rows_of(parameter: Tensor, weight: Tensor) -> slice | None:
    """The rows of a matrix that another one is; None, if it is none of its rows."""
    alike = weight.dim() == parameter.dim() == 2 and weight.stride() == parameter.stride()
    if not alike or weight.shape[1] != parameter.shape[1] or storage_of(weight) != storage_of(parameter):
        return None
    first, inside = divmod(int(weight.storage_offset() - parameter.storage_offset()), max(parameter.stride(0), 1))
    if inside:
        return None
    return slice(first, first + len(weight)) if 0 <= first <= len(parameter) - len(weight) else None


def products_of(network: nn.Module) -> dict[str, Computed]:
    """By path of the children that `install` gave a network, what they compute."""
    return {
        f"{path}.{name}".lstrip("."): key if isinstance(key, str) else Call(path, *key)
        for path, module in network.named_modules()
        for key, name in vars(module).get(PRODUCTS, {}).items()
    }


def stored_name(module: nn.Module, path: str) -> str | None:
    """The name of a module's weight in the state of the network that has it under this path; None, if it has none."""
    if isinstance(module, Product):
        return None
    return module.stored if isinstance(module, Projection | TransposedProjection) else f"{path}.weight".lstrip(".")


def multiplies(module: nn.Module) -> bool:
    """Whether children compute some of a module's own calls."""
    return PRODUCTS in vars(module)
