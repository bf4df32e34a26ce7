import math
import pickle
from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest
import torch
from gfloat import Domain, FormatInfo, quantize_block, round_float
from gfloat.formats import format_info_mxint8
from hypothesis import given, settings
from hypothesis import strategies as st

from bitq.errors import BitqError
from bitq.formats import PRESETS, BlockFormat, Format, TensorFormats, effective_width, grid, paper_width, parse_format
from bitq.formats.blocking import Along
from bitq.formats.elements import Integer
from bitq.numerics import pack, quantize


@pytest.mark.parametrize(("bits", "widths"), [(16, range(1, 8)), (8, range(2, 7))])
def test_grid_is_the_papers_table(bits, widths):
    expected = {(bits, se, bs) for se in widths for bs in (1, 2, 4, 8, 16, 24, 32, 48)}
    formats = grid(bits)
    assert {(f.bits, f.exponent_bits, f.block_size) for f in formats} == expected
    assert len(formats) == len(expected)
    assert list(formats) == sorted(formats)


def test_grid_refuses_other_widths():
    with pytest.raises(BitqError, match="8 or 16"):
        grid(4)


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ((2, 1, 1), "bits is 2"),
        ((33, 8, 1), "bits is 33"),
        ((8, 0, 1), "exponent_bits is 0"),
        ((16, 9, 1), "exponent_bits is 9"),
        ((8, 7, 1), "mantissa of 1 bits"),
        ((8, 8, 1), "mantissa of 0 bits"),
        ((32, 7, 1), "mantissa of 25 bits"),
        ((8, 3, 0), "block_size is 0"),
        ((8, 3, -4), "block_size is -4"),
        ((8.0, 3, 16), "bits is 8.0"),
        ((8, True, 16), "exponent_bits is True"),
        ((8, 3, "16"), "block_size is '16'"),
        ((8, 3, None), "block_size is None"),
        ((8, 3, 10**9), "block_size is 1000000000; it must be a whole number, 1..999999999"),
        ((8, 3, 10**5000), "block_size is a number of many digits"),
        ((-(10**5000), 3, 1), "bits is a number of many digits"),
        ((8, 3, "1" * 5000), "^.{,150}$"),
    ],
)
def test_impossible_formats_say_why(args, reason):
    with pytest.raises(ValueError, match=reason):
        BlockFormat(*args)


def test_a_format_is_a_plain_value():
    fmt = BlockFormat(torch.tensor(8), 3, 16)
    assert fmt == BlockFormat(8, 3, 16)
    assert hash(fmt) == hash(BlockFormat(8, 3, 16))
    assert pickle.loads(pickle.dumps(fmt)) == fmt
    assert (fmt.mantissa_bits, fmt.top_code, fmt.largest_mantissa, fmt.lowest_exponent) == (5, 7, 15, -123)
    with pytest.raises(FrozenInstanceError):
        fmt.bits = 16
    assert TensorFormats(weight=fmt) == TensorFormats(None, fmt, None)


@pytest.mark.parametrize("fmt", [*grid(8), *grid(16), BlockFormat(32, 8, 1000), BlockFormat(8, 3, 10**9 - 1)])
def test_text_round_trip(fmt):
    assert BlockFormat.parse(str(fmt)) == fmt
    assert BlockFormat.parse(f"  {fmt}\n") == fmt


OTHER_SPELLINGS = {
    "s4:e4:b16": "8:e4:b16",
    "8:e4:b16:nearest": "8:e4:b16",
    "e2m1f:e8m0n.floor:v32": "mxfp4",
    "e4m3n:e8m7i:channel": "e4m3:bf16:channel",
    "e5m10": "fp16",
    "e8m23i": "f32",
    "l(-1.50;+0;2e0):f32:v4": "l(-1.5;0;2):f32:v4",
    "i2+i2:e3m3fs*e8m0:v16": "bsfp",
    "E4M3:F32:TENSOR": "fp8e4m3",
}


@pytest.mark.parametrize("text", OTHER_SPELLINGS)
def test_other_spellings_are_equal_formats(text):
    fmt, same = parse_format(text), parse_format(OTHER_SPELLINGS[text])
    assert fmt == same
    assert hash(fmt) == hash(same)
    assert str(fmt) == str(same)
    assert fmt.names == same.names


