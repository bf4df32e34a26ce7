"""Every other format of one element on a GPU, and plain floats: general.py in one pass, bit for bit.

What a whole tensor shares is computed by PyTorch from one number, max|x|, and so are the scales of blocks that are
longer than a tile. Elements are rounded in float32 under powers of two, where that is exact, in float64 under floats.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from bitq.formats.blocking import Whole
from bitq.formats.elements import Float, Levels
from bitq.formats.scales import FloatScale, ScaledExponent, SharedExponent
from bitq.numerics import blocks, general
from bitq.numerics.blocks import Layout
from bitq.numerics.grid_format import MOST_DIGITS, described
from bitq.numerics.recipe import ROUNDINGS, Axes, Recipe
from bitq.numerics.triton_elements import (
    COMPARED,
    FLOAT,
    INVERSE,
    POWER,
    QUOTIENT,
    ZERO_POINT,
    cast,
    quantize_pieces,
    quantize_tiles,
)
from bitq.numerics.triton_tiles import KINDS, LARGEST, PATTERNS, TILE, Job, as_bits, job, largest_peak, no_marks, warps


class ElementGrid(NamedTuple):
    """Of elements; floats, since of such arguments no value compiles anything new.

    Attributes:
        most: the largest.
        least: the smallest, and the distance of the first ones.
        fine: what the last digit of one is worth, as a part of its leading one.
    """

    most: float
    least: float
    fine: float


class PowerScales(NamedTuple):
    """Powers of two as scales: which exponents of max|x| they may count, as whole numbers.

    Attributes:
        lowest: of code 0.
        reach: how many more there are.
        floor: the least that is used.
        ceiling: the largest.
        bump: added to the pattern of max|x|, whose exponent then counts.
        to_unit: from an exponent to that of the step.
    """

    lowest: float
    reach: float
    floor: float
    ceiling: float
    bump: float
    to_unit: float


class FloatScales(NamedTuple):
    """Floats as scales.

    Attributes:
        smallest, largest: between them they are brought.
        digits: below the leading one; whole.
        least_exponent: of the smallest normal one; whole.
        up: 1 if they are rounded up, else 0.
    """

    smallest: float
    largest: float
    digits: float
    least_exponent: float
    up: float


_Numbers = TypeVar("_Numbers", ElementGrid, PowerScales, FloatScales)


class LevelTable(NamedTuple):
    """Levels, of which float64 numbers are one or the other.

    Attributes:
        levels: ascending.
        middles: where one ends and the next begins.
        last: index of the largest; whole.
    """

    levels: Tensor
    middles: Tensor
    last: float

    @classmethod
    @lru_cache(256)
    def on(cls, device: torch.device, element: Levels) -> LevelTable:
        """The same on a device."""
        levels = torch.tensor(element.values, dtype=torch.float64, device=device)
        return cls(levels, general.middles(levels), float(len(element.values) - 1))


class Told(NamedTuple):
    """What kernels are told of a recipe: numbers, and constants that are compiled.

    Attributes:
        kind: of the scale, `POWER`, `FLOAT` or `ZERO_POINT`.
        division: `INVERSE`, `COMPARED` or `QUOTIENT`.
        wide: whether elements are rounded in float64.
        bare: whether they are floats without mantissa.
        can_clip: whether an element may pass no gradient.
    """

    grid: ElementGrid
    scale: PowerScales | FloatScales
    kind: int
    division: int
    wide: bool
    bare: bool
    can_clip: bool


@lru_cache(4096)
def told(recipe: Recipe) -> Told | None:
    """None of sums, of plain floats, and of exponents under a float."""
    found, fmt = described(recipe), recipe.format
    if found is None or isinstance(fmt.scale, ScaledExponent):
        return None
    f, scale = found.fields, fmt.scale
    grid, bare = _floats(ElementGrid, f["most"], f["least"], 2.0 ** -f["mantissa"]), f["mantissa"] == 0
    if isinstance(scale, FloatScale):
        number = scale.number
        floats = _floats(
            FloatScales, f["smallest"], f["largest"], number.mantissa_bits, number.least_exponent, scale.up
        )
        kind, division = ZERO_POINT if fmt.has_zero_point else FLOAT, COMPARED if _exact(recipe, scale) else QUOTIENT
        return Told(grid, floats, kind.value, division.value, True, bare, found.can_clip)
    ceiling = 127 + (f.get("bump", 0) > 0)
    reach = f["highest"] - f["lowest"] if f["has_bias"] else f["top_code"]
    powers = _floats(PowerScales, f.get("lowest", 0), reach, f["floor"], ceiling, f.get("bump", 0), f["to_unit"])
    wide = f["bits"] >= MOST_DIGITS or ceiling + f["to_unit"] > 127 or isinstance(fmt.elements[0], Levels)
    return Told(grid, powers, POWER.value, INVERSE.value, wide, bare, found.can_clip)


def _floats(kind: type[_Numbers], *numbers: float) -> _Numbers:
    """Python's own floats: Triton looks at the types of what it is given."""
    return kind(*map(float, numbers))


def _exact(recipe: Recipe, scale: FloatScale) -> bool:
    """Whether float64 has all digits of elements, or of draws, times a block's scales."""
    scales = scale.number.mantissa_bits + 1 + (24 if scale.second else 0)
    digits = 24 if recipe.rounding == "stochastic" else general.precision(recipe.format.elements[0]) + 2
    return scales + digits <= 53


