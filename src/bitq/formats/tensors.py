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


class MaxAbs(NamedTuple):
    """The largest finite |x| a module met in calibration; None leaves each tensor its own exponent bias."""

    input: float | None = None
    output: float | None = None
