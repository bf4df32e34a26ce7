"""The kernel in every format that it has, against the torch path: all bits, and what passes no gradient."""

import random
from itertools import pairwise

import pytest
import torch

from bitq.formats import parse_format
from bitq.formats.elements import values
from bitq.formats.scales import FloatScale, SharedExponent
from bitq.numerics import native, paths
from bitq.numerics.recipe import recipe_for

pytestmark = pytest.mark.skipif(native._kernel is None, reason="the kernel is not built")

FORMATS = (
    "8:e3:b16",
    "n4:e4:b16",
    "e2m1:e4:b16",
    "s8:e8m0:v32",
    "i8:e8m0:v8",
    "n7:e8m0:v16",
    "s4:e5m0f:v16",
    "s12:e5m0i:v16",
    "s8:e8m0.ceil:v32",
    "i5:e8m0.even:b7",
    "n8:e8m0.rceil:v16",
    "e2m1:e8m0:v32",
    "e2m3:e8m0:v32",
    "e3m2:e8m0.even:v32",
    "e4m3:e8m0.rceil:v32",
    "e5m2:e8m0.ceil:v32",
    "e4m3i:e8m0:b5",
    "e5m10:e5m0f:b16",
    "e1m2:e3m0n:v16",
    "e2m1:e4m3*f32:v16",
    "e2m1:e4m3.up*f32:v16",
    "i4:e5m2*f32:v16",
    "e3m2:f16*f32:b9",
    "i8:f32:channel",
    "i4:f32:channel",
    "i2:f32:v3",
    "n8:f32.up:channel",
    "i16:f32:v64",
    "i8:bf16:b32",
    "e4m3:f16.up:v32",
    "e5m2:e4m3:v4",
    "i8:f32:tensor",
    "n8:f32:tensor",
    "e4m3:f32:tensor",
    "e2m1:e4m3*f32:tensor",
    "s8:e8m0:tensor",
    "6:e3:tensor",
)
RANGES = (None, (-1.0, 3.0), (-1e-3, 1e-4), (0.0, 0.0), (-1e30, 0.0))


def patterns(x):
    """Bit patterns, with one pattern for all NaN."""
    return torch.where(x.isnan(), torch.nan, x).view({2: torch.int16, 4: torch.int32}[x.element_size()])


def compared(x, recipe, in_place=False, key=None, marked=True):
    """Asserts that the kernel does with x what the torch path does."""
    want, mask = paths.plain(x, recipe, key, marked)
    target = x.clone() if in_place else None
    found = native.quantize(x if target is None else target, recipe, key, marked, target)
    assert found is not None
    y, bits = found
    assert y.stride() == x.stride()
    assert torch.equal(patterns(y), patterns(want))
    over = torch.zeros(x.shape, dtype=torch.bool) if bits is None else paths.from_bits(bits, y.shape, y.stride())
    assert torch.equal(over, torch.zeros_like(over) if mask is None else mask)


