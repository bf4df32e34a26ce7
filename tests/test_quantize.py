"""Both paths of `quantize`, compiled and torch, against exact arithmetic, every bit."""

import math
from functools import lru_cache
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitq.errors import BitqError
from bitq.formats import BlockFormat, grid
from bitq.numerics import exponent_bias_for, native, paths, quantize, reference, torch_path
from bitq.numerics.recipe import Axes, Recipe, recipe_for

EXTREMES = (
    BlockFormat(3, 1, 2),
    BlockFormat(25, 1, 3),
    BlockFormat(32, 8, 4),
    BlockFormat(10, 8, 5),
    BlockFormat(24, 7, 999_999_999),
)
FORMATS = grid(8) + grid(16) + EXTREMES
ROUNDINGS = ("nearest", "half_away", "toward_zero", "stochastic")

each_path = pytest.mark.parametrize("path", ["compiled", "torch"])


@pytest.fixture(autouse=True)
def _take_path(request, monkeypatch):
    """Runs a test that asks for a `path` on that path."""
    path = request.getfixturevalue("path") if "path" in request.fixturenames else None
    if path == "torch":
        monkeypatch.setattr(native, "_kernel", None)
    if path == "compiled" and native._kernel is None:
        pytest.skip("the kernel is not built")


def bits(x):
    """Bit patterns, with one pattern for all NaN."""
    kind = torch.int32 if x.dtype == torch.float32 else torch.int16
    return torch.where(x.isnan(), torch.full_like(x, torch.nan), x).contiguous().view(kind)


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def strides(x):
    """Strides of the axes that have any."""
    return [stride for n, stride in zip(x.shape, x.stride(), strict=True) if n > 1]


def with_gradient(x, *args, **kwargs):
    """quantize(x), and where it lets no gradient through."""
    leaf = x.detach().requires_grad_()
    y = quantize(leaf, *args, **kwargs)
    (grad,) = torch.autograd.grad(y, leaf, torch.ones_like(y))
    assert set(grad.unique().tolist()) <= {0.0, 1.0}
    return y.detach(), grad == 0


def draws_of(generator, x):
    """What stochastic rounding of x draws from the generator, by the twin."""
    key = int(torch.randint(-(2**63), 2**63 - 1, (1,), generator=generator)) % 2**64
    return torch.tensor(reference.uniforms(key, x.numel())).view(x.shape)


def from_bits(patterns):
    return torch.tensor(patterns, dtype=torch.int64).to(torch.int32).view(torch.float32)


def in_doubles(rows, fmt, bias, rounding, draws):
    """The twin of reference.quantize for rows that are a block each: all in doubles, of which none is ever rounded."""
    x = rows.double().numpy()
    top, m = np.abs(x).max(1, keepdims=True), fmt.mantissa_bits
    finite = np.isfinite(top)
    e = np.maximum(np.frexp(np.where(finite, top, 1))[1] - 1, -127)
    if bias is None:
        bias = e[finite & (top > 0)].max(initial=-999) - fmt.top_code if (finite & (top > 0)).any() else -fmt.top_code
    shared = np.maximum(np.clip(e, bias, bias + fmt.top_code), -126 + m - 2)
    size = np.ldexp(np.abs(np.where(finite, x, 0)), m - 2 - shared)
    below = np.floor(size)
    k = {
        "nearest": lambda: np.rint(size),
        "half_away": lambda: below + (size - below >= 0.5),
        "toward_zero": lambda: below,
        "stochastic": lambda: below + (draws.double().numpy() < size - below),
    }[rounding]()
    limit = 2 ** (m - 1) - 1
    y = np.where(finite, np.copysign(np.ldexp(np.minimum(k, limit), shared + 2 - m), x), np.nan) + 0.0
    y = torch.from_numpy(y).to(rows.dtype)
    return torch.where(y == 0, torch.zeros_like(y), y), torch.from_numpy((k > limit) & (e > shared) & finite)


