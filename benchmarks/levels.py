"""Energy of all memories planned jointly against each memory planned for itself.

    python benchmarks/levels.py                          # ResNet-18 and the demo on all shipped devices
    python benchmarks/levels.py --devices eyeriss        # on some
    python benchmarks/levels.py --budget 5000000         # search longer

One row per distinct layer: energy (uJ) of the plan that is optimal memory by memory ("greedy"), what the joint plan
saves of it, by how much a better joint plan could at most lower that ("gap", 0 is proven), and the seconds both take.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from bitq.movement.joint import BUDGET, joint_movement

from bitq.demo.resnet8 import resnet8
from bitq.devices import Device, device_names, load_device
from bitq.layers import Layer
from bitq.movement import Widths
from bitq.movement.levels import movement
from bitq.networks.resnet import resnet18
from bitq.tracing import trace

NETWORKS = {"demo": (resnet8, (1, 1, 28, 28)), "resnet18": (resnet18, (1, 3, 224, 224))}


def main() -> None:
    """Print the rows, and a total per network and device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument(
        "--devices", nargs="+", default=list(device_names()), help="names or files (default: all shipped)"
    )
    parser.add_argument("--bits", type=float, default=8.0, help="width of every element (default: 8)")
    parser.add_argument("--budget", type=int, default=BUDGET, help=f"tile vectors per layer (default: {BUDGET})")
    options = parser.parse_args()
    widths = Widths(options.bits, options.bits, options.bits)
    print(
        f"{'network':9} {'device':12} {'layer':28} {'greedy uJ':>10} {'saved':>8} {'gap':>8} {'greedy s':>8} "
        f"{'joint s':>8}"
    )
    for network in options.networks:
        build, shape = NETWORKS[network]
        layers = trace(build(), torch.empty(shape, device="meta"))
        for name in options.devices:
            compare(network, layers, load_device(name), widths, options.budget)


def compare(network: str, layers: tuple[Layer, ...], device: Device, widths: Widths, budget: int) -> None:
    """Solve each distinct layer once, and print its row and the totals over all layers."""
    times: dict[Layer, int] = {}
    names: dict[Layer, str] = {}
    for layer in layers:
        shape = replace(layer, name="", module="")
        times[shape] = times.get(shape, 0) + 1
        names.setdefault(shape, layer.name)
    totals = [0.0] * 5
    for shape, count in times.items():
        start = time.perf_counter()
        greedy = sum(level.energy_pj for level in movement(shape, widths, device))
        between = time.perf_counter()
        joint = joint_movement(shape, widths, device, budget)
        spent = between - start, time.perf_counter() - between
        figures = (greedy, joint.energy_pj, joint.lower_bound_pj)
        row(network, device.name, f"{names[shape]} x{count}", figures, spent)
        totals = [a + b for a, b in zip(totals, (*(count * figure for figure in figures), *spent), strict=True)]
    row(network, device.name, "total", totals[:3], totals[3:])


def row(network: str, device: str, layer: str, energy_pj: Sequence[float], seconds: Sequence[float]) -> None:
    """One line: greedy, joint and least energy (pJ) as they compare."""
    greedy, joint, least = energy_pj
    saved, gap = 1 - joint / greedy, 1 - least / joint
    before, after = seconds
    print(
        f"{network:9} {device:12} {layer:28} {greedy / 1e6:10.4f} {saved:8.3%} {gap:8.3%} {before:8.2f} {after:8.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
