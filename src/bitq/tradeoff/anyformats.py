"""What `any` is: the formats that a search chooses from unless it is told otherwise, and what O is then measured by."""

from __future__ import annotations

from typing import Literal

NAME = "any"
"""As lists of formats have it."""

MEASURED_BY = 8
"""Bits of the grid of Table 2 whose largest movement stands for 1 in O, so that O is one measure with every list that
has `any` in it, and with the grid."""

Kind = Literal["weights", "activations"]

_EXPONENTS = "e2..e4"
_WEIGHT_BLOCKS = (1, 2, 4, 8, 16, 32)
"""The kernel window is inside a block, so small ones cost weights little."""
_ACTIVATION_BLOCKS = (4, 8, 16, 32, 64)

_COMMON = (
    "int2..int8",
    "mxfp4",
    "mxfp6e2m3",
    "mxfp6e3m2",
    "mxfp8e4m3",
    "mxint8",
    "nvfp4",
    "fp8e4m3",
    "amd-bfp16",
)
"""Integers, without a sign where activations have none, and the formats that others have named."""

ANY: dict[Kind, str] = {
    "weights": ",".join([*(f"s2..s9:{_EXPONENTS}:b{size}" for size in _WEIGHT_BLOCKS), *_COMMON]),
    "activations": ",".join(
        [*(f"{sign}:{_EXPONENTS}:b{size}" for size in _ACTIVATION_BLOCKS for sign in ("s2..s9", "n1..n8")), *_COMMON]
    ),
}
"""Lists as `bitq.formats.formats_of` reads them. Mantissas have 2 to 9 bits with their sign, and 1 to 8 without where an
activation is never negative."""


def spelled(text: str, kind: Kind) -> str:
    """A list with `any` spelled out."""
    return ",".join(ANY[kind] if is_any(part) else part for part in text.split(","))


def is_any(part: str) -> bool:
    """Whether a part of a list is `any`."""
    return part.strip().lower() == NAME