@lru_cache
def blocks_of_every_exponent(fmt, width):
    """Rows whose largest magnitudes have every exponent field, subnormal and NaN too; beside them lie ties of the row's
    step, their neighbours, numbers far below it and zeros."""
    generator = torch.Generator().manual_seed(fmt.bits + fmt.exponent_bits)
    fields = torch.arange(256).repeat_interleave(3)
    fraction = torch.randint(2**23, fields.shape, generator=generator)
    fraction[::3], fraction[1::3] = 0, 2**23 - 1
    top = (fields << 23 | fraction).to(torch.int32).view(torch.float32)
    halves = torch.randint(2 ** min(fmt.mantissa_bits, 23), (len(top), width), generator=generator).double() / 2
    ties = halves * 2.0 ** (fields.double().unsqueeze(1) - 127 + 2 - fmt.mantissa_bits)
    near = ties.float().view(torch.int32) + torch.randint(-1, 2, ties.shape, generator=generator).to(torch.int32)
    x = near.clamp(min=0).view(torch.float32).minimum(top.unsqueeze(1))  # NaN where top is
    x *= torch.randint(2, x.shape, generator=generator) * 2 - 1
    x[:, 3::7] *= 2.0**-12
    x[:, 5::7] = 0
    x[:, 0] = top * (1 - 2 * (fields & 1))
    return x[:, torch.randperm(width, generator=generator)]


# any float, neighbours of powers of two, and (below) small multiples of a step
element = st.one_of(
    st.integers(0, 2**32 - 1).map(lambda b: b - 2**31),
    st.tuples(st.integers(-1, 1), st.integers(1, 254), st.integers(-2, 2)).map(
        lambda t: (t[1] << 23) + t[2] - (2**31 if t[0] < 0 else 0)
    ),
)
multiple = st.tuples(st.integers(-300, 300), st.sampled_from([0.5, 1.0, 0.25, 2.0**-10, 2.0**-120, 2.0**90]))


@st.composite
def tensors(draw):
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    count = math.prod(shape)
    if draw(st.booleans()):
        x = from_bits(draw(st.lists(element, min_size=count, max_size=count)))
    else:
        x = torch.tensor([k * s for k, s in draw(st.lists(multiple, min_size=count, max_size=count))])
    if draw(st.booleans()):
        x = x.nan_to_num(0.0, 1.0, -1.0)
    dtype = draw(st.sampled_from([torch.float32] * 3 + [torch.bfloat16, torch.float16]))
    x = x.view(shape).to(dtype)
    dim = draw(st.integers(0, x.ndim - 1))
    inner = tuple(d for d in range(x.ndim) if d != dim and draw(st.booleans()))
    order = draw(st.permutations(range(x.ndim)))
    return x.permute(order).contiguous().permute(*torch.tensor(order).argsort().tolist()), dim, inner


@each_path
@settings(max_examples=250, deadline=None)
@given(st.data(), tensors(), st.sampled_from(FORMATS), st.sampled_from(ROUNDINGS), st.integers(0, 9))
def test_every_bit_is_that_of_exact_arithmetic(path, data, tensor, fmt, rounding, seed):
    x, dim, inner = tensor
    bias = data.draw(st.one_of(st.none(), st.integers(-20, 10), st.integers(-300, 15)))
    draws = draws_of(torch.Generator().manual_seed(seed), x)
    expected, clipped = reference.quantize(x, fmt, dim, inner, bias, None, rounding, draws)
    generator = torch.Generator().manual_seed(seed)
    y, blocked = with_gradient(x, fmt, dim, inner, bias, None, rounding, generator)
    assert same(y, expected)
    assert torch.equal(blocked, clipped)
    assert strides(y) == strides(torch.empty_like(x))
    again = quantize(y, fmt, dim, inner, bias, None, rounding, generator)
    assert same(again, y)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("fmt", FORMATS[::13] + EXTREMES, ids=str)
