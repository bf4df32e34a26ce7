"""Every number format against exact arithmetic: by the path that `quantize` takes, and by PyTorch's operations."""

import os
from fractions import Fraction
from math import isfinite

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitq import parse_format, quantize
from bitq.formats import PRESETS, ROUNDINGS
from bitq.formats.scales import SharedExponent
from bitq.numerics import paths, reference
from bitq.numerics.recipe import Recipe
from bitq.numerics.reference import floats, scales, sums
from strategies import formats, summed_formats, tensors_for
from test_general import BY_HAND
from test_quantize import draws_of, same, with_gradient

ONE_SCALE = {name: fmt for name, fmt in PRESETS.items() if len(fmt.elements) == 1}

PATHS = ["triton"] if os.environ.get("TRITON_INTERPRET") == "1" else ["chosen", "torch", "general"]
each_path = pytest.mark.parametrize("path", PATHS)


@pytest.fixture(autouse=True)
def _take_path(request, monkeypatch):
    """Runs a test that asks for a `path` on that path; `test_triton.py` asks for that of a GPU, interpreted."""
    path = request.getfixturevalue("path") if "path" in request.fixturenames else "chosen"
    if path == "triton":
        from bitq.numerics import triton_path

        monkeypatch.setattr(paths, "kernels_of", lambda x: triton_path)
    elif path != "chosen":
        monkeypatch.setattr(paths, "kernels_of", lambda x: None)
    if path == "general":
        monkeypatch.setattr(Recipe, "steps", lambda self, shape: None)


@st.composite
def shared(draw, fmt, x):
    """Arguments for what the tensor shares: none, from calibration that met such numbers or others, or a bias."""
    kinds = [{}, {}]
    reach = st.sampled_from([*x.float().nan_to_num(0.0, 1.0, -1.0).flatten().tolist(), 0.0, 1.0, -6.0, 2.0**-130])
    factor = st.sampled_from([1.0, 1.0, 0.5, 0.75, 1 - 2.0**-24, 2.0])
    ends = sorted(draw(st.tuples(reach, reach)))
    largest = torch.finfo(x.dtype).max
    low, high = (min(max(end * draw(factor), -largest), largest) for end in ends)
    low, high = torch.tensor([min(low, high), max(low, high)]).tolist()
    kinds.append({"tensor_range": (low, high)})
    if isinstance(fmt.scale, SharedExponent):
        kinds.append({"exponent_bias": draw(st.integers(-20, 10) | st.integers(-300, 15))})
    return draw(st.sampled_from(kinds))


def check(x, fmt, dim, inner, arguments, rounding, seed):
    """Values and gradient, every bit."""
    draws = draws_of(torch.Generator().manual_seed(seed), x)
    expected, stopped = reference.quantize(x, fmt, dim, inner, **arguments, rounding=rounding, uniforms=draws)
    generator = torch.Generator().manual_seed(seed)
    y, blocked = with_gradient(x, fmt, dim, inner, **arguments, rounding=rounding, generator=generator)
    assert same(y, expected), (x, y, expected)
    assert torch.equal(blocked, stopped), (x, blocked, stopped)


@each_path
@settings(max_examples=200)
@given(st.data(), formats(), st.integers(0, 9))
def test_every_bit_of_random_formats(path, data, fmt, seed):
    x, dim, inner = data.draw(tensors_for(fmt))
    rounding = data.draw(st.sampled_from([None, None, None, *ROUNDINGS]))
    check(x, fmt, dim, inner, data.draw(shared(fmt, x)), rounding, seed)


@each_path
@pytest.mark.parametrize("name", ONE_SCALE)
@settings(max_examples=10)
@given(st.data(), st.integers(0, 9))
def test_every_bit_of_presets(path, name, data, seed):
    fmt = PRESETS[name]
    x, dim, inner = data.draw(tensors_for(fmt))
    check(x, fmt, dim, inner, data.draw(shared(fmt, x)), None, seed)


@settings(max_examples=25)
@given(st.data(), summed_formats())
def test_sums_are_of_least_squared_error(data, fmt):
    """Not bit for bit: pairs of scales may be equally good, or nearly."""
    x, dim, inner = data.draw(tensors_for(fmt))
    check_sums(x.float().clamp(-(2.0**120), 2.0**120), fmt, dim, inner)


