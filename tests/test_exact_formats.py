"""Every number format against exact arithmetic: by the path that `quantize` takes, and by PyTorch's operations."""

from fractions import Fraction
from math import isfinite

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitq import quantize
from bitq.formats import PRESETS, ROUNDINGS
from bitq.formats.scales import SharedExponent
from bitq.numerics import paths, reference
from bitq.numerics.recipe import Recipe
from bitq.numerics.reference import sums
from strategies import formats, summed_formats, tensors_for
from test_quantize import draws_of, same, with_gradient

ONE_SCALE = {name: fmt for name, fmt in PRESETS.items() if len(fmt.elements) == 1}

each_path = pytest.mark.parametrize("path", ["chosen", "torch", "general"])


@pytest.fixture(autouse=True)
def _take_path(request, monkeypatch):
    """Runs a test that asks for a `path` on that path."""
    path = request.getfixturevalue("path") if "path" in request.fixturenames else "chosen"
    if path != "chosen":
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
