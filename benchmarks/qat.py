"""Quantization-aware training against float training: time of a step and peak memory.

    python benchmarks/qat.py                           # ResNet-20 at 32x32, batch 128; ResNet-18 at 64x64, batch 32
    python benchmarks/qat.py --networks resnet18 --format 8:e4:b16 --threads 1
    python benchmarks/qat.py --profile resnet20        # where the time of a quantized step goes

A step is forward, backward and an update by SGD with momentum. In the quantized network the inputs, the weight and the
outputs of every convolution and linear layer are quantized, activations with calibrated exponent biases. Times are
taken of steps of both networks in turns, in one process, in which freed memory is kept, as `bitq.search` does: page
faults cost the float network as much as the quantized one. Memory is the peak of a process of its own for either one,
beyond what it has before the network is built.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitq.accuracy.kinds import quantizable
from bitq.accuracy.quantized import apply, observing
from bitq.allocator import keeping_freed_memory
from bitq.formats import BlockFormat, TensorFormats
from bitq.networks import resnet18
from bitq.networks.resnet import BasicBlock

STEPS = 4  # of a process whose memory is measured: momentum and all caches are there by then


class ResNet20(nn.Sequential):
    """He et al. (2016), Sec. 4.2: images [n, 3, 32, 32] to logits [n, 10]; projections as shortcuts."""

    def __init__(self) -> None:
        widths = (16, 16, 16, 16, 32, 32, 32, 64, 64, 64)
        blocks = (BasicBlock(before, width, width // before) for before, width in pairwise(widths))
        stem = (nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        super().__init__(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20": (ResNet20, (128, 3, 32, 32)),
    "resnet18": (resnet18, (32, 3, 64, 64)),
}


class Trainer:
    """A network that is trained on one batch."""

    def __init__(self, name: str, fmt: BlockFormat | None) -> None:
        torch.manual_seed(0)
        make, shape = NETWORKS[name]
        self.inputs, self.labels = torch.randn(shape), torch.randint(10, (shape[0],))
        self.model = make()
        if fmt is not None:
            names = list(quantizable(self.model))
            with torch.no_grad(), observing(self.model, names) as seen:
                self.model(self.inputs)
            apply(self.model, dict.fromkeys(names, TensorFormats(fmt, fmt, fmt)), seen)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)

    def step(self) -> Tensor:
        """Forward, backward, update."""
        self.optimizer.zero_grad()
        loss = functional.cross_entropy(self.model(self.inputs), self.labels)
        loss.backward()
        self.optimizer.step()
        return loss


def main() -> int:
    """Print a line per network; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--format", type=BlockFormat.parse, default=BlockFormat(8, 4, 16))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=25, help="of each network (default: 25)")
    parser.add_argument("--profile", choices=NETWORKS, help="print the operators of three quantized steps")
    parser.add_argument("--memory", nargs=2, metavar=("NETWORK", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        network, kind = options.memory
        print(json.dumps(peak_bytes(network, options.format if kind == "quantized" else None)))
        return 0
    if options.profile:
        profile(options.profile, options.format)
        return 0
    missed = False
    print(f"format {options.format} for every tensor, {options.threads} threads")
    for name in options.networks:
        memory = {kind: child_peak(name, kind, options) for kind in ("float", "quantized")}
        seconds = times(name, options.format, options.steps)
        pairs = zip(seconds["quantized"], seconds["float"], strict=True)
        ratio, space = statistics.median(q / f for q, f in pairs), memory["quantized"] / memory["float"]
        fastest = {kind: min(values) for kind, values in seconds.items()}
        print(
            f"{name}: a quantized step takes {ratio:.2f} times a float one (median of {options.steps} pairs; fastest "
            f"{fastest['quantized'] * 1e3:.0f} and {fastest['float'] * 1e3:.0f} ms: "
            f"{fastest['quantized'] / fastest['float']:.2f}); peak memory {memory['quantized'] >> 20} and "
            f"{memory['float'] >> 20} MiB: {space:.2f} times",
            flush=True,
        )
        missed |= ratio > 1.25 or space > 1.3
    print("at most 1.25 times the time and 1.3 times the memory:", "NO" if missed else "yes")
    return int(missed)


def times(name: str, fmt: BlockFormat, steps: int) -> dict[str, list[float]]:
    """Seconds of steps of either network, in turns."""
    trainers = {"float": Trainer(name, None), "quantized": Trainer(name, fmt)}
    seconds: dict[str, list[float]] = {kind: [] for kind in trainers}
    with keeping_freed_memory():
        for _ in range(steps + 2):
            for kind, trainer in trainers.items():
                start = time.perf_counter()
                trainer.step()
                seconds[kind].append(time.perf_counter() - start)
    return {kind: values[2:] for kind, values in seconds.items()}


def child_peak(name: str, kind: str, options: argparse.Namespace) -> int:
    """Peak bytes of training in a process of its own."""
    command = [sys.executable, __file__, "--memory", name, kind, "--format", str(options.format)]
    command += ["--threads", str(options.threads)]
    return int(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def peak_bytes(name: str, fmt: BlockFormat | None) -> int:
    """Peak memory of training, in bytes beyond what the process has before."""
    before = _resident("VmRSS:")
    trainer = Trainer(name, fmt)
    with keeping_freed_memory():
        for _ in range(STEPS):
            trainer.step()
        return _resident("VmHWM:") - before


def _resident(key: str) -> int:
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) << 10 for line in status.read_text().splitlines() if line.startswith(key))
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def profile(name: str, fmt: BlockFormat) -> None:
    """Operators of three steps by the time they take themselves."""
    trainer = Trainer(name, fmt)
    trainer.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        for _ in range(3):
            trainer.step()
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))


if __name__ == "__main__":
    sys.exit(main())
