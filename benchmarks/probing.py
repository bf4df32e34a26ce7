"""How well formats that are not measured are scored: interpolated scores beside those of measuring all.

    python benchmarks/probing.py [--subject demo|resnet20|mobilenet_v2] [--inputs 256]
    python benchmarks/probing.py --drawn        # rows that are drawn beside all rows, and other inputs beside these

For every tensor the rank correlation of the two over all formats that it may take, and the largest factor between them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

import numpy as np
import torch
from scipy.stats import spearmanr

from bitq.accuracy import graded
from bitq.accuracy.evaluate import cross_entropy
from bitq.accuracy.quantized import observing
from bitq.accuracy.sensitivity import perturbations, probed, scores
from bitq.allocator import keeping_freed_memory
from bitq.batches import Batch
from bitq.formats import TENSORS, Format, TensorName, format_for
from bitq.tracing import record
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.measure import Data, first_inputs
from bitq.tradeoff.space import modules_of, weight_bytes
from bitq.tradeoff.stored import points_of
from posttraining import mobilenet_v2
from subjects import SUBJECTS, MissingError, Subject

Formats = Callable[[str, TensorName], Sequence[Format]]
Perturbations = Mapping[str, Mapping[TensorName, Mapping[Format, float]]]

BATCH = 32
"""Images of MobileNetV2 that are scored at once."""


def mobilenet(seed: int) -> Subject:
    """MobileNetV2 with its labelled images, as `posttraining.py` has them."""
    model, images, labels = mobilenet_v2()
    batches = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
    return Subject("mobilenet_v2", model, Data(batches, batches, batches), images[:1])


SCORED = {**SUBJECTS, "mobilenet_v2": mobilenet}


def main() -> None:
    """Score with some formats measured and with all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", choices=SCORED, default="demo")
    parser.add_argument("--drawn", action="store_true", help="judge what drawing rows does to scores instead")
    parser.add_argument("--inputs", type=int, default=256, help="training inputs to score on (default: 256)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        subject = SCORED[options.subject](0)
    except MissingError as error:
        print(f"{options.subject}: skipped: {error}")
        return
    model, offered = subject.model.eval(), FormatSet.of()
    traced = record(model, subject.example)
    layers = {layer.module: layer for layer in traced.layers}
    modules = modules_of(model, traced.layers)
    points = points_of(traced, "after-activation", weight_bytes(model, traced.layers))
    with torch.inference_mode(), observing(model, modules, points=points) as ranges:
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

    def scored(formats: Formats, batches: Sequence[Batch], most: int) -> tuple[Perturbations, float]:
        start = time.process_time()
        graded.MOST_DRAWN = most
        with keeping_freed_memory():
            found = perturbations(model, modules, formats, ranges, batches, cross_entropy, points=points)
        return found, time.process_time() - start

    def compared(what: str, formats: Formats, one: Perturbations, other: Perturbations) -> None:
        """Print how like two scores are, of all these formats."""
        correlations, factors = [], []
        for module in modules:
            for tensor in TENSORS:
                own = formats(module, tensor)
                a, b = (scores(own, each[module][tensor], extent(module, tensor)) for each in (one, other))
                if a.all() and b.all():
                    correlations.append(spearmanr(a, b).statistic)
                    factors.append((float(np.exp(np.abs(np.log(a / b)).max())), module, tensor))
        middle = np.median(correlations)
        print(f"{what}: rank correlation by tensor: least {min(correlations):.4f}, median {middle:.5f}")
        worst = sorted(factors)[:-4:-1]
        print("largest factor:", *(f"{factor:.2f} ({module} {tensor})" for factor, module, tensor in worst))
        print(f"median of the largest factors by tensor: {np.median([factor for factor, *_ in factors]):.3f}")

    batches = first_inputs(model, subject.data.train, options.inputs, 0)
    if options.drawn:
        rows, fast = scored(few, batches, graded.MOST_DRAWN)
        print(f"{options.subject}: {fast / options.inputs:.4f} s of a processor for each input", flush=True)
        all_rows, slow = scored(few, batches, sys.maxsize)
        print(f"all rows: {slow / options.inputs:.4f} s")
        compared("drawn rows and all", few, rows, all_rows)
        if len(batches) < 2:
            print("of one batch there are no halves; give more inputs")
            return
        halves = (scored(few, batches[start::2], sys.maxsize)[0] for start in range(2))
        compared("half of the inputs and the other", few, *halves)
        return
    (some, fast), (measured, slow) = (scored(formats, batches, graded.MOST_DRAWN) for formats in (few, every))
    counts = [max(len(formats(module, tensor)) for module in modules for tensor in TENSORS) for formats in (few, every)]
    told = f"{counts[0]} of {counts[1]} formats measured"
    print(f"{options.subject}: {told}, {fast:.1f} s of a processor, all {slow:.1f} s")
    compared("measured and all", every, some, measured)


if __name__ == "__main__":
    main()
