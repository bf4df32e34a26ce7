"""Windows that walk over a tensor: what their taps read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bitq.exporting.c99.steps import Resident


@dataclass(frozen=True)
class Walk:
    """How windows walk over a tensor.

    Attributes:
        kernel, stride, padding, dilation: along height and width.
        transposed: whether inputs walk over outputs instead.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    transposed: bool = False

    def read(self, out: int, tap: int, axis: int, extent: int) -> int | None:
        """What row or column a tap reads for an output; None beyond the tensor."""
        if self.transposed:
            found, rest = divmod(out + self.padding[axis] - tap * self.dilation[axis], self.stride[axis])
            return found if not rest and 0 <= found < extent else None
        found = out * self.stride[axis] - self.padding[axis] + tap * self.dilation[axis]
        return found if 0 <= found < extent else None


def taps_of(walk: Walk, stored: Resident, target: Resident) -> list[tuple[Any, Any, Any]]:
    """Of each tap the rows and columns that it reads, and the outputs that it reads them for."""
    found: list[tuple[Any, Any, Any]] = []
    for y in range(walk.kernel[0]):
        rows = [(walk.read(out, y, 0, stored.height), out) for out in range(target.height)]
        for x in range(walk.kernel[1]):
            columns = [(walk.read(out, x, 1, stored.width), out) for out in range(target.width)]
            some = [
                np.array([each for each in axis if each[0] is not None], np.int64).reshape(-1, 2)
                for axis in (rows, columns)
            ]
            read_rows, read_columns = np.ix_(some[0][:, 0], some[1][:, 0])
            found.append((read_rows, read_columns, np.ix_(some[0][:, 1], some[1][:, 1])))
    return found


def loops_over(
    walk: Walk, stored: Resident, inner: list[str], taps: tuple[str, str, str, str] | None = None
) -> list[str]:
    """Loops over the taps that lie inside a tensor, at row iy and column ix.

    Args:
        walk: of windows.
        stored: what they walk over.
        inner: what is done for each.
        taps: expressions of the first row and before which it ends, and of columns; by default all.
    """
    r0, r1, s0, s1 = taps or ("0", str(walk.kernel[0]), "0", str(walk.kernel[1]))

    def axis(out: str, tap: str, index: str, which: int, extent: int) -> list[str]:
        stride, padding, dilation = walk.stride[which], walk.padding[which], walk.dilation[which]
        if walk.transposed:
            return [
                f"const int32_t {index}s = {out} + {padding} - {tap} * {dilation}, {index} = {index}s / {stride};",
                f"if ({index}s < 0 || {index}s % {stride} || {index} >= {extent})",
                "    continue;",
            ]
        if walk.kernel[which] == 1 and not padding:
            return [f"const int32_t {index} = {out} * {stride};"]
        return [
            f"const int32_t {index} = {out} * {stride} - {padding} + {tap} * {dilation};",
            f"if ({index} < 0 || {index} >= {extent})",
            "    continue;",
        ]

    return [
        f"for (r = {r0}; r < {r1}; r++) {{",
        *(f"    {each}" for each in axis("y", "r", "iy", 0, stored.height)),
        f"    for (s = {s0}; s < {s1}; s++) {{",
        *(f"        {each}" for each in axis("x", "s", "ix", 1, stored.width)),
        *(f"        {each}" for each in inner),
        "    }",
        "}",
    ]


def pair(value: Any, length: int, default: int = 0) -> tuple[int, int]:
    """Of height and width, from what an operator of one or two axes takes."""
    held: list[int] = [value] if isinstance(value, int) else list(value)
    held = held * length if len(held) == 1 else held
    height, width = [default] * (2 - len(held)) + held
    return height, width