def test_doubles_are_exact_arithmetic(fmt, rounding):
    rows = blocks_of_every_exponent(fmt, min(fmt.block_size, 9))[fmt.bits % 7 :: 7]
    draws = torch.rand(rows.shape, generator=torch.Generator().manual_seed(1))
    for bias in (None, -126, 0):
        y, clipped = in_doubles(rows, fmt, bias, rounding, draws)
        expected, exactly = reference.quantize(rows, fmt, 1, (), bias, None, rounding, draws)
        assert same(y, expected)
        assert torch.equal(clipped, exactly)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_every_format_and_rounding_at_every_exponent(monkeypatch, fmt, rounding):
    x = blocks_of_every_exponent(fmt, min(fmt.block_size, 64))
    key = torch.randint(-(2**63), 2**63 - 1, (1,), generator=torch.Generator().manual_seed(4))
    draws = torch_path.uniforms(x.shape, key) if rounding == "stochastic" else None
    for bias in (None, -126, 0):
        expected, clipped = in_doubles(x, fmt, bias, rounding, draws)
        for kernel in {native._kernel, None}:
            with monkeypatch.context() as patch:
                patch.setattr(native, "_kernel", kernel)
                y, blocked = with_gradient(x, fmt, 1, (), bias, None, rounding, torch.Generator().manual_seed(4))
            assert same(y, expected)
            assert torch.equal(blocked, clipped)
        # nothing to mark and x itself to write to: the kernel's shortest way
        generator = torch.Generator().manual_seed(4)
        assert same(quantize(x, fmt, 1, (), bias, None, rounding, generator, out=x.clone()), expected)


@each_path
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fmt", [BlockFormat(8, 3, 2), BlockFormat(16, 1, 2), BlockFormat(8, 6, 2)], ids=str)
def test_all_halves_as_block_maxima(path, dtype, fmt, rounding):
    top = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = torch.stack([top * torch.linspace(-1, 1, len(top), dtype=dtype), top], 1)
    key = torch.randint(-(2**63), 2**63 - 1, (1,), generator=torch.Generator().manual_seed(4))
    draws = torch_path.uniforms(x.shape, key)
    for bias in (None, -5):
        y = quantize(x, fmt, 1, (), bias, None, rounding, torch.Generator().manual_seed(4))
        assert same(y, in_doubles(x, fmt, bias, rounding, draws)[0])
        assert same(quantize(y, fmt, 1, (), bias, None, rounding), y)


# Tiles, rows, planes, short blocks, odd blocks and their tails all occur here; the last is cut into threads.
SHAPES = [
    ((3, 37, 257), 1, ()),
    ((2, 5, 16, 17), 1, ()),
    ((1, 19, 600), 1, ()),
    ((7, 50, 3, 3), 1, (2, 3)),
    ((11, 301), 1, ()),
    ((5000,), 0, ()),
    ((4, 9, 33), 0, ()),
    ((40, 33, 29), -1, ()),
]


@pytest.mark.skipif(native._kernel is None, reason="the kernel is not built")
@pytest.mark.parametrize(("shape", "dim", "inner"), SHAPES)
@pytest.mark.parametrize(
    ("dtype", "block_size"),
    [(torch.float32, b) for b in (1, 2, 7, 16, 24, 48, 100)]
    + [(torch.bfloat16, 16), (torch.bfloat16, 1), (torch.float16, 7), (torch.float16, 48)],
)
def test_compiled_path_equals_its_twin_on_any_bits(monkeypatch, dtype, shape, dim, inner, block_size):
    generator = torch.Generator().manual_seed(block_size)
    raw = torch.randint(-(2**31), 2**31, shape, generator=generator).to(torch.int32)
    raw = raw.view(torch.float32) if dtype == torch.float32 else raw.to(torch.int16).view(dtype)
    mild = (torch.randn(shape, generator=generator) * 4).to(dtype)
    fmt, kernel = BlockFormat(8, 2, block_size), native._kernel
    diverged = mild.masked_fill(mild > 14, torch.inf)
    cases = [(x, bias, "nearest") for x in (raw, mild, diverged) for bias in (None, -2, 14)]
    cases += [(mild, bias, rounding) for bias in (None, -2) for rounding in ROUNDINGS[1:]]
    for x, bias, rounding in cases:
        results = []
        for path in (kernel, None):
            monkeypatch.setattr(native, "_kernel", path)
            results.append(with_gradient(x, fmt, dim, inner, bias, None, rounding, torch.Generator().manual_seed(1)))
        monkeypatch.setattr(native, "_kernel", kernel)
        (fast, blocked), (slow, slow_blocked) = results
        assert same(fast, slow)
        assert torch.equal(blocked, slow_blocked)
        in_place = quantize(x, fmt, dim, inner, bias, None, rounding, torch.Generator().manual_seed(1), x.clone())
        assert same(in_place, slow)


