"""Products that no module of its own computes, as modules: of two activations, and of attention's projections.

Where a network's code calls a function of torch that multiplies two activations, such as `matmul` or `einsum`, it gets
a `Product` for a child, which computes that one call. Functions that multiply inside are told in torch's terms first:
scaled dot-product attention as its two products, `torch.nn.MultiheadAttention` as torch's own code has it, whose
projections get a `Projection`. A network is changed by nothing but such children, which have nothing of their own to
store; `bitq.running` lets them compute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitq.calls import Call
from bitq.errors import BitqError
from bitq.private_torch import storage_of, with_its_calls_seen

Multiply = Callable[[Tensor, Tensor], Tensor]
"""From both operands to their product."""

_OWN = "_bitq_products"
"""The attribute of a module whose calls are computed by children: by function and number, the child's name."""


class Product(nn.Module):
    """One call of a function that multiplies two activations.

    Both operands have the axis along which they are summed up last, and the product its columns.
    """

    def forward(self, input: Tensor, weight: Tensor, multiply: Multiply) -> Tensor:
        """The product of the first operand and the second, in the shapes that `Operands` has them in."""
        return multiply(input, weight)


class Projection(nn.Linear):
    """A linear layer with a weight of `torch.nn.MultiheadAttention`, which goes on being stored as that's.

    Args:
        weight: of the attention.
        stored: its name there.
    """

    def __init__(self, weight: nn.Parameter, stored: str) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.weight, self.stored = weight, stored
        self.register_parameter("bias", None)
        self.register_state_dict_post_hook(_unsaved)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_unloaded)  # type: ignore[no-untyped-call]

    def forward(self, input: Tensor, rows: slice = slice(None), bias: Tensor | None = None) -> Tensor:
        """The outputs of these rows of the weight; the bias is as the attention has it."""
        return functional.linear(input, self.weight[rows], bias)


def _unsaved(projection: nn.Module, state: dict[str, Any], prefix: str, *rest: object) -> None:
    del state[f"{prefix}weight"]


def _unloaded(projection: nn.Module, state: dict[str, Any], prefix: str, *rest: object) -> None:
    state[f"{prefix}weight"] = projection.weight


class Operands(NamedTuple):
    """What a call multiplies.

    Attributes:
        first, second: with the axis that is summed up last.
        multiply: from tensors in their shapes to the product, its columns last.
        finish: what the call makes of the product.
    """

    first: Tensor
    second: Tensor
    multiply: Multiply
    finish: Callable[[Tensor], Tensor] = lambda product: product


