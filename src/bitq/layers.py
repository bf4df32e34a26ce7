"""A layer as its loops: what the movement model and the plan know of a network."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from itertools import chain, count
from operator import index
from typing import SupportsIndex, cast

from bitq.errors import BitqError

LOOPS = ("N", "K", "C", "P", "Q", "R", "S")
GEOMETRY = ("stride", "dilation", "padding", "input_size", "input_dilation")
"""What besides its loops and groups says which inputs a layer reads, each (height, width)."""

Pair = tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """One convolution, matrix product or lookup as the seven loops N K C P Q R S (paper, Sec. "Preliminaries").

    A linear layer or matrix product has P = Q = R = S = 1. Groups are independent convolutions. Tap r of
    output row p reads the stored row h with p·stride + r·dilation = padding + h·input_dilation, if there is
    one: a transposed convolution is the convolution of stride 1 over its input spread by `input_dilation`,
    whose zeros are not stored.

    A lookup reads a row of a table for every index: each index is a group, which reads one input, a row of K/groups
    weights, and writes as many outputs. Nothing of it is multiplied, and nothing is used twice.

    Attributes:
        name: unique within a network.
        N: batch; K: all output channels; C: input channels *of one group*; P, Q: output height and width;
            R, S: kernel height and width (elements).
        stride, dilation, padding: (height, width), in elements. `padding` lies before the first row and
            column and is not stored; what lies after the last follows from P, Q and `input_size`.
        groups: number of independent convolutions; divides K.
        input_size: stored input height and width; by default the smallest that symmetric padding needs.
        input_dilation: distance of neighbouring stored inputs in the convolved plane (1 but for transposed
            convolutions).
        transposed: whether it is a transposed convolution, as one with an `input_dilation` always is; only `macs`
            tells such a one of stride 1 from a convolution.
        table: of a lookup, (rows, columns) of what is stored; its columns are K/groups.
        depth: taps along a third axis, of a 3-D convolution; C counts the channels at each of them, and N a row for
            each output along that axis.
        module: path of the module that computes it, "" if it was built by hand.
        weight_is_parameter: False for products of two activations (attention); the second is `weight` here.

    Raises:
        BitqError: an extent below 1, groups that do not divide K, a depth that does not divide C, or a padding that
            leaves no input.
    """

    name: str
    N: int = 1
    K: int = 1
    C: int = 1
    P: int = 1
    Q: int = 1
    R: int = 1
    S: int = 1
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    padding: Pair = (0, 0)
    groups: int = 1
    input_size: Pair | None = None
    input_dilation: Pair = (1, 1)
    transposed: bool = False
    table: Pair | None = None
    depth: int = 1
    module: str = ""
    weight_is_parameter: bool = True

    def __post_init__(self) -> None:
        for field in (*LOOPS, "groups", "depth"):
            self._normalize(field, _whole(getattr(self, field), least=1), "a whole number of at least 1")
        for field, least in (("stride", 1), ("dilation", 1), ("input_dilation", 1), ("padding", 0)):
            self._normalize(field, _pair(getattr(self, field), least), f"two whole numbers of at least {least}")
        if self.K % self.groups:
            raise BitqError(f"layer {self.name!r}: groups={self.groups} does not divide K={self.K} output channels")
        if self.C % self.depth:
            raise BitqError(f"layer {self.name!r}: depth={self.depth} does not divide C={self.C} input channels")
        if self.table is not None:
            self._normalize("table", _pair(self.table, least=1), "two whole numbers of at least 1")
        if self.input_dilation != (1, 1):
            object.__setattr__(self, "transposed", True)
        if self.input_size is None:
            least_size = (self._least_input(0), self._least_input(1))
            if min(least_size) < 1:
                raise BitqError(f"layer {self.name!r}: padding {self.padding} leaves no input row or column")
            object.__setattr__(self, "input_size", least_size)
        self._normalize("input_size", _pair(self.input_size, least=1), "two whole numbers of at least 1")

    def _normalize(self, field: str, value: int | Pair | None, expected: str) -> None:
        if value is None:
            given = getattr(self, field)
            raise BitqError(f"layer {self.name!r}: {field} is {given!r}; it must be {expected}")
        object.__setattr__(self, field, value)

    def _least_input(self, axis: int) -> int:
        out, taps = self._axis(axis)
        reach = (out - 1) * self.stride[axis] + (taps - 1) * self.dilation[axis] + 1 - 2 * self.padding[axis]
        return -(-reach // self.input_dilation[axis])

    def _axis(self, axis: int) -> Pair:
        return ((self.P, self.R), (self.Q, self.S))[axis]

    @property
    def unnamed(self) -> Layer:
        """The layer without its name and its module: two that are equal then move the same."""
        return replace(self, name="", module="")

    @property
    def size(self) -> Pair:
        """Stored input height and width, in elements."""
        assert self.input_size is not None
        return self.input_size

    @property
    def group(self) -> Layer:
        """The convolution of one group; `groups` of it make the layer."""
        return self if self.groups == 1 else replace(self, K=self.K // self.groups, groups=1)

    def extent(self, loop: str) -> int:
        """Trips of one loop of one group, for a loop of `LOOPS`."""
        value: int = getattr(self, loop)
        return value // self.groups if loop == "K" else value

    @property
    def macs(self) -> int:
        """Multiply-accumulates, counted as papers and PyTorch's own counter do.

        A convolution multiplies every tap of every output, also where the tap lies in the padding. A transposed one
        multiplies every stored input by every tap, also where the result is cropped; spread zeros are not multiplied.
        A lookup multiplies nothing.
        """
        if self.table is not None:
            return 0
        height, width = self.size if self.transposed else (self.P, self.Q)
        return self.N * self.K * self.C * height * width * self.R * self.S

    @property
    def apart(self) -> bool:
        """Whether its groups are matrices of their own, not channels of one tensor: of a product of two activations,
        and of a lookup."""
        return self.table is not None or not self.weight_is_parameter

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Stored input (N, channels, height, width); of groups `apart`, and along a third axis, all rows are N."""
        apart, together = self._groups
        return (self.N * apart * self.depth, self.C // self.depth * together, *self.size)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Stored weight (K, C, R, S), C of one group; the taps along a third axis count in R."""
        return (self.K, self.C // self.depth, self.R * self.depth, self.S)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """Stored output (N, K, P, Q); of groups `apart`, all their rows are N."""
        apart, _ = self._groups
        return (self.N * apart, self.K // apart, self.P, self.Q)

    @property
    def extents(self) -> dict[str, int]:
        """Elements of "input", "weight" and "output" along their blocks, to which larger blocks are cut."""
        weight = self.C // self.depth if self.table is None else self.table[1]
        return {"input": self.input_shape[1], "weight": weight, "output": self.output_shape[1]}

    @property
    def _groups(self) -> Pair:
        """Groups that are matrices of their own, and those that are channels of one."""
        return (self.groups, 1) if self.apart else (1, self.groups)


def unique_name(name: str, taken: Container[str]) -> str:
    """The name, or with "#2", "#3", … behind it the first that is not taken."""
    names = chain([name], (f"{name}#{call}" for call in count(2)))
    return next(each for each in names if each not in taken)


def _whole(value: object, least: int) -> int | None:
    """`value` as an int, or None if it is not a whole number of at least `least`."""
    try:
        number = index(cast(SupportsIndex, value))
    except TypeError:
        return None
    return None if isinstance(value, bool) or number < least else number


def _pair(value: object, least: int) -> Pair | None:
    """`value` as two ints, or None if it is not two whole numbers of at least `least`."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        return None
    first, second = (_whole(v, least) for v in value)
    return None if first is None or second is None else (first, second)
