"""How well formats that are not measured are scored: interpolated scores beside those of measuring all.

    python benchmarks/probing.py [--subject demo|resnet20] [--inputs 256]

For every tensor the rank correlation of the two over all formats that it may take, and the largest factor between them.
"""

from __future__ import annotations

import argparse
import time
from itertools import islice

import numpy as np
import torch
from scipy.stats import spearmanr

from bitq.accuracy.evaluate import cross_entropy
from bitq.accuracy.quantized import observing
from bitq.accuracy.sensitivity import perturbations, probed, scores
from bitq.formats import TENSORS, Format, TensorName, format_for
from bitq.tracing import trace
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.measure import first_inputs
from bitq.tradeoff.space import modules_of
from subjects import SUBJECTS


def main() -> None:
    """Score with some formats measured and with all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", choices=SUBJECTS, default="demo")
    parser.add_argument("--inputs", type=int, default=256, help="training inputs to score on (default: 256)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = SUBJECTS[options.subject](0)
    model, offered = subject.model.eval(), FormatSet.of()
    layers = {layer.module: layer for layer in trace(model, subject.example)}
    modules = modules_of(model, tuple(layers.values()))
    with torch.inference_mode(), observing(model, modules) as ranges:
        for images, _ in islice(iter(subject.data.train), 8):
            model(images)

    def every(module: str, tensor: TensorName) -> tuple[Format, ...]:
        signless = ranges[module].non_negative(tensor)
        own = (format_for(offered.formats[index], tensor, signless) for index in offered.indices(tensor))
        return tuple(dict.fromkeys(fmt for fmt in own if signless or not fmt.never_negative))

    def extent(module: str, tensor: TensorName) -> int:
        layer = layers[module]
        return {"input": layer.C * layer.groups, "weight": layer.C, "output": layer.K}[tensor]

    def few(module: str, tensor: TensorName) -> tuple[Format, ...]:
        return probed(every(module, tensor), extent(module, tensor))

    batches = first_inputs(model, subject.data.train, options.inputs, 0)
    seconds, found = [], []
    for formats in (few, every):
        start = time.perf_counter()
        found.append(perturbations(model, modules, formats, ranges, batches, cross_entropy))
        seconds.append(time.perf_counter() - start)
    correlations, factors = [], []
    for module in modules:
        for tensor in TENSORS:
            formats = every(module, tensor)
            some, measured = (scores(formats, own[module][tensor], extent(module, tensor)) for own in found)
            if measured.all() and some.all():
                correlations.append(spearmanr(some, measured).statistic)
                factors.append((float(np.exp(np.abs(np.log(some / measured)).max())), module, tensor))
    counts = [max(len(formats(module, tensor)) for module in modules for tensor in TENSORS) for formats in (few, every)]
    print(f"{options.subject}: {counts[0]} of {counts[1]} formats measured, {seconds[0]:.1f} s, all {seconds[1]:.1f} s")
    print(f"rank correlation by tensor: least {min(correlations):.4f}, median {np.median(correlations):.5f}")
    worst = sorted(factors)[:-4:-1]
    print("largest factor:", *(f"{factor:.2f} ({module} {tensor})" for factor, module, tensor in worst))


if __name__ == "__main__":
    main()
