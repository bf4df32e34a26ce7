"""The packed form of every number format: what `quantize` gives, as large as its width says, laid out as told."""

import struct
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import strategies
from bitq.errors import BitqError
from bitq.formats import PRESETS, ROUNDINGS, parse_format
from bitq.numerics import native_packing, pack, quantize
from test_packing import PATTERN, check_any_bits, same

OTHERS = (
    "u4:e4m3.up:b8",
    "u16:bf16:v4",
    "i2+i3:e4m3s*e8m0:v5",
    "i4+i4:e5m2s*e8m0:t2x3",
    "l(-4;-1;0;1;4):e8m0:t3x4",
    "l(-1;0;1):f16*f32:channel:toward_zero",
    "e3m0:e4m3*f32:v7",
    "e5m10:f32:v5",
    "e1m2:e5:b4",
    "e2m1:e8m0.even:v8",
    "e2m3:e8m0f.ceil:v8",
    "e3m2f:e5m2:v4:stochastic",
    "e2m1:f16:v16",
    "n5:e6:v4:half_away",
    "n3:e8m0.rceil:b3p2",
    "s24:e8m0:v3",
    "i24:e8m0f:v3",
    "i16:f32*f32:v4",
    "i8:e3m4*f32:tensor",
    "e4m3i",
    "e1m1f",
)
FORMATS = (*dict.fromkeys(PRESETS.values()), *map(parse_format, OTHERS))
SHAPES = (((2, 33), ()), ((5, 7, 3, 3), (2, 3)), ((3, 9, 5), ()), ((7,), ()), ((3, 70, 2), (0,)))


