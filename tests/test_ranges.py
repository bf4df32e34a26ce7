"""Ranges of activations and clipped weights: against brute force, bounded in memory, the same for equal seeds."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tiny
from bitq import parse_format, quantize
from bitq.accuracy.quantized import apply, calibration, observing, quantized_weight
from bitq.accuracy.ranges import (
    MOST_SAMPLED,
    PERCENTILE,
    Samples,
    clipped_weight,
    fitted,
    fitted_span,
    squared_error,
)
from bitq.formats import Ranges, TensorFormats

SHARING = ("i4:f32:tensor", "n3:f32:tensor", "e2m1:f32:tensor", "nvfp4", "6:e2:b4", "n3:e1:b8", "u4:f32:tensor")


def heavy(seed=0, rows=500, channels=16):
    """Activations of which few are large."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, channels, generator=generator) ** 3


def span_of(x):
    return min(float(x.min()), 0.0), max(float(x.max()), 0.0)


@pytest.mark.parametrize("text", SHARING)
def test_least_squares_is_as_good_as_a_finer_search(text):
    fmt, x = parse_format(text), heavy()
    x = x.relu() if fmt.never_negative else x
    span = span_of(x)
    found = squared_error(x, fmt, fitted_span(x, fmt, span, "least-squares"))
    shares = [step / 200 for step in range(10, 201)]
    ends = [(span[0] * share, span[1] * share) for share in shares]
    if fmt.has_zero_point:
        ends += [(span[0] * low / 20, span[1] * high / 20) for low in range(1, 21) for high in range(1, 21)]
    brute = min(squared_error(x, fmt, each) for each in ends)
    assert found <= 1.03 * brute
    assert found <= squared_error(x, fmt, span)


def test_the_squared_error_is_that_of_quantize():
    fmt, x = parse_format("i4:f32:tensor"), heavy()
    y = quantize(x, fmt, 1, tensor_range=(-3.0, 3.0))
    by_hand = sum((a - b) ** 2 for a, b in zip(y.flatten().tolist(), x.flatten().tolist(), strict=True))
    assert squared_error(x, fmt, (-3.0, 3.0)) == pytest.approx(by_hand, rel=1e-6)


def test_clipping_outliers_pays_for_few_bits_alone():
    x = heavy()
    coarse, fine = (
        fitted_span(x, parse_format(f"i{bits}:f32:tensor"), span_of(x), "least-squares") for bits in (3, 12)
    )
    assert coarse[1] < 0.6 * span_of(x)[1]
    assert fine == span_of(x)


def test_the_maximum_and_what_shares_nothing_stay():
    x = heavy()
    assert fitted_span(x, parse_format("i4:f32:tensor"), (-5.0, 7.0), "maximum") == (-5.0, 7.0)
    for method in ("percentile", "least-squares"):
        assert fitted_span(x, parse_format("mxint8"), (-5.0, 7.0), method) == (-5.0, 7.0)
        assert fitted_span(x, parse_format("i4:f32:tensor"), (0.0, 0.0), method) == (0.0, 0.0)


def test_a_percentile_leaves_its_share_inside():
    x = heavy(rows=4000)
    low, high = fitted_span(x, parse_format("i4:f32:tensor"), span_of(x), "percentile")
    assert (x > high).float().mean() == pytest.approx(1 - PERCENTILE, rel=0.05)
    assert (x < low).float().mean() == pytest.approx(1 - PERCENTILE, rel=0.05)
    rare = torch.zeros(4000, 1)
    rare[0] = 3.0  # too rare for the percentile: its range would be none
    assert fitted_span(rare, parse_format("i4:f32:tensor"), (0.0, 3.0), "percentile") == (0.0, 3.0)


# Samples


