"""A number format: what elements are, the scale they share, which of them share one, and how they are rounded."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, total_ordering
from math import prod
from typing import Any, Literal, get_args

from bitq.errors import BitqError, shortened
from bitq.formats.blocking import LARGEST_BLOCK, Along, Geometry, Whole
from bitq.formats.elements import Element, Float, Integer
from bitq.formats.float32 import floor_log2
from bitq.formats.scales import FloatScale, PowerOfTwo, Scale, ScaledExponent, SharedExponent
from bitq.formats.whole import set_whole

Rounding = Literal["nearest", "half_away", "toward_zero", "stochastic"]
"""How elements are rounded; `bitq.quantize` says what each does."""

ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)

_MOST_UNDER_A_FLOAT = 16  # bits of an integer: its quotients by a float32 are exact enough in float64
_MOST_IN_A_SUM = 4  # bits of each integer: all pairs of scales are tried


class ContradictionError(BitqError):
    """Parts of a format that do not go together.

    Attributes:
        part: the one to change, as its place in the text: 0 elements, 1 scale, 2 geometry, 3 rounding.
        reason: the message without what it is about.
    """

    def __init__(self, part: int, reason: str) -> None:
        super().__init__(f"number format: {reason}")
        self.part, self.reason = part, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.part, self.reason)


@total_ordering
@dataclass(frozen=True, eq=False, repr=False)
class Format:
    """A number format, equal to another by what it is made of.

    Attributes:
        elements: one; or several integers, each with a scale of its own, that are summed.
        scale: that the elements of a block share; None for plain floats.
        geometry: which elements do; None for plain floats.
        rounding: of the elements.
        text: as `parse_format` reads it; what every format has by default is left out.

    Raises:
        BitqError: parts that do not go together.
    """

    elements: tuple[Element, ...]
    scale: Scale | None = None
    geometry: Geometry | None = None
    rounding: Rounding = "nearest"
    text: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", tuple(self.elements))
        found = self._contradiction()
        if found:
            raise ContradictionError(*found)
        object.__setattr__(self, "text", self._text())

    def _contradiction(self) -> tuple[int, str] | None:
        element, scale = self.elements[0] if self.elements else None, self.scale
        if element is None:
            return 0, "it has no element"
        if self.rounding not in ROUNDINGS:
            given = shortened(repr(self.rounding))
            return 3, f"rounding {given} is unknown; it must be one of {', '.join(ROUNDINGS)}"
        if scale is None or self.geometry is None:
            if scale is not None or self.geometry is not None or len(self.elements) > 1:
                return 1, "a scale and a geometry are given both or none, and summed elements have both"
            return None if isinstance(element, Float) else (0, f"{element.text} needs a scale and a geometry")
        if len(self.elements) > 1:
            return self._wrong_sum(scale)
        if isinstance(scale, FloatScale) and (scale.signed or scale.second == "e8m0"):
            return 1, f"the scale {scale.text} is for summed elements, such as i2+i2"
        if isinstance(element, Float) and (element.exponent_bits > 5 or element.mantissa_bits > 10):
            return 0, f"under a scale a float has at most 5 bits of exponent and 10 of mantissa, unlike {element.text}"
        if isinstance(element, Integer):
            if element.kind == "u" and not (isinstance(scale, FloatScale) and not scale.second):
                return 1, f"{element.text} has a zero point per block and needs one float as its scale, such as f32"
            if isinstance(scale, FloatScale | ScaledExponent) and element.bits > _MOST_UNDER_A_FLOAT:
                return 0, f"an integer under a float has at most {_MOST_UNDER_A_FLOAT} bits, unlike {element.text}"
        return None

    def _wrong_sum(self, scale: Scale) -> tuple[int, str] | None:
        integers = all(isinstance(each, Integer) and each.kind == "i" for each in self.elements)
        if len(self.elements) != 2 or not integers or max(each.bits for each in self.elements) > _MOST_IN_A_SUM:
            return 0, f"a sum is of two integers i2..i{_MOST_IN_A_SUM}, unlike {_sum_text(self.elements)}"
        if not (isinstance(scale, FloatScale) and scale.signed and scale.second == "e8m0" and scale.bits <= 8):
            shared = "a signed float of at most 8 bits and a second scale, such as e3m3s*e8m0"
            return 1, f"a sum has {shared}, not {scale.text}"
        return None if self.rounding == "nearest" else (3, "a sum is rounded to nearest")

    def _text(self) -> str:
        if self.scale is None or self.geometry is None:
            return ":".join([_sum_text(self.elements), *self._rounding_text])
        element = _sum_text(self.elements)
        if isinstance(self.scale, SharedExponent | ScaledExponent) and element.startswith("s"):
            element = str(self.elements[0].bits + self.scale.bits)
        return ":".join([element, self.scale.text, self.geometry.text, *self._rounding_text])

    @property
    def _rounding_text(self) -> list[str]:
        return [] if self.rounding == "nearest" else [self.rounding]

    @property
    def names(self) -> tuple[str, ...]:
        """The presets that are this format."""
        from bitq.formats.presets import names_of  # which are made of formats

        return names_of(self)

    @property
    def element_bits(self) -> int:
        """Of one element, all its summands together (bits)."""
        return sum(each.bits for each in self.elements)

    @property
    def block_bits(self) -> int:
        """Of what one block stores beside its elements: its scales and zero point (bits)."""
        zero_point = self.elements[0].bits if self.has_zero_point else 0
        return 0 if self.scale is None else self.scale.bits * len(self.elements) + zero_point

    @property
    def tensor_bits(self) -> int:
        """Of what a tensor stores once, beside its header: a second scale (bits)."""
        return self.scale.tensor_bits if isinstance(self.scale, FloatScale | ScaledExponent) else 0

    @property
    def never_negative(self) -> bool:
        """Whether negative numbers count as 0."""
        return self._is_integer("n")

    @property
    def has_zero_point(self) -> bool:
        """Whether each block stores a zero point of an element's width."""
        return self._is_integer("u")

    def _is_integer(self, kind: str) -> bool:
        element = self.elements[0]
        return isinstance(element, Integer) and element.kind == kind

    @property
    def power_of_two(self) -> bool:
        """Whether blocks share a power of two, under which integers count as fractions."""
        return isinstance(self.scale, SharedExponent | PowerOfTwo)

    @property
    def largest(self) -> float:
        """M, the largest element; of summed ones that of the first."""
        return self.elements[0].largest(self.power_of_two)

    @property
    def smallest(self) -> float:
        """λ, the smallest positive element."""
        return self.elements[0].smallest(self.power_of_two)

    @property
    def top_exponent(self) -> int:
        """P = floor(log2 M)."""
        return floor_log2(self.largest)

    @property
    def needs_range(self) -> bool:
        """Whether something is shared by a whole tensor, so that calibration fixes it: a bias, a scale."""
        shared = isinstance(self.scale, SharedExponent) or self.tensor_bits > 0
        return shared or isinstance(self.geometry, Whole)

    def blocks(self, shape: tuple[int, ...], dim: int = 1, inner_dims: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Number of blocks along every axis of a tensor; all 0 if it is empty or the format has none.

        Args:
            shape, dim, inner_dims: as in `num_bits`.
        """
        shape, dim, inner_dims = _placed(tuple(shape), dim, inner_dims)
        if self.geometry is None or not prod(shape):
            return (0,) * len(shape)
        lengths = self.geometry.lengths(shape, dim, inner_dims)
        return tuple(-(-n // length) for n, length in zip(shape, lengths, strict=True))

    def num_bits(self, shape: tuple[int, ...], dim: int = 1, inner_dims: tuple[int, ...] = ()) -> int:
        """Bits of a tensor in this format: elements, what blocks store, and what the tensor stores once.

        Args:
            shape: of the tensor.
            dim: the blocked axis.
            inner_dims: axes of a convolution weight's window.

        Raises:
            BitqError: axes that the shape has not.
        """
        shape = tuple(shape)
        if self.geometry is None:
            return self.element_bits * prod(shape)
        count = prod(self.blocks(shape, dim, inner_dims))
        return self.element_bits * prod(shape) + self.block_bits * count + (self.tensor_bits if count else 0)

    def bits_per_element(self, shape: tuple[int, ...], dim: int = 1, inner_dims: tuple[int, ...] = ()) -> float:
        """`num_bits` by the number of elements (bits).

        Raises:
            BitqError: as `num_bits`, or a tensor without elements.
        """
        if not prod(shape):
            raise BitqError(f"a tensor of shape {tuple(shape)} has no elements, so none has a width")
        return self.num_bits(shape, dim, inner_dims) / prod(shape)

    @property
    def _data(self) -> tuple[Any, ...]:
        return self.elements, self.scale, self.geometry, self.rounding

    @cached_property
    def _hash(self) -> int:
        return hash(self._data)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Format) and self._data == other._data)

    def __hash__(self) -> int:
        return self._hash

    def __lt__(self, other: object) -> bool:
        return self._order < other._order if isinstance(other, Format) else NotImplemented

    @property
    def _order(self) -> tuple[Any, ...]:
        size = self.geometry.size if isinstance(self.geometry, Along) else LARGEST_BLOCK
        return self.element_bits + self.block_bits, self.block_bits, size, self.text

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"parse_format({self.text!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_hash"}


@dataclass(frozen=True, eq=False, repr=False, init=False)
class BlockFormat(Format):
    """Block floating point: elements of a block share one exponent and keep a signed mantissa each.

    The formats of the paper's Table 2, `BITS:eSE:bBS`: elements are sign and magnitude, the kernel window of a weight
    lies wholly inside a block, and rounding is to nearest.

    Attributes:
        bits: width of one element if nothing were shared (paper: q_b), 3..32 bits.
        exponent_bits: width of the shared exponent (paper: SE), 1..8 bits, as many as a float32 has.
        block_size: elements along the blocked axis that share an exponent (paper: BS), 1..999999999.

    Raises:
        BitqError: a width out of range, or a mantissa that is not 2..24 bits wide: one bit is the sign, and
            a float32 holds no more than 24 bits exactly.
    """

    elements: tuple[Element, ...] = field(init=False)  # these four follow, so that `dataclasses.replace` has the others
    scale: Scale = field(init=False)
    geometry: Geometry = field(init=False)
    rounding: Rounding = field(init=False)
    bits: int
    exponent_bits: int
    block_size: int

    def __init__(self, bits: int, exponent_bits: int, block_size: int) -> None:
        widths = {"bits": (bits, 3, 32), "exponent_bits": (exponent_bits, 1, 8)}
        for name, (value, least, most) in {**widths, "block_size": (block_size, 1, LARGEST_BLOCK)}.items():
            object.__setattr__(self, name, value)
            told = f"block format: {name} is {{given}}; it must be a whole number, {{range}}"
            set_whole(self, name, least, most, told)
        if not 2 <= self.mantissa_bits <= 24:
            raise BitqError(
                f"block format {self.bits}:e{self.exponent_bits}:b{self.block_size}: bits - exponent_bits leaves a "
                f"mantissa of {self.mantissa_bits} bits; it must have 2..24, sign included"
            )
        element, scale = Integer("s", self.mantissa_bits), SharedExponent(self.exponent_bits)
        super().__init__((element,), scale, Along(self.block_size))

    @property
    def mantissa_bits(self) -> int:
        """Width of one element's signed mantissa, sign included (bits)."""
        return self.bits - self.exponent_bits

    @property
    def top_code(self) -> int:
        """Largest code of the shared exponent: 2^SE - 1."""
        return (1 << self.exponent_bits) - 1

    @property
    def largest_mantissa(self) -> int:
        """Largest magnitude of a mantissa: 2^(m-1) - 1."""
        return (1 << (self.mantissa_bits - 1)) - 1

    @property
    def lowest_exponent(self) -> int:
        """Least shared exponent: below it the step 2^(E+2-m) would not be a normal float32."""
        return -126 + self.mantissa_bits - 2

    def __repr__(self) -> str:
        return f"BlockFormat(bits={self.bits}, exponent_bits={self.exponent_bits}, block_size={self.block_size})"

    @staticmethod
    def parse(text: str) -> Format:
        """The same as `bitq.parse_format`."""
        from bitq.formats.grammar import parse_format  # which makes block formats

        return parse_format(text)


def made(
    elements: tuple[Element, ...], scale: Scale | None, geometry: Geometry | None, rounding: Rounding = "nearest"
) -> Format:
    """A format of these parts: a `BlockFormat` if it is one.

    Raises:
        BitqError: parts that do not go together.
    """
    found = Format(elements, scale, geometry, rounding)
    if (
        isinstance(scale, SharedExponent)
        and isinstance(geometry, Along)
        and geometry.window
        and geometry.patch is None
        and isinstance(elements[0], Integer)
        and elements[0].kind == "s"
        and rounding == "nearest"
    ):
        return BlockFormat(elements[0].bits + scale.bits, scale.bits, geometry.size)
    return found


def _sum_text(elements: tuple[Element, ...]) -> str:
    return "+".join(each.text for each in elements)


def _placed(
    shape: tuple[int, ...], dim: int, inner_dims: tuple[int, ...]
) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    """Axes counted from the first."""
    axes = (dim, *inner_dims)
    if min(axes) < -len(shape) or max(axes) >= len(shape):
        raise BitqError(f"dim={dim}, inner_dims={tuple(inner_dims)} do not fit a tensor of {len(shape)} axes")
    first, *rest = (axis % len(shape) for axis in axes)
    return shape, first, tuple(rest)

