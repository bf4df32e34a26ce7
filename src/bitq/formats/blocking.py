"""Which elements share a scale. A geometry says how far a block reaches along every axis of a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bitq.errors import BitqError
from bitq.formats.whole import set_whole

LARGEST_BLOCK = 10**9 - 1
"""Elements of a block along an axis: more than any axis has."""


class Geometry(Protocol):
    """What the kinds of geometries share."""

    @property
    def text(self) -> str:
        """As formats are written."""

    def lengths(self, shape: tuple[int, ...], dim: int, inner_dims: tuple[int, ...]) -> tuple[int, ...]:
        """Elements of a block along each axis, at least 1; blocks at the end of an axis may be short.

        Args:
            shape: of the tensor.
            dim: the blocked axis, counted from the first.
            inner_dims: the kernel window's axes, counted from the first.
        """


@dataclass(frozen=True)
class Along:
    """`size` elements along `dim`.

    Attributes:
        size: 1..999999999.
        window: whether `inner_dims` are wholly inside a block ("b"), or each of their positions has blocks of its own
            ("v").
        patch: with P: P along each of the (up to two) axes after `dim` in place of the window.

    Raises:
        BitqError: sizes out of range, or a patch and no window.
    """

    size: int
    window: bool = True
    patch: int | None = None

    def __post_init__(self) -> None:
        _checked(self, "size")
        if self.patch is not None:
            _checked(self, "patch")
            if not self.window:
                raise BitqError("blocks have a patch, or the window outside, not both")

    @property
    def text(self) -> str:
        """Such as ``b16``, ``v32`` or ``b24p3``."""
        return f"{'b' if self.window else 'v'}{self.size}" + ("" if self.patch is None else f"p{self.patch}")

    def lengths(self, shape: tuple[int, ...], dim: int, inner_dims: tuple[int, ...]) -> tuple[int, ...]:
        """As `Geometry` says."""
        found = [1] * len(shape)
        if self.patch is not None:
            for axis in range(dim + 1, min(dim + 3, len(shape))):
                found[axis] = self.patch
        elif self.window:
            for axis in inner_dims:
                found[axis] = max(shape[axis], 1)
        found[dim] = self.size
        return tuple(found)


@dataclass(frozen=True)
class Tile:
    """`rows` along the first axis that is neither `dim` nor of the window, times `columns` along `dim`.

    Each position of the window has tiles of its own.

    Raises:
        BitqError: sizes out of 1..999999999.
    """

    rows: int
    columns: int

    def __post_init__(self) -> None:
        _checked(self, "rows")
        _checked(self, "columns")

    @property
    def text(self) -> str:
        """Such as ``t24x24``."""
        return f"t{self.rows}x{self.columns}"

    def lengths(self, shape: tuple[int, ...], dim: int, inner_dims: tuple[int, ...]) -> tuple[int, ...]:
        """As `Geometry` says."""
        found = [1] * len(shape)
        others = [axis for axis in range(len(shape)) if axis != dim and axis not in inner_dims]
        for axis in others[:1]:
            found[axis] = self.rows
        found[dim] = self.columns
        return tuple(found)


@dataclass(frozen=True)
class Channel:
    """All of `dim` and of `inner_dims`: an output channel of a weight, a position or token of an activation."""

    @property
    def text(self) -> str:
        """``channel``."""
        return "channel"

    def lengths(self, shape: tuple[int, ...], dim: int, inner_dims: tuple[int, ...]) -> tuple[int, ...]:
        """As `Geometry` says."""
        return tuple(max(n, 1) if axis == dim or axis in inner_dims else 1 for axis, n in enumerate(shape))


@dataclass(frozen=True)
class Whole:
    """The whole tensor."""

    @property
    def text(self) -> str:
        """``tensor``."""
        return "tensor"

    def lengths(self, shape: tuple[int, ...], dim: int, inner_dims: tuple[int, ...]) -> tuple[int, ...]:
        """As `Geometry` says."""
        return tuple(max(n, 1) for n in shape)


def _checked(geometry: object, field: str) -> None:
    set_whole(geometry, field, 1, LARGEST_BLOCK, "a block has {range} elements along an axis, not {given}")
