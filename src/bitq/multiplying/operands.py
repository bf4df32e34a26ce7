"""What functions of torch multiply: their two operands, and what they make of the product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bitq.multiplying.einsum import Contraction, equation_of

Multiply = Callable[[Tensor, Tensor], Tensor]
"""From both operands to their product."""


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
    if not (isinstance(first, Tensor) and isinstance(second, Tensor)) or not (first.dim() and second.dim()):
        return None
    if first.dim() == second.dim() == 1:
        return Operands(first, second, lambda *both: multiply(*both).reshape(1), lambda product: product.reshape(()))
    if second.dim() == 1:
        return Operands(first, second, multiply)
    if first.dim() == 1:
        return Operands(second.mT, first, multiply)
    if first.dim() < second.dim():  # torch, too, turns them around
        return Operands(second.mT, first, lambda first, second: multiply(first, second.mT), lambda product: product.mT)
    return Operands(first, second.mT, lambda first, second: multiply(first, second.mT))


def _linear(function: Any, args: list[Any], kwargs: dict[str, Any]) -> Operands | None:
    first, second, bias = named(("input", "weight", "bias"), args, kwargs)
    if not (isinstance(first, Tensor) and isinstance(second, Tensor)) or second.dim() != 2:
        return None
    return Operands(first, second, lambda first, second: function(first, second, bias))


def _added(function: Any, args: list[Any], kwargs: dict[str, Any]) -> Operands | None:
    """A sum of a matrix and a product."""
    names = ("input", "batch1", "batch2") if function.__name__ == "baddbmm" else ("input", "mat1", "mat2")
    beta, alpha = kwargs.pop("beta", 1), kwargs.pop("alpha", 1)
    if len(args) > len(names):
        return None
    added, first, second = named(names, args, kwargs)
    found = _matrices(first, second, torch.matmul)

    def finish(product: Tensor) -> Tensor:
        scaled = product if alpha == 1 else product * alpha
        return scaled if beta == 0 else scaled + (added if beta == 1 else added * beta)

    return found and found._replace(finish=finish)


def named(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    """The arguments of a call by these names of its parameters, in order; None for those that are missing."""
    return iter((*args, *(kwargs.get(name) for name in names[len(args) :])))


def _einsum(function: Any, args: list[Any], kwargs: dict[str, Any]) -> Operands | None:
    """A sum of products of two tensors, whose columns are what lies side by side in the result, if either has that."""
    equation, factors = equation_of(args) or ("", [])
    found = Contraction.of(equation, factors) if all(isinstance(each, Tensor) for each in factors) else None
    if found is None:
        return None
    if found.out[-1:] in found.vectors(0):
        found, factors = found.reversed, factors[::-1]
    first, second = (found.matrices(x, place) for place, x in enumerate(factors))
    return Operands(first, second, found.multiplied, found.result)


_READ: Mapping[str, Callable[[Any, list[Any], dict[str, Any]], Operands | None]] = {
    **dict.fromkeys(("matmul", "__matmul__", "mm", "bmm", "mv", "dot"), _matmul),
    "__rmatmul__": _reflected,
    "linear": _linear,
    **dict.fromkeys(("baddbmm", "addmm"), _added),
    "einsum": _einsum,
}
"""By a function's own name, what reads its operands."""


class Linear(NamedTuple):
    """A linear layer that a call computes.

    Attributes:
        input: its features last.
        weight: [outputs, features].
        bias: if it has one.
        finish: what the call makes of the outputs, which are last.
    """

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    finish: Callable[[Tensor], Tensor] = lambda outputs: outputs


def linears(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Linear]:
    """The linear layers that a call may compute: whichever of its operands the weight is."""
    name = getattr(function, "__name__", "")
    if kwargs.get("out") is not None:
        return
    if name == "linear":
        found = Linear(*named(("input", "weight", "bias"), args, kwargs))
        if isinstance(found.input, Tensor) and isinstance(found.weight, Tensor):
            yield found
    elif _READ.get(name) is _matmul and len((*args, *kwargs)) == 2:
        first, second = (*args, *kwargs.values())
        if not (isinstance(first, Tensor) and isinstance(second, Tensor)):
            return
        if second.dim() == 2:
            yield Linear(first, second.mT, None)
        if first.dim() == 2 and second.dim():
            vector = second.dim() == 1
            yield Linear(second, first, None) if vector else Linear(second.mT, first, None, lambda outputs: outputs.mT)
    elif name == "addmm" and not kwargs.keys() & {"beta", "alpha"} and len(args) <= 3:
        bias, first, second = named(("input", "mat1", "mat2"), args, kwargs)
        if all(isinstance(each, Tensor) for each in (bias, first, second)) and (second.dim(), bias.dim()) == (2, 1):
            yield Linear(first, second.mT, bias)
