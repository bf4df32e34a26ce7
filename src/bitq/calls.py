"""The functions of torch that a network's own code calls, told apart by where and when they are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Call(NamedTuple):
    """One call of a function of torch in one pass through a network.

    Attributes:
        module: path of the innermost module whose forward is running.
        function: its own name, such as "relu" or "add".
        number: how many calls of this function came before, in that module's forward, in the same pass.
    """

    module: str
    function: str
    number: int


class Transposed(str):
    """The name of a parameter that is the weight of a linear layer with its inputs first: [features, outputs]."""

    __slots__ = ()


Points = Mapping[str, tuple[Call, ...]]
"""By path of a layer, the calls whose results are what it stores, as `bitq.tracing.Traced.points` has them."""