def operands(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Operands | None:
    """The operands of a call of a function of torch; None if it is no product that can be told so."""
    read = _READ.get(getattr(function, "__name__", ""))
    if read is None or kwargs.get("out") is not None:
        return None
    found = read(function, list(args), dict(kwargs))
    if found is None or not (found.first.is_floating_point() and found.second.is_floating_point()):
        return None
    return found


def _matmul(function: Any, args: list[Any], kwargs: dict[str, Any]) -> Operands | None:
    first, second = [*args, *kwargs.values()]
    return _matrices(first, second, function)


def _reflected(function: Any, args: list[Any], kwargs: dict[str, Any]) -> Operands | None:
    second, first = args
    return _matrices(first, second, torch.matmul)


def _matrices(first: Any, second: Any, multiply: Multiply) -> Operands | None:
    if not (isinstance(first, Tensor) and isinstance(second, Tensor)) or not 0 < second.dim() <= first.dim():
        return None  # torch turns others around, so that the second one is the first of what it computes
    if second.dim() == 1:
        return Operands(first, second, multiply) if first.dim() > 1 else None
    return Operands(first, second.mT, lambda first, second: multiply(first, second.mT))


def _linear(function: Any, args: list[Any], kwargs: dict[str, Any]) -> Operands | None:
    first, second, bias = _named(("input", "weight", "bias"), args, kwargs)
    if not (isinstance(first, Tensor) and isinstance(second, Tensor)) or second.dim() != 2:
        return None
    return Operands(first, second, lambda first, second: function(first, second, bias))


def _added(function: Any, args: list[Any], kwargs: dict[str, Any]) -> Operands | None:
    """A sum of a matrix and a product."""
    names = ("input", "batch1", "batch2") if function.__name__ == "baddbmm" else ("input", "mat1", "mat2")
    beta, alpha = kwargs.pop("beta", 1), kwargs.pop("alpha", 1)
    if len(args) > len(names):
        return None
    added, first, second = _named(names, args, kwargs)
    found = _matrices(first, second, torch.matmul)

    def finish(product: Tensor) -> Tensor:
        scaled = product if alpha == 1 else product * alpha
        return scaled if beta == 0 else scaled + (added if beta == 1 else added * beta)

    return found and found._replace(finish=finish)


def _named(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    return iter((*args, *(kwargs.get(name) for name in names[len(args) :])))


def _einsum(function: Any, args: list[Any], kwargs: dict[str, Any]) -> Operands | None:
    """A sum over one letter of two tensors, whose result ends with a letter of the second alone."""
    equation, *factors = args
    if len(factors) == 1 and isinstance(factors[0], list | tuple):
        factors = list(factors[0])
    if not isinstance(equation, str) or len(factors) != 2 or "." in equation or "->" not in equation:
        return None
    sides, out = equation.replace(" ", "").split("->")
    first, second = sides.split(",")
    summed = [letter for letter in first if letter not in out]
    if any(len(set(each)) < len(each) for each in (first, second, out)) or not out or len(summed) != 1:
        return None
    (inner,) = summed
    if inner not in second or set(second) - {inner} - set(out) or out[-1] in first or out[-1] not in second:
        return None
    last = [each.replace(inner, "") + inner for each in (first, second)]
    moved = [factor.movedim(each.index(inner), -1) for factor, each in zip(factors, (first, second), strict=True)]
    written = f"{','.join(last)}->{out}"
    return Operands(moved[0], moved[1], lambda first, second: function(written, first, second))


_READ: Mapping[str, Callable[[Any, list[Any], dict[str, Any]], Operands | None]] = {
    **dict.fromkeys(("matmul", "__matmul__", "mm", "bmm", "mv"), _matmul),
    "__rmatmul__": _reflected,
    "linear": _linear,
    **dict.fromkeys(("baddbmm", "addmm"), _added),
    "einsum": _einsum,
}
"""By a function's own name, what reads its operands."""


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What `torch.nn.functional.scaled_dot_product_attention` computes, as its documentation writes it.

    A query that may see no key gives zeros, as torch's own does.
    """
    if enable_gqa:
        times = query.size(-3) // key.size(-3)
        key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
    scores = torch.matmul(query, key.mT) * (query.size(-1) ** -0.5 if scale is None else scale)
    seen = attn_mask
    if is_causal:
        seen = torch.ones(query.size(-2), key.size(-2), dtype=torch.bool, device=query.device).tril()
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf) if seen.dtype == torch.bool else scores + seen
    weights = torch.softmax(scores, -1)
    if seen is not None:
        weights = weights.masked_fill((scores == -torch.inf).all(-1, keepdim=True), 0.0)
    return torch.matmul(functional.dropout(weights, dropout_p) if dropout_p else weights, value)


TOLD: Mapping[Any, Callable[..., Any]] = {
    functional.scaled_dot_product_attention: attention,
    functional.multi_head_attention_forward: with_its_calls_seen(functional.multi_head_attention_forward),
}
"""Functions that multiply inside, each as one that calls functions to multiply."""


def install(network: nn.Module, products: Mapping[str, Call]) -> None:
    """Give a network's modules children that compute these of their calls, and their projections, if they are
    attention; what has some already keeps them.

    Args:
        network: is changed.
        products: by path of the child, the call that it computes: one of the module above it.

    Raises:
        BitqError: no such module, or one that has something else of that name.
    """
    for path, call in products.items():
        try:
            parent = network.get_submodule(call.module)
        except AttributeError:
            raise BitqError(f"the model has no module {call.module!r}, whose product {path!r} has formats") from None
        above, _, name = path.rpartition(".")
        if above != call.module or not name or not can_multiply(parent):
            raise BitqError(f"module {call.module!r} cannot have a product {path!r}")
        own = vars(parent).setdefault(_OWN, {})
        if own.get((call.function, call.number)) == name:
            continue
        if hasattr(parent, name):
            raise BitqError(f"module {call.module!r} has another {name!r} than the product of two activations")
        parent.add_module(name, Product())
        own[call.function, call.number] = name
        if isinstance(parent, nn.MultiheadAttention):
            _project(parent)


def _project(attention: nn.MultiheadAttention) -> None:
    for stored in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
        weight, name = getattr(attention, stored), stored.removesuffix("_weight")
        if weight is not None and not hasattr(attention, name):
            attention.add_module(name, Projection(weight, stored))


def can_multiply(module: nn.Module) -> bool:
    """Whether a module may have children that compute its calls: it is none whose children are what it computes."""
    return not isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)


def remove(network: nn.Module) -> None:
    """Take away what `install` gave."""
    for module in list(network.modules()):
        if own := vars(module).pop(_OWN, None):
            for name, child in list(module.named_children()):
                if name in own.values() or isinstance(child, Projection):
                    delattr(module, name)


def products_of(network: nn.Module) -> dict[str, Call]:
    """By path of the children that compute products of two activations, the calls that they compute."""
    return {
        f"{path}.{name}".lstrip("."): Call(path, function, number)
        for path, module in network.named_modules()
        for (function, number), name in vars(module).get(_OWN, {}).items()
    }


def stored_name(module: nn.Module, path: str) -> str | None:
    """The name of a module's weight in the state of the network that has it under this path; None, if it has none."""
    if isinstance(module, Product):
        return None
    above = path.rpartition(".")[0]
    name = f"{above}.{module.stored}" if isinstance(module, Projection) else f"{path}.weight"
    return name.lstrip(".")


def multiplies(module: nn.Module) -> bool:
    """Whether children compute some of a module's own calls."""
    return _OWN in vars(module)


def instead(module: nn.Module, call: Call, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a child of a module gives for one of its calls; NotImplemented, where none computes it.

    Raises:
        BitqError: the call multiplies in another way than when the network was traced.
    """
    if not multiplies(module):
        return NotImplemented
    product = product_of(module, call.function, call.number)
    if product is not None:
        found = operands(function, args, kwargs)
        if found is None:
            raise BitqError(
                f"{call.function} of module {call.module!r} multiplies in another way than when the network was "
                "traced; let its control flow and its shapes follow from shapes alone"
            )
        return found.finish(product(found.first, found.second, found.multiply))
    if call.function == "linear" and isinstance(module, nn.MultiheadAttention):
        return _projected(module, *_named(("input", "weight", "bias"), args, kwargs))
    return NotImplemented


def _projected(attention: nn.MultiheadAttention, input: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
    if weight is attention.out_proj.weight:
        return attention.out_proj(input)
    for child in attention.children():
        if isinstance(child, Projection) and storage_of(child.weight) == storage_of(weight):
            first = (weight.storage_offset() - child.weight.storage_offset()) // child.weight.stride(0)
            return child(input, slice(first, first + len(weight)), bias)
    return NotImplemented


def product_of(module: nn.Module, function: str, number: int) -> Product | None:
    """The child that computes a call of a module, if there is one."""
    name = vars(module).get(_OWN, {}).get((function, number))
    return None if name is None else module.get_submodule(name)  # type: ignore[return-value]
