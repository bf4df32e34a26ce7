"""Packing and unpacking against copying: GB of float32 per second.

    python benchmarks/pack.py                    # 1 and 2 threads
    python benchmarks/pack.py --twin             # the twin in PyTorch beside it

Every line is the median of interleaved runs in one process on a weight [512, 512, 3, 3] and an activation
[8, 64, 56, 56]; `copy` is torch's copy_ of the same tensor.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

import torch

from bitq.formats import parse_format
from bitq.numerics import native_packing as native
from bitq.numerics import pack

FORMATS = (
    *("8:e3:b16", "8:e4:b32", "8:e6:b1", "8:e2:b48", "16:e4:b16"),
    *("mxint8", "mxfp8e4m3", "mxfp6e2m3", "mxfp4", "nvfp4", "int8", "int4", "int8-tensor", "fp8e4m3"),
)
TENSORS = {"weight": ((512, 512, 3, 3), (2, 3)), "activation": ((8, 64, 56, 56), ())}


def main() -> None:
    """Print a line per tensor, format and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", default=FORMATS, help="texts or names (default: the usual ones)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9, help="interleaved runs of each (default: 9)")
    parser.add_argument("--twin", action="store_true", help="time the twin in PyTorch, too (slow)")
    options = parser.parse_args()
    print(f"{'GB/s of float32':12} {'format':>12} {'threads':>8} {'copy':>7} {'pack':>7} {'unpack':>7}")
    for name, (shape, inner) in TENSORS.items():
        x = torch.randn(shape)
        y = torch.empty_like(x)
        for text in options.formats:
            fmt = parse_format(text)
            packed = pack(x, fmt, 1, inner)
            works: dict[str, Callable[[], object]] = {
                "copy": lambda y=y, x=x: y.copy_(x),
                "pack": lambda x=x, fmt=fmt, inner=inner: pack(x, fmt, 1, inner),
                "unpack": packed.unpack,
            }
            for threads in options.threads:
                torch.set_num_threads(threads)
                rates = measure(works, x.nbytes, options.rounds)
                print(f"{name:15} {text:>12} {threads:8}", *(f"{rate:7.2f}" for rate in rates.values()))
            if options.twin:
                with patch.object(native, "layout", return_value=None):
                    rates = measure(works, x.nbytes, 1)
                print(f"{name:15} {text:>12} {'twin':>8}", *(f"{rate:7.2f}" for rate in rates.values()), flush=True)


def measure(works: dict[str, Callable[[], object]], size: int, rounds: int) -> dict[str, float]:
    """GB/s of each, median of interleaved rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return {name: size / statistics.median(values[1:] or values) / 1e9 for name, values in seconds.items()}


if __name__ == "__main__":
    main()
