"""Which formats change nothing that they have already quantized, and which do."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bitq import parse_format
from bitq.formats import PRESETS
from bitq.formats.elements import Float, Levels
from bitq.formats.format import made
from bitq.formats.scales import FloatScale, PowerOfTwo
from bitq.numerics import quantize
from strategies import formats, tensors_for
from test_quantize import same

FLOAT32 = FloatScale(Float(8, 23, "i"))


def under_float32(fmt, rounding):
    return made(fmt.elements, FLOAT32, fmt.geometry, rounding)


@settings(max_examples=200)
@given(st.data(), formats("power"))
def test_under_powers_of_two(data, fmt):
    assume(not isinstance(fmt.elements[0], Levels))
    raised = isinstance(fmt.scale, PowerOfTwo) and fmt.scale.mode != "floor"
    x, dim, inner = data.draw(tensors_for(fmt))
    rounding = "nearest" if raised and fmt.rounding in ("toward_zero", "stochastic") else fmt.rounding
    y = quantize(x, fmt, dim, inner, rounding=rounding)
    assert same(quantize(y, fmt, dim, inner, rounding=rounding), y)


@settings(max_examples=100)
@given(st.data(), formats("float"), st.sampled_from(["nearest", "half_away"]))
def test_float32_tensors_under_float32(data, fmt, rounding):
    assume(not isinstance(fmt.elements[0], Levels))
    x, dim, inner = data.draw(tensors_for(fmt))
    fmt = under_float32(fmt, rounding)
    y = quantize(x.float(), fmt, dim, inner)
    assert same(quantize(y, fmt, dim, inner), y)


@pytest.mark.parametrize("largest", [7, 127, 448, 57344, 2688])
def test_float32_scales_come_back_from_every_largest_number(largest):
    """Exact: a quotient of 24 bits by these is never so near a tie of float32 that float64 would take it for one."""
    a = np.arange(2**23, 2**24, dtype=np.float64)
    scale = (a / largest).astype(np.float32)
    again = (scale.astype(np.float64) * largest).astype(np.float32)
    assert np.array_equal((again.astype(np.float64) / largest).astype(np.float32), scale)


@settings(max_examples=100)
@given(st.data())
def test_nvfp4_unless_a_block_is_far_below_the_largest_number(data):
    fmt = PRESETS["nvfp4"]
    x, dim, inner = data.draw(tensors_for(fmt))
    x = x.float().nan_to_num(0.0)
    least = float(x.abs().max()) / 28_672 * (1 + 2**-20)
    x = torch.where(x.abs() < least, least, x)
    assume(float(x.abs().max()) > 2.0**-100)
    y = quantize(x, fmt, dim, inner)
    assert same(quantize(y, fmt, dim, inner), y)


CHANGED = {
    "levels, whose largest number falls into the next binade": ("l(0;2;7):e8m0:b1", [4.0], [2.0], [1.0]),
    "a scale raised for a number that is then cut": ("e4m3:e8m0.even:b1:toward_zero", [3.875], [3.75], [3.5]),
    "quotients just below whole numbers": (
        "i4:f32:b2:toward_zero",
        [3.875, -1.125],
        [31 / 8, -31 / 28],
        [93 / 28, -31 / 28],
    ),
    "a float scale below its normal numbers": ("e2m1:e4m3*f32:b1", [28672.0, 0.2], [28672.0, 1 / 6], [28672.0, 1 / 8]),
    "a float scale rounded up": ("i4:e4m3.up:b1", [2.4375], [2.25], [2.40625]),
    "zero points": ("u4:f32:b2", [1.875, -0.375], [1.8, -0.3], [1.82, -0.28]),
}


@pytest.mark.parametrize("why", CHANGED)
def test_others_change(why):
    text, row, once, twice = CHANGED[why]
    y = quantize(torch.tensor([row]), parse_format(text))
    z = quantize(y, parse_format(text))
    assert y.tolist() == [pytest.approx(once, rel=1e-6)]
    assert z.tolist() == [pytest.approx(twice, rel=1e-6)]