def numbers(shape, dtype, seed, exponent=0):
    """Blocks of far apart magnitudes, zeros and a row of zeros, ties, and the edges of the type."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * torch.randn(shape, generator=generator).mul(4).exp2()
    ties = torch.randint(-40, 40, shape, generator=generator) / 4
    x = torch.where(torch.rand(shape, generator=generator) < 0.3, ties, x)
    x = x.masked_fill(torch.rand(shape, generator=generator) < 0.2, 0.0) * 2.0**exponent
    if x.shape[0] > 1:
        x[0] = 0.0
    return x.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.sampled_from(SHAPES),
    st.sampled_from(list(PATTERN)),
    st.sampled_from([0, 0, -110, 100]),
    st.sampled_from([None, None, (-0.5, 2.0), (0.0, 0.0)]),
    st.sampled_from([None, None, *ROUNDINGS]),
    st.integers(0, 99),
)
def test_unpacking_gives_what_quantizing_gives(fmt, shaped, dtype, exponent, given_range, rounding, seed):
    shape, inner = shaped
    rounding = None if len(fmt.elements) > 1 else rounding
    x = numbers(shape, dtype, seed, exponent)
    dim = 1 if len(shape) > 1 else 0
    check_both_paths(x, fmt, dim, inner, tensor_range=given_range, rounding=rounding)


@settings(max_examples=400, deadline=None)
@given(st.data(), strategies.formats() | strategies.formats("power", "float") | strategies.summed_formats())
def test_random_formats_unpack_to_what_quantizing_gives(data, fmt):
    x, dim, inner = data.draw(strategies.tensors_for(fmt))
    if x.isfinite().all():
        check_both_paths(x, fmt, dim, inner)
    else:
        with pytest.raises(BitqError, match="NaN or infinite"):
            pack(x, fmt, dim, inner)


def check_both_paths(x, fmt, dim, inner, **asked):
    """That both give the same payload, of the size told, and both unpack to what `quantize` gives."""

    def seed():
        return torch.Generator().manual_seed(7)

    y = quantize(x, fmt, dim, inner, **asked, generator=seed())
    packed = pack(x, fmt, dim, inner, **asked, generator=seed())
    assert packed.num_bits == fmt.num_bits(tuple(x.shape), dim, inner)
    assert packed.payload.numel() == -(-packed.num_bits // 8)
    assert same(packed.unpack(), y)
    with patch.object(native_packing, "layout", return_value=None):
        plain = pack(x, fmt, dim, inner, **asked, generator=seed())
        assert torch.equal(plain.payload, packed.payload)
        assert same(plain.unpack(), y)
    assert plain.exponent_bias == packed.exponent_bias


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(FORMATS), st.sampled_from([torch.float32, torch.float16]))
def test_any_bits_are_numbers_or_refused(data, fmt, dtype):
    packed = pack(torch.ones(3, 9, dtype=dtype), fmt)
    size, rest = packed.payload.numel(), -packed.num_bits % 8
    payload = bytearray(data.draw(st.binary(min_size=size, max_size=size)))
    payload[-1] &= 0xFF >> rest
    check_any_bits(packed, torch.frombuffer(payload, dtype=torch.uint8))


@pytest.mark.parametrize("text", ["mxint8", "mxfp4", "nvfp4", "int8", "fp8e4m3", "e4m3:f16:v32", "i8:e8m0.rceil:v8"])
@pytest.mark.parametrize("inner", [(), (2, 3)])
def test_the_compiled_path_is_taken_and_shared_by_threads(text, inner):
    fmt = parse_format(text)
    x = numbers((6, 130, 3, 3), torch.float32, 3)
    with patch.object(native_packing, "PARALLEL", 1), patch.object(torch, "get_num_threads", lambda: 3):
        with patch("bitq.numerics.coding.encode", side_effect=AssertionError):
            packed = pack(x, fmt, 1, inner)
        with patch("bitq.numerics.coding.decode", side_effect=AssertionError):
            assert same(packed.unpack(), quantize(x, fmt, 1, inner))
    with patch.object(native_packing, "layout", return_value=None):
        assert torch.equal(pack(x, fmt, 1, inner).payload, packed.payload)


def bytes_of(packed):
    return bytes(packed.payload.tolist())


def test_bytes_of_mxfp4():
    """Two codes a byte, the first below: 6 is 7, -1 is 10, 0.5 is 1; then E8M0 of 2^0 and of 2^-2."""
    x = torch.zeros(34)
    x[:6] = torch.tensor([6.0, -1.0, 0.5, 0.0, 0.125, -0.25])  # the last is a tie between 0 and 0.5
    x[32:] = torch.tensor([1.0, -1.5])  # 4 and 6 quarters
    packed = pack(x, parse_format("mxfp4"), 0)
    assert bytes_of(packed) == bytes([0x7 | 0xA << 4, 0x1]) + bytes(14) + bytes([0x6 | 0xF << 4, 127, 125])


def test_bytes_of_nvfp4():
    """A tensor's maximum of 6·448 gives t = 1; a block's of 12 the scale 2, e4m3's code 0x40."""
    x = torch.zeros(32)
    x[0], x[1], x[16], x[18] = 6.0 * 448.0, -448.0, 12.0, -3.0
    packed = pack(x, parse_format("nvfp4"), 0)
    elements = bytes([0x7 | 0xA << 4]) + bytes(7) + bytes([0x7, 0xB]) + bytes(6)
    assert bytes_of(packed) == elements + bytes([0x7E, 0x40]) + struct.pack("<f", 1.0)


def test_bytes_of_int8():
    """Two's complement, then a float32 scale for each row."""
    x = torch.tensor([[127.0, -127.0, -1.0, 0.5], [0.0, 63.5, -31.75, 0.25]])
    packed = pack(x, parse_format("int8"))
    assert bytes_of(packed) == bytes([127, 129, 255, 0, 0, 127, 192, 0]) + struct.pack("<2f", 1.0, 0.5)


def test_bytes_of_uint8():
    """Codes, then the scale, then the zero point."""
    x = torch.tensor([[-64.0, 0.0, 191.0, 1.0]])
    packed = pack(x, parse_format("uint8"))
    assert bytes_of(packed) == bytes([0, 64, 255, 65]) + struct.pack("<f", 1.0) + bytes([64])