@pytest.mark.skipif(native._kernel is None, reason="the kernel is not built")
@pytest.mark.parametrize("inner", [(2, 3), ()], ids=["long", "columns"])
@pytest.mark.parametrize("fmt", [BlockFormat(16, 1, 16), BlockFormat(8, 2, 24), BlockFormat(8, 6, 16)], ids=str)
def test_a_wrongly_guessed_bias_leaves_no_trace(monkeypatch, fmt, inner):
    x = torch.randn(90, 256, 3, 3, generator=torch.Generator().manual_seed(3))  # enough elements for a guess
    one = x.clone()
    one[70, 9, 1, 1] = 1e6
    for low, high in ((0, 0), (-36, 37), (37, -36), (-44, -38), (36, 37.8)):
        for values in (x, one):
            scaled = values * torch.logspace(low, high, len(x)).view(-1, 1, 1, 1)
            fast = quantize(scaled, fmt, 1, inner)
            with monkeypatch.context() as without:
                without.setattr(native, "_kernel", None)
                assert same(fast, quantize(scaled, fmt, 1, inner))


@each_path
def test_default_bias_passes_over_diverged_blocks_and_zero_blocks(path):
    fmt = BlockFormat(8, 2, 2)
    x = torch.tensor([[1.0, 0.3], [torch.inf, 1e30], [0.0, -0.0], [0.01, 0.02], [torch.nan, 0.0]])
    y = quantize(x, fmt)
    assert y[1].isnan().all()
    assert y[4].isnan().all()
    assert same(y[[0, 2, 3]], quantize(x[[0, 2, 3]], fmt))
    assert same(y[2], torch.zeros(2))
    only = torch.tensor([[torch.nan, 1.0], [0.0, 0.0]])
    assert same(quantize(only, fmt), torch.tensor([[torch.nan] * 2, [0.0] * 2]))


@each_path
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4), (0, 2, 3, 3)])
def test_empty_tensors_stay_empty(path, shape):
    x = torch.empty(shape, requires_grad=True)
    y = quantize(x, BlockFormat(8, 3, 16), dim=0)
    assert y.shape == x.shape
    y.sum().backward()
    assert x.grad.shape == x.shape


@each_path
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.transpose(0, 1),
        lambda x: x[:, ::2],
        lambda x: x[1:, :, 1:, :2],
        lambda x: x[..., None, 0],
        lambda x: x[:1].expand(3, -1, -1, -1),
        lambda x: x.flatten().as_strided((2, 5, 3, 3), (7, 2, 1, 1)),
        lambda x: x.flatten()[1:181].view(4, 5, 3, 3),
    ],
    ids=["channels_last", "transposed", "strided", "sliced", "unit", "expanded", "overlapping", "offset"],
)
def test_layout_does_not_matter(path, view):
    x = view(torch.randn(6, 10, 4, 5, generator=torch.Generator().manual_seed(1)) * 8)
    fmt = BlockFormat(8, 3, 4)
    kept = x.clone()
    for dim, inner in [(0, ()), (1, ()), (-1, ()), (1, (2, 3)), (1, (-2, -1)), (0, (2,)), (2, (1, 3))]:
        y, blocked = with_gradient(x, fmt, dim, inner, -5)
        plain, plain_blocked = with_gradient(
            x.clone(memory_format=torch.contiguous_format), fmt, dim, inner, -5
        )
        assert same(y, plain)
        assert torch.equal(blocked, plain_blocked)
        exact, _ = reference.quantize(x, fmt, dim % x.ndim, tuple(d % x.ndim for d in inner), -5)
        assert same(y, exact)
        assert strides(y) == strides(torch.empty_like(x))
    assert torch.equal(x, kept)


