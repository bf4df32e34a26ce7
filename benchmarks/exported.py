"""What ONNX Runtime makes of exported networks, beside bitq's own emulation.

    python benchmarks/exported.py
    BITQ_CIFAR10=... BITQ_RESNET20=... python benchmarks/exported.py --subjects demo resnet20 --formats 8:e3:b16 mxint8

Each network is calibrated on validation images, given each format for all of its tensors, exported, and run on test
images by ONNX Runtime. The first row of a network is itself in float32: what its logits differ by there is what the
order of sums makes.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from bitq.accuracy.kinds import quantizable
from bitq.accuracy.quantized import apply, observing
from bitq.accuracy.storing import with_products
from bitq.exporting import export
from bitq.exporting.standard_onnx.runtime import outputs
from bitq.formats import TensorFormats, parse_format
from bitq.tracing import record
from bitq.tradeoff.stored import points_of
from subjects import SUBJECTS, MissingError, Subject

FORMATS = ("8:e3:b16", "6:e2:b8", "mxint8", "mxfp4", "nvfp4", "16:e5:b16")


def main() -> int:
    """A row for each network and format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--formats", nargs="+", default=FORMATS, metavar="FORMAT", help="texts or names")
    parser.add_argument("--batches", type=int, default=4, help="of test images (default: 4)")
    options = parser.parse_args()
    print("network | format | images | labels alike | logits alike | differ by | weights packed | s")
    print("--- | --- | --- | --- | --- | --- | --- | ---")
    for name in options.subjects:
        try:
            subject = SUBJECTS[name](0)
        except MissingError as error:
            print(f"{name}: skipped: {error}", file=sys.stderr)
            continue
        images = torch.cat([x for x, _ in islice(subject.data.test, options.batches)])
        for text in (None, *options.formats):
            print(" | ".join((name, text or "float32", *measured(subject, text, images))), flush=True)
    return 0


def measured(subject: Subject, text: str | None, images: Tensor) -> tuple[str, ...]:
    """Images, labels and logits alike, the largest difference, weights in integers, seconds of the export."""
    model = copy.deepcopy(subject.model) if text is None else quantized(subject, alike(text))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        handed = export(model, images[:2], Path(folder) / "net.onnx")
        seconds = time.perf_counter() - start
        (found,) = outputs(handed.path, [images])
    with torch.inference_mode():
        expected = model(images)
    labels = int((found.argmax(1) == expected.argmax(1)).sum())
    return (
        str(len(images)),
        str(labels),
        f"{float((found == expected).float().mean()):.4f}",
        f"{float((found - expected).abs().max()):.2g}",
        str(handed.figures["packed_weights"]),
        f"{seconds:.1f}",
    )


def alike(text: str) -> TensorFormats:
    """One format for all tensors of a layer."""
    fmt = parse_format(text)
    return TensorFormats(fmt, fmt, fmt)


def quantized(subject: Subject, formats: TensorFormats) -> nn.Module:
    """The network with formats for the tensors of its layers, calibrated on a batch of validation images."""
    x, _ = next(iter(subject.data.validation))
    traced = record(subject.model, subject.example)
    model = with_products(copy.deepcopy(subject.model), traced.products)
    names = [layer.module for layer in traced.layers if layer.module in quantizable(model)]
    points = points_of(traced, "after-activation", names)
    with observing(model, names, points=points) as ranges, torch.inference_mode():
        model(x)
    apply(model, dict.fromkeys(names, formats), ranges, points=points)
    return model.eval()


if __name__ == "__main__":
    sys.exit(main())
