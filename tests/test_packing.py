"""The packed form against a bit stream built with Python's integers."""

from dataclasses import replace
from math import prod
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitq.errors import BitqError
from bitq.formats import BlockFormat, grid
from bitq.numerics import Packed, native_packing, pack, quantize, reference
from bitq.numerics.recipe import Axes, Recipe

FORMATS = (*grid(8), *grid(16), BlockFormat(3, 1, 2), BlockFormat(32, 8, 4), BlockFormat(25, 1, 3))
PATTERN = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def stream(x, fmt, dim, inner, bias):
    """The payload as the docstring of `Packed` tells it, one integer for all bits."""
    m = fmt.mantissa_bits
    blocks = [
        (at, [float(x[i]) for i in at])
        for at in reference.block_indices(tuple(x.shape), fmt.block_size, dim, inner)
    ]
    if bias is None:
        bias = reference.default_bias([values for _, values in blocks], fmt)
    mantissas, codes = {}, {}
    for at, values in blocks:
        code = reference.code(reference.exponent(values), fmt, bias)
        first = list(at[0])
        first[dim] //= fmt.block_size
        codes[tuple(first)] = code
        step = 2.0 ** (max(bias + code, -126 + m - 2) + 2 - m)
        for i, value in zip(at, reference.quantize_block(values, fmt, bias)[0], strict=True):
            k = int(value / step)
            mantissas[i] = abs(k) | (k < 0) << (m - 1)
    bits = position = 0
    for words, width in ((mantissas, m), (codes, fmt.exponent_bits)):
        for index in sorted(words):
            bits |= words[index] << position
            position += width
    return bits.to_bytes(-(-position // 8), "little"), position


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(FORMATS), st.sampled_from([None, None, -3, 2, -200]))
def test_payload_is_the_stream_of_bits(data, fmt, bias):
    shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    dim = data.draw(st.integers(0, len(shape) - 1))
    inner = tuple(d for d in range(len(shape)) if d != dim and data.draw(st.booleans()))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    x = torch.randn(shape, generator=generator) * torch.randn(shape, generator=generator).mul(4).exp2()
    x = x.masked_fill(torch.rand(shape, generator=generator) < 0.3, 0.0)
    x = (x * 2.0 ** data.draw(st.sampled_from([0, 0, -120]))).to(dtype)
    packed = pack(x, fmt, dim, inner, bias)
    payload, num_bits = stream(x, fmt, dim, inner, bias)
    assert bytes(packed.payload.tolist()) == payload
    assert packed.num_bits == num_bits
    y = quantize(x, fmt, dim, inner, bias)
    assert packed.unpack().dtype == dtype
    kind = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(packed.unpack().view(kind), y.contiguous().view(kind))


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_round_trip_of_extremes(fmt):
    largest = torch.finfo(torch.float32).max
    x = torch.tensor([[0.0, -0.0, 2.0**-149, -(2.0**-126), 1.0, -largest, largest / 3]] * 2)
    x[1] *= 2.0**-100
    for bias in (None, -10, 127, -512):
        packed = pack(x, fmt, exponent_bias=bias)
        assert torch.equal(packed.unpack().view(torch.int32), quantize(x, fmt, 1, (), bias).view(torch.int32))
        header = replace(packed, payload=packed.payload.clone())
        assert torch.equal(header.unpack(), packed.unpack())


def test_axes_and_layout_are_normalized():
    fmt = BlockFormat(8, 3, 4)
    x = torch.randn(3, 6, 2, 2).to(memory_format=torch.channels_last)
    packed = pack(x, fmt, dim=-3, inner_dims=(-1, -2))
    assert (packed.dim, packed.inner_dims) == (1, (3, 2))
    assert torch.equal(packed.unpack(), quantize(x, fmt, 1, (2, 3)))
    assert torch.equal(packed.payload, pack(x.contiguous(), fmt, 1, (2, 3)).payload)
    assert packed.num_bits == 5 * 72 + 3 * (3 * 2)


def test_zeros_take_the_bias_of_exponent_zero():
    packed = pack(torch.zeros(2, 5), BlockFormat(8, 3, 4))
    assert packed.exponent_bias == -7
    assert not packed.payload.any()
    assert torch.equal(packed.unpack(), torch.zeros(2, 5))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 3, 0)])
def test_empty_tensors(shape):
    packed = pack(torch.empty(shape), BlockFormat(8, 3, 4), dim=0)
    assert packed.num_bits == 0
    assert packed.payload.numel() == 0
    assert packed.unpack().shape == shape


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_not_finite_is_refused(value, dtype):
    x = torch.ones(2, 5, dtype=dtype)
    x[1, 3] = value
    with pytest.raises(BitqError, match=r"shape \(2, 5\): 1 of its 10 elements are NaN or infinite"):
        pack(x, BlockFormat(8, 3, 4))