GAPS = {
    "half": lambda x: x[:, :7],
    "every second": lambda x: x[:, ::2],
    "crop": lambda x: x[:, :, 1:-1, 2:-1],
    "batches": lambda x: x[::2],
    "one column": lambda x: x[..., :1],
    "expanded": lambda x: x[:1].expand(4, -1, -1, -1),
    "half of channels last": lambda x: x.to(memory_format=torch.channels_last)[:, :7],
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "turned": lambda x: x.transpose(1, 3)[1:],
}
"""Views whose memory has gaps, or whose blocks lie scattered for some axes below."""


@pytest.mark.skipif(native._kernel is None, reason="the kernel is not built")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("view", GAPS)
def test_views_take_the_kernel_and_keep_their_bits(monkeypatch, view, dtype):
    x = GAPS[view]((torch.randn(6, 14, 5, 9, generator=torch.Generator().manual_seed(1)) * 4).to(dtype))
    fmt, kept = BlockFormat(8, 3, 4), x.clone()
    outs = {
        "dense": lambda: torch.empty_like(x),
        "in order": lambda: torch.empty(x.shape, dtype=dtype),
        "turned": lambda: torch.empty(x.shape[::-1], dtype=dtype).permute(3, 2, 1, 0),
        "with gaps": lambda: torch.empty((*x.shape, 2), dtype=dtype)[..., 0],
    }
    if view != "expanded":  # which has one memory for many elements
        outs["itself"] = lambda: x
    for dim, inner in ((1, ()), (-1, ()), (1, (2, 3)), (0, (2,)), (2, (0,))):
        for bias, rounding in ((None, "nearest"), (-5, "toward_zero"), (-5, "stochastic"), (None, "stochastic")):
            if rounding == "stochastic" and inner in ((2,), (0,)):
                continue  # draws have one order and blocks another: the torch path's
            arguments = fmt, dim, inner, bias, None, rounding
            with monkeypatch.context() as patch:
                patch.setattr(native, "_kernel", None)
                expected, clipped = with_gradient(x, *arguments, torch.Generator().manual_seed(2))
            with monkeypatch.context() as patch:
                patch.delattr(torch_path, "quantize")
                y, blocked = with_gradient(x, *arguments, torch.Generator().manual_seed(2))
                assert same(y, expected)
                assert torch.equal(blocked, clipped)
                assert y.stride() == expected.stride() == torch.empty_like(x).stride()
                assert bias is None or blocked.any()
                for make in outs.values():
                    out = make()
                    assert quantize(x, *arguments, torch.Generator().manual_seed(2), out=out) is out
                    assert same(out, expected)
                    if out is x:
                        x.copy_(kept)
            assert torch.equal(x, kept)


def test_memory_that_two_storages_share_is_no_copy():
    memory = np.linspace(-4, 4, 120, dtype=np.float32)
    x, out = (torch.from_numpy(memory[at : at + 100]).view(10, 10) for at in (0, 13))
    expected = quantize(x.clone(), BlockFormat(8, 3, 4))
    assert same(quantize(x, BlockFormat(8, 3, 4), out=out), expected)


@pytest.mark.parametrize("stride", [(0, 0), (1, 10), (40, 2)])
def test_gradient_of_any_strides_is_blocked_where_it_must(stride):
    x = (torch.randn(7, 20, generator=torch.Generator().manual_seed(1)) * 4).requires_grad_()
    y = quantize(x, BlockFormat(8, 3, 16), exponent_bias=-7)
    upstream = torch.randn(400, generator=torch.Generator().manual_seed(2)).as_strided((7, 20), stride)
    (found,) = torch.autograd.grad(y, x, upstream)
    blocked = reference.quantize(x.detach(), BlockFormat(8, 3, 16), exponent_bias=-7)[1]
    assert blocked.any()
    assert torch.equal(found, upstream.masked_fill(blocked, 0))


def test_recipes_are_checked_once_and_told_apart():
    x, fmt = torch.ones(2, 3), BlockFormat(8, 3, 16)
    recipe = recipe_for(x, fmt, -1)
    assert recipe == Recipe(fmt, Axes(1), None, "nearest")
    assert recipe_for(torch.zeros(5, 6), fmt, -1) is recipe  # of as many axes
    assert {recipe: 1}[recipe_for(x, fmt, 1)] == 1
    assert recipe_for(x, fmt, 1, exponent_bias=1) != recipe
    with pytest.raises(BitqError, match="must be whole"):  # although 1.0 == 1
        recipe_for(x, fmt, 1, exponent_bias=1.0)
    assert recipe_for(x, fmt, 1, exponent_bias=15) == recipe_for(x.half(), fmt, 1, exponent_bias=15)
    with pytest.raises(BitqError, match=r"-512\.\.15"):
        recipe_for(x.half(), fmt, 1, exponent_bias=16)
    assert recipe_for(x, fmt, 1, exponent_bias=16).exponent_bias == 16


