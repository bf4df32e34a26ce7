"""The formats that others have named, and what each of them means."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from bitq.formats.format import Format
from bitq.formats.grammar import parsed_text


class Preset(NamedTuple):
    """A format with a name.

    Attributes:
        text: the format.
        source: who defines it.
        deviates: whose numbers differ, and how; empty if nobody's are known to.
    """

    text: str
    source: str
    deviates: str = ""


_OCP = "OCP Microscaling Formats v1.0"
_MX = (
    "gfloat, torchao (FLOOR) and microxcaling with round=even give the same; torchao also has CEIL, EVEN and RCEIL, "
    "cuDNN and cuBLAS round the scale up (.rceil), Quark's torch default is .even"
)
_MSFP = "Darvish Rouhani et al., NeurIPS 2020; its rounding is not published, to nearest is our choice"
_HBFP = "Drumond et al., NeurIPS 2018; Harma et al., 2022; blocks of 64"
_HBFP_OTHERS = (
    "the emulator has 10-bit exponents, ceil(log2(max + 1e-8)), stochastic rounding, and tiles of 24 x 24 of weights"
)
_TT = "Tenstorrent tt-metal, blockfloat_common.cpp (host)"
_TT_OTHERS = (
    "the host drops float32's bits below the aligned 24, so equal on bfloat16; the device rounds to bfloat16 first, "
    "halves away, and truncates BFP4 and BFP2 from BFP8"
)
_TT_A = "stored as a byte there; the host turns nonzero |x| < 2^-15 into 2^-15"
_ALTERA = "FPGA AI Suite Handbook 863373, 9.4.1, Table 27; blocks of 16 are our choice among 4..64"
_ALTERA_OTHERS = (
    "rounding and the exponents -14..15 are not published; an older model (NNCF) rounds to even and saturates"
)
_FLEX = "FlexBlock: shared exponents of 8 bits, patches of the plane"
_FAST = "FAST; exponent and rounding are our choice"
_INT = "symmetric, a/127 or a/7, as ONNX QuantizeLinear"
_INT_OTHERS = "ONNX divides in float32; compressed-tensors divides by 127.5"
_FP8 = "one scale per tensor, amax/448 or amax/57344"

GROUPS: dict[str, dict[str, Preset]] = {
    "Microscaling formats (OCP MX)": {
        "mxint8": Preset(
            "s8:e8m0:v32", f"{_OCP}, 5.4.1 and 6.3", "k = -128 is unused, as in microxcaling; gfloat uses it"
        ),
        "mxfp8e4m3": Preset("e4m3:e8m0:v32", _OCP, _MX),
        "mxfp8e5m2": Preset("e5m2:e8m0:v32", _OCP, _MX),
        "mxfp6e2m3": Preset("e2m3:e8m0:v32", _OCP, _MX),
        "mxfp6e3m2": Preset("e3m2:e8m0:v32", _OCP, _MX),
        "mxfp4": Preset("e2m1:e8m0:v32", _OCP, _MX),
    },
    "NVIDIA": {
        "nvfp4": Preset(
            "e2m1:e4m3*f32:v16",
            "NVIDIA Model-Optimizer, qtensor/nvfp4_tensor.py: amax/(6·448), block scale at least 2^-9",
            "torchao clamps block scales at 2^-6; both decide in float32, so last bits and ties differ; cuDNN's "
            "documentation rounds the block scale up (.up); compressed-tensors stores 1/t",
        ),
    },
    "AMD": {
        "amd-bfp16": Preset(
            "i8:e8m0:v8",
            "AMD Quark ONNX, bfp_kernel.cc, default: to even, ±127",
            "its compiler version and Quark torch raise the exponent when the maximum rounds to 128, and use -128; "
            "mlir-aie truncates two's complement",
        ),
    },
    "Tenstorrent": {
        "tt-bfp8": Preset("s8:e8m0:v16", _TT, _TT_OTHERS),
        "tt-bfp4": Preset("s4:e8m0:v16", _TT, _TT_OTHERS),
        "tt-bfp2": Preset("s2:e8m0:v16", _TT, _TT_OTHERS),
        "tt-bfp8a": Preset("s8:e5m0f:v16", _TT, f"{_TT_OTHERS}; {_TT_A}"),
        "tt-bfp4a": Preset("s4:e5m0f:v16", _TT, f"{_TT_OTHERS}; {_TT_A}"),
        "tt-bfp2a": Preset("s2:e5m0f:v16", _TT, f"{_TT_OTHERS}; {_TT_A}"),
    },
    "Altera": {
        "altera-fp11": Preset("s7:e5m0i:v16", _ALTERA, _ALTERA_OTHERS),
        "altera-fp12agx": Preset("i8:e5m0i:v16", _ALTERA, _ALTERA_OTHERS),
        "altera-fp13agx": Preset("i9:e5m0i:v16", _ALTERA, _ALTERA_OTHERS),
        "altera-fp16": Preset("s12:e5m0i:v16", _ALTERA, _ALTERA_OTHERS),
    },
    "From papers": {
        **{f"msfp{bits}": Preset(f"s{bits - 8}:e8m0:v16", _MSFP) for bits in range(11, 17)},
        **{f"hbfp{bits}": Preset(f"s{bits}:e8m0:v64", _HBFP, _HBFP_OTHERS) for bits in (4, 6, 8)},
        "flexblock12": Preset("s4:e8m0:b24p3:toward_zero", _FLEX),
        "flexblock16": Preset("s8:e8m0:b12p3:toward_zero", _FLEX),
        "flexblock24": Preset("s16:e8m0:b6p3:toward_zero", _FLEX),
        "fast4": Preset("8:e3:v16", _FAST),
        "fast2": Preset("6:e3:v16", _FAST),
        "bsfp": Preset(
            "i2+i2:e3m3s*e8m0:v16",
            "Lo, Lee and Liu, ICLR 2023: s1·q1 + s2·q2; scales of least squared error are our choice",
        ),
    },
    "Integers": {
        "int8": Preset("i8:f32:channel", _INT, _INT_OTHERS),
        "int4": Preset("i4:f32:channel", _INT, _INT_OTHERS),
        "int8-tensor": Preset("i8:f32:tensor", _INT, _INT_OTHERS),
        "int4-tensor": Preset("i4:f32:tensor", _INT, _INT_OTHERS),
        "uint8": Preset("u8:f32:tensor", "ONNX DynamicQuantizeLinear", "its steps are float32"),
    },
    "Floats under one scale": {
        "fp8e4m3": Preset("e4m3:f32:tensor", _FP8),
        "fp8e5m2": Preset("e5m2:f32:tensor", _FP8),
    },
    "Plain floats": {
        "fp16": Preset("f16", "IEEE 754 binary16"),
        "bf16": Preset("bf16", "the upper half of a float32"),
        "fp32": Preset("f32", "IEEE 754 binary32"),
    },
}
"""By who made them or what they are, in the order in which they are listed; a preset is one line here."""

TABLE: dict[str, Preset] = {name: preset for group in GROUPS.values() for name, preset in group.items()}
"""By name."""

PRESETS: dict[str, Format] = {name: parsed_text(preset.text) for name, preset in TABLE.items()}
"""By name; several may be equal."""


def names_of(fmt: Format) -> tuple[str, ...]:
    """The presets that a format is, in the order of the table."""
    return _names().get(fmt, ())


@cache
def _names() -> dict[Format, tuple[str, ...]]:
    found: dict[Format, tuple[str, ...]] = {}
    for name, fmt in PRESETS.items():
        found[fmt] = (*found.get(fmt, ()), name)
    return found