def floats(*kinds):
    return st.builds("e{}m{}{}".format, st.integers(0, 9), st.integers(0, 24), st.sampled_from(("", *kinds)))


def chosen(text, *numbers):
    return st.builds(text.format, *(st.integers(0, most) for most in numbers))


level = st.floats(-1e6, 1e6, width=32).map(lambda value: f"{value:.30f}")
levels = st.lists(level, max_size=5).map(lambda parts: f"l({';'.join(sorted({*parts, '0'}, key=float))})")
number = floats("f", "n", "i") | st.sampled_from(("f32", "f16", "bf16"))
integer = st.builds("{}{}".format, st.sampled_from("sinu"), st.integers(0, 25))
elements = st.one_of(number, integer, levels, st.just("i2+i3"), chosen("{}", 33))
powers = st.builds(
    "e{}m0{}{}".format,
    st.integers(0, 9),
    st.sampled_from(("", "f", "n", "i")),
    st.sampled_from(("", ".floor", ".ceil", ".even", ".rceil")),
)
ends = st.sampled_from(("", ".up", "*f32", ".up*f32", "*f32.up", "s*e8m0"))
scales = st.one_of(chosen("e{}", 9), powers, st.builds("{}{}".format, number, ends))
geometries = st.one_of(
    st.sampled_from(("channel", "tensor")),
    chosen("b{}", 99),
    chosen("v{}", 99),
    chosen("b{}p{}", 9, 9),
    chosen("t{}x{}", 9, 9),
)
roundings = st.sampled_from(("", ":nearest", ":half_away", ":toward_zero", ":stochastic"))
texts = st.one_of(
    elements,
    st.builds("{}{}".format, elements, roundings),
    st.builds("{}:{}:{}{}".format, elements, scales, geometries, roundings),
)


@settings(max_examples=2000, deadline=None)
@given(texts)
def test_a_text_is_a_format_that_prints_what_parses_to_it_or_is_told_why_not(text):
    try:
        fmt = parse_format(text)
    except BitqError as error:
        reason = str(error)
        fmt = None
    if fmt is None:
        assert len(reason) < 400
        assert reason.isprintable()
        return
    again = parse_format(str(fmt))
    assert again == fmt
    assert type(again) is type(fmt)
    assert str(again) == str(fmt)
    assert pickle.loads(pickle.dumps(fmt)) == fmt
    assert Format(fmt.elements, fmt.scale, fmt.geometry, fmt.rounding) == fmt
    assert 0 < fmt.smallest <= fmt.largest


