"""What relaxing the tile sizes costs, and how far from any schedule's limit the integer optimum is.

    pip install 'bitq[relaxed]'
    python benchmarks/relaxed.py                                  # ResNet-18 at 0.5, 8 and 64 KiB, formats 8:e3:b16
    python benchmarks/relaxed.py --capacities 2 --format 16:e5:b32
    python benchmarks/relaxed.py --network eca_mobilenet_v2

A row for every distinct layer and capacity, in Mbit: the lower bound on any schedule; the integer optimum; the paper's
relaxed optimum (IPOPT), which is no bound; the true traffic of its tiles rounded down; then the optimum over the lower
bound, and the relaxed optimum and the rounded tiles over the integer optimum. Totals count a layer as often as the
network has it. Returns 1 if rounded tiles move less than the optimum, or the optimum less than the lower bound.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace

import torch

from bitq.formats import BlockFormat, TensorFormats
from bitq.layers import Layer
from bitq.movement import lower_bound, optimize
from bitq.movement.relaxed import optimize_relaxed
from bitq.movement.widths import widths
from bitq.networks import NETWORKS
from bitq.tracing import trace

KIB_BITS = 8 * 1024
HEAD = f"{'layer':36} {'KiB':>5} {'bound':>9} {'optimum':>9} {'relaxed':>9} {'rounded':>9}"
RATIOS = f"{'opt/bound':>9} {'relax/opt':>9} {'round/opt':>9}"


def main() -> int:
    """Print the table; 1 if a row contradicts what must hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="resnet18", help="(default: resnet18)")
    parser.add_argument("--capacities", type=float, nargs="+", default=[0.5, 8, 64], help="KiB (default: 0.5 8 64)")
    parser.add_argument("--format", default="8:e3:b16", help="of every tensor (default: 8:e3:b16)")
    options = parser.parse_args()
    fmt = BlockFormat.parse(options.format)
    network = distinct(trace(NETWORKS[options.network](), torch.empty(1, 3, 224, 224, device="meta")))
    print(f"Mbit moved, {options.network}, every tensor {fmt}\n\n{HEAD} {RATIOS}")
    holds = True
    for kib in options.capacities:
        total = [0.0] * 4
        for (layer, name), times in network.items():
            q, capacity = widths(layer, TensorFormats(fmt, fmt, fmt)), kib * KIB_BITS
            relaxed, optimum = optimize_relaxed(layer, q, capacity), optimize(layer, q, capacity)
            row = [lower_bound(layer, q, capacity), optimum.bits, relaxed.bits, relaxed.floored_bits]
            print(text(f"{times} x {name}", kib, row), flush=True)
            holds = holds and row[0] * (1 - 1e-12) <= row[1] <= row[3] * (1 + 1e-12)
            total = [bits + times * more for bits, more in zip(total, row, strict=True)]
        print(text("total", kib, total) + "\n")
    print("bound <= optimum <= rounded tiles in every row:", "yes" if holds else "NO")
    return 0 if holds else 1


def distinct(layers: tuple[Layer, ...]) -> Counter[tuple[Layer, str]]:
    """How often each layer occurs, keyed by the nameless layer and the name it has first."""
    names: dict[Layer, str] = {}
    for layer in layers:
        names.setdefault(replace(layer, name="", module=""), layer.name)
    return Counter((shape, names[shape]) for shape in (replace(layer, name="", module="") for layer in layers))


def text(name: str, kib: float, row: list[float]) -> str:
    """One line of the table."""
    bound, optimum, relaxed, rounded = row
    bits = " ".join(f"{value / 1e6:9.3f}" for value in row)
    return f"{name:36} {kib:5g} {bits} {optimum / bound:9.3f} {relaxed / optimum:9.3f} {rounded / optimum:9.3f}"


if __name__ == "__main__":
    raise SystemExit(main())
