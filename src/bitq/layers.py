"""A layer as its loops: what the movement model and the plan know of a network."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from bitq.errors import BitqError

LOOPS = ("N", "K", "C", "P", "Q", "R", "S")

Pair = tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """One convolution or matrix product as the seven loops N K C P Q R S (paper, Sec. "Preliminaries").

    A linear layer or matrix product has P = Q = R = S = 1. Groups are independent convolutions. A transposed
    convolution is the convolution of stride 1 over its input spread by `input_dilation`, whose zeros are not stored.

    Attributes:
        name: unique within a network.
        N: batch; K: all output channels; C: input channels *of one group*; P, Q: output height and width;
            R, S: kernel height and width (elements).
        stride, dilation, padding: (height, width), in elements. `padding` is what lies before the first row and
            column; it is not stored and does not move.
        groups: number of independent convolutions; divides K.
        input_size: stored input height and width; by default the smallest that symmetric padding needs.
        input_dilation: distance of neighbouring stored inputs in the convolved plane (1 but for transposed
            convolutions).
        module: path of the module that computes it, "" if it was built by hand.
        weight_is_parameter: False for products of two activations (attention), whose second operand is `weight` here.

    Raises:
        BitqError: an extent below 1, groups that do not divide K, or a padding that leaves no input.
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
    module: str = ""
    weight_is_parameter: bool = True

    def __post_init__(self) -> None:
        for field in (*LOOPS, "groups"):
            value = getattr(self, field)
            if isinstance(value, bool) or int(value) != value or value < 1:
                raise BitqError(f"layer {self.name!r}: {field} is {value!r}; it must be a whole number of at least 1")
        for field in ("stride", "dilation", "input_dilation", "padding"):
            pair = getattr(self, field)
            least = 0 if field == "padding" else 1
            if len(pair) != 2 or any(int(v) != v or v < least for v in pair):
                raise BitqError(f"layer {self.name!r}: {field} is {pair!r}; it must be two whole numbers >= {least}")
        if self.K % self.groups:
            raise BitqError(f"layer {self.name!r}: groups={self.groups} does not divide K={self.K} output channels")
        if self.input_size is None:
            object.__setattr__(self, "input_size", (self._least_input(0), self._least_input(1)))
        if min(self.size) < 1:
            raise BitqError(f"layer {self.name!r}: padding {self.padding} leaves no input row or column")

    def _least_input(self, axis: int) -> int:
        out, taps = ((self.P, self.R), (self.Q, self.S))[axis]
        reach = (out - 1) * self.stride[axis] + (taps - 1) * self.dilation[axis] + 1 - 2 * self.padding[axis]
        return -(-reach // self.input_dilation[axis])

    @property
    def size(self) -> Pair:
        """Stored input height and width, in elements."""
        assert self.input_size is not None
        return self.input_size

    @property
    def group(self) -> Layer:
        """The convolution of one group; `groups` of it make the layer."""
        if self.groups == 1:
            return self
        from dataclasses import replace

        return replace(self, K=self.K // self.groups, groups=1)

    def extent(self, loop: str) -> int:
        """Trips of one loop of one group, for a loop of `LOOPS`."""
        value: int = getattr(self, loop)
        return value // self.groups if loop == "K" else value

    @property
    def macs(self) -> int:
        """Multiply-accumulates, padding included (as papers count them); spread zeros are not multiplied."""
        dense = self.N * self.K * self.C * self.P * self.Q * self.R * self.S
        return dense // prod(self.input_dilation)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Stored input (N, channels, height, width)."""
        return (self.N, self.C * self.groups, *self.size)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Stored weight (K, C, R, S), C of one group."""
        return (self.K, self.C, self.R, self.S)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """Stored output (N, K, P, Q)."""
        return (self.N, self.K, self.P, self.Q)
