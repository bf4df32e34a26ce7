"""What a tensor may be offered: a format, or a name that means one format for weights and others for activations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from bitq.formats.format import Format
from bitq.formats.grammar import parse_format

if TYPE_CHECKING:
    from bitq.formats.tensors import TensorName

FEWEST, MOST = 2, 16
"""Bits of the integers that have a family."""


@dataclass(frozen=True)
class Family:
    """Formats under one name, that for a tensor by what the tensor is.

    Attributes:
        name: as lists of formats have it.
        weight: of weights.
        activation: of inputs and outputs.
        non_negative: of inputs and outputs in which calibration met no negative number; of `activation`'s size.
    """

    name: str
    weight: Format
    activation: Format
    non_negative: Format

    def __str__(self) -> str:
        return self.name


Choosable = Format | Family
"""What a search chooses from, for every tensor."""


def format_for(candidate: Choosable, tensor: TensorName, non_negative: bool = False) -> Format:
    """The format that a candidate means for one of a layer's tensors.

    Args:
        candidate: a format is the same for all.
        tensor: which.
        non_negative: whether calibration met no negative number in it.
    """
    if isinstance(candidate, Format):
        return candidate
    if tensor == "weight":
        return candidate.weight
    return candidate.non_negative if non_negative else candidate.activation


@cache
def integers(bits: int) -> Family:
    """What people call int8, int4, …: symmetric integers, weights by output channel, activations by tensor.

    An activation's scale comes from calibration. One without negative numbers, as after a ReLU, has integers without a
    sign: those of `uN`, whose zero point would be 0 and is not stored (our choice), so that its size does not hang on
    calibration.

    Args:
        bits: 2..16.

    Raises:
        BitqError: another number of bits.
    """
    weight, activation, non_negative = (
        parse_format(f"{kind}{bits}:f32:{geometry}")
        for kind, geometry in (("i", "channel"), ("i", "tensor"), ("n", "tensor"))
    )
    return Family(f"int{bits}", weight, activation, non_negative)
