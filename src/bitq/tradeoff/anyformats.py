"""What `any` is: the formats that a search chooses from unless it is told otherwise, and what O is then measured by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

NAME = "any"
"""As lists of formats have it."""

MEASURED_BY = 8
"""Bits of the grid of Table 2 whose largest movement stands for 1 in O, so that O is one measure with every list that
has `any` in it, and with the grid."""

TensorKind = Literal["weights", "activations"]

_WEIGHT_BLOCKS = {2: (1, 2, 4, 8, 16, 32), 4: (2, 4, 8, 16, 32)}
"""Block sizes by bits of the exponent. The kernel window is inside a block, so small ones cost weights little. Where
they lie in a narrow range, and most do, 2 bits are enough; 4 are for outliers, and of the same widths."""

_ACTIVATION_BLOCKS = {2: (4, 8, 16, 32), 3: (8, 16), 4: (8, 16, 32)}

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



def _blocks(elements: str, sizes: Mapping[int, Sequence[int]]) -> list[str]:
    return [f"{elements}:e{bits}:b{size}" for bits, those in sizes.items() for size in those]


ANY: dict[TensorKind, str] = {
    "weights": ",".join([*_blocks("s2..s9", _WEIGHT_BLOCKS), *_COMMON]),
    "activations": ",".join(
        [*_blocks("s2..s9", _ACTIVATION_BLOCKS), *_blocks("n2..n8", _ACTIVATION_BLOCKS), *_COMMON]
    ),
}
"""Lists as `bitq.formats.formats_of` reads them. Mantissas have 2 to 9 bits with their sign, and 2 to 8 without, where
an activation is never negative. One bit is left out: plans without it lost less after fine-tuning (docs/results.md)."""


def spelled(text: str, kind: TensorKind) -> str:
    """A list with `any` spelled out."""
    return ",".join(ANY[kind] if is_any(part) else part for part in text.split(","))


def is_any(part: str) -> bool:
    """Whether a part of a list is `any`."""
    return part.strip().lower() == NAME
