"""Against what others compute: every difference belongs to a class that is named here, and nothing else differs."""

from math import frexp

import ml_dtypes
import numpy as np
import pytest
import torch
from gfloat import formats as gfloat_formats
from gfloat import quantize_block
from onnx.reference.ops import op_dynamic_quantize_linear, op_quantize_linear

from bitq import parse_format, quantize
from bitq.formats import PRESETS
from bitq.formats.elements import Float

MX = {
    "mxint8": (gfloat_formats.format_info_mxint8, -120),
    "mxfp8e4m3": (gfloat_formats.format_info_mxfp8_e4m3, -109),
    "mxfp8e5m2": (gfloat_formats.format_info_mxfp8_e5m2, -95),
    "mxfp6e2m3": (gfloat_formats.format_info_mxfp6_e2m3, -121),
    "mxfp6e3m2": (gfloat_formats.format_info_mxfp6_e3m2, -118),
    "mxfp4": (gfloat_formats.format_info_mxfp4_e2m1, -123),
}
"""What gfloat calls them, and the exponent of the block's maximum below which bitq takes a larger scale."""


def rows(seed=1):
    """Blocks of 32: normal, of every magnitude, and just below powers of two."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(180, 32, generator=generator)
    normal[60:120] *= 2.0 ** torch.randint(-126, 120, (60, 1), generator=generator)
    below = torch.nextafter(2.0 ** torch.randint(-20, 20, (60, 32), generator=generator).float(), torch.tensor(0.0))
    normal[120:] = below * normal[120:].sign()
    return normal


def scale_from(least):
    """Of a block: E8M0 by its maximum, or by one of at least this exponent; never by a rounded logarithm."""

    def scale(emax, values):
        return 2.0 ** max(max(frexp(float(np.abs(values).max()))[1] - 1, least) - emax, -127)

    return scale


@pytest.mark.parametrize("name", MX)
def test_mx_is_that_of_gfloat(name):
    x, (info, least) = rows(), MX[name]
    y = quantize(x, PRESETS[name]).double().numpy()
    theirs, raised = (
        np.stack([quantize_block(info, row, scale_from(from_least)) for row in x.double().numpy()])
        for from_least in (-126, least)
    )
    if name == "mxint8":  # k = -128, which bitq leaves out
        unit = np.array([scale_from(least)(0, row) for row in x.numpy()])[:, None] / 64
        assert (raised == -128 * unit).any()
        raised, theirs = (np.where(values == -128 * unit, -127 * unit, values) for values in (raised, theirs))
    assert np.array_equal(y, raised)
    small = np.abs(x.numpy()).max(1) < 2.0**least
    assert small.any()
    assert np.array_equal(y[~small], theirs[~small])


CASTS = {
    "bf16": ml_dtypes.bfloat16,
    "f16": np.float16,
    "e5m2": ml_dtypes.float8_e5m2,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e4m3i": ml_dtypes.float8_e4m3,
    "e3m4i": ml_dtypes.float8_e3m4,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
}


def patterns(number):
    """Float32 numbers: all ties of a small float and their neighbours, and one of every 65521."""
    few = torch.arange(0, 2**31, 65521, dtype=torch.int64)
    codes = range((1 << (number.exponent_bits + number.mantissa_bits)) - 1)
    some = codes[:: max(len(codes) // 4096, 1)]
    ties = torch.tensor([(number.value(code) + number.value(code + 1)) / 2 for code in some])
    near = ties.float().view(torch.int32).long().unsqueeze(1) + torch.tensor([-1, 0, 1])
    positive = torch.cat([few, near.flatten().clamp(min=0)]).to(torch.int32).view(torch.float32)
    positive = torch.cat([positive[~positive.isnan()], torch.tensor([torch.inf])])
    return torch.cat([positive, -positive])


@pytest.mark.parametrize("text", CASTS)
def test_casts_are_those_of_ml_dtypes(text):
    number = parse_format(text).elements[0]
    assert isinstance(number, Float)
    x = patterns(number)
    with np.errstate(over="ignore"):
        theirs = torch.from_numpy(x.numpy().astype(CASTS[text]).astype(np.float32))
    ours = quantize(x, parse_format(text), dim=0)
    beyond = ~theirs.isfinite() if number.kind != "f" else x.isinf()
    assert torch.equal(ours[~beyond].view(torch.int32), theirs[~beyond].view(torch.int32))  # zeros keep their signs
    assert beyond.any()
    if number.kind == "i":  # infinities in both
        assert torch.equal(ours[beyond], theirs[beyond])
    else:  # bitq saturates finite numbers and makes NaN of infinity; ml_dtypes makes NaN of both with e4m3
        finite = beyond & x.isfinite()
        assert torch.equal(ours[finite], x[finite].sign() * number.largest())
        assert ours[x.isinf()].isnan().all()


def near_half(x, scale):
    """Whether a quotient lies so near to the middle of two whole numbers that one of float32 may lie beyond it."""
    q = np.abs(x.astype(np.float64) / scale)
    return np.abs(q - np.floor(q) - 0.5) <= np.maximum(q, 1) * 2.0**-24


@pytest.mark.parametrize(("name", "dtype", "largest"), [("int8", np.int8, 127), ("int4", ml_dtypes.int4, 7)])
def test_integers_are_those_of_onnx(name, dtype, largest):
    """Under the same scale; ONNX divides in float32."""
    x = torch.cat([rows(seed)[:, :31] for seed in range(40)])
    y = quantize(x, PRESETS[name]).numpy()
    scale = (x.double().abs().amax(1, keepdim=True) / largest).float().clamp(min=2.0**-126).numpy()
    zero = np.zeros(len(x), dtype)
    k = op_quantize_linear.QuantizeLinear_21.eval(x.numpy(), scale[:, 0], zero, axis=0).astype(np.float32)
    differs = y != k * scale
    assert near_half(x.numpy(), scale)[differs].all()
    assert (np.abs(np.rint(y / scale) - k) <= 1).all()
    assert differs.mean() < 1e-3


def test_uint8_is_that_of_onnx():
    """ONNX finds span, scale and zero point in float32: an ulp or two of the scale, and what that moves over a tie."""
    generator, same_scale = torch.Generator().manual_seed(7), 0
    for _ in range(300):
        x = torch.randn(40, generator=generator) + torch.randn(1, generator=generator)
        k, scale, zero = op_dynamic_quantize_linear.DynamicQuantizeLinear.eval(x.numpy())
        low = min(float(x.min()), 0.0)
        exact = np.float32((max(float(x.max()), 0.0) - low) / 255)
        assert abs(exact - scale) <= 2 * np.spacing(exact)
        if exact != scale:
            continue
        same_scale += 1
        y = quantize(x, PRESETS["uint8"], dim=0).numpy()
        if np.rint(-low / float(scale)) != zero:
            assert near_half(np.array([low]), scale).all()
            continue
        differs = y != (k.astype(np.float32) - zero) * scale
        assert near_half(x.numpy(), scale)[differs].all()
    assert same_scale > 150


@pytest.mark.parametrize(("name", "dtype"), [("fp8e4m3", ml_dtypes.float8_e4m3fn), ("fp8e5m2", ml_dtypes.float8_e5m2)])
def test_fp8_is_that_of_onnx(name, dtype):
    """Under the same scale; ONNX divides in float32, which differs where the quotient is next to a tie."""
    fmt, generator, differing = PRESETS[name], torch.Generator().manual_seed(3), 0
    for _ in range(100):
        x = torch.randn(500, generator=generator) * 2.0 ** torch.randint(-20, 1, (500,), generator=generator)
        y = quantize(x, fmt, dim=0).numpy()
        scale = np.float32(float(x.abs().max()) / fmt.largest)
        q = op_quantize_linear.QuantizeLinear_21.eval(x.numpy(), scale, np.zeros((), dtype)).astype(np.float32)
        for at in np.flatnonzero(y != q * scale):
            between = (float(q[at]) + float(y[at]) / float(scale)) / 2
            assert float(x[at]) / float(scale) == pytest.approx(between, rel=2.0**-23)
            differing += 1
    assert differing < 10
