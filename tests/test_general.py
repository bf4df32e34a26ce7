"""`quantize` in formats of every kind: numbers worked out by hand, and what has to hold for all numbers."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bitq.errors import BitqError
from bitq.formats import PRESETS, BlockFormat, parse_format
from bitq.formats.scales import SharedExponent
from bitq.numerics import block_rows, exponent_bias_for, general, ops, paths, quantize, sums, torch_path
from bitq.numerics.recipe import Axes, Recipe, range_of, range_patterns, recipe_for

LEVELS = "l(-1;-0.5;0;0.25;1)"

BY_HAND = {
    # power of two of the largest, 2^(2 - 2) = 1: 5 ties to 4, 7 saturates
    "e2m1:e8m0:v8": ([7, -5, 3.5, 2.5, 1.75, 0.75, 0.25, -0.2], [6, -4, 4, 2, 2, 1, 0, 0]),
    "e2m1:e8m0:v8:half_away": ([7, -5, 3.5, 2.5, 1.75, 0.75, 0.25, -0.2], [6, -6, 4, 3, 2, 1, 0.5, 0]),
    "e2m1:e8m0:v8:toward_zero": ([7, -5, 3.5, 2.5, 1.75, 0.75, 0.25, -0.2], [6, -4, 3, 2, 1.5, 0.5, 0, 0]),
    # 5 is above 4: scale 2^(3 - 2)
    "e2m1:e8m0.ceil:v4": ([5, 1, 2.5, -0.5], [4, 1, 2, 0]),
    # 6 < 7, so scale 2; 6 itself keeps scale 1
    "e2m1:e8m0.rceil:v2": ([7, 1, 6, 0.5], [8, 1, 6, 0.5]),
    # 7 rounds up to 8 with one bit of mantissa, 6.9 to 6
    "e2m1:e8m0.even:v2": ([7, 1, 6.9, 0.5], [8, 1, 6, 0.5]),
    # exponents are -1..1 (e2m0f): 40 counts up to 1.5 * 2^1, 0.1 in steps of 2^-1 / 2
    "s3:e2m0f:v2": ([40, 0.9, 0.1, 0.13], [6, 0, 0, 0.25]),
    # the bias is 3 - 7, below which the second block lies: scale 2^(-4 - 2)
    "e2m1:e3:v2": ([8, 0.5, 2.0**-5, 2.0**-8], [8, 0, 2.0**-5, 0]),
    # scale 127 / 127: k
    "i8:f32:channel": ([127, -63.5, 2.5, -0.5], [127, -64, 2, 0]),
    # the largest scale is 6 * 448 / (6 * 448) = 1 times 448
    "e2m1:e4m3*f32:v2": ([2688, 448, 6, -2.5, 0, 0], [2688, 448, 6, -2, 0, 0]),
    # 10 / 6 is between 1.625 and 1.75 of e4m3
    "e2m1:e4m3:v4": ([10, 5, 1, 0.25], [9.75, 4.875, 0.8125, 0]),
    "e2m1:e4m3.up:v4": ([10, 5, 1, 0.25], [10.5, 5.25, 0.875, 0]),
    # scale 1, zero point 5
    "u4:f32:channel": ([-5, 10, 0.5, 1.5], [-5, 10, 0, 2]),
    # all above 0, which is in the range: scale 1, zero point 0
    "u4:f32:tensor": ([15, 2.5, 3.5, 7], [15, 2, 4, 7]),
    # steps of 2^1 / 8: negative numbers are 0, also for the exponent of the second block
    "n4:e8m0:v4": ([3.9, 0.6, -100, 0.125, -8, 0.11, 0, 0.06], [3.75, 0.5, 0, 0, 0, 0.109375, 0, 0.0625]),
    # scale 4: -4, -2, 0, 1, 4; 2.5 is halfway between 1 (index 3) and 4 (index 4), -1 between -2 (1) and 0 (2)
    LEVELS + ":e8m0:v4": ([4, 2.5, -1, -3.1], [4, 4, 0, -4]),
    LEVELS + ":f32:channel:half_away": ([4, 2.5, -1, -3.1], [4, 4, -2, -4]),
    LEVELS + ":f32:channel:toward_zero": ([4, 2.5, -1.9, -3.1], [4, 1, 0, -2]),
    # plain floats: ties to even, subnormal numbers, saturation or infinity
    "e4m3": ([500, 464, 17, 19, -0.001], [448, 448, 16, 20, -0.001953125]),
    "e5m2": ([61440, 61439, -1e9, 1.125, 1e-9], [math.inf, 57344, -math.inf, 1, 0]),
    # without mantissa bits codes count: 1.5 is between 2^0 (code 3) and 2^1 (code 4), 3 between 4 and 5 (2^2)
    "e3m0": ([1.5, 3, 100, 0.125], [2, 2, 16, 0]),
}


@pytest.mark.parametrize("text", BY_HAND)
def test_numbers_worked_out_by_hand(text):
    x, expected = (torch.tensor([numbers], dtype=torch.float32) for numbers in BY_HAND[text])
    assert quantize(x, parse_format(text)).tolist() == expected.tolist()


# What has to hold for all numbers

FORMATS = {
    text: parse_format(text)
    for text in (
        *("mxfp4", "nvfp4", "int4", "uint8", "fp8e4m3", "flexblock12", "fp16"),
        "e4m3:e5m0i.rceil:b5p2",
        "e3m2:e6:t2x3:half_away",
        "n5:e3m4*f32:b7:stochastic",
        "n3:e8m0:v3",
        "u3:f16.up:b4:stochastic",
        LEVELS + ":bf16:channel:toward_zero",
        LEVELS + ":e4:v4:stochastic",
        "i2+i3:e2m1s*e8m0:v4",
        "e5m7:stochastic",
    )
}
each_format = pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)


def sample(*shape, seed=3):
    x = torch.randn(shape or (3, 10, 4, 5), generator=torch.Generator().manual_seed(seed))
    return x * torch.logspace(-2, 2, x.shape[1]).view(-1, *[1] * (x.ndim - 2))


def bits(x):
    """Bit patterns, with one pattern for all NaN."""
    pattern = torch.int32 if x.dtype == torch.float32 else torch.int16
    return x.masked_fill(x.isnan(), torch.nan).contiguous().view(pattern)


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def seeded():
    return torch.Generator().manual_seed(5)


def with_gradient(x, fmt, *args, **kwargs):
    leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = quantize(leaf, fmt, *args, **kwargs)
    (grad,) = torch.autograd.grad(y, leaf, torch.ones_like(y))
    return y.detach(), grad


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(["e2m1", "e4m3", "e5m2", "e1m2", "e3m0", "s6", "i9", "n4", LEVELS]),
    st.sampled_from(["e3", "e8", "e8m0", "e5m0i", "e4m0f.ceil", "e8m0.even", "e6m0.rceil"]),
    st.sampled_from(["b3", "v5", "b2p2", "t2x3", "channel", "tensor"]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.integers(-140, 126),
    st.integers(0, 99),
)
def test_under_powers_of_two_quantizing_again_changes_nothing(element, scale, geometry, dtype, exponent, seed):
    assume(element != LEVELS or "." not in scale)  # the largest number may fall by more than a half to a level between
    x = (sample(2, 7, 3, 3, seed=seed).double() * 2.0**exponent).clamp(-1e38, 1e38).to(dtype).nan_to_num(0, 1, -1)
    fmt = parse_format(f"{element}:{scale}:{geometry}")
    bias = exponent_bias_for(x, fmt) if isinstance(fmt.scale, SharedExponent) else None
    y = quantize(x, fmt, 1, (2, 3), bias)
    assert same(quantize(y, fmt, 1, (2, 3), bias), y)
    assert y.isfinite().all()
    if dtype != torch.float16:
        assert ((y.float().abs() >= 2.0**-126) | (y == 0)).all()


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["i8", "i4", "e4m3", "e5m2"]), st.integers(-90, 90), st.integers(0, 10**6))
def test_under_float32_scales_quantizing_again_changes_nothing(element, exponent, seed):
    x = sample(4, 33, seed=seed) * 2.0**exponent
    fmt = parse_format(f"{element}:f32:channel")
    y = quantize(x, fmt)
    assert same(quantize(y, fmt), y)


@pytest.mark.parametrize("parts", ["e2m1:e8m0", "i5:f32", "u4:f32", "e2m1:e4m3*f32:", LEVELS + ":bf16", "n4:e3"])
def test_geometries_that_are_the_same_blocks_give_the_same(parts):
    def f(geometry, x, dim=1, inner=()):
        return quantize(x, parse_format(f"{parts.removesuffix(':')}:{geometry}"), dim, inner)

    x = sample()
    assert same(f("channel", x, 1, (2, 3)), f("b999", x, 1, (2, 3)))
    assert same(f("channel", x), f("v10", x))
    assert same(f("v4", x), f("b4", x))
    assert same(f("v4", x, 1, (2, 3)), f("b4", x))
    assert same(f("b4p1", x, 1, (2, 3)), f("v4", x))
    assert same(f("b4p9", x), f("b4", x, 1, (2, 3)))
    assert same(f("t1x4", x, 1, (2, 3)), f("v4", x))
    assert same(f("t9x99", x[:, :, 0, 0]), f("tensor", x[:, :, 0, 0]))
    assert same(f("tensor", x), f("b99", x, 1, (0, 2, 3)))
    tiles = [torch.cat([f("tensor", part) for part in row.split(4, 1)], 1) for row in x[:, :, 1, 2].split(2)]
    if "*" not in parts and not parts.endswith("e3"):
        assert same(f("t2x4", x, 1, (2, 3))[:, :, 1, 2], torch.cat(tiles))
        patches = [torch.cat([f("tensor", part) for part in row.split(2, 2)], 2) for row in x[0, 4:8].split(2, 1)]
        assert same(f("b4p2", x)[0, 4:8], torch.cat(patches, 1))


@each_format
def test_blocks_with_nan_or_infinity_are_nan_and_count_in_nothing_shared(fmt):
    if fmt.scale is None:
        return
    x = sample()
    expected = quantize(x.index_fill(0, torch.tensor([1]), 0), fmt, 1, (2, 3), generator=seeded())
    geometry = fmt.geometry.lengths(tuple(x.shape), 1, (2, 3))
    for bad in (torch.nan, torch.inf, -torch.inf):
        broken = x.index_fill(0, torch.tensor([1]), 0)
        broken[1, 3, 2, 1] = bad
        y = quantize(broken, fmt, 1, (2, 3), generator=seeded())
        at = [slice(i // n * n, i // n * n + n) for i, n in zip((1, 3, 2, 1), geometry, strict=True)]
        assert y[tuple(at)].isnan().all()
        inside = torch.zeros_like(x, dtype=torch.bool)
        inside[tuple(at)] = True
        assert torch.equal(y.isnan(), inside)
        assert same(y.masked_fill(inside, 0), expected.masked_fill(inside, 0))


@each_format
def test_empty_tensors_stay_empty_and_zeros_zero(fmt):
    for shape in ((0, 4), (3, 0, 2), (0,)):
        assert quantize(torch.empty(shape), fmt, 0).shape == shape
    zeros = torch.zeros(3, 5, dtype=torch.bfloat16)
    assert same(quantize(zeros, fmt), zeros)
    assert not quantize(-zeros, fmt, rounding="nearest").any()


@each_format
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_layout_and_chunk_gives_the_same(fmt, dtype, monkeypatch):
    x = sample().to(dtype)
    expected, gradient = with_gradient(x, fmt, 1, (2, 3), generator=seeded())
    layouts = [x.to(memory_format=torch.channels_last), x.transpose(0, 3).contiguous().transpose(0, 3)]
    layouts += [torch.stack([x, x], -1)[..., 1]]
    for laid in layouts:
        y, grad = with_gradient(laid, fmt, 1, (2, 3), generator=seeded())
        assert same(y, expected)
        assert y.stride() == torch.empty_like(laid).stride()
        assert torch.equal(grad, gradient)
        out = laid.clone()
        assert quantize(out, fmt, 1, (2, 3), generator=seeded(), out=out) is out
        assert same(out, expected)
    monkeypatch.setattr(block_rows, "AT_ONCE", 7)
    y, grad = with_gradient(x, fmt, 1, (2, 3), generator=seeded())
    assert same(y, expected)
    assert torch.equal(grad, gradient)


@each_format
def test_short_blocks_are_blocks_of_their_own(fmt):
    if fmt.geometry is None or fmt.needs_range or fmt.rounding == "stochastic" or "t" in str(fmt.geometry.text):
        return
    size = fmt.geometry.lengths((3, 10, 4, 5), 1, ())[1]
    x = sample()
    y = quantize(x, fmt)
    assert same(y[:, : size], quantize(x[:, : size].contiguous(), fmt))
    last = (x.shape[1] - 1) // size * size
    assert same(y[:, last:], quantize(x[:, last:].contiguous(), fmt))


def test_results_stay_within_the_largest_finite_number():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        most = torch.finfo(dtype).max
        x = torch.tensor([[most, -most, most * 0.9, 1.0]], dtype=dtype)
        for text in ("e2m1:e8m0.ceil:v4", "i8:f32:channel", "e4m3:e8:v4", LEVELS + ":f32:v4", "u8:f32:tensor"):
            assert quantize(x, parse_format(text)).isfinite().all()
    assert quantize(torch.tensor([65504.0]).half(), parse_format("bf16"), 0).item() == 65504


# The range of a tensor


def test_the_tensors_own_range_is_the_default():
    x = sample()
    low, high = x.min().item(), x.max().item()
    shared = ("nvfp4", "int8-tensor", "uint8", "fp8e4m3", "n4:e8m0.rceil:tensor", "8:e4:b16", "n4:e3:v4", "e2m1:e2:v4")
    for fmt in map(parse_format, shared):
        y, grad = with_gradient(x, fmt, 1, (2, 3), tensor_range=(low, high))
        expected, own = with_gradient(x, fmt, 1, (2, 3))
        assert same(y, expected)
        assert torch.equal(grad, own)


def test_a_range_stands_for_the_tensors_own():
    x = torch.tensor([[1.0, 2.0, 7.9, -9.0]])
    y, grad = with_gradient(x, parse_format("i4:f32:tensor"), tensor_range=(-3, 7))  # scale 1
    assert y.tolist() == [[1, 2, 7, -7]]
    assert grad.tolist() == [[1, 1, 0, 0]]  # 7.9 rounds to 8
    y, grad = with_gradient(x, parse_format("u4:f32:tensor"), tensor_range=(1, 7.5))  # 0 is in the range: scale 1/2
    assert y.tolist() == [[1, 2, 7.5, 0]]
    assert grad.tolist() == [[1, 1, 0, 0]]
    y, grad = with_gradient(x, parse_format("e2m1:e4m3*f32:v2"), tensor_range=(0, 2.625))  # 2688 / 1024: scales/1024
    assert y.tolist() == [[3 * 352 / 1024, 6 * 352 / 1024, 2.625, -2.625]]
    assert grad.tolist() == [[1, 1, 0, 0]]
    assert quantize(x, parse_format("e2m1:e8m0:v2"), tensor_range=(-1, 1)).tolist() == [[1, 2, 8, -8]]  # shares nothing
    fmt = BlockFormat(8, 3, 4)
    assert same(quantize(x, fmt, tensor_range=(-3, 7)), quantize(x, fmt, exponent_bias=exponent_bias_for(7.0, fmt)))


def test_gradient_is_blocked_where_a_scale_is_limited():
    x = torch.tensor([[100.0, 7.0, 1.0], [7.0, 6.9, 0.0]])
    y, grad = with_gradient(x, parse_format("e2m1:e2m0f:v3"))  # exponents of scales -1..2, and 6 of 100
    assert y.tolist() == [[24, 8, 0], [6, 6, 0]]
    assert grad.tolist() == [[0, 1, 1], [1, 1, 1]]  # 7 saturates under the scale of its block's own
    y, grad = with_gradient(x, parse_format("i3:e2m1:v3"))  # scales up to 6
    assert y.tolist() == [[18, 6, 0], [6, 6, 0]]
    assert grad.tolist() == [[0, 1, 1], [1, 1, 1]]
    _, grad = with_gradient(torch.tensor([[-1.0, 1.0, -0.0]]), parse_format("n4:f32:v3"))
    assert grad.tolist() == [[0, 1, 1]]


def test_ranges_survive_as_integers():
    for low, high in ((0.0, 1.0), (-0.1, 3e38), (-(2.0**-149), 2.0**-130), (-1.5, 0.0)):
        single = torch.tensor([low, high]).tolist()
        assert list(range_of(range_patterns(low, high))) == single
        recipe = recipe_for(torch.ones(2, 2), parse_format("uint8"), 1, tensor_range=(low, high))
        assert list(recipe.tensor_range) == single


def test_recipes_keep_what_their_format_needs():
    x = torch.ones(2, 3)
    fmt = parse_format("8:e4:v16:stochastic")
    assert recipe_for(x, fmt, 1, tensor_range=(-1.5, 8)) == Recipe(fmt, Axes(1), 3 - 15, "stochastic")
    assert recipe_for(x, fmt, 1, rounding="half_away").rounding == "half_away"
    assert recipe_for(x, parse_format("mxfp4"), 1, tensor_range=(-1, 1)).tensor_range is None
    assert recipe_for(x, parse_format("nvfp4"), 1, tensor_range=(1, 2)).tensor_range == (0, 2)
    assert recipe_for(x.half(), parse_format("nvfp4"), 1, tensor_range=(-1e6, 2)).tensor_range == (-65504, 2)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda x: quantize(x, PRESETS["mxfp4"], exponent_bias=0), "formats with a scale eN, .* not of e2m1"),
        (lambda x: quantize(x, PRESETS["fast4"], exponent_bias=0, tensor_range=(0, 1)), "give one of them"),
        (lambda x: quantize(x, PRESETS["int8"], tensor_range=(1, 0)), "least and the largest"),
        (lambda x: quantize(x, PRESETS["int8"], tensor_range=(0, math.nan)), "two finite numbers"),
        (lambda x: quantize(x, PRESETS["int8"], tensor_range=(-math.inf, 0)), "two finite numbers"),
        (lambda x: quantize(x, PRESETS["int8"], tensor_range=(1,)), "two finite numbers"),
        (lambda x: quantize(x, PRESETS["bsfp"], rounding="stochastic"), "is rounded to nearest"),
        (lambda x: quantize(x, PRESETS["int8"], rounding="up"), "must be one of nearest"),
        (lambda x: quantize(x.double(), PRESETS["fp16"]), "not torch.float64"),
        (lambda x: exponent_bias_for(1.0, PRESETS["int8"]), "i8:f32:channel has no exponent bias"),
    ],
)
def test_mistakes_are_told(call, reason):
    with pytest.raises(BitqError, match=reason):
        call(torch.ones(2, 3))


# Sums of two


def test_summed_integers_have_the_least_squared_error():
    fmt = parse_format("i2+i2:e2m1s*e8m0:v3")
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    unit = 2.0 ** (math.floor(math.log2(x.abs().max().item())) - 2)  # the largest scale is 6
    sizes = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    scales = [sign * size * unit for size in sizes for sign in (1, -1)]
    for row, y in zip(x.double(), quantize(x, fmt).double(), strict=True):
        least = math.inf
        for s1 in scales:
            for s2 in scales:
                if abs(s1) >= abs(s2):
                    sums = [s1 * a + s2 * b for a in range(-2, 2) for b in range(-2, 2)]
                    errors = (row[:, None] - torch.tensor(sums, dtype=torch.float64)).square().amin(1)
                    least = min(least, errors.sum().item())
        assert (row - y).square().sum().item() == pytest.approx(least, rel=1e-6)


def test_a_table_of_errors_leaves_out_no_pair_that_is_the_best(monkeypatch):
    fmt = PRESETS["bsfp"]
    x = torch.randn(40, 16, generator=torch.Generator().manual_seed(2)) * torch.logspace(-3, 0, 40).view(-1, 1)
    x[0], x[1, 3:], x[2, 1] = 0, 0, 5.0
    found = []
    for few in (1000, 1, 128):  # tried: all of 40 blocks; those that one pair does not settle; a few
        monkeypatch.setattr(sums, "_WORTH_IT", few if few > 40 else 1)
        monkeypatch.setattr(sums, "_FEW", few)
        found.append(quantize(x, fmt).double())
    errors = [(x - y).square().sum(1) for y in found]
    assert torch.allclose(errors[1], errors[0], rtol=1e-6, atol=0)
    assert torch.allclose(errors[2], errors[0], rtol=1e-6, atol=0)


# PyTorch's transformations


@each_format
def test_operator_is_what_pytorch_expects(fmt):
    recipe = recipe_for(torch.ones(1, 1, 1, 1), fmt, 1, (2, 3), tensor_range=(-3.0, 2.0))
    key = torch.tensor([5]) if recipe.rounding == "stochastic" else None
    x = sample(2, 6, 3, 2).requires_grad_()
    torch.library.opcheck(torch.ops.bitq.quantize.default, (x, *ops._flat(recipe), key, True))


@each_format
def test_compiles_without_a_graph_break(fmt, monkeypatch):
    def f(t):
        return quantize(t, fmt, 1, (2, 3), tensor_range=(-3.0, 2.0), rounding="nearest")

    def g(leaf, call):
        y = call(leaf)
        return y, torch.autograd.grad((y * y).nansum(), leaf)[0]

    x = sample(2, 6, 3, 2)
    expected = g(x.requires_grad_(), f)
    for fused in (False, True):  # on a GPU the path of PyTorch's own operations is compiled
        torch.compiler.reset()
        monkeypatch.setattr(ops, "_fused", lambda x, fused=fused: fused and torch.compiler.is_compiling())
        found = g(x, torch.compile(f, backend="aot_eager", fullgraph=True))
        assert same(found[0].detach(), expected[0].detach())
        assert torch.equal(found[1], expected[1])


@each_format
def test_vmap_treats_each_sample_alone(fmt):
    def f(t):
        return quantize(t, fmt, 0, (1, 2), rounding="nearest", exponent_bias=bias)

    bias = -9 if isinstance(fmt.scale, SharedExponent) else None
    x = sample()
    assert same(torch.func.vmap(f)(x), torch.stack([f(t) for t in x]))
    grads = torch.func.vmap(torch.func.grad(lambda t: f(t).square().sum()))(x)
    assert torch.equal(grads, torch.stack([torch.func.grad(lambda t: f(t).square().sum())(t) for t in x]))


def test_uniform_steps_are_the_same_on_both_paths():
    texts = ("8:e4:b4", "s7:e5m0i:v4", "n4:e3:v3", "n3:e8m0:channel", "i5:e3m0f:tensor:half_away")
    for fmt in map(parse_format, (*texts, "s4:e8m0:b2:stochastic")):
        recipe = recipe_for(sample(), fmt, 1, (2, 3))
        key = torch.tensor([7]) if recipe.rounding == "stochastic" else None
        for x in (sample(), sample().half(), torch.full((2, 4, 1, 1), 2.0**-140)):
            (a, b), (c, d) = (path.quantize(x, recipe, key, True) for path in (torch_path, general))
            assert same(a, c)
            assert (b is None and (d is None or not d.any())) or torch.equal(b, d)
            assert same(paths.quantize(x, recipe, key)[0], c)


def test_sums_of_few_pairs_of_scales_are_all_tried():
    fmt, x = parse_format("i2+i3:e1m1ns*e8m0:b2"), torch.randn(200, 8, generator=torch.Generator().manual_seed(1))
    x[0, 0] = x.abs().max()  # the tensor's exponent in both
    halves = [torch.cat([x[:1], part]) for part in x.split(12)]  # of few blocks, tried pair by pair
    one_by_one = torch.cat([quantize(half, fmt)[1:] for half in halves])
    assert torch.equal(quantize(x, fmt), one_by_one)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_of_16_bit_tensors_are_those_of_float32(dtype):
    x = torch.randn(70, 48, generator=torch.Generator().manual_seed(2)).to(dtype)
    assert torch.equal(quantize(x, PRESETS["bsfp"]), quantize(x.float(), PRESETS["bsfp"]).to(dtype))