def test_bytes_of_a_sum():
    """q1 below q2, two bits each in two's complement, then both scales, then the power of two of the tensor."""
    packed = pack(torch.tensor([[1.0, -1.0]]), parse_format("i2+i2:e3m3s*e8m0:v2"))
    stream = int.from_bytes(bytes_of(packed), "little")

    def field(at, width):
        return stream >> at & ((1 << width) - 1)

    def scale(code):
        size = (code & 7) + 8 * bool(code >> 3 & 7)
        return (-1 if code >> 6 else 1) * size * 2.0 ** (max(code >> 3 & 7, 1) - 6)

    assert packed.num_bits == 2 * 4 + 2 * 7 + 8
    q1, q2 = ([(field(at, 2) ^ 2) - 2 for at in places] for places in ((0, 4), (2, 6)))
    s1, s2 = scale(field(8, 7)), scale(field(15, 7))
    unit = 2.0 ** (field(22, 8) - 127)
    assert unit == 2.0**-4
    assert [(s1 * a + s2 * b) * unit for a, b in zip(q1, q2, strict=True)] == [1.0, -1.0]


def test_bytes_of_plain_floats_are_those_of_the_cast():
    x = torch.tensor([[1.0, -2.5, -0.0, 1e-40, 70000.0, 3.0]])
    for text, dtype in (("f16", torch.float16), ("bf16", torch.bfloat16), ("f32", torch.float32)):
        packed = pack(x, parse_format(text))
        assert bytes_of(packed) == x.to(dtype).view(torch.uint8).numpy().tobytes()
    assert pack(x, parse_format("f16")).unpack()[0, 4] == torch.inf
    assert bytes_of(pack(x, parse_format("e4m3"))) == bytes([0x38, 0xC2, 0x80, 0, 0x7E, 0x44])
    assert np.array_equal(pack(x[:, :4], parse_format("e4m3")).unpack().numpy(), [[1.0, -2.5, 0.0, 0.0]])


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_what_is_not_finite_is_refused(fmt, value):
    x = torch.ones(2, 9)
    x[1, 3] = value
    with pytest.raises(BitqError, match=r"shape \(2, 9\): 1 of its 18 elements are NaN or infinite"):
        pack(x, fmt)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_empty_tensors(fmt):
    packed = pack(torch.empty(3, 0), fmt)
    assert packed.num_bits == packed.payload.numel() == 0
    assert packed.unpack().shape == (3, 0)


@pytest.mark.parametrize(
    ("text", "damage", "says"),
    [
        ("e4m3:e8m0:v32", {0: 0x7F}, "an element"),
        ("e5m2:e8m0:v32", {0: 0xFC}, "an element"),
        ("mxint8", {-1: 255}, "a scale"),
        ("nvfp4", {-5: 0x7F}, "a scale"),
        ("nvfp4", {-5: 0x00}, "a scale"),
        ("nvfp4", {-5: 0x81}, "a scale"),
        ("nvfp4", {-1: 0xFF, -2: 0xFF}, "the second scale"),
        ("int8", {-1: 0xFF}, "a scale"),
        ("bsfp", {-1: 0x3F, -2: 0xFF}, "the second scale"),
        ("l(-1;0;1):f32:tensor", {0: 0x03}, "an element"),
        ("f16", {1: 0x7E}, "an element"),
    ],
)
def test_codes_of_no_number_are_refused(text, damage, says):
    packed = pack(torch.ones(1, 16), parse_format(text))
    payload = packed.payload.clone()
    for at, byte in damage.items():
        payload[at] = byte
    for path in (native_packing.layout, lambda *_: None):
        with patch.object(native_packing, "layout", path), pytest.raises(BitqError, match=f"in which {says} has"):
            replace(packed, payload=payload).unpack()


def test_a_header_that_does_not_fit_is_refused():
    with pytest.raises(BitqError, match="needs its exponent_bias"):
        replace(pack(torch.ones(2, 5), parse_format("8:e3:b4")), exponent_bias=None)
    with pytest.raises(BitqError, match="exponent_bias is of formats with a scale eN"):
        replace(pack(torch.ones(2, 5), parse_format("mxfp4")), exponent_bias=3)
