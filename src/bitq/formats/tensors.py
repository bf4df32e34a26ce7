"""Which formats a layer's tensors have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from bitq.formats.format import Format

TensorName = Literal["input", "weight", "output"]
"""What a layer's three tensors are called."""

TENSORS: tuple[TensorName, ...] = get_args(TensorName)
"""All of them, in the order of a choice of formats."""


@dataclass(frozen=True)
class TensorFormats:
    """The formats of a layer's input activations, weight and output activations; None leaves one as float."""

    input: Format | None = None
    weight: Format | None = None
    output: Format | None = None


Span = tuple[float, float]
"""The least and the largest number of a tensor, 0 between them."""


class Ranges(NamedTuple):
    """Between which finite numbers, 0 among them, a module's activations lay in calibration.

    None leaves each tensor its own range. A weight always has its own, but for that of a product of two activations.
    """

    input: Span | None = None
    output: Span | None = None
    weight: Span | None = None

    @property
    def known(self) -> tuple[Span | None, Span | None] | tuple[Span | None, Span | None, Span | None]:
        """As few of them as tell all."""
        return (self.input, self.output) if self.weight is None else (self.input, self.output, self.weight)

    @classmethod
    def of(cls, given: Ranges | MaxAbs) -> Ranges:
        """The same, of largest magnitudes alone: these with either sign."""
        if isinstance(given, Ranges):
            return given
        return cls(*(None if largest is None else (-largest, largest) for largest in given))

    def non_negative(self, tensor: TensorName) -> bool:
        """Whether no negative number was met in the "input" or "output"."""
        own = None if tensor == "weight" else self.input if tensor == "input" else self.output
        return own is not None and own[0] >= 0


class MaxAbs(NamedTuple):
    """The largest finite |x| a module met in calibration; None leaves each tensor its own exponent bias."""

    input: float | None = None
    output: float | None = None