def test_mistakes_are_told():
    fmt = BlockFormat(8, 3, 4)
    packed = pack(torch.ones(2, 5), fmt)
    with pytest.raises(BitqError, match="has 8 bytes"):
        replace(packed, payload=packed.payload[:-1])
    with pytest.raises(BitqError, match=r"of torch\.int8"):
        replace(packed, payload=packed.payload.to(torch.int8))
    with pytest.raises(BitqError, match="do not fit"):
        replace(packed, dim=2)
    with pytest.raises(BitqError, match="exponent_bias"):
        replace(packed, exponent_bias=1000)
    with pytest.raises(BitqError, match=r"torch\.float64"):
        pack(torch.ones(2, 5).double(), fmt)
    assert isinstance(packed, Packed)


AXES = [((0,), ()), ((1,), ()), ((1,), (2,)), ((0,), (1, 2)), ((0,), (2,)), ((2,), ()), ((1,), (0,)), ((2,), (1,))]


@settings(max_examples=200)
@given(st.data(), st.sampled_from(FORMATS), st.sampled_from(AXES), st.sampled_from([None, -3, 100]))
def test_compiled_and_plain_paths_agree(data, fmt, axes, bias):
    """Beyond what fits in a tile, with any number of threads that begin at any band, rows long and short."""
    shapes = st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 3, 9, 49, 255, 257]))
    shapes |= st.tuples(st.integers(900, 1100), st.integers(1, 4), st.integers(1, 3))
    shape = data.draw(shapes)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    x = torch.randn(shape, generator=generator) * torch.randn(shape, generator=generator).mul(3).exp2()
    x[torch.rand(shape[:2], generator=generator) < 0.2] = 0.0
    (dim,), inner = axes
    threads = data.draw(st.sampled_from([1, 2, 3, 7]))
    row = data.draw(st.sampled_from([1, 64, native_packing.ROW]))
    small = patch.multiple(native_packing, PARALLEL=1, ROW=row)
    with small, patch.object(torch, "get_num_threads", lambda: threads):
        fast = pack(x, fmt, dim, inner, bias)
        values = fast.unpack()
    with patch.object(native_packing, "layout", return_value=None):
        plain = pack(x, fmt, dim, inner, bias)
        assert torch.equal(plain.unpack().view(torch.int32), values.view(torch.int32))
    assert fast.exponent_bias == plain.exponent_bias
    assert torch.equal(fast.payload, plain.payload)
    assert torch.equal(values.view(torch.int32), quantize(x, fmt, dim, inner, bias).view(torch.int32))


def test_the_compiled_path_does_the_usual_layouts():
    fmt = BlockFormat(3, 1, 4)
    for shape, axes in (((64, 3, 3, 3), (1, (2, 3))), ((2, 8, 5, 5), (1, ())), ((2, 6, 4, 3, 3), (1, (3, 4)))):
        at = native_packing.layout(shape, Recipe(fmt, Axes(*axes)))
        assert at is not None
        assert at.size == prod(shape)
        assert at.blocks == fmt.num_bits(shape, *axes) - fmt.mantissa_bits * prod(shape)
    assert native_packing.layout((4, 5, 6), Recipe(fmt, Axes(2, (0,)))) is None


def same(a, b):
    kind = PATTERN[a.dtype]
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(kind), b.contiguous().view(kind))


def check_any_bits(packed, payload):
    """Other bits are numbers, the same in compiled code as in its twin, or are refused by both in one sentence."""

    def outcome():
        try:
            return replace(packed, payload=payload).unpack()
        except BitqError as error:
            return str(error)

    fast = outcome()
    with patch.object(native_packing, "layout", return_value=None):
        plain = outcome()
    if isinstance(fast, str):
        assert fast == plain
        assert "is damaged" in fast
    else:
        assert not fast.isnan().any()
        assert same(fast, plain)


@settings(max_examples=300)
@given(st.data(), st.sampled_from(FORMATS), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_any_bits_are_numbers_or_refused(data, fmt, dtype):
    """The compiled path and its twin say the same of payloads that nobody packed."""
    shape = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=3))
    packed = pack(torch.ones(shape, dtype=dtype), fmt, 1, (), data.draw(st.sampled_from([None, 15, -200])))
    size = packed.payload.numel()
    payload = torch.frombuffer(bytearray(data.draw(st.binary(min_size=size, max_size=size))), dtype=torch.uint8)
    check_any_bits(packed, payload)


def test_damage_that_no_packing_leaves_is_told():
    packed = pack(torch.ones(1, 3), BlockFormat(8, 3, 4), exponent_bias=127 - 3)
    assert packed.num_bits == 18
    payload = packed.payload.clone()
    payload[-1] |= 0x80
    with pytest.raises(BitqError, match="filled up with zeros"):
        replace(packed, payload=payload).unpack()
    payload[-1] = 0x03
    with pytest.raises(BitqError, match="exponent of 130, above 127"):
        replace(packed, payload=payload).unpack()
