"""The Triton kernels as NumPy carries them out, against their twins.

`test_triton.py` runs this in a process of its own, under TRITON_INTERPRET=1.
"""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("without TRITON_INTERPRET=1 the kernels are compiled for a GPU", allow_module_level=True)

from bitq.formats import BlockFormat
from bitq.numerics import ops, paths, quantize, reference, torch_path, triton_grids, triton_path, triton_tiles
from bitq.numerics.grid_format import MOST_DIGITS
from bitq.numerics.recipe import Axes, Recipe
from test_quantize import (
    EXTREMES,
    FORMATS,
    ROUNDINGS,
    blocks_of_every_exponent,
    draws_of,
    in_doubles,
    same,
    strides,
    tensors,
    with_gradient,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of NaN and infinity


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch):
    """Quantization of CPU tensors goes where that of CUDA tensors goes."""
    monkeypatch.setattr(paths, "kernels_of", lambda x: triton_path)


@pytest.fixture
def large_tiles(monkeypatch):
    """NumPy takes its time for each operation, not for each element."""
    monkeypatch.setattr(triton_tiles, "TILE", 2**17)
    monkeypatch.setattr(triton_tiles, "LARGEST", 2**17)
    triton_tiles.job.cache_clear()
    yield
    triton_tiles.job.cache_clear()


@pytest.fixture
def no_fallback(monkeypatch):
    """Everything has to be done by the kernels."""
    monkeypatch.delattr(torch_path, "quantize")


def generator(seed=4):
    return torch.Generator().manual_seed(seed)


def raw_bits(shape, dtype, seed):
    raw = torch.randint(-(2**31), 2**31, shape, generator=generator(seed)).to(torch.int32)
    return raw.view(torch.float32) if dtype == torch.float32 else raw.to(torch.int16).view(dtype)


@settings(max_examples=40, deadline=None)
@given(st.data(), tensors(), st.sampled_from(FORMATS), st.sampled_from(ROUNDINGS), st.integers(0, 9))
def test_every_bit_is_that_of_exact_arithmetic(data, tensor, fmt, rounding, seed):
    x, dim, inner = tensor
    bias = data.draw(st.one_of(st.none(), st.integers(-20, 10), st.integers(-300, 15)))
    expected, clipped = reference.quantize(x, fmt, dim, inner, bias, None, rounding, draws_of(generator(seed), x))
    y, blocked = with_gradient(x, fmt, dim, inner, bias, None, rounding, generator(seed))
    assert same(y, expected)
    assert torch.equal(blocked, clipped)
    assert strides(y) == strides(torch.empty_like(x))


@pytest.mark.usefixtures("large_tiles", "no_fallback")
@pytest.mark.parametrize("fmt", [f for f in FORMATS if f.mantissa_bits <= MOST_DIGITS], ids=str)
def test_every_format_at_every_exponent(fmt):
    x = blocks_of_every_exponent(fmt, min(fmt.block_size, 64))
    x = x if fmt in EXTREMES else x[fmt.exponent_bits % 5 :: 5].contiguous()
    turn = fmt.exponent_bits + fmt.block_size
    other = (None, -126, 0)[turn % 3], ROUNDINGS[1 + turn % 4 % 3]
    for bias, rounding in ((None, "nearest"), other):
        key = torch.randint(-(2**63), 2**63 - 1, (1,), generator=generator())
        draws = torch_path.uniforms(x.shape, key) if rounding == "stochastic" else None
        expected, clipped = in_doubles(x, fmt, bias, rounding, draws)
        y, blocked = with_gradient(x, fmt, 1, (), bias, None, rounding, generator())
        assert same(y, expected)
        assert torch.equal(blocked, clipped)


@pytest.mark.usefixtures("large_tiles", "no_fallback")
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fmt", [BlockFormat(8, 3, 2), BlockFormat(16, 1, 2)], ids=str)
def test_all_halves_as_block_maxima(dtype, fmt, rounding):
    top = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = torch.stack([top * torch.linspace(-1, 1, len(top), dtype=dtype), top], 1)
    key = torch.randint(-(2**63), 2**63 - 1, (1,), generator=generator())
    draws = torch_path.uniforms(x.shape, key)
    for bias in (None, -5):
        y = quantize(x, fmt, 1, (), bias, None, rounding, generator())
        assert same(y, in_doubles(x, fmt, bias, rounding, draws)[0])


# Rows, planes and windows, of whole and of short blocks, that fill tiles and that do not.
SHAPES = [
    ((3, 37, 65), 1, ()),
    ((2, 5, 16, 17), 1, ()),
    ((3, 48, 64), 1, ()),
    ((7, 50, 3, 3), 1, (2, 3)),
    ((9, 48, 3, 3), 1, (2, 3)),
    ((11, 301), 1, ()),
    ((3001,), 0, ()),
    ((4, 9, 33), 0, ()),
    ((5, 33, 29), -1, ()),
]