MISTAKES = {
    "": "number format '' is unknown; write ELEMENT:SCALE:GEOMETRY",
    "8": "number format '8' is unknown",
    "mxint4": "did you mean mxint8?",
    "i8": "number format 'i8' is unknown",
    "8:e3": "8:e3: nothing for a part at character 5; it must be ELEMENT:SCALE:GEOMETRY",
    "8:e3:b16:": "nothing for a rounding at character 10; it must be nearest, half_away",
    "8:e3:b16:up": "rounding 'up' at character 10; it must be nearest",
    "8:e3:b16:nearest:b4": "part 'b4' at character 18; it must be ELEMENT",
    "8:3:16": "scale '3' at character 3; it must be eN",
    "8:e-3:b16": "scale 'e-3' at character 3",
    "8:e9:b16": "scale 'e9' at character 3: a shared exponent has 1..8 bits, not 9",
    "8:e3:b1.5": "geometry 'b1.5' at character 6; it must be b16",
    "8:e3:b0": "geometry 'b0' at character 6: a block has 1..999999999 elements along an axis, not 0",
    "8:e3:v16p3": "geometry 'v16p3' at character 6; it must be",
    "8:e3:t4": "geometry 't4' at character 6",
    "٨:e3:b16": "element '٨' at character 1; it must be s8",
    "8:e8m0:v32": "element '8' at character 1; it must be s8 or another element: BITS alone goes with a scale eN",
    "s1:e4:b16": "element 's1' at character 1: an element s has 2..24 bits, not 1",
    "i2+q:e3m3s*e8m0:v16": "element 'q' at character 4",
    "e9m1:e8m0:v32": "element 'e9m1' at character 1: a float has 1..8 bits",
    "e8m2n": "e8m2n reaches beyond float32; with 8 bits of exponent it has to be e8m2i",
    "e1m0n:e8m0:v4": "e1m0n holds no numbers",
    "l(1;2):f32:v4": "element 'l(1;2)' at character 1: one of the levels has to be 0",
    "l(0;2;1):f32:v4": "ascending",
    "l(0;1e9):f32:v4": "2^-20..2^20",
    "l(0;1:f32:v4": "element 'l(0;1' at character 1",
    "i8:e8m0.up:v4": "scale 'e8m0.up' at character 4",
    "i8:f32*f32*f32:v4": "scale 'f32*f32*f32' at character 4",
    "i8:f32*f32*e8m0:v4": "scale 'f32*f32*e8m0' at character 4",
    "u8:e8m0:v4": "u8 has a zero point per block and needs one float",
    "u8:f32*f32:v4": "u8 has a zero point per block and needs one float",
    "i17:f32:v4": "an integer under a float has at most 16 bits, unlike i17",
    "f32:f32:v4": "at most 5 bits of exponent and 10 of mantissa, unlike f32",
    "i8:f32s:v4": "for summed elements",
    "i2+i2:f32:v4": "a sum has a signed float of at most 8 bits",
    "i2+i5:e3m3s*e8m0:v4": "a sum is of two integers i2..i4, unlike i2+i5",
    "i2+i2:e3m3s*e8m0:v4:half_away": "a sum is rounded to nearest",
    "8:e7:b16": "leave a mantissa of 1",
    "8:e3:b" + "9" * 5000: "number format has at most 4096 characters, not 5006",
    "8:e3:b" + "9" * 4000: "at character 6; it must be b16",
    "\x1b[2J": "is unknown",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_are_told_with_their_place_and_what_could_stand_there(text):
    with pytest.raises(BitqError) as caught:
        parse_format(text)
    message = str(caught.value)
    assert MISTAKES[text] in message
    assert len(message) < 400
    assert message.isprintable()


@given(st.sampled_from(grid(8) + grid(16)), st.integers(1, 60), st.sampled_from([(), (1, 1), (3, 3), (5, 1)]))
def test_effective_width_is_the_packed_size(fmt, channels, window):
    x = torch.ones(3, channels, *window)
    inner = x[0, 0].numel()
    packed = pack(x, fmt, dim=1, inner_dims=tuple(range(2, x.ndim)))
    assert effective_width(fmt, channels, inner) == float(Fraction(packed.num_bits, x.numel()))
    if channels % fmt.block_size == 0:
        assert effective_width(fmt, channels, inner) == pytest.approx(paper_width(fmt, inner), rel=1e-15)
    else:
        assert effective_width(fmt, channels, inner) > paper_width(fmt, inner)


def test_widths_of_the_papers_example():
    fmt = BlockFormat(8, 3, 16)
    assert paper_width(fmt) == 5.1875
    assert paper_width(fmt, 9) == 5 + 3 / 144
    assert effective_width(fmt, 17) == 5 + 6 / 17


@pytest.mark.parametrize(("channels", "inner"), [(0, 1), (1, 0), (-1, 1)])
def test_widths_of_nothing_are_refused(channels, inner):
    with pytest.raises(BitqError):
        effective_width(BlockFormat(8, 3, 16), channels, inner)
    if inner < 1:
        with pytest.raises(BitqError):
            paper_width(BlockFormat(8, 3, 16), inner)


def test_presets_are_formats_by_name():
    for name, fmt in PRESETS.items():
        assert parse_format(name) == BlockFormat.parse(f" {name.upper()} ") == fmt
        assert parse_format(str(fmt)) == fmt
        assert name in fmt.names
    assert set(PRESETS["tt-bfp8"].names) == {"tt-bfp8", "msfp16"}
    assert BlockFormat(8, 4, 16).names == ()


# Bits of a weight of 6 x 40 channels with a window of 3 x 3, by hand
ELEMENTS = 6 * 40 * 9
BITS = {
    "8:e4:b16": 4 * ELEMENTS + 4 * 6 * 3,  # blocks of 16, 16 and 8 channels with the whole window
    "mxint8": 8 * ELEMENTS + 8 * 6 * 2 * 9,  # of each tap 32 and 8 channels
    "mxfp4": 4 * ELEMENTS + 8 * 6 * 2 * 9,
    "nvfp4": 4 * ELEMENTS + 8 * 6 * 3 * 9 + 32,
    "flexblock12": 4 * ELEMENTS + 8 * 6 * 2,
    "s4:e8m0:b24p2": 4 * ELEMENTS + 8 * 6 * 2 * 2 * 2,
    "hbfp4": 4 * ELEMENTS + 8 * 6 * 9,
    "s4:e8m0:t4x24": 4 * ELEMENTS + 8 * 2 * 2 * 9,
    "bsfp": 4 * ELEMENTS + 2 * 7 * 6 * 3 * 9 + 8,
    "int8": 8 * ELEMENTS + 32 * 6,
    "int4-tensor": 4 * ELEMENTS + 32,
    "uint8": 8 * ELEMENTS + 40,
    "u4:f16:v16": 4 * ELEMENTS + 20 * 6 * 3 * 9,
    "bf16": 16 * ELEMENTS,
    "l(-1;0;1):f32:channel": 2 * ELEMENTS + 32 * 6,
}


@pytest.mark.parametrize("text", BITS)
def test_bits_of_a_weight(text):
    fmt, shape = parse_format(text), (6, 40, 3, 3)
    assert fmt.num_bits(shape, 1, (2, 3)) == fmt.num_bits(shape, -3, (-2, -1)) == BITS[text]
    assert fmt.bits_per_element(shape, 1, (2, 3)) == BITS[text] / ELEMENTS
    assert fmt.num_bits((0, 40, 3, 3), 1, (2, 3)) == 0
    with pytest.raises(BitqError, match="no elements"):
        fmt.bits_per_element((0, 40))


def exact_scale(emax, values):
    """Largest power of two of a block, and nothing to do with a rounded logarithm."""
    largest = float(np.abs(values).max())
    return 2.0 ** ((math.frexp(largest)[1] - 1 if largest else -127) - emax)


def blocks_of(kind, generator):
    x = torch.randn(60, 32, generator=generator)
    scale = {"normal": 1.0, "wide": 2.0 ** torch.randint(-100, 100, (60, 1), generator=generator)}
    if kind in scale:
        return x * scale[kind]
    below = torch.nextafter(2.0 ** torch.randint(-20, 20, (60, 32), generator=generator).float(), torch.tensor(0.0))
    return below * x.sign()


@pytest.mark.parametrize("kind", ["normal", "wide", "just below powers of two"])
def test_mxint8_is_that_of_gfloat(kind):
    x = blocks_of(kind, torch.Generator().manual_seed(1))
    expected = np.stack([quantize_block(format_info_mxint8, row, exact_scale) for row in x.double().numpy()])
    scales = np.array([[exact_scale(0, row)] for row in x.numpy()])
    lowest = expected == -2 * scales  # k = -128, which bitq leaves out
    expected = np.where(lowest, -127 / 64 * scales, expected)
    assert np.array_equal(quantize(x, PRESETS["mxint8"]).double().numpy(), expected)
    assert lowest.any()


INTEGERS = [
    name
    for name, fmt in PRESETS.items()
    if fmt.power_of_two and isinstance(fmt.geometry, Along) and isinstance(fmt.elements[0], Integer)
]


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_of_presets_round_as_gfloat_rounds_integers(name):
    fmt = PRESETS[name]
    mild = "a" in name.removeprefix("amd")  # whose exponents are those of a float16
    x = blocks_of("normal" if mild else "wide", torch.Generator().manual_seed(2)).repeat(1, 2)[:, : fmt.geometry.size]
    bits = fmt.element_bits
    element = FormatInfo(  # a two's complement number of m bits below the leading one of the block
        name=f"int{bits}",
        k=bits,
        precision=bits,
        bias=0,
        domain=Domain.Finite,
        has_nz=False,
        num_high_nans=0,
        has_subnormals=True,
        is_signed=True,
        is_twos_complement=True,
    )
    for row, y in zip(x, quantize(x, fmt, rounding="nearest"), strict=True):
        step = Fraction(exact_scale(0, row.numpy())) * Fraction(2) ** (2 - bits)
        unit = Fraction(element.smallest)
        limit = 2 ** (bits - 1) - 1
        for value, found in zip(row.tolist(), y.tolist(), strict=True):
            k = Fraction(round_float(element, float(Fraction(value) / step * unit), sat=True)) / unit
            assert Fraction(found) == max(k, -limit) * step