def rows_of(fmt, width, count, generator):
    """Rows, for a block each, of numbers on and beside the ties of elements under scales of few bits, which they get.

    Some scales are near the ends of float32's reach; some rows are zeros, subnormal numbers or not finite.
    """
    element = fmt.elements[0]
    numbers = [float(v) for v in values(element, fmt.power_of_two) if v >= 0]
    grid = torch.tensor([*numbers, *((a + b) / 2 for a, b in pairwise(numbers)), 2 * numbers[-1]], dtype=torch.float64)
    unit = torch.ones(count, 1, dtype=torch.float64)
    if isinstance(fmt.scale, FloatScale):
        unit *= torch.randint(1, 12, (count, 1), generator=generator)
    reach = 8 if fmt.tensor_bits or count == 1 else 120
    unit *= 2.0 ** torch.randint(-reach, reach, (count, 1), generator=generator)
    x = grid[torch.randint(len(grid), (count, width), generator=generator)].clamp(max=numbers[-1]) * unit
    x[:, :1] = numbers[-1] * unit
    if fmt.tensor_bits:
        x[0, 0] = numbers[-1] * fmt.scale.number.largest() * 2.0**-8
    x = x.clamp(max=3e38).float()
    near = x.view(torch.int32) + torch.randint(-1, 2, x.shape, generator=generator).to(torch.int32)
    x = torch.where(torch.arange(width) > 0, near.clamp(min=0).view(torch.float32), x)
    x *= torch.randint(2, x.shape, generator=generator) * 2 - 1
    if count > 8:
        x[3], x[4] = 0.0, x[4] * 2.0**-120 * 2.0**-20
        x[5, width // 2], x[6, width // 3], x[7, -1] = torch.inf, -torch.inf, torch.nan
    return x


def placed(fmt, taps, generator):
    """Such rows along axis 1 of a tensor (outer, channels, *taps), the last block of its channels short."""
    window = (2, 3)[: len(taps)]
    outer, channels = (3, 40) if len(taps) == 2 and taps[0] > 4 else (4, 150)
    lengths = fmt.geometry.lengths((outer, channels, *taps), 1, window)
    if lengths[0] > 1:  # the whole tensor
        return rows_of(fmt, outer * channels * taps.numel(), 1, generator).view(outer, channels, *taps)
    width = min(lengths[1], channels)
    if taps and lengths[2] > 1:
        rows = rows_of(fmt, width * taps.numel(), outer * -(-channels // width), generator)
        return rows.view(outer, -1, *taps)[:, :channels].contiguous()
    rows = rows_of(fmt, width, outer * -(-channels // width) * taps.numel(), generator)
    return rows.view(outer, -1, taps.numel(), width).movedim(3, 2).reshape(outer, -1, *taps)[:, :channels].contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("text", FORMATS)
def test_ties_and_extremes_are_those_of_the_torch_path(text, dtype, monkeypatch):
    fmt, generator = parse_format(text), torch.Generator().manual_seed(len(text))
    biases = (None, -9) if isinstance(fmt.scale, SharedExponent) else (None,)
    for turn, taps in enumerate(map(torch.Size, [(), (3, 3), (1, 1), (7, 11)])):
        monkeypatch.setattr(torch, "get_num_threads", lambda turn=turn: 1 + turn % 2)
        x = placed(fmt, taps, generator).to(dtype)
        ranges = RANGES[1:] if fmt.needs_range else ()
        for bias, given in [*((bias, None) for bias in biases), *((None, given) for given in ranges)]:
            recipe = recipe_for(x, fmt, 1, (2, 3)[: len(taps)], exponent_bias=bias, tensor_range=given)
            compared(x, recipe, in_place=turn % 2 == 0)
            compared(x.nan_to_num(1.0, 2.0, -3.0), recipe, in_place=turn % 2 == 1)


ELEMENTS = "s3 s8 i4 i8 i16 n4 n8 e2m1 e2m3 e3m2 e4m3 e5m2 e4m3f e4m3i e5m10 e1m2"
SCALES = "e3 e5 e8 e8m0 e8m0.ceil e8m0.even e8m0.rceil e5m0f e5m0i.ceil e8m0f.rceil"
SCALES += " f32 f32.up f16 bf16.up e4m3 e4m3*f32 e5m2.up*f32"
GEOMETRIES = "b1 b2 b3 v5 b16 v32 b100 v64 channel tensor"
SHAPES = (((2, 33, 3, 3), (2, 3)), ((3, 64, 7, 5), ()), ((5, 300), ()), ((2, 200, 1, 1), (2, 3)), ((2, 600, 3), (2,)))
SHAPES += (((3, 7, 9, 2), (2, 3)), ((4, 4, 1030), ()), ((1, 20000), ()), ((2, 130, 11, 11), (2, 3)), ((1, 3000, 8), ()))


@pytest.mark.parametrize("seed", range(40))
def test_random_formats_of_random_tensors(seed, monkeypatch):
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    for _ in range(12):
        text = ":".join(draw.choice(part.split()) for part in (ELEMENTS, SCALES, GEOMETRIES))
        (shape, inner), dtype = draw.choice(SHAPES), draw.choice([torch.float32, torch.bfloat16, torch.float16])
        fmt = parse_format(text)
        x = torch.randn(shape, generator=generator)
        x *= torch.exp2(torch.randint(-draw.randint(0, 30), draw.choice([1, 20]), shape, generator=generator))
        if draw.random() < 0.3:
            x = torch.randint(-(2**31), 2**31 - 1, shape, generator=generator).to(torch.int32).view(torch.float32)
        if draw.random() < 0.3:
            x = x.transpose(0, -1).contiguous().transpose(0, -1)
        x = x.to(dtype)
        chosen = {}
        if isinstance(fmt.scale, SharedExponent) and draw.random() < 0.5:
            chosen["exponent_bias"] = draw.randint(-40, 10)
        elif draw.random() < 0.5:
            chosen["tensor_range"] = draw.choice(RANGES)
        recipe = recipe_for(x, fmt, 1, inner, **chosen)
        threads = draw.randint(1, 2)
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        if native.layout(x.shape, x.stride(), recipe) is not None:
            compared(x, recipe, draw.random() < 0.3, marked=draw.random() < 0.7)


@pytest.mark.parametrize("rounding", ["half_away", "toward_zero", "stochastic"])
@pytest.mark.parametrize("text", ["n5:e3:b16", "s8:e8m0:v32", "n8:e8m0:v7", "s6:e8m0:tensor", "i4:e5m0i:channel"])
def test_other_roundings_of_whole_numbers(text, rounding):
    fmt, generator, key = parse_format(text), torch.Generator().manual_seed(3), None
    if rounding == "stochastic":
        key = torch.tensor([0x1234567890ABCDE])
    for taps in (torch.Size(), torch.Size((3, 3))):
        x = placed(fmt, taps, generator)
        compared(x, recipe_for(x, fmt, 1, (2, 3)[: len(taps)], rounding=rounding), key=key)


@pytest.mark.parametrize("text", ["e2m1:e4:b16", "8:e3:v16", "n4:e4:v32", "e2m1:e4m3*f32:v16"])
@pytest.mark.parametrize("spoilt", [False, True])
def test_large_tensors_whose_parts_tell_little_of_the_whole(text, spoilt):
    fmt, x = parse_format(text), torch.randn(8, 64, 19, 31, generator=torch.Generator().manual_seed(5))
    x[-1, -1, -1, -1] = 1e4
    if spoilt:
        x[-1, -2, -1, -1] = torch.nan  # beside the largest number, which then counts for nothing
    recipe = recipe_for(x, fmt, 1)
    assert x.numel() > 1 << 17  # WORTH_A_GUESS of kernel.c
    compared(x, recipe, marked=False)
    compared(x, recipe, marked=True)


def test_numbers_by_hand():
    x = torch.tensor([[6.0, 5.0, 4.999, 2.5, -0.25, 0.2499, 0.25, 0.7501]])
    assert native.quantize(x, recipe_for(x, parse_format("e2m1:e8m0:v8"), 1), None, False)[0].tolist() == [
        [6.0, 4.0, 4.0, 2.0, 0.0, 0.0, 0.0, 1.0]
    ]
    x = torch.tensor([[127.0, 0.5, 1.5, 2.4999999, -0.5, -63.5, 1e-30, 3.0]])
    assert native.quantize(x, recipe_for(x, parse_format("i8:f32:channel"), 1), None, False)[0].tolist() == [
        [127.0, 0.0, 2.0, 2.0, 0.0, -64.0, 0.0, 3.0]
    ]


@pytest.mark.parametrize(
    "text",
    [
        "u8:f32:channel",
        "l(-1;0;1):e8m0:v16",
        "i2+i2:e3m3s*e8m0:v16",
        "s4:e8m0:b4p3",
        "s4:e8m0:t4x4",
        "e3m0:e8m0:v32",
        "e4m0",
        "e2m1:bf16*f32:v16",
        "s24:e8m0:v32",
        "s2:e8m0.ceil:v32",
    ],
)
def test_the_rest_is_left_to_the_torch_path(text):
    x = torch.randn(6, 32, 5, 5)
    recipe = recipe_for(x, parse_format(text), 1)
    assert native.layout(x.shape, x.stride(), recipe) is None
    assert native.quantize(x, recipe, None, True) is None
    assert torch.equal(paths.quantize(x, recipe, None)[0], paths.plain(x, recipe, None, False)[0])


@pytest.mark.parametrize("text", ["s4:e8m0:b24p3:toward_zero", "e2m1:e8m0:t4x4", "n4:e3:t3x40", "i8:f32:b2p2"])
def test_blocks_that_lie_scattered_are_arranged_for_the_kernel(text, monkeypatch):
    fmt, generator = parse_format(text), torch.Generator().manual_seed(9)
    x = torch.randn(6, 50, 5, 7, generator=generator)
    x *= torch.exp2(torch.randint(-9, 9, x.shape, generator=generator))
    x[1, 2, 3, 4], x[5, 49, 4, 6] = torch.nan, -torch.inf
    for tensor in (x, x.to(torch.bfloat16), x.to(memory_format=torch.channels_last), x[:, ::3]):
        bias = -4 if isinstance(fmt.scale, SharedExponent) else None
        recipe = recipe_for(tensor, fmt, 1, exponent_bias=bias)
        want, mask = paths.plain(tensor, recipe, None, True)
        with monkeypatch.context() as patch:
            patch.delattr(paths, "plain")
            y, over = paths.quantize(tensor, recipe, None, True)
            in_place = tensor.clone()
            paths.quantize(in_place, recipe, None, out=in_place)
        assert y.stride() == torch.empty_like(tensor).stride()
        assert torch.equal(patterns(y), patterns(want))
        assert torch.equal(patterns(in_place), patterns(want))
        if mask is None:
            assert over is None or not over.any()
        else:
            assert torch.equal(over, mask)


@pytest.mark.parametrize("text", ["e2m1:e8m0:v32", "i8:f32:channel"])
def test_floats_are_rounded_to_nearest_only(text):
    x = torch.randn(6, 32)
    recipe = recipe_for(x, parse_format(text), 1, rounding="toward_zero")
    assert native.layout(x.shape, x.stride(), recipe) is None


PLAIN = ("f32", "f16", "bf16", "e4m3", "e5m2", "e4m3f", "e4m3i", "e2m1", "e2m3", "e1m2", "e3m2n", "e7m23", "e8m1")


def every_half(dtype):
    """All numbers of a 16-bit type."""
    return torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).view(1, -1)


@pytest.mark.parametrize("text", PLAIN)
def test_plain_floats(text):
    fmt, generator = parse_format(text), torch.Generator().manual_seed(7)
    halves = torch.cat([every_half(torch.bfloat16).float(), every_half(torch.float16).float()], 1).view(torch.int32)
    beside = torch.cat([halves - 1, halves, halves + 1], 1).view(torch.float32)  # all ties of types of less bits
    anything = torch.randint(-(2**31), 2**31 - 1, (3, 70_000), generator=generator).to(torch.int32).view(torch.float32)
    for x in (beside, anything, anything.T, anything.view(3, 7, 100, 100).to(memory_format=torch.channels_last)):
        compared(x, recipe_for(x, fmt, 0))
        compared(x, recipe_for(x, fmt, 0), in_place=True)
    for dtype in (torch.bfloat16, torch.float16):
        compared(every_half(dtype), recipe_for(every_half(dtype), fmt, 0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_plain_16_bit_floats_are_pytorchs(dtype):
    x = torch.randint(-(2**31), 2**31 - 1, (1, 200_000), generator=torch.Generator().manual_seed(8)).to(torch.int32)
    x = x.view(torch.float32)
    fmt = parse_format({torch.bfloat16: "bf16", torch.float16: "f16"}[dtype])
    found, _ = native.quantize(x, recipe_for(x, fmt, 1), None, False)
    assert torch.equal(patterns(found), patterns(x.to(dtype).float()))


def test_a_view_with_gaps_is_left_alone():
    x = torch.randn(8, 6)[:, :5]
    assert native.quantize(x, recipe_for(x, parse_format("bf16"), 1), None, False) is None