@pytest.mark.parametrize(("shape", "dim", "inner"), SHAPES)
@pytest.mark.parametrize(
    ("dtype", "block_size"), [(torch.float32, 1), (torch.float32, 16), (torch.bfloat16, 24), (torch.float16, 7)]
)
def test_any_tiles_have_the_bits_of_the_torch_path(monkeypatch, dtype, shape, dim, inner, block_size):
    fmt, mild = BlockFormat(8, 2, block_size), (torch.randn(shape, generator=generator()) * 4).to(dtype)
    rounding = ROUNDINGS[(block_size + len(shape)) % 4]
    raw, diverged = raw_bits(shape, dtype, block_size), mild.masked_fill(mild > 14, torch.inf)
    for x, bias, how in ((raw, -2, "nearest"), (mild, -2, rounding), (diverged, None, "nearest")):
        arguments = (x, fmt, dim, inner, bias, None, how)
        with monkeypatch.context() as patch:
            patch.setattr(paths, "kernels_of", lambda x: None)
            expected, clipped = with_gradient(*arguments, generator())
        with monkeypatch.context() as patch:
            patch.delattr(torch_path, "quantize")
            y, blocked = with_gradient(*arguments, generator())
            same_memory = x.clone()
            if how != "stochastic":
                quantize(same_memory, *arguments[1:], out=same_memory)
        assert same(y, expected)
        assert how == "stochastic" or same(same_memory, expected)
        assert torch.equal(blocked, clipped)


@pytest.mark.parametrize("dim", [0, 1, 3])
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.transpose(0, 1),
        lambda x: x[:, ::2],
        lambda x: x[:1].expand(3, -1, -1, -1),
        lambda x: x.flatten()[1:181].view(4, 5, 3, 3),
        lambda x: x[:0],
    ],
    ids=["channels_last", "transposed", "strided", "expanded", "offset", "empty"],
)
def test_layout_does_not_matter(view, dim):
    x, fmt = view(torch.randn(6, 10, 4, 5, generator=generator(1)) * 8), BlockFormat(8, 3, 4)
    plain = x.clone(memory_format=torch.contiguous_format)
    for bias, rounding in ((-5, "nearest"), (None, "stochastic")):
        y, blocked = with_gradient(x, fmt, dim, (), bias, None, rounding, generator())
        expected, clipped = with_gradient(plain, fmt, dim, (), bias, None, rounding, generator())
        assert same(y, expected)
        assert torch.equal(blocked, clipped)
        if rounding == "nearest" and x.numel():
            assert same(y, reference.quantize(x, fmt, dim, (), bias)[0])


def test_a_layer_s_output_is_quantized_where_it_stands(no_fallback):
    x = torch.randn(4, 20, 6, 6, generator=generator()).requires_grad_()
    fmt = BlockFormat(8, 3, 16)
    y = x * 2
    at = y.data_ptr()
    y = ops.quantize_in_place(y, Recipe(fmt, Axes(1), -7))
    assert y.data_ptr() == at
    expected, clipped = reference.quantize((x * 2).detach(), fmt, exponent_bias=-7)
    y.sum().backward()
    assert same(y.detach(), expected)
    assert clipped.any()
    assert torch.equal(x.grad, 2.0 * ~clipped)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_take_the_kernels(no_fallback, dtype):
    x = (torch.randn(3, 20, 7, generator=generator()) * 4).to(dtype)
    y, bits = torch.ops.bitq.quantize(x, "8:e3:b16", 1, [], -7, None, "nearest", None, True)
    expected, clipped = reference.quantize(x, BlockFormat(8, 3, 16), exponent_bias=-7)
    assert same(y, expected)
    assert len(bits) == -(-x.numel() // 8)
    grad = torch.randn(x.shape, generator=generator(5)).to(dtype)
    assert same(torch.ops.bitq.pass_gradient(grad, bits, y.stride()), grad.masked_fill(clipped, 0))


@pytest.mark.parametrize(
    ("module", "wrong"),
    [(triton_path, None), (triton_path, "quantize"), (triton_path, "pass_gradient"), (triton_grids, "quantize")],
)
def test_a_device_on_which_a_bit_differs_is_told_from_others(monkeypatch, module, wrong):
    if wrong is not None:
        right = getattr(module, wrong)

        def one_bit_off(*arguments):
            found = right(*arguments)
            y = found[0] if isinstance(found, tuple) else found
            y.view(torch.int32)[2, 5] ^= 1
            return found

        monkeypatch.setattr(module, wrong, one_bit_off)
    assert triton_path.agrees(torch.device("cpu")) == (wrong is None)
