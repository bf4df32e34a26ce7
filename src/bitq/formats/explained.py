"""What a number format means, in plain words and in exact numbers: what `bitq formats` tells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import prod
from typing import Literal, NamedTuple

from bitq.formats import float32
from bitq.formats.blocking import Along, Channel, Geometry, Tile, Whole
from bitq.formats.elements import Element, Float, FloatKind, Integer, Levels
from bitq.formats.format import Format, Rounding
from bitq.formats.presets import TABLE, Preset
from bitq.formats.scales import FloatScale, Mode, PowerOfTwo, ScaledExponent, SharedExponent

MOST_LISTED = 8
"""Bits of the widest element whose numbers are listed."""

_LARGEST = Fraction(float32.LARGEST)

Special = Literal["NaN", "Inf", "-Inf", "unused"]
"""What a code is that is no number that bitq stores."""


class Shape(NamedTuple):
    """A tensor of which an explanation tells the size.

    Attributes:
        name: what it is.
        shape, dim, inner_dims: as `Format.num_bits` takes them.
    """

    name: str
    shape: tuple[int, ...]
    dim: int = 1
    inner_dims: tuple[int, ...] = ()


ACTIVATION = Shape("activation of a convolution", (1, 64, 56, 56))
WEIGHT = Shape("weight of a 3x3 convolution", (64, 64, 3, 3), 1, (2, 3))
SHAPES = (
    ACTIVATION,
    WEIGHT,
    Shape("weight of a depthwise 3x3 convolution", (64, 1, 3, 3), 1, (2, 3)),
    Shape("activation of a linear layer, 128 tokens", (1, 128, 768), 2),
    Shape("weight of a linear layer", (3072, 768)),
)
"""Those that are told."""

EXAMPLE = Shape("weight of a linear layer", (2, 40))
"""That whose bits are placed."""


class Placed(NamedTuple):
    """A piece of a packed tensor.

    Attributes:
        begin: its first bit; the first byte holds the bits 0 to 7, the lowest first.
        numbers: how many it holds.
        bits: of each.
        holds: what they are.
    """

    begin: int
    numbers: int
    bits: int
    holds: str

    @property
    def end(self) -> int:
        """The first bit behind it."""
        return self.begin + self.numbers * self.bits


@dataclass(frozen=True)
class Explained:
    """A format and what there is to tell of it; parts that a format has not are empty."""

    format: Format

    @property
    def elements(self) -> tuple[str, ...]:
        """What each kind of elements is, in a sentence."""
        return tuple(map(self._element, self._distinct))

    @property
    def _distinct(self) -> tuple[Element, ...]:
        return tuple(dict.fromkeys(self.format.elements))

    def _element(self, element: Element) -> str:
        if isinstance(element, Integer):
            return f"{element.text}: {_integer(element, self.format.power_of_two, len(self.format.elements) > 1)}"
        if isinstance(element, Float):
            return f"{element.text}: {_float(element)}"
        assert isinstance(element, Levels)
        return f"a table of {len(element.values)} float32 numbers; what is stored is the place in it, counted from 0"

    @cached_property
    def codes(self) -> tuple[tuple[Fraction | Special, ...], ...]:
        """Of each kind of elements the number of every code, from 0 on; () if it has more than `MOST_LISTED` bits."""
        summed = len(self.format.elements) > 1
        return tuple(_codes(element, self.format.power_of_two, summed) for element in self._distinct)

    @property
    def mirrored(self) -> bool:
        """Whether the upper half of all codes stands for the numbers of the lower half, negative."""
        element = self.format.elements[0]
        return isinstance(element, Float) or (isinstance(element, Integer) and element.kind == "s")

    @property
    def scale(self) -> tuple[str, ...]:
        """What blocks share, how it is found and what comes of it, in sentences."""
        fmt, scale = self.format, self.format.scale
        if isinstance(scale, SharedExponent):
            return _shared_exponent(fmt, scale)
        if isinstance(scale, ScaledExponent):
            return _scaled_exponent(fmt, scale)
        if isinstance(scale, PowerOfTwo):
            return _power_of_two(fmt, scale)
        if isinstance(scale, FloatScale):
            return _float_scale(fmt, scale)
        return ()

    @property
    def geometry(self) -> str:
        """Which elements share a scale, in a sentence."""
        return _together(self.format.geometry)

    @property
    def rounding(self) -> str:
        """How elements are rounded, in a sentence."""
        return f"{self.format.rounding}: {_ROUNDING[self.format.rounding]}"

    @property
    def smallest(self) -> Fraction:
        """The smallest positive number that there is under any scale."""
        return self._reach[0]

    @property
    def largest(self) -> Fraction:
        """The largest number that there is under any scale."""
        return self._reach[1]

    @property
    def spread(self) -> Fraction:
        """How many times its smallest positive number the largest of one tensor can be."""
        fmt, scale = self.format, self.format.scale
        within = Fraction(fmt.largest) / Fraction(fmt.smallest)
        if isinstance(fmt.geometry, Whole):
            among = Fraction(1)
        elif isinstance(scale, SharedExponent | ScaledExponent):
            among = Fraction(2) ** scale.top_code
        elif isinstance(scale, FloatScale) and scale.second:
            least, most = scale.reach(fmt.smallest)
            among = Fraction(most) / Fraction(least)
        else:
            return self.largest / self.smallest
        return min(within * among, self.largest / self.smallest)

    @cached_property
    def _reach(self) -> tuple[Fraction, Fraction]:
        fmt, scale = self.format, self.format.scale
        smallest, largest = Fraction(fmt.smallest), Fraction(fmt.largest)
        if scale is None:
            return smallest, largest
        if isinstance(scale, FloatScale) and not scale.second:
            least, most = map(Fraction, scale.reach(fmt.smallest))
            return least * smallest, min(most * largest, _LARGEST)
        lowest = -126 - floor_log2(smallest)
        if isinstance(scale, PowerOfTwo):
            low, high = scale.exponents
            return _scaled(smallest, max(low, lowest)), _scaled(largest, max(high, lowest))
        if isinstance(scale, SharedExponent):
            return _scaled(smallest, lowest), _scaled(largest, 127 - fmt.top_exponent)
        return Fraction(float32.LEAST_NORMAL), _LARGEST

    @property
    def widths(self) -> tuple[tuple[Shape, float], ...]:
        """Bits per element of tensors of `SHAPES`."""
        return tuple((each, self.format.bits_per_element(*each[1:])) for each in SHAPES)

    @property
    def layout(self) -> tuple[Placed, ...]:
        """Where the bits of a packed tensor of `EXAMPLE` are."""
        found: list[Placed] = []
        for count, bits, holds in self._fields():
            if count and bits:
                found.append(Placed(found[-1].end if found else 0, count, bits, holds))
        return tuple(found)

    def _fields(self) -> Iterator[tuple[int, int, str]]:
        fmt, blocks = self.format, prod(self.format.blocks(*EXAMPLE[1:]))
        each = " and ".join(map(_parts, fmt.elements))
        yield prod(EXAMPLE.shape), fmt.element_bits, f"the elements row by row, each {each}"
        if fmt.scale is None:
            return
        held = "scale and then the zero point" if fmt.has_zero_point else "scale"
        held = "two scales" if len(fmt.elements) > 1 else held
        yield blocks, fmt.block_bits, f"the {held} of every block"
        yield 1, fmt.tensor_bits, "the scale of the tensor"

    @property
    def header(self) -> str:
        """What stands in the header of a packed tensor beside its shape."""
        return "the exponent bias of the tensor" if isinstance(self.format.scale, SharedExponent) else ""

    @property
    def presets(self) -> dict[str, Preset]:
        """By name, with the source and who deviates; none if the format has no name."""
        return {name: TABLE[name] for name in self.format.names}


def _scaled(value: Fraction, exponent: int) -> Fraction:
    """Under a power of two, and no more than there is."""
    return min(value * Fraction(2) ** exponent, _LARGEST)


def floor_log2(value: Fraction) -> int:
    """The largest e with 2^e <= value, which is positive."""
    e = value.numerator.bit_length() - value.denominator.bit_length()
    return e if Fraction(2) ** e <= value else e - 1


def number_text(value: Fraction) -> str:
    """A number with a power of two below its line, exactly: a decimal, a fraction, or a whole number times 2^e."""
    if value.denominator == 1 and abs(value) < 10**7:
        return str(value.numerator)
    decimal = f"{float(value):.6f}".rstrip("0")
    if Fraction(decimal) == value and len(decimal) <= 7 + (value < 0):
        return decimal
    if value.denominator < 10**5 and abs(value.numerator) < 10**5:
        return f"{value.numerator}/{value.denominator}"
    odd, power = value.numerator, 1 - value.denominator.bit_length()
    while odd % 2 == 0:
        odd, power = odd // 2, power + 1
    sign, size = ("-" if odd < 0 else ""), abs(odd)
    return f"{sign}{'' if size == 1 else f'{size}·'}2^{power}"


def short_text(value: Fraction) -> str:
    """A number for a reader: exactly if that is a short decimal, else three digits of it."""
    exact = number_text(value)
    return f"{float(value):.3g}".replace("e+", "e") if {"/", "^"} & {*exact} else exact


def _integer(element: Integer, power_of_two: bool, summed: bool) -> str:
    most, bits = element.most, element.bits
    unit = f"; k counts {number_text(Fraction(element.unit(True)))}, so that the largest lies in 1 .. 2"
    counted = unit if power_of_two else ""
    if element.kind == "s":
        return f"whole numbers k = -{most} .. {most}, a sign and {bits - 1} bits of magnitude{counted}"
    if element.kind == "i":
        low = most + 1 if summed else most
        unused = "" if summed else f" (-{most + 1} is never stored)"
        return f"whole numbers k = -{low} .. {most}, {bits} bits in two's complement{unused}{counted}"
    if element.kind == "n":
        return f"whole numbers k = 0 .. {most}, {bits} bits; negative numbers count as 0{counted}"
    return f"whole numbers q = 0 .. {most}, {bits} bits; with the zero point z of its block, q stands for q - z"


_KINDS: dict[FloatKind, str] = {
    "f": "every code is a number",
    "n": "the codes of all ones are NaN, all others numbers",
    "i": "codes with the top exponent are Inf and NaN, as in IEEE 754",
}


def _float(element: Float) -> str:
    x, y = element.exponent_bits, element.mantissa_bits
    name = {"f32": "float32", "f16": "IEEE half precision", "bf16": "bfloat16"}.get(element.text)
    subnormal = f"; subnormal below 2^{element.least_exponent}" if y else ""
    return (
        f"{f'{name}, ' if name else ''}a sign, {_count(x, 'bit')} of exponent (bias {element.bias}), "
        f"{_count(y, 'bit') if y else 'none'} of mantissa{subnormal}; {_KINDS[element.kind]}"
    )


def _codes(element: Element, power_of_two: bool, summed: bool) -> tuple[Fraction | Special, ...]:
    if element.bits > MOST_LISTED:
        return ()
    if isinstance(element, Levels):
        return tuple(map(Fraction, element.values))
    half = 1 << (element.bits - 1)
    if isinstance(element, Float):
        sizes = [_float_code(element, code) for code in range(half)]
        return (*sizes, *map(_negative, sizes))
    assert isinstance(element, Integer)
    unit = Fraction(element.unit(power_of_two))
    if not element.signed:
        return tuple(k * unit for k in range(2 * half))
    positive = [k * unit for k in range(half)]
    if element.kind == "s":
        return (*positive, *(-value for value in positive))
    lowest: Fraction | Special = -half * unit if summed else "unused"
    return (*positive, lowest, *((k - half) * unit for k in range(1, half)))


def _float_code(element: Float, code: int) -> Fraction | Special:
    value = element.value(code)
    if value <= element.largest():
        return Fraction(value)
    return "Inf" if element.kind == "i" and not code % (1 << element.mantissa_bits) else "NaN"


def _negative(value: Fraction | Special) -> Fraction | Special:
    if isinstance(value, Fraction):
        return -value
    return "-Inf" if value == "Inf" else value


def _shared_exponent(fmt: Format, scale: SharedExponent) -> tuple[str, ...]:
    return (
        f"{scale.text}: a power of two, as a code of {_count(scale.bits, 'bit')} per block above one whole number b, "
        "the exponent bias of the tensor",
        f"code = floor(log2 a) - b, not below 0 or above {scale.top_code}; a is the largest |x| of the block",
        f"b gives the largest block of the tensor the code {scale.top_code}, unless calibration fixes it",
        f"x becomes element · 2^(b + code{_less(fmt.top_exponent)})",
    )


def _scaled_exponent(fmt: Format, scale: ScaledExponent) -> tuple[str, ...]:
    return (
        f"{scale.text}: a power of two, as a code of {_count(scale.bits, 'bit')} per block, times one float32 number t "
        "per tensor",
        f"t = A / {number_text(Fraction(fmt.largest))}; A is the largest |x| of the tensor, unless calibration or "
        "fine-tuning fixes it",
        f"code = floor(log2(a / t)){_less(fmt.top_exponent - scale.top_code)}, not below 0 or above {scale.top_code}; "
        "a is the largest |x| of the block",
        f"x becomes element · t · 2^(code - {scale.top_code})",
    )


_MODES: dict[Mode, str] = {
    "floor": "floor(log2 a)",
    "ceil": "ceil(log2 a)",
    "even": "floor(log2 a') with a' = a rounded to the bits of the element's mantissa, halves up,",
    "rceil": "ceil(log2(a / M))",
}


def _power_of_two(fmt: Format, scale: PowerOfTwo) -> tuple[str, ...]:
    low, high = scale.exponents
    less = "" if scale.mode == "rceil" else _less(fmt.top_exponent)
    largest = f", M = {number_text(Fraction(fmt.largest))} the largest element" if scale.mode == "rceil" else ""
    return (
        f"{scale.text}: a power of two per block, 2^{low} .. 2^{high}, as a code of "
        f"{_count(scale.bits, 'bit')} (bias {scale.bias}, codes {scale.codes[0]} .. {scale.codes[1]})",
        f"exponent c = {_MODES[scale.mode]}{less}, not beyond these; a is the largest |x| of the block{largest}",
        "x becomes element · 2^c; c is raised where results would not be normal float32 numbers or 0",
    )


def _float_scale(fmt: Format, scale: FloatScale) -> tuple[str, ...]:
    name, element = scale.number.text, fmt.elements[0]
    least, most = map(Fraction, scale.reach(fmt.smallest))
    between = f"{number_text(least)} .. {short_text(most)}"
    if len(fmt.elements) > 1:
        return (
            f"{scale.text}: two scales s1 and s2 per block, |s1| >= |s2|, each a sign and a {name} number up to "
            f"{short_text(most)}; and one power of two t per tensor, in 8 bits",
            f"t = 2^(floor(log2 A){_less(floor_log2(most))}); A is the largest |x| of the tensor",
            "s1, s2 and the elements are those of the least squared error of the block",
            "x becomes (s1 · q1 + s2 · q2) · t",
        )
    rounded = "rounded up" if scale.up else "rounded to the nearest"
    largest = number_text(Fraction(fmt.largest))
    if fmt.has_zero_point:
        assert isinstance(element, Integer)
        return (
            f"{scale.text}: one {name} number S per block, {between}, and a zero point z of {element.bits} bits",
            f"S = (high - low) / {element.most}, {rounded}, with low = min(0, the least x) and high = max(0, the "
            "largest x) of the block",
            f"z = -low / S, rounded to the nearest; q = round(x / S) + z, not below 0 or above {element.most}",
            "x becomes (q - z) · S",
        )
    second = scale.second is not None
    return (
        f"{scale.text}: one {name} number S per block, {between}{', and one float32 number t per tensor' * second}",
        *([f"t = A / ({largest} · {short_text(most)}); A is the largest |x| of the tensor"] if second else []),
        f"S = a / {f'({largest} · t)' if second else largest}, {rounded}; a is the largest |x| of the block",
        f"x becomes element · S{' · t' * second}",
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _less(places: int) -> str:
    return "" if places == 0 else f" - {places}" if places > 0 else f" + {-places}"


def _together(geometry: Geometry | None) -> str:
    """Which elements share a scale."""
    if geometry is None:
        return "nothing is shared: every element stands for itself"
    if isinstance(geometry, Channel):
        return (
            "channel: all along the channels, kernel window included: one block for each output channel of a weight, "
            "one for each position or token of an activation"
        )
    if isinstance(geometry, Tile):
        return (
            f"{geometry.text}: {geometry.rows} rows x {geometry.columns} along the channels, rows being the output "
            "channels of a weight, the images or tokens of an activation; each tap of a kernel window has blocks of "
            "its own"
        )
    if isinstance(geometry, Along):
        along = f"{geometry.text}: {geometry.size} neighbours along the channels"
        if geometry.patch is not None:
            return f"{along} x a patch of {geometry.patch} x {geometry.patch} of the plane (rows and columns)"
        if geometry.window:
            return f"{along}; in the weight of a convolution the whole kernel window of them lies in one block"
        return f"{along}; in the weight of a convolution each tap of the kernel window has blocks of its own"
    return "tensor: all of the tensor is one block"


_ROUNDING: dict[Rounding, str] = {
    "nearest": "to the nearest number, of two equally near ones to that with the even code",
    "half_away": "to the nearest number, of two equally near ones to that farther from 0",
    "toward_zero": "to the nearest number that is not farther from 0",
    "stochastic": "to one of the two nearest numbers at random, the nearer the likelier, so that the mean stays",
}


def _parts(element: Element) -> str:
    """The bits of an element from the lowest on."""
    if isinstance(element, Levels):
        return f"{_count(element.bits, 'bit')} of its place"
    if isinstance(element, Integer):
        magnitude = f"{_count(element.bits - 1, 'bit')} of magnitude, then the sign"
        return magnitude if element.kind == "s" else f"{element.text}, {_count(element.bits, 'bit')}"
    assert isinstance(element, Float)
    mantissa = f"{_count(element.mantissa_bits, 'bit')} of mantissa, then " if element.mantissa_bits else ""
    return f"{mantissa}{_count(element.exponent_bits, 'bit')} of exponent, then the sign"
