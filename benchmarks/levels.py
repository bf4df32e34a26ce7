"""Plans of all memories together against plans one by one, and against what no plan comes below.

    python benchmarks/levels.py                          # a sample of format triples, all networks, i7-10700f
    python benchmarks/levels.py --networks resnet18 --devices eyeriss --minimize energy
    python benchmarks/levels.py --unequal 1000           # so many layers of different shapes, one triple each
    python benchmarks/levels.py --tables                 # every triple of the 8-bit grid, as a search asks

One row per network and device: pairs of a distinct layer and a format triple, the shares of them whose plan is proven
to be within 5 and 15 % of the least, the largest gap, what all plans take beside plans one by one, the most that one of
these takes beside its own, and seconds.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from random import Random
from tempfile import TemporaryDirectory

import torch
from torch import nn

from bitq.demo.resnet8 import resnet8
from bitq.devices import Device, device_names, load_device
from bitq.formats import TensorFormats, grid
from bitq.layers import Layer
from bitq.movement.levels import LayerPlan, plan
from bitq.movement.model import Widths
from bitq.movement.widths import widths
from bitq.networks.resnet import resnet18
from bitq.planning import Minimize, Planning
from bitq.tracing import trace
from bitq.tradeoff.space import build_space
from cifar_resnet import resnet20


def mobilenet_v2() -> Iterator[Layer]:
    """Its convolutions at 224 x 224: expansion, channels, blocks and stride of each stage as in the paper's Table 2."""
    yield conv(32, 3, 112, 3, 2)
    channels, size = 32, 112
    for expansion, out, blocks, stride in (
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    ):
        for block in range(blocks):
            inner, step = expansion * channels, stride if block == 0 else 1
            if expansion > 1:
                yield conv(inner, channels, size, 1)
            size //= step
            yield conv(inner, 1, size, 3, step, groups=inner)
            yield conv(out, inner, size, 1)
            channels = out
    yield conv(1280, 320, 7, 1)
    yield Layer("", K=1000, C=1280)


def convnext_l() -> Iterator[Layer]:
    """Its convolutions and linear layers at 224 x 224, where one block stands for all of a stage."""
    before = 3
    for channels, size in ((192, 56), (384, 28), (768, 14), (1536, 7)):
        taps = 4 if before == 3 else 2
        yield Layer("", K=channels, C=before, P=size, Q=size, R=taps, S=taps, stride=(taps, taps))
        yield conv(channels, 1, size, 7, groups=channels)
        yield Layer("", N=size * size, K=4 * channels, C=channels)
        yield Layer("", N=size * size, K=channels, C=4 * channels)
        before = channels
    yield Layer("", K=1000, C=1536)


