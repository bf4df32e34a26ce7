"""From the operators of a framework to loops: the geometry that PyTorch and ONNX share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bitq.layers import Pair


@dataclass(frozen=True)
class Convolution:
    """How a convolution operator walks its input.

    Attributes:
        stride, dilation, padding: per convolved axis, one to three of them, in elements. `padding` lies before the
            first input; a transposed convolution takes as much away from its result.
        groups: number of independent convolutions.
        transposed: whether it spreads its input by `stride`.
    """

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int
    transposed: bool = False

    def loops(self, images: Sequence[int], kernel: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Loops and geometry as `Layer` takes them.

        Of three axes one is put into other loops. An axis with one tap and no padding counts rows: N of them for each
        output along it. Else the first one's taps count input channels, and its outputs rows (`Layer.depth`): then what
        neighbouring windows share along that axis moves for each of them, more than the least there is.

        Args:
            images, outputs: shapes (N, channels, *axes), in elements.
            kernel: taps per convolved axis.

        Raises:
            ValueError: they have other numbers of axes, or three of a transposed convolution.
        """
        if len(kernel) == 3:
            return self._flat_loops(images, kernel, outputs)
        size = tuple(images[2:])
        loops = {
            **{"N": images[0], "K": outputs[1], "C": images[1] // self.groups, "groups": self.groups},
            **dict(zip("PQRS", _plane(outputs[2:]) + _plane(kernel), strict=True)),
            "dilation": _plane(self.dilation),
        }
        if not self.transposed:
            padding = _plane(self.padding, missing=0)
            return loops | {"stride": _plane(self.stride), "padding": padding, "input_size": _plane(size)}
        axes = zip(size, kernel, self.stride, self.dilation, self.padding, strict=True)
        before, stored = zip(*(_spread(*axis) for axis in axes), strict=True)
        return loops | {
            "input_dilation": _plane(self.stride),
            "padding": _plane(before, missing=0),
            "input_size": _plane(stored),
            "transposed": True,
        }

    def _flat_loops(self, images: Sequence[int], kernel: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """The loops of three axes, in two of which it convolves."""
        if self.transposed:
            raise ValueError("a transposed convolution along three axes")
        axis = next((axis for axis in range(3) if kernel[axis] == 1 and self.padding[axis] == 0), 0)
        depth = kernel[axis]

        def without(values: Sequence[int]) -> tuple[int, ...]:
            return (*values[:axis], *values[axis + 1 :])

        plane = Convolution(without(self.stride), without(self.dilation), without(self.padding), self.groups)
        rows = images[0] * outputs[2 + axis]
        flat = plane.loops(
            (rows, images[1] * depth, *without(images[2:])), without(kernel), (rows, outputs[1], *without(outputs[2:]))
        )
        return flat | {"depth": depth}


def _spread(size: int, taps: int, stride: int, dilation: int, padding: int) -> Pair:
    """Padding and stored inputs of one axis of a transposed convolution, seen as a convolution of stride 1.

    Where its own padding crops more than the kernel reaches, the first inputs meet no output and are dropped.
    """
    before = dilation * (taps - 1) - padding
    unused = max(0, -(before // stride))
    return before + unused * stride, size - unused


def _plane(values: Sequence[int], missing: int = 1) -> Pair:
    """Values per axis as (height, width); a single axis is the width."""
    height, width = (missing, *values) if len(values) == 1 else values
    return height, width


def product(
    extents: tuple[int, int, int], batch: int, shared: tuple[bool, bool] = (False, False), weight_first: bool = False
) -> dict[str, Any]:
    """Loops of `batch` products of a (rows, inner) and an (inner, columns) matrix.

    Rows are N and columns K. Each product of the batch is a group, but products that share an operand are one, if
    that can be said in these loops: of one weight, or of one second operand.

    Args:
        extents: rows, inner, columns.
        batch: number of products.
        shared: whether the whole batch has one first operand, and one second.
        weight_first: whether the first operand is the weight. Then the transposed product is meant, whose weight is
            second.
    """
    rows, inner, cols = extents
    first_shared, second_shared = shared
    if second_shared:
        rows, batch = rows * batch, 1
    elif first_shared and weight_first:
        cols, batch = cols * batch, 1
    if weight_first:
        rows, cols = cols, rows
    return {"N": rows, "K": cols * batch, "C": inner, "groups": batch}
