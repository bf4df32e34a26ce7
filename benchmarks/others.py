"""How far torchao's numbers are those of bitq's formats of the same names: every difference has to be of a known kind.

    python benchmarks/others.py --peers SITE_PACKAGES

The folder is one that pip filled without dependencies, for torch must not move; the rest is in the environment of
`make env`:

    python -m venv --without-pip /tmp/peers
    pip --python /tmp/peers/bin/python install --no-deps torchao==0.18.0

MX formats, all four modes of the scale: the same numbers, but where bitq takes a larger scale so that every result is a
normal float32. RCEIL of torchao divides in float32, so its scale is also another where the maximum of a block is next
to a power of two times the largest element. NVFP4: torchao keeps block scales at 2^-6 or more and multiplies by
float32 reciprocals, so blocks far below the tensor's maximum, and quotients next to a tie, differ. (gfloat, ml_dtypes
and ONNX are in tests/test_others.py.) Returns 1 if a difference is of no such kind.
"""

from __future__ import annotations

import argparse
import sys
from math import log2

import torch
from torch import Tensor

from bitq import parse_format, quantize
from bitq.formats import PRESETS

MX = ("mxfp8e4m3", "mxfp8e5m2", "mxfp6e2m3", "mxfp6e3m2", "mxfp4")
MODES = ("floor", "ceil", "even", "rceil")


def blocks(count: int, size: int, largest: float) -> Tensor:
    """Rows of one block each: normal, of every magnitude, next to powers of two and next to these times `largest`."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, size, generator=generator)
    x[::3] *= 2.0 ** torch.randint(-126, 120, (len(x[::3]), 1), generator=generator)
    powers = 2.0 ** torch.randint(-12, 1, x[1::3].shape, generator=generator)
    powers[::2, 0] = 2.0 ** torch.randint(1, 90, (len(powers[::2]),), generator=generator) * largest
    side = torch.randint(-1, 2, powers.shape, generator=generator, dtype=torch.int32)
    x[1::3] = (powers.view(torch.int32) + side).view(torch.float32) * x[1::3].sign()
    return x


def mx_of_torchao(x: Tensor, name: str, mode: str) -> Tensor:
    """Quantized and back again."""
    from torchao.prototype.mx_formats.config import ScaleCalculationMode
    from torchao.prototype.mx_formats.mx_tensor import to_dtype, to_mx

    kind = {
        "mxfp8e4m3": torch.float8_e4m3fn,
        "mxfp8e5m2": torch.float8_e5m2,
        "mxfp6e2m3": "fp6_e2m3",
        "mxfp6e3m2": "fp6_e3m2",
        "mxfp4": torch.float4_e2m1fn_x2,
    }[name]
    scale, data = to_mx(x, kind, 32, ScaleCalculationMode[mode.upper()])
    return to_dtype(data, scale, kind, 32, torch.float32)


def compare_mx(name: str, mode: str, count: int) -> bool:
    """Whether all differences are known; says how many blocks differ."""
    fmt = parse_format(PRESETS[name].text.replace("e8m0", f"e8m0.{mode}" if mode != "floor" else "e8m0"))
    x = blocks(count, 32, fmt.largest)
    differs = (quantize(x, fmt) != mx_of_torchao(x, name, mode)).any(1)
    peak = x.abs().amax(1).double()
    raised = peak < 2.0 ** (-126 - log2(fmt.smallest) + fmt.top_exponent + 1)
    place = peak / fmt.largest
    power = 2.0 ** place.log2().round()
    beside = ((place / power - 1).abs() < 2.0**-22) & (mode == "rceil")
    unknown = int((differs & ~raised & ~beside).sum())
    print(
        f"{name} {mode}: of {len(x)} blocks {int((differs & raised).sum())} differ by a larger scale, "
        f"{int((differs & beside & ~raised).sum())} next to a power of two, {unknown} otherwise"
    )
    return not unknown


def nvfp4_of_torchao(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Elements, scales of blocks and of the tensor, all float64."""
    from torchao.prototype.mx_formats.kernels import f4_unpacked_to_f32, unpack_uint4
    from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize, per_tensor_amax_to_scale

    second = per_tensor_amax_to_scale(x.abs().max())
    scale, data = nvfp4_quantize(x, 16, second)
    return f4_unpacked_to_f32(unpack_uint4(data)).double(), scale.double().reshape(-1, 1), second.double()


def compare_nvfp4(count: int) -> bool:
    """Whether all differences are known; says how many blocks differ."""
    x = torch.randn(count, 16, generator=torch.Generator().manual_seed(1))
    x *= 2.0 ** torch.randint(-18, 1, (count, 1), generator=torch.Generator().manual_seed(2))
    q, scale, second = nvfp4_of_torchao(x)
    ours = quantize(x, PRESETS["nvfp4"])
    differs = ours != (q * scale * second).float()
    wanted = x.abs().amax(1, keepdim=True).double() / 6 / second
    clamped = (wanted < 2.0**-6).expand_as(x)
    unit = 2.0 ** (wanted.log2().floor().clamp(min=-6) - 3)
    scale_tie = (((wanted / unit) % 1 - 0.5).abs() < 2.0**-18).expand_as(x)
    quotient = (x.double() / scale / second).abs()
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], dtype=torch.float64)
    tie = ((quotient.unsqueeze(-1) - ties).abs() < 2.0**-20).any(-1)
    unknown = int((differs & ~clamped & ~scale_tie & ~tie).sum())
    print(
        f"nvfp4: of {x.numel()} elements {int((differs & clamped).sum())} differ in blocks below 2^-6, "
        f"{int((differs & ~clamped & (scale_tie | tie)).sum())} next to a tie, {unknown} otherwise"
    )
    return not unknown


def main() -> int:
    """Compare all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", metavar="SITE_PACKAGES", required=True, help="folder that holds torchao")
    parser.add_argument("--blocks", type=int, default=60_000)
    arguments = parser.parse_args()
    sys.path.append(arguments.peers)
    known = [compare_mx(name, mode, arguments.blocks) for name in MX for mode in MODES]
    return int(not all([*known, compare_nvfp4(arguments.blocks)]))


if __name__ == "__main__":
    raise SystemExit(main())