def yolov8n() -> Iterator[Layer]:
    """The distinct convolutions of YOLOv8n at 640 x 640: backbone, neck and the heads of its three scales."""
    yield conv(16, 3, 320, 3, 2)
    yield conv(32, 16, 160, 3, 2)
    stages = ((32, 160, (48,)), (64, 80, (128, 192)), (128, 40, (256, 192, 384)), (256, 20, (384,)))
    for channels, size, further in stages:
        yield conv(channels, channels, size, 1)
        yield conv(channels // 2, channels // 2, size, 3)
        for inputs in further:
            yield conv(channels, inputs, size, 1)
        if size > 20:
            yield conv(2 * channels, channels, size // 2, 3, 2)
    for channels, size in ((64, 80), (128, 40), (256, 20)):
        yield from (conv(64, channels, size, 3), conv(80, channels, size, 3), conv(80, 80, size, 3))
        yield from (conv(64, 64, size, 3), conv(64, 64, size, 1), conv(80, 80, size, 1))
    yield from (conv(128, 256, 20, 1), conv(256, 512, 20, 1), conv(64, 64, 40, 3, 2), conv(128, 128, 20, 3, 2))
    yield conv(1, 16, 8400, 1)


def conv(k: int, c: int, size: int, taps: int, stride: int = 1, groups: int = 1) -> Layer:
    """A convolution of a square output; c input channels of a group."""
    pad, shape = taps // 2, (size * stride, size * stride)
    square = {"P": size, "Q": size, "R": taps, "S": taps, "stride": (stride, stride), "padding": (pad, pad)}
    return Layer("", K=k, C=c, **square, groups=groups, input_size=shape)  # type: ignore[arg-type]


def traced(model: nn.Module, shape: tuple[int, ...]) -> Iterator[Layer]:
    """The layers of a network."""
    yield from trace(model, torch.empty(shape, device="meta"))


NETWORKS = {
    "demo": lambda: traced(resnet8(), (1, 1, 28, 28)),
    "resnet20": lambda: traced(resnet20(), (1, 3, 32, 32)),
    "resnet18": lambda: traced(resnet18(), (1, 3, 224, 224)),
    "mobilenetv2": mobilenet_v2,
    "convnext-l": convnext_l,
    "yolov8n": yolov8n,
}


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--devices", nargs="+", default=["i7-10700f"], help=f"files, or {', '.join(device_names())}")
    parser.add_argument("--triples", type=int, default=6, help="of formats of each layer (default: 6)")
    parser.add_argument("--minimize", type=Minimize, choices=list(Minimize), default=Minimize.movement)
    parser.add_argument("--unequal", type=int, default=0, help="plan so many random layers instead")
    parser.add_argument("--tables", action="store_true", help="time every triple of the 8-bit grid instead")
    parser.add_argument("--layers", action="store_true", help="print every layer and triple, too")
    options = parser.parse_args()
    for name in options.devices:
        device = replace(load_device(name), minimize=options.minimize)
        if options.unequal:
            start = time.perf_counter()
            for layer in unequal(options.unequal):
                plan(layer, Widths(5.125, 9.125, 4.02), device)
            print(f"{options.unequal} unequal layers on {name}: {time.perf_counter() - start:.1f} s")
            continue
        if options.tables:
            for network in options.networks:
                print(f"{network} on {name}: {tabulated(list(NETWORKS[network]()), device):.1f} s", flush=True)
            continue
        heads = f"{'pairs':>6} {'<= 5 %':>7} {'<= 15 %':>7} {'most':>6} {'of one by one':>13} {'worst':>6} {'s':>7}"
        print(f"{'network':12} {'device':12} {heads}")
        for network in options.networks:
            layers = dict.fromkeys(layer.unnamed for layer in NETWORKS[network]())
            rng, found, before, start = Random(0), [], [], time.perf_counter()
            for layer in layers:
                for formats in sampled(rng, options.triples):
                    q = widths(layer, formats)
                    found.append(plan(layer, q, device))
                    if options.layers:
                        told(layer, q, found[-1])
            seconds, rng = time.perf_counter() - start, Random(0)
            one_by_one = replace(device, planned=Planning.one_by_one)
            for layer in layers:
                before += [plan(layer, widths(layer, own), one_by_one) for own in sampled(rng, options.triples)]
            within = [sum(one.gap <= most for one in found) / len(found) for most in (0.05, 0.15)]
            share = sum(one.price for one in found) / sum(one.price for one in before)
            worst = max(old.price / new.price for old, new in zip(before, found, strict=True))
            print(
                f"{network:12} {name:12} {len(found):6} {within[0]:7.1%} {within[1]:7.1%} "
                f"{max(one.gap for one in found):6.1%} {share:13.1%} {worst:6.2f} {seconds:7.1f}",
                flush=True,
            )


def tabulated(layers: list[Layer], device: Device) -> float:
    """Seconds for what all triples move in all layers, with nothing known before."""
    with TemporaryDirectory() as folder:
        os.environ["BITQ_CACHE_DIR"] = folder
        named = [replace(layer, name=str(number), module=str(number)) for number, layer in enumerate(layers)]
        start = time.perf_counter()
        build_space(named, dict.fromkeys((layer.module for layer in named), 0), 0, device, tuple(grid(8)))
        return time.perf_counter() - start


def sampled(rng: Random, count: int) -> list[TensorFormats]:
    """Random triples of the grids of 8 and 16 bits."""
    formats = (*grid(8), *grid(16))
    return [TensorFormats(*(rng.choice(formats) for _ in range(3))) for _ in range(count)]


def unequal(count: int) -> Iterator[Layer]:
    """Layers of shapes as networks have them, each another one."""
    rng = Random(0)
    channels = (16, 24, 48, 64, 96, 160, 256, 384, 512), (3, 16, 40, 64, 128, 256, 512)
    shapes = list(product(*channels, (7, 14, 20, 28, 56, 80), ((1, 1), (3, 1), (3, 2), (5, 1))))
    for k, c, size, (taps, stride) in rng.sample(shapes, count):
        yield conv(k, c, size, taps, stride)


def told(layer: Layer, q: Widths, found: LayerPlan) -> None:
    """One line on one pair."""
    shape = " ".join(f"{loop}{layer.extent(loop)}" for loop in "NKCPQRS")
    each = f"{q.input:.2f} {q.weight:.2f} {q.output:.2f}"
    print(f"  {shape} x{layer.groups} widths {each}: {found.price:.6g}, gap {found.gap:.1%}")


if __name__ == "__main__":
    main()