def test_padding_of_a_short_block_touches_nothing():
    fmt = BlockFormat(8, 3, 16)
    x = torch.randn(4, 21, 3, generator=torch.Generator().manual_seed(2))
    y = quantize(x, fmt, exponent_bias=-6)
    assert same(y[:, :16], quantize(x[:, :16], fmt, exponent_bias=-6))
    assert same(y[:, 16:], quantize(x[:, 16:], fmt, exponent_bias=-6))


@given(st.integers(-160, 127), st.floats(1, 2, exclude_max=True, width=32), st.sampled_from(FORMATS))
def test_calibrated_bias_gives_the_top_code(exponent, fraction, fmt):
    largest = math.ldexp(fraction, exponent)
    assert exponent_bias_for(largest, fmt) == max(exponent, -127) - fmt.top_code
    x = torch.tensor([[largest, -largest / 3]])
    bias = exponent_bias_for(x, fmt)
    if x[0, 0] > 0:
        assert same(quantize(x, fmt, exponent_bias=bias), quantize(x, fmt))


def test_calibrated_bias_of_odd_tensors():
    fmt = BlockFormat(8, 3, 16)
    assert exponent_bias_for(torch.tensor([torch.nan, -6.0, torch.inf]), fmt) == 2 - 7
    assert exponent_bias_for(torch.zeros(3), fmt) == exponent_bias_for(0.0, fmt) == -7
    assert exponent_bias_for(torch.empty(0), fmt) == -7
    for nonsense in (-1.0, math.nan, math.inf):
        with pytest.raises(BitqError, match="finite"):
            exponent_bias_for(nonsense, fmt)


def test_stochastic_rounding_is_unbiased_and_follows_its_generator():
    fmt = BlockFormat(8, 3, 4)
    x = torch.tensor([[1.9, 0.3, -0.77, 0.06]]).expand(40000, 4).contiguous()  # step 1/8

    def draw(seed):
        return quantize(x, fmt, rounding="stochastic", generator=torch.Generator().manual_seed(seed))

    y = draw(1)
    assert same(y, draw(1))
    assert not same(y, draw(2))
    error = (y.mean(0) - x[0]).abs()
    # 1.9 is clipped to 15/8 from above; of the others, five standard errors of a step
    assert (error[1:] < 5 * 0.125 * 0.5 / math.sqrt(len(x))).all()
    assert (y - x).abs().max() < 0.125


def test_stochastic_rounding_leaves_multiples_of_the_step():
    x = torch.tensor([[1.875, -0.125, 0.0, -1.0]]).repeat(10000, 1)
    assert same(quantize(x, BlockFormat(8, 3, 4), rounding="stochastic"), x)


@each_path
def test_saturated_blocks_pass_no_gradient_where_they_clip(path):
    fmt = BlockFormat(8, 2, 3)  # 6 bits: largest mantissa 31; codes reach E = 0..3
    x = torch.tensor([[31.0, 8.0, 0.1], [15.9, 1.0, 0.0], [torch.inf, 9.0, 1.0]], requires_grad=True)
    y = quantize(x, fmt, exponent_bias=0)
    assert torch.equal(y[0], torch.tensor([15.5, 8.0, 0.0]))
    assert torch.equal(y[1], torch.tensor([15.5, 1.0, 0.0]))  # E = 3 fits e: rounding up to 16 is no overflow
    upstream = torch.tensor([[2.0, 3.0, 4.0]] * 3)
    y.backward(upstream)
    assert torch.equal(x.grad, torch.tensor([[0.0, 3.0, 4.0], [2.0, 3.0, 4.0], [2.0, 3.0, 4.0]]))


