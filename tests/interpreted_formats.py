"""The Triton kernels of every number format, as NumPy carries them out, against the torch path.

`test_triton.py` runs this in a process of its own, under TRITON_INTERPRET=1; and `test_exact_formats.py` there.
"""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("without TRITON_INTERPRET=1 the kernels are compiled for a GPU", allow_module_level=True)

from bitq.formats import parse_format
from bitq.formats.scales import SharedExponent
from bitq.numerics import paths, triton_grids, triton_path
from bitq.numerics.recipe import recipe_for
from test_kernel_formats import FORMATS, PLAIN, RANGES, every_half, patterns, placed

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of NaN and infinity

OTHERS = (
    "u8:f32:channel",
    "u4:bf16.up:v16:toward_zero",
    "u3:f32:tensor:half_away",
    "u8:f16:b7:stochastic",
    "l(-1;-0.5;-0.25;0;0.125;0.75;1):e8m0:v16",
    "l(-4;0;0.3;1;7.1):f32*f32:b5:stochastic",
    "l(0;1):e4m3:tensor:half_away",
    "e3m0:e8m0:v32",
    "e3m0:f32:v7:half_away",
    "s2:e8m0.ceil:v32",
    "e2m1:bf16*f32:v16",
    "e2m7:f32*f32:v9",
    "e2m1:e8m0:v32:half_away",
    "e4m3:e4:v16:stochastic",
    "i8:f32:channel:stochastic",
    "e4m3:f16:v16:toward_zero",
    "n6:f32:tensor:stochastic",
    "e2m1:e4m3*f32:v16:stochastic",
    "s4:e8m0:b24p3:toward_zero",
    "n4:e4:t4x4",
    "u4:f32:b2p2",
)
TEXTS = (*(text for text in FORMATS if parse_format(text).element_bits < 16), *OTHERS)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture
def large_tiles(monkeypatch):
    """NumPy takes its time for each operation, not for each element."""
    monkeypatch.setattr(triton_grids, "size_of", lambda dtype, wide: triton_grids.LARGEST)


def compared(x, recipe, monkeypatch, in_place=False):
    """Asserts that kernels alone do with x what the torch path does."""
    key = torch.tensor([0x1234567890ABCDE]) if recipe.rounding == "stochastic" else None
    want, mask = paths.plain(x, recipe, key, True)
    with monkeypatch.context() as patch:
        patch.setattr(paths, "kernels_of", lambda x: triton_path)
        patch.delattr(paths, "plain")
        target = x.clone() if in_place else None
        y, clipped = paths.quantize(x if target is None else target, recipe, key, True, target)
    assert y.stride() == torch.empty_like(x).stride()
    assert torch.equal(patterns(y), patterns(want))
    over = torch.zeros(x.shape, dtype=torch.bool) if clipped is None else clipped
    if over.dtype != torch.bool:
        over = paths.from_bits(over, y.shape, y.stride())
    assert torch.equal(over, torch.zeros_like(over) if mask is None else mask)


@pytest.mark.usefixtures("large_tiles")
@pytest.mark.parametrize("text", TEXTS)
def test_ties_and_extremes_are_those_of_the_torch_path(text, monkeypatch):
    fmt, generator = parse_format(text), torch.Generator().manual_seed(len(text))
    for turn, taps in enumerate(map(torch.Size, [(), (3, 3), (7, 11)])):
        x = placed(fmt, taps, generator).to(DTYPES[(turn + len(text)) % 3])
        shared = {}
        if turn == 1 and isinstance(fmt.scale, SharedExponent):
            shared = {"exponent_bias": -9}
        elif turn == 2 and fmt.needs_range:
            shared = {"tensor_range": RANGES[1 + len(text) % 4]}
        x = x if turn else x.nan_to_num(1.0, 2.0, -3.0)
        compared(x, recipe_for(x, fmt, 1, (2, 3)[: len(taps)], **shared), monkeypatch, in_place=turn == 1)


@pytest.mark.parametrize("text", ["e2m1:e8m0:v8", "i8:f32:channel", "u8:f32:tensor", "e4m3"])
@pytest.mark.parametrize(
    "view",
    [lambda x: x.to(memory_format=torch.channels_last), lambda x: x.transpose(0, 1), lambda x: x[:, ::2]],
    ids=["channels_last", "transposed", "strided"],
)
def test_layout_does_not_matter(view, text, monkeypatch):
    x = view(torch.randn(6, 20, 4, 5, generator=torch.Generator().manual_seed(1)) * 8)
    for dim, inner in ((1, ()), (0, (2, 3))):
        compared(x, recipe_for(x, parse_format(text), dim, inner), monkeypatch)


@pytest.mark.parametrize("text", ["i8:f32:channel", "u8:f32:channel", "s4:e8m0:channel:stochastic", "n4:e4:channel"])
def test_blocks_that_are_longer_than_a_tile(text, monkeypatch):
    x = torch.randn(2, 8200, generator=torch.Generator().manual_seed(2)) * 4
    x[1, 8000] = torch.nan
    compared(x, recipe_for(x, parse_format(text), 1), monkeypatch)


@pytest.mark.usefixtures("large_tiles")
@pytest.mark.parametrize("text", [*PLAIN, "e3m0", "e4m3:toward_zero", "e5m2:half_away", "e4m3:stochastic"])
def test_plain_floats(text, monkeypatch):
    fmt, generator = parse_format(text), torch.Generator().manual_seed(7)
    halves = torch.cat([every_half(dtype).float()[:, ::5] for dtype in DTYPES[1:]], 1).view(torch.int32)
    beside = torch.cat([halves - 1, halves, halves + 1], 1).view(torch.float32)
    anything = torch.randint(-(2**31), 2**31 - 1, (7, 900), generator=generator).to(torch.int32).view(torch.float32)
    for x in (beside, anything, anything.to(torch.bfloat16), anything.to(torch.float16)):
        compared(x, recipe_for(x, fmt, 0), monkeypatch)