def test_bsfp_is_of_least_squared_error():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 17, generator=generator) * torch.tensor([[1.0], [2.0**-3]])
    check_sums(x, PRESETS["bsfp"], 1, ())


def check_sums(x, fmt, dim, inner):
    """Every block is a sum under some pair of scales whose squared error is the least, to 1e-6."""
    y = quantize(x, fmt, dim, inner)
    indices = reference.indices_of(x.shape, fmt.geometry.lengths(tuple(x.shape), dim, inner))
    blocks = [[float(x[at]) for at in block] for block in indices]
    unit = reference.shared_by(blocks, fmt, None)
    for at, block in zip(indices, blocks, strict=True):
        if not all(map(isfinite, block)):
            assert y[tuple(zip(*at, strict=True))].isnan().all()
            continue
        found = {Fraction(float(y[i])) / sums.step(fmt, unit) for i in at}
        errors = [
            sums.squared_error(block, pair, fmt, unit) for pair in sums.pairs(fmt) if found <= set(sums.sums(pair, fmt))
        ]
        least = sums.squared_error(block, sums.best(block, fmt, unit), fmt, unit)
        assert errors
        assert min(errors) <= least * (1 + Fraction(1, 10**6))


@pytest.mark.parametrize("text", BY_HAND)
def test_exact_arithmetic_gives_what_was_worked_out_by_hand(text):
    x, expected = (torch.tensor([numbers], dtype=torch.float32) for numbers in BY_HAND[text])
    assert reference.quantize(x, parse_format(text))[0].tolist() == expected.tolist()


# Quotients that are so near to a tie that float64 takes them for one. They were found by modular arithmetic.

WIDE = parse_format("i16:e7m23*f32:v2")
UNIT = 32767 * floats.largest(WIDE.scale.number)
"""With a range up to `t * UNIT`, the second scale is t."""


def to_float32(value):
    return float(np.float32(float(value)))


@each_path
@pytest.mark.parametrize(("second", "a", "k"), [(9437481, 9151497, 32538625), (9438663, 9039756, 32137299)])
def test_block_scales_next_to_a_tie(path, second, a, k):
    """a·2^40/(M·t) is within 2^-54 of k, which is the middle of two numbers of the scale."""
    quotient = Fraction(a * 2**40, 32767 * second)
    assert 0 < abs(quotient / k - 1) < Fraction(1, 2**54)
    given = (0.0, to_float32(second * UNIT))
    assert scales.second_scale(Fraction(given[1]), WIDE) == second
    check(torch.tensor([[a * 2.0**40, 2.0**50], [a * 2.0**30, -1.0]]), WIDE, 1, (), {"tensor_range": given}, None, 0)


@each_path
@pytest.mark.parametrize(
    ("first", "a", "k"), [(13702017, 10209429, 65103), (14070687, 9834817, 61071), (14282221, 10434474, 63835)]
)
def test_elements_next_to_a_tie(path, first, a, k):
    """a·2^39/(S·t) is within 2^-54 of k/2, which is the middle of two whole numbers."""
    second = 12583915
    assert 0 < abs(Fraction(a * 2**40, first * second * k) - 1) < Fraction(1, 2**54)
    given, row = (0.0, to_float32(second * UNIT)), [a * 2.0**39, to_float32(32767 * first * second)]
    assert scales.scale_of(row, WIDE, scales.second_scale(Fraction(given[1]), WIDE), given).step == first * second
    check(torch.tensor([row, [-row[0], row[1]]]), WIDE, 1, (), {"tensor_range": given}, None, 0)


@each_path
@pytest.mark.parametrize("end", [0, 3, 200, 32767])
def test_spans_next_to_a_tie(path, end):
    """(high - low)/255 is within 2^-55 of the middle of two float32 numbers."""
    middle = (1 << 24) + (end << 9) + pow(255, -1, 512)
    high = float(255 * middle - 1)  # of 24 bits and nine zeros
    assert middle % 2 == 1
    assert to_float32(high) == high
    for low in (1.0, 1 + 2.0**-23, 1 - 2.0**-24):
        check(torch.tensor([[high, -low], [-high, low]]), parse_format("u8:f32:v2"), 1, (), {}, None, 0)
