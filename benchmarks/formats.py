"""What the formats that people know take, lose and cost: the table of README.md, as Markdown.

    python benchmarks/formats.py                                  # weights and activations of the demo
    python benchmarks/formats.py --checkpoint net.safetensors     # weights of yours; activations stay the demo's
    python benchmarks/formats.py --formats mxfp4 int4 4:e2:b8     # others than README.md has

Columns: bits per element of an activation of 64 channels and of a convolution's weight of 64 x 64 x 3 x 3, with all
that blocks and tensors store. Then the signal to noise ratio in dB (10 log10 of the sum of x^2 by that of (x - y)^2;
more is better, 6 dB are a bit of precision), the mean over all tensors of a kind:

- weights: those of the checkpoint with two axes or more and 16 channels or more along axis 1, where blocks run;
- activations: what every convolution and linear module of the demo is given for 64 test images, likewise;
- Gaussian: independent normal numbers, 256 rows of 1,024;
- outliers: Laplace numbers, one column in 128 of which is 30 times as large, as some channels of transformers are.

Then the speed of `bitq.quantize` into a fresh tensor, as a share of that of `clone()`: medians of interleaved runs on
an activation and on a weight. Last that of `bitq.pack` on the same, in GB of float32 per second.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf, log10
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bitq import demo, pack, parse_format, quantize
from bitq.formats import Format
from bitq.formats.explained import ACTIVATION, WEIGHT
from quantize import medians, take_turns

FORMATS = (
    *("bf16", "fp8e4m3", "mxfp8e4m3", "mxint8", "int8", "int8-tensor", "amd-bfp16", "8:e3:b16"),
    *("mxfp6e2m3", "nvfp4", "mxfp4", "msfp12", "int4"),
)


FEWEST_CHANNELS = 16
"""Blocks of fewer say nothing of a format: one number alone is often exact."""


@dataclass(frozen=True)
class Sample:
    """A tensor with channels along axis 1; those behind it are the kernel window of a weight."""

    x: Tensor
    weight: bool = False

    @property
    def inner_dims(self) -> tuple[int, ...]:
        """The kernel window of a weight."""
        return tuple(range(2, self.x.ndim)) if self.weight else ()

    def quantized(self, fmt: Format) -> Tensor:
        """In a format."""
        return quantize(self.x, fmt, 1, self.inner_dims)


def weights(state: dict[str, Tensor]) -> list[Sample]:
    """Those of a checkpoint that are no biases or norms."""
    known = [Sample(x.float(), weight=True) for x in state.values() if x.is_floating_point() and x.ndim >= 2]
    return told(known)


def activations(model: nn.Module, images: Tensor) -> list[Sample]:
    """What the layers of a network are given."""
    found: list[Sample] = []
    layers = [each for each in model.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    hooks = [each.register_forward_pre_hook(lambda _, given: found.append(Sample(given[0].clone()))) for each in layers]
    with torch.inference_mode():
        model(images)
    for hook in hooks:
        hook.remove()
    return told(found)


def told(samples: list[Sample]) -> list[Sample]:
    """Those that say something."""
    return [each for each in samples if each.x.shape[1] >= FEWEST_CHANNELS and each.x.any()]


def synthetic() -> Iterator[tuple[str, list[Sample]]]:
    """Normal numbers, and heavy tails with large columns."""
    generator = torch.Generator().manual_seed(0)
    yield "Gaussian", [Sample(torch.randn(256, 1024, generator=generator))]
    uniform = torch.rand(256, 1024, generator=generator, dtype=torch.float64) * 2 - 1
    laplace = -uniform.sign() * (1 - uniform.abs()).clamp(min=1e-12).log()
    laplace[:, ::128] *= 30
    yield "outliers", [Sample(laplace.float())]


def decibels(sample: Sample, fmt: Format) -> float:
    """Signal to noise ratio of a tensor in a format."""
    x, y = sample.x.double(), sample.quantized(fmt).double()
    noise = float((x - y).square().sum())
    return 10 * log10(float(x.square().sum()) / noise) if noise else inf


def mean_text(samples: list[Sample], fmt: Format) -> str:
    """Mean of tensors; of none "-"."""
    found = [decibels(each, fmt) for each in samples]
    return f"{sum(found) / len(found):.1f}" if found else "-"


def speed_text(sample: Sample, fmt: Format, seconds: float) -> str:
    """Of `clone()`."""
    candidates: dict[str, Callable[[], object]] = {"clone": sample.x.clone, "fresh": lambda: sample.quantized(fmt)}
    times = medians(take_turns(candidates, seconds))
    return f"{times['clone'] / times['fresh']:.2f}"


def packing_text(sample: Sample, fmt: Format, seconds: float) -> str:
    """GB of float32 per second."""
    times = medians(take_turns({"pack": lambda: pack(sample.x, fmt, 1, sample.inner_dims)}, seconds))
    return f"{sample.x.nbytes / times['pack'] / 1e9:.2g}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", default=FORMATS, metavar="FORMAT", help="names or texts")
    parser.add_argument("--checkpoint", type=Path, help="weights, as .safetensors (default: the demo's)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each speed")
    parser.add_argument("--images", type=int, default=32, help="of 64 x 56 x 56, whose speed is taken")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    known = demo.load()
    state = load_file(arguments.checkpoint) if arguments.checkpoint else known.model.state_dict()
    kinds = {"weights": weights(state), "activations": activations(known.model, known.test_images[:64])}
    kinds |= dict(synthetic())
    timed = Sample(torch.randn(arguments.images, 64, 56, 56)), Sample(torch.randn(512, 512, 3, 3), weight=True)
    counted = ", ".join(f"{len(samples)} of {kind}" for kind, samples in kinds.items())
    print(f"torch {torch.__version__}, {arguments.threads} threads; tensors: {counted}\n")
    speeds = ("speed: activation / weight", "packing, GB/s: activation / weight")
    headings = ["format", "bits: activation / weight", *(f"{kind}, dB" for kind in kinds), *speeds]
    print(f"| {' | '.join(headings)} |\n|{' --- |' * len(headings)}")
    for name in arguments.formats:
        fmt = parse_format(name)
        bits = " / ".join(f"{fmt.bits_per_element(*shape[1:]):.4g}" for shape in (ACTIVATION, WEIGHT))
        errors = [mean_text(samples, fmt) for samples in kinds.values()]
        speed = " / ".join(speed_text(each, fmt, arguments.seconds) for each in timed)
        packing = " / ".join(packing_text(each, fmt, arguments.seconds / 2) for each in timed)
        print(f"| {' | '.join([name, bits, *errors, speed, packing])} |", flush=True)


if __name__ == "__main__":
    main()
