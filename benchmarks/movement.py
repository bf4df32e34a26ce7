"""How fast the exact optimum is: every width triple of a grid for every convolution of ResNet-18, and large networks.

    python benchmarks/movement.py                             # both grids at 0.5, 8 and 64 KiB, 2 threads
    python benchmarks/movement.py --grids 8 --capacities 0.5  # one of the six
    python benchmarks/movement.py --scale                     # ConvNeXt-L and 1,000 unequal layers too

Prints a row per grid and capacity: seconds for the whole network with an empty cache (and of processor time, which a
busy machine prolongs less) and with a filled one, time per (layer, triple), the slowest single `optimize`. Some triples
of every layer are compared with `optimize`, and what the cache returns with what was computed. Returns 1 if anything
differs or an aim (in parentheses) is missed.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from bitq.devices import Device, Memory, load_device
from bitq.formats import TensorFormats, grid
from bitq.layers import Layer
from bitq.movement import Widths, optimize
from bitq.movement.cache import FOLDER_VARIABLE
from bitq.movement.levels import movement_many
from bitq.movement.network import network_movement
from bitq.movement.widths import widths

COLD_SECONDS, WARM_SECONDS, SINGLE_SECONDS, MOST_MIB = 10.0, 1.0, 0.2, 2048
SCALE_SECONDS = 300.0
SPOT_CHECKS = 20
SCALE_DEVICE = "i7-10700f"


def conv(name: str, K: int, C: int, size: int, kernel: int, stride: int) -> Layer:
    """A square convolution that pads its input of `size` rows and columns by half the kernel."""
    out = size // stride
    return Layer(
        name,
        K=K,
        C=C,
        P=out,
        Q=out,
        R=kernel,
        S=kernel,
        stride=(stride, stride),
        padding=(kernel // 2, kernel // 2),
        input_size=(size, size),
    )


def resnet18() -> tuple[Layer, ...]:
    """The distinct convolutions of ResNet-18 (He et al. 2015) on a 224 x 224 image."""
    layers = [conv("conv1", 64, 3, 224, 7, 2), conv("layer1", 64, 64, 56, 3, 1)]
    for stage, K, size in ((2, 128, 56), (3, 256, 28), (4, 512, 14)):
        layers.append(conv(f"layer{stage}.0.conv1", K, K // 2, size, 3, 2))
        layers.append(conv(f"layer{stage}", K, K, size // 2, 3, 1))
        layers.append(conv(f"layer{stage}.downsample", K, K // 2, size, 1, 2))
    return tuple(layers)


def triples_of(layer: Layer, bits: int) -> NDArray[np.float64]:
    """All distinct (input, weight, output) widths that a grid of formats gives the layer."""
    each = [widths(layer, TensorFormats(fmt, fmt, fmt)) for fmt in grid(bits)]
    tensors = (sorted({getattr(one, name) for one in each}) for name in ("input", "weight", "output"))
    return np.stack(np.meshgrid(*tensors, indexing="ij"), axis=-1).reshape(-1, 3)


def one_buffer(kib: float) -> Device:
    """A buffer in front of a DRAM."""
    buffer, dram = Memory("buffer", kib * 8192, 0.0, ""), Memory("DRAM", float("inf"), 1.0, "")
    return Device("one-buffer", f"{kib:g} KiB", "", (buffer, dram))


def single(layer: Layer, triple: Sequence[float], capacity_bits: float) -> tuple[float, float]:
    """Bits that `optimize` finds, and the seconds it takes."""
    start = time.perf_counter()
    best = optimize(layer, Widths(input=triple[0], weight=triple[1], output=triple[2]), capacity_bits)
    return best.bits, time.perf_counter() - start


def whole_network(bits: int, kib: float, threads: int, seed: int) -> bool:
    """Tabulate one grid at one capacity, cold and warm, compare, print a row; whether all is right and fast."""
    layers, device = resnet18(), one_buffer(kib)
    asked = [triples_of(layer, bits) for layer in layers]

    def tabulate() -> tuple[list[NDArray[np.float64]], float]:
        start = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            tables = list(pool.map(movement_many, layers, asked, [device] * len(layers)))
        return tables, time.perf_counter() - start

    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER_VARIABLE] = folder
        computing = time.process_time()
        cold, cold_seconds = tabulate()
        computing = time.process_time() - computing
        warm, warm_seconds = tabulate()
    right = all(a.tobytes() == b.tobytes() for a, b in zip(cold, warm, strict=True))
    generator, slowest = random.Random(seed), 0.0
    for layer, triples, table in zip(layers, asked, cold, strict=True):
        for row in generator.sample(range(len(triples)), SPOT_CHECKS):
            found, seconds = single(layer, triples[row].tolist(), kib * 8192)
            right = right and found == table[row, 0]
            slowest = max(slowest, seconds)
    count = sum(map(len, asked))
    fast = cold_seconds <= COLD_SECONDS and warm_seconds <= WARM_SECONDS and slowest <= SINGLE_SECONDS
    print(
        f"{bits:>2}-bit {kib:>5g} KiB {count:>8} triples {cold_seconds:>6.2f} s cold ({COLD_SECONDS:g}),"
        f" {computing:>5.2f} s of processors, {warm_seconds:>5.2f} s warm ({WARM_SECONDS:g})"
        f" {cold_seconds / count * 1e6:>6.2f} us per (layer, triple)"
        f" {slowest:>6.3f} s slowest optimize ({SINGLE_SECONDS:g})"
        f"{'' if right else '  DIFFERS'}{'' if fast else '  missed'}",
        flush=True,
    )
    return right and fast


def scale(seed: int) -> bool:
    """Count the movement of large networks without a cache, print the seconds; whether they stay below the aim."""
    generator, fmt, device = random.Random(seed), grid(8)[9], load_device(SCALE_DEVICE)
    unequal = []
    for index in range(1000):
        K, C, size = (generator.randint(*extent) for extent in ((16, 1024), (16, 1024), (7, 112)))
        unequal.append(conv(f"layer {index}", K, C, size, generator.choice((1, 3, 5)), generator.choice((1, 2))))
    networks = {"1,000 unequal layers": tuple(unequal)}
    try:
        import torch

        from bitq import trace
        from bitq.networks import convnext_large
    except ImportError as error:
        print(f"ConvNeXt-L: skipped, {error}")
    else:
        with torch.device("meta"):
            networks["ConvNeXt-L"] = trace(convnext_large(), torch.empty(1, 3, 224, 224))
    os.environ[FOLDER_VARIABLE] = ""
    fast = True
    for name, layers in networks.items():
        start = time.perf_counter()
        formats = [TensorFormats(fmt, fmt, fmt)] * len(layers) + [TensorFormats()] * len(layers)
        network_movement((*layers, *layers), formats, device)
        seconds = time.perf_counter() - start
        fast = fast and seconds <= SCALE_SECONDS
        print(f"{name} ({len(layers)} layers, {fmt} and float) on {device.name}: {seconds:.1f} s ({SCALE_SECONDS:g})")
    return fast


def main() -> int:
    """Measure what was asked for; 1 if anything differs or misses its aim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grids", type=int, nargs="+", default=[8, 16], help="bits of the grids (default: 8 16)")
    parser.add_argument("--capacities", type=float, nargs="+", default=[0.5, 8.0, 64.0], help="of the buffer, in KiB")
    parser.add_argument("--threads", type=int, default=2, help="layers solved at once (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the spot checks (default: 0)")
    parser.add_argument("--scale", action="store_true", help="count large networks too")
    options = parser.parse_args()
    good = [
        whole_network(bits, kib, options.threads, options.seed) for bits in options.grids for kib in options.capacities
    ]
    if options.scale:
        good.append(scale(options.seed))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    good.append(peak <= MOST_MIB)
    print(f"peak memory {peak} MiB ({MOST_MIB})")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
