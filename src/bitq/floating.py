"""What of a network stays 32-bit float in any formats, and why; who knows the network's modules decides it.

For PyTorch networks that is `bitq.accuracy.kinds.staying_float`, for ONNX files `bitq.onnx`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bitq.errors import shortened
from bitq.formats import TensorFormats
from bitq.layers import Layer

MOST_NAMES, MOST_NAME = 3, 60
"""How many names are told in a sentence, each of so many characters at most."""

ACTIVATIONS = "multiplies two activations, neither of which is a weight"
"""Why a product that is no layer's own stays float."""


@dataclass(frozen=True)
class StaysFloat:
    """What stays float for one reason.

    Attributes:
        reason: a clause after the name of a module.
        modules: their paths, "" for the network itself; none where a network is not made of modules (ONNX).
        layers: names of their products, in order of execution; none of what multiplies nothing, such as an embedding.
        stored_bytes: parameters and buffers of these modules, those of layers with formats left out, in bytes; None if
            it is not known.
    """

    reason: str
    modules: tuple[str, ...]
    layers: tuple[str, ...]
    stored_bytes: int | None = None


def but_floating(
    layers: Sequence[Layer], formats: Sequence[TensorFormats], parts: Iterable[StaysFloat]
) -> tuple[TensorFormats, ...]:
    """The formats of every layer, in float what stays float."""
    floating = {name for part in parts for name in part.layers}
    return tuple(
        TensorFormats() if layer.name in floating else own for layer, own in zip(layers, formats, strict=True)
    )


def names_text(names: Sequence[str]) -> str:
    """Paths of modules, or names of layers, for a reader: the first few of them."""
    more = len(names) - MOST_NAMES
    told = (shortened(name, MOST_NAME) or "the network itself" for name in names[:MOST_NAMES])
    return ", ".join(told) + (f" and {more} more" if more > 0 else "")


def sentence(part: StaysFloat) -> str:
    """What stays float, and why."""
    names = part.modules or part.layers
    return f"{names_text(names)} {'stays float: it' if len(names) == 1 else 'stay float: each'} {part.reason}"
