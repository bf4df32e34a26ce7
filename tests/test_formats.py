import math
import pickle
from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest
import torch
from gfloat import Domain, FormatInfo, quantize_block, round_float
from gfloat.formats import format_info_mxint8
from hypothesis import given
from hypothesis import strategies as st

from bitq.errors import BitqError
from bitq.formats import PRESETS, BlockFormat, TensorFormats, effective_width, grid, paper_width, parse_format
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
