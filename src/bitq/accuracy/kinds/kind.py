"""What bitq knows of one kind of layer, and the registry of all kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, nn

from bitq.errors import BitqError
from bitq.numerics.packing import WeightBlocks, weight_blocks


@dataclass(frozen=True)
class Kind:
    """A kind of layer that takes formats: all that depends on the kind stands in its one file.

    Attributes:
        classes: of its modules, with their subclasses.
        compute: what torch's own forward computes, with another weight in place of the layer's:
            (layer, quantized input, quantized weight, what else forward takes) to the output.
        channel_axis: of a layer's activations, along which their blocks run; counted from the last axis, so the same
            with a batch and without.
        transposed: whether the weight has its input channels first.
        output_axes: of the weight as it is blocked (`blocks`), those that the output channels run along.
        steps: the methods that make torch's own forward; a subclass that replaces one computes in a way of its own.
        of_activations: whether its weight is an activation, too: what forward takes second, blocked along its last
            axis.
        refuses: why a layer of these classes cannot take formats, a clause after its name; None if it can.
    """

    classes: tuple[type[nn.Module], ...]
    compute: Callable[..., Tensor]
    channel_axis: Callable[[Any], int]
    transposed: bool = False
    output_axes: tuple[int, ...] = (0,)
    steps: tuple[str, ...] = ("forward",)
    of_activations: bool = False
    refuses: Callable[[Any], str | None] = lambda layer: None

    def blocks(self, layer: Any, shape: tuple[int, ...]) -> WeightBlocks:
        """Where the blocks of a layer's weight of this shape lie."""
        if self.of_activations:
            return WeightBlocks((prod(shape[:-1]), shape[-1]), 1, ())
        return weight_blocks(shape, self.transposed, layer.groups if self.transposed else 1)

    def computes_as_torch(self, layer: type[nn.Module]) -> bool:
        """Whether a class computes just as the one of `classes` it is or derives from: as `compute` does."""
        base = next(each for each in self.classes if issubclass(layer, each))
        return all(getattr(layer, step) is getattr(base, step) for step in self.steps)


_kinds: list[Kind] = []


def register(kind: Kind) -> Kind:
    """Make a kind known to all that ask for one."""
    _kinds.append(kind)
    return kind


def has_kind(layer: nn.Module) -> bool:
    """Whether a module is of a kind that takes formats."""
    return any(isinstance(layer, kind.classes) for kind in _kinds)


def kind_of(layer: nn.Module | type[nn.Module]) -> Kind:
    """The kind of a module, or of a class of modules.

    Raises:
        BitqError: it is of none.
    """
    cls = layer if isinstance(layer, type) else type(layer)
    for kind in _kinds:
        if issubclass(cls, kind.classes):
            return kind
    raise BitqError(f"a {cls.__name__} takes no formats; they apply to {class_names()}")


def class_names() -> str:
    """The classes of torch that take formats, for messages."""
    found = (cls for kind in _kinds for cls in kind.classes)
    return ", ".join(cls.__name__ for cls in found if cls.__module__.startswith("torch."))