def test_samples_are_bounded_and_of_whole_rows():
    samples = Samples()
    for step in range(20):
        x = torch.arange(64 * 8 * 16 * 16).reshape(64, 16, 16, 8).movedim(-1, 1).float() + step
        samples.add("a", "input", x, 1)
    rows = samples.rows("a", "input")
    assert rows.numel() <= MOST_SAMPLED
    assert rows.shape == (MOST_SAMPLED // 8, 8)
    assert torch.equal(rows - rows[:, :1], torch.arange(8.0).expand_as(rows))
    assert samples.rows("a", "output") is None


def test_a_row_that_is_longer_than_a_sample_is_cut():
    samples = Samples()
    samples.add("a", "input", torch.ones(3, 2 * MOST_SAMPLED), -1)
    assert samples.rows("a", "input").shape == (1, MOST_SAMPLED)


def test_all_rows_are_as_likely():
    """First and last batch have equal shares of a sample, within five standard deviations."""
    samples = Samples()
    for step in range(4):
        samples.add("a", "input", torch.full((MOST_SAMPLED, 2), float(step)), -1)
    rows = samples.rows("a", "input")[:, 0]
    count = len(rows)
    for step in range(4):
        assert abs(int((rows == step).sum()) - count / 4) < 5 * (count * 3 / 16) ** 0.5


def test_equal_seeds_give_equal_samples():
    found = []
    for seed in (0, 0, 1):
        samples = Samples(seed)
        samples.add("a", "input", torch.arange(10.0 * MOST_SAMPLED).reshape(-1, 2), -1)
        found.append(samples.rows("a", "input"))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_what_is_not_finite_counts_as_zero():
    samples = Samples()
    samples.add("a", "input", torch.tensor([[torch.nan, torch.inf, -torch.inf, 1.0]]), -1)
    samples.add("a", "input", torch.empty(0, 4), -1)
    assert samples.rows("a", "input").tolist() == [[0.0, 0.0, 0.0, 1.0]]


def test_a_network_is_sampled_while_it_is_observed():
    model, samples = tiny.trained(), Samples()
    x, _ = tiny.images(32, 1)
    with torch.no_grad(), observing(model, ["0", "3"], samples=samples) as seen:
        model(x)
        inner = model[:3](x)
    formats = {"0": TensorFormats(parse_format("i3:f32:tensor")), "3": TensorFormats(parse_format("n3:f32:tensor"))}
    found = fitted(samples, formats, seen)
    assert samples.rows("3", "input").shape[1] == 6
    assert samples.rows("3", "input").max() <= inner.max()
    assert found["3"].output == seen["3"].output  # it has no format
    assert 0 < found["3"].input[1] < seen["3"].input[1]
    assert found["3"].input[0] == 0
    apply(model, formats, found)
    assert calibration(model) == found


def test_without_a_sample_ranges_stay():
    known = {"a": Ranges((0.0, 1.0), None)}
    formats = {"a": TensorFormats(parse_format("i3:f32:tensor"), None, parse_format("i3:f32:tensor"))}
    assert fitted(Samples(), formats, known) == known


# Weights


def layers():
    return {
        "conv": nn.Conv2d(8, 6, 3),
        "grouped": nn.Conv2d(8, 8, 3, groups=4),
        "transposed": nn.ConvTranspose2d(8, 6, 3, groups=2),
        "linear": nn.Linear(20, 6),
    }


@pytest.mark.parametrize("name", layers())
@pytest.mark.parametrize(
    "text", ["7:e4:b4", "i3:f32:channel", "i3:f32:tensor", "mxfp4", "nvfp4", "n3:e4:b4", "i4:bf16:v8"]
)
def test_a_clipped_weight_has_no_larger_error_in_any_block(name, text):
    torch.manual_seed(0)
    layer, fmt = layers()[name], parse_format(text)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape) ** 3)
    weight = layer.weight.detach()
    found = clipped_weight(layer, weight, fmt)
    plain, clipped = (quantized_weight(layer, each, fmt) - weight for each in (weight, found))
    assert found.shape == weight.shape
    before, after = (each.double().square().sum() for each in (plain, clipped))
    assert after <= before * (1 + 1e-12)
    assert not fmt.text.startswith("i3") or after < 0.95 * before
    inside = found == weight
    assert ((found.abs() < weight.abs()) | inside).all()  # numbers are clipped, and nothing else


@given(st.integers(0, 2**31), st.integers(2, 4), st.floats(0.01, 100))
def test_a_block_of_powers_of_two_gets_the_better_of_two_scales(seed, bits, size):
    torch.manual_seed(seed)
    fmt = parse_format(f"s{bits}:e8:b4")
    layer = nn.Linear(4, 1)
    weight = torch.randn(1, 4) * size
    peak = float(weight.abs().max())
    errors = []
    for step in range(60):  # brute force over where the block is clipped
        limit = peak * (1 - step / 120)
        y = quantized_weight(layer, weight.clamp(-limit, limit), fmt)
        errors.append(float((y - weight).double().square().sum()))
    y = quantized_weight(layer, clipped_weight(layer, weight, fmt), fmt)
    assert float((y - weight).double().square().sum()) <= min(errors) * (1 + 1e-6)


def test_channels_get_the_range_of_least_error():
    torch.manual_seed(0)
    layer, fmt = nn.Linear(64, 5), parse_format("i3:f32:channel")
    weight = torch.randn(5, 64) ** 3
    y = quantized_weight(layer, clipped_weight(layer, weight, fmt), fmt)
    for row, own in zip(weight, y, strict=True):
        peak = float(row.abs().max())
        brute = min(
            float((quantized_weight(layer, row.clamp(-limit, limit)[None], fmt)[0] - row).square().sum())
            for limit in (peak * step / 300 for step in range(10, 301))
        )
        assert float((own - row).square().sum()) <= 1.05 * brute


@pytest.mark.parametrize("text", ["bf16", "bsfp"])
def test_a_weight_without_scales_of_its_own_stays(text):
    layer = nn.Linear(16, 3)
    assert clipped_weight(layer, layer.weight, parse_format(text)) is layer.weight


def test_zeros_and_a_diverged_block_pass():
    layer, fmt = nn.Linear(8, 2), parse_format("i3:f32:channel")
    weight = torch.zeros(2, 8)
    weight[1, 3] = torch.nan
    found = clipped_weight(layer, weight, fmt)
    assert torch.equal(found[0], weight[0])
    assert found[1].isnan().any()
    assert copy.deepcopy(layer).weight.shape == weight.shape