def layout(shape: torch.Size, stride: tuple[int, ...], recipe: Recipe) -> Layout | None:
    """How the kernels read memory with these strides.

    Returns:
        None where they cannot: they have no such format, blocks lie scattered or are larger than a tile and do not
        lie one behind the other, or draws have another order than memory.
    """
    if recipe.format.scale is None:
        found = blocks.layout(shape, stride, Axes(recipe.axes.dim), 1) if len(recipe.format.elements) == 1 else None
    else:
        found = None if told(recipe) is None else blocks.layout_for(shape, stride, recipe)
    if found is None or (recipe.rounding == "stochastic" and not found.in_order):
        return None
    return found if job(found, TILE) is not None or _in_rows(found) else None


def _in_rows(at: Layout) -> bool:
    """Whether blocks are whole and lie one behind the other."""
    return at.inner == 1 and at.channels % at.block == 0


def _is_long(recipe: Recipe, at: Layout) -> bool:
    """Whether blocks are taken in pieces: too few threads have registers for more elements."""
    return isinstance(recipe.format.geometry, Whole) or (at.block > LARGEST // 2 and _in_rows(at))


def quantize(
    x: Tensor, recipe: Recipe, key: Tensor | None, with_clipped: bool, out: Tensor | None = None
) -> tuple[Tensor, Tensor | None] | None:
    """As `triton_path.quantize`."""
    at, known = layout(x.shape, x.stride(), recipe), told(recipe)
    if at is None:
        return None
    y = torch.empty_like(x) if out is None else out
    call = _Call(x, y, recipe, None if key is None else key.to(x.device))
    with torch.cuda.device_of(x):
        if known is None:
            call.cast()
            return y, None
        marks = no_marks(x) if with_clipped and known.can_clip else None
        work = None if _is_long(recipe, at) else job(at, size_of(x.dtype, known.wide))
        if work is None:
            call.pieces(at, known, marks)
        else:
            call.tiles(work, known, marks)
    return y, None if marks is None else as_bits(marks, x)


def size_of(dtype: torch.dtype, wide: bool) -> int:
    """Elements of a program, such that what it computes for them stays in registers."""
    return TILE // (16 if wide else 8) * warps(dtype)


class _Call(NamedTuple):
    """The tensors that a kernel reads and writes."""

    x: Tensor
    y: Tensor
    recipe: Recipe
    key: Tensor | None

    @property
    def memory(self) -> tuple[Tensor, Tensor]:
        """The patterns of x and y."""
        pattern = PATTERNS[self.x.dtype]
        return self.x.view(pattern), self.y.view(pattern)

    @property
    def constants(self) -> tuple[int, int]:
        """What all kernels are compiled for: the dtype and the rounding."""
        return KINDS[self.x.dtype], ROUNDINGS.index(self.recipe.rounding)

    def options(self, times: int = 1) -> dict[str, Any]:
        """How they are compiled, with so many times the usual number of warps."""
        return {"num_warps": min(warps(self.x.dtype) * times, 32), "enable_fp_fusion": False}

    def tiles(self, work: Job, known: Told, marks: Tensor | None) -> None:
        """Blocks of which a program has several."""
        never_negative = self.recipe.format.never_negative
        quantize_tiles[(work.programs,)](
            *self.memory,
            marks,
            self._shared(work),
            self.key,
            *work.sizes,
            known.grid,
            known.scale,
            self._table,
            *work.cut,
            *self.constants,
            known.kind,
            known.division,
            known.wide,
            known.bare,
            never_negative,
            **self.options(work.cut.elements // size_of(self.x.dtype, known.wide) or 1),
        )

    @property
    def _table(self) -> LevelTable | None:
        element = self.recipe.format.elements[0]
        return LevelTable.on(self.x.device, element) if isinstance(element, Levels) else None

    def _shared(self, work: Job) -> Tensor | None:
        """The bias of `eN` if none is given (int64), or the second scale (float64), 0-d; None for neither."""
        x, recipe = self.x, self.recipe
        fmt = recipe.format
        derived = isinstance(fmt.scale, SharedExponent) and recipe.exponent_bias is None
        if not (derived or fmt.tensor_bits):
            return None
        if recipe.tensor_range is not None:
            top = torch.zeros(1, dtype=torch.float32, device=x.device)
        else:
            top = largest_peak(x, work, fmt.never_negative).view(torch.float32)
        return general.shared_by(-top, top, recipe)

    def pieces(self, at: Layout, known: Told, marks: Tensor | None) -> None:
        """Long blocks, of which a program has a piece."""
        x, recipe, size = self.x, self.recipe, size_of(self.x.dtype, True)
        rows = x.as_strided((x.numel() // at.block, at.block), (at.block, 1))
        least, most = (end.float() for end in rows.aminmax(dim=1, keepdim=True))
        scales = general.scales_of(least.double(), most.double(), recipe, general.shared_by(least, most, recipe))
        step = scales.step.masked_fill(~(least.isfinite() & most.isfinite()), torch.nan)
        each = ceil(at.block / size)
        quantize_pieces[(rows.shape[0] * each,)](
            *self.memory,
            marks,
            step,
            scales.low.to(torch.int8),
            scales.zero,
            *(scales.reach or (None, None)),
            self.key,
            at.block,
            each,
            known.grid,
            self._table,
            size,
            *self.constants,
            max(known.division, COMPARED.value),
            known.bare,
            recipe.format.never_negative,
            **self.options(),
        )

    def cast(self) -> None:
        """Plain floats."""
        number, size = self.recipe.format.elements[0], size_of(self.x.dtype, True)
        assert isinstance(number, Float)
        cast[(ceil(self.x.numel() / size),)](
            *self.memory,
            self.key,
            self.x.numel(),
            ElementGrid(number.largest(), number.smallest(), 2.0**-number.mantissa_bits),
            size,
            *self.constants,
            number.mantissa_bits == 0,
            number.kind == "i",
            **self.options(),
        )