@each_path
def test_gradient_is_that_of_the_identity_by_default(path):
    x = torch.randn(3, 20, 5, requires_grad=True)
    upstream = torch.randn(3, 20, 5)
    quantize(x, BlockFormat(8, 2, 16)).backward(upstream)
    assert torch.equal(x.grad, upstream)
    assert not quantize(x.detach(), BlockFormat(8, 2, 16)).requires_grad
    with torch.no_grad():
        assert not quantize(x, BlockFormat(8, 2, 16)).requires_grad


@pytest.fixture(params=["kernels", "torch"])
def gpu_path(request, monkeypatch):
    """Runs a test on each path of a GPU."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if request.param == "torch":
        monkeypatch.setattr(paths, "gpu_kernels", lambda device: None)
    elif paths.gpu_kernels(torch.device("cuda", torch.cuda.current_device())) is None:
        pytest.skip("Triton is missing or does not work here")


@pytest.mark.usefixtures("gpu_path")
def test_cuda_equals_cpu():
    raw = torch.randint(-(2**31), 2**31, (4, 50, 31)).to(torch.int32).view(torch.float32)
    for x in (raw, torch.randn(4, 50, 31) * 4):
        for bias in (None, -3):
            for fmt in FORMATS:
                here, there = (with_gradient(t, fmt, exponent_bias=bias) for t in (x, x.cuda()))
                assert same(here[0], there[0].cpu())
                assert torch.equal(here[1], there[1].cpu())


@pytest.mark.usefixtures("gpu_path")
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cuda_equals_cpu_in_every_layout(dtype, rounding):
    generator = torch.Generator().manual_seed(8)
    for shape, dim, inner in [*SHAPES, ((4, 48, 16, 16), 1, ()), ((3, 64, 9, 5), 1, ())]:
        raw = torch.randint(-(2**31), 2**31, shape, generator=generator).to(torch.int32)
        raw = raw.view(torch.float32) if dtype == torch.float32 else raw.to(torch.int16).view(dtype)
        mild = (torch.randn(shape, generator=generator) * 4).to(dtype)
        layouts = [raw, mild, mild.transpose(0, -1)]
        layouts += [mild.to(memory_format=torch.channels_last)] if mild.ndim == 4 else []
        for x, block_size, bias in product(layouts, (1, 2, 16, 24, 100), (None, -2)):
            arguments = BlockFormat(8, 2, block_size), dim, inner, bias, None, rounding
            there = x.cuda()
            here, found = (with_gradient(t, *arguments, torch.Generator().manual_seed(4)) for t in (x, there))
            assert same(here[0], found[0].cpu())
            assert torch.equal(here[1], found[1].cpu())
            quantize(there, *arguments, torch.Generator().manual_seed(4), out=there)
            assert same(here[0], there.cpu())


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda f: quantize(torch.ones(2, 3, dtype=torch.float64), f), "not torch.float64"),
        (lambda f: quantize(torch.ones(2, 3, dtype=torch.int32), f), "not torch.int32"),
        (lambda f: quantize(torch.ones(3), f), "do not fit"),
        (lambda f: quantize(torch.tensor(1.0), f, dim=0), "do not fit"),
        (lambda f: quantize(torch.ones(2, 3), f, dim=-3), "do not fit"),
        (lambda f: quantize(torch.ones(2, 3), f, inner_dims=(2,)), "do not fit"),
        (lambda f: quantize(torch.ones(2, 3), f, inner_dims=(-1,)), "twice"),
        (lambda f: quantize(torch.ones(2, 3), f, rounding="up"), "must be one of nearest"),
        (lambda f: quantize(torch.ones(2, 3), f, exponent_bias=128), "-512..127"),
        (lambda f: quantize(torch.ones(2, 3), f, exponent_bias=-513), "-512..127"),
        (lambda f: quantize(torch.ones(2, 3), f, exponent_bias=1.5), "must be whole"),
        (lambda f: quantize(torch.ones(2, 3).half(), f, exponent_bias=16), r"-512..15"),
    ],
)
def test_mistakes_are_told(call, reason):
    with pytest.raises(BitqError, match=reason):
        call(BlockFormat(8, 3, 16))
