"""Every number format against exact arithmetic: by the path that `quantize` takes, and by PyTorch's operations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitq.formats import PRESETS, ROUNDINGS
from bitq.formats.scales import SharedExponent
from bitq.numerics import paths, reference
from bitq.numerics.recipe import Recipe
from strategies import formats, tensors_for
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
