"""What formats cost trained networks without any fine-tuning: accuracy, and agreement with the float network.

    python benchmarks/posttraining.py
    python benchmarks/posttraining.py --networks mobilenet_v2 --formats 8:e3:b8 16:e5:b16 --within --limit 100

Every format of `--formats` is taken by all tensors. For every format of `--within` bitq looks for the most accurate
plan that moves no more bits than it on `--device`.

MobileNetV2 (ImageNet weights) on a labelled subset of the ImageNet validation images, given as a folder and a CSV file
of `file,label`; ResNet-18 (Tiny-ImageNet, 64x64) on an .npz of `x` and `y`. Their places are read from
BITQ_MOBILENET_V2, BITQ_IMAGENET_SUBSET (the CSV file; its images in the folder of its name beside it),
BITQ_RESNET18_TINY and BITQ_TINY_IMAGENET. Activations are calibrated, and bitq's scores taken, on the first images: not
with their labels, but with the classes that the float network puts them into. Agreement is the share of images that
both networks put into the same class.
"""

from __future__ import annotations

import argparse
import copy
import csv
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bitq.accuracy.kinds import quantizable
from bitq.accuracy.quantized import apply, observing
from bitq.api import search
from bitq.devices import Device, load_device
from bitq.formats import BlockFormat, TensorFormats
from bitq.images import Scaling
from bitq.loading import load_checkpoint
from bitq.networks import eca_mobilenet_v2, resnet18
from bitq.progress import Terminal
from bitq.tracing import trace
from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.settings import Settings
from bitq.tradeoff.space import space_of
from subjects import IMAGENET, MissingError, needed_file

WITHIN = ("8:e2:b16", "8:e3:b16", "8:e4:b16")
FORMATS = ("16:e2:b16", "16:e5:b16", "16:e7:b16", "8:e2:b16", "8:e3:b1", "8:e3:b8", "8:e3:b16", "8:e4:b16", "8:e5:b16")
BATCH = 50
CALIBRATED = 100
SCORED_BATCH = 10
"""Images that are scored at once: all activations of a batch are kept with their gradients."""
CROP = 224


def main() -> int:
    """Evaluate every format on every network and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), help="bits:eEXPONENT:bBLOCK")
    parser.add_argument("--within", nargs="*", default=list(WITHIN), help="formats that plans move no more than")
    parser.add_argument("--device", default="stm32h743", help="name or file (default: stm32h743)")
    parser.add_argument("--limit", type=int, default=None, help="images (default: all)")
    options = parser.parse_args()
    for network in options.networks:
        try:
            model, images, labels = SUBJECTS[network]()
        except MissingError as error:
            print(f"{network}: skipped: {error}")
            continue
        images, labels = images[: options.limit], labels[: options.limit]
        model, bounds = model.eval(), [BlockFormat.parse(text) for text in options.within]
        reference = compare(network, model, images, labels, [BlockFormat.parse(text) for text in options.formats])
        plans(network, model, images, labels, reference, bounds, load_device(options.device))
    return 0


def compare(network: str, model: nn.Module, images: Tensor, labels: Tensor, formats: list[BlockFormat]) -> Tensor:
    """Print accuracy and agreement of float32 and of every format for all tensors; the classes of float32."""
    names = list(quantizable(model))
    with observing(model, names) as seen:
        reference = classes(model, images[:CALIBRATED])
    reference = torch.cat([reference, classes(model, images[CALIBRATED:])])
    print(f"{network}: {len(images)} images, {len(names)} layers, not fine-tuned")
    print(f"{'format':20} {'accuracy %':>11} {'agreement %':>12}")
    line("float32", reference, labels, reference)
    for fmt in formats:
        quantized = copy.deepcopy(model)
        apply(quantized, dict.fromkeys(names, TensorFormats(fmt, fmt, fmt)), seen)
        found = classes(quantized, images)
        line(str(fmt), found, labels, reference)
    return reference


def plans(
    network: str,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    reference: Tensor,
    bounds: list[BlockFormat],
    device: Device,
) -> None:
    """Print the same of bitq's plans, each of which moves no more than one of these formats."""
    layers = trace(model, images[:1])
    told = list(zip(*(each[:CALIBRATED].split(SCORED_BATCH) for each in (images, reference)), strict=True))
    judged = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
    with Terminal() as listener, tempfile.TemporaryDirectory() as folder:
        spaces = {bits: space_of(model, layers, device, bits, listener.step) for bits in {fmt.bits for fmt in bounds}}
        for fmt in bounds:
            space = spaces[fmt.bits]
            bound = space.cost(space.uniform(space.formats.index(fmt))).movement_bits
            settings = Settings(
                alpha=0.0,
                budgets=Budgets(movement_bits=bound),
                scored_inputs=CALIBRATED,
                rounds=1,
                plans=1,
                uniforms=1,
                without="qat",
            )
            found = search(
                model,
                told,
                told,
                judged,
                device=device,
                run=Path(folder) / str(fmt.bits),
                bits=fmt.bits,
                settings=settings,
                network=network,
                listener=listener,
            )
            line(f"bitq as {fmt}", classes(found.model, images), labels, reference)


def line(name: str, found: Tensor, labels: Tensor, reference: Tensor) -> None:
    """A row of the table."""
    print(f"{name:20} {share(found, labels):11.2f} {share(found, reference):12.2f}", flush=True)


def classes(model: nn.Module, images: Tensor) -> Tensor:
    """The class of the largest output, image by image."""
    if not len(images):
        return torch.empty(0, dtype=torch.int64)
    with torch.inference_mode():
        return torch.cat([model(batch).argmax(1) for batch in images.split(BATCH)])


def share(found: Tensor, expected: Tensor) -> float:
    """Percentage of equal entries."""
    return 100 * float((found == expected).double().mean())


def mobilenet_v2() -> tuple[nn.Module, Tensor, Tensor]:
    """MobileNetV2 is ECA-MobileNetV2 without its attentions."""
    table = needed_file("BITQ_IMAGENET_SUBSET", "a CSV file of ImageNet validation images and their classes")
    weights = needed_file("BITQ_MOBILENET_V2", "MobileNetV2's ImageNet weights as .safetensors")
    model = eca_mobilenet_v2()
    for block in model.features[1:-1]:
        block.conv[-1] = nn.Identity()
    load_checkpoint(model, weights)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    pixels = torch.stack([cropped(table.with_suffix("") / row["file"]) for row in rows])
    return model, Scaling(*IMAGENET)(pixels), torch.tensor([int(row["label"]) for row in rows])


def resnet18_tiny() -> tuple[nn.Module, Tensor, Tensor]:
    """ResNet-18 whose first convolution has stride 1 and whose last layer tells 200 classes."""
    data = needed_file("BITQ_TINY_IMAGENET", "labelled Tiny-ImageNet images as an .npz of x and y")
    weights = needed_file("BITQ_RESNET18_TINY", "ResNet-18's Tiny-ImageNet weights as .safetensors")
    model = resnet18()
    model.conv1.stride = (1, 1)
    model.fc = nn.Linear(model.fc.in_features, 200)
    load_checkpoint(model, weights)
    with np.load(data) as arrays:
        pixels, labels = torch.from_numpy(arrays["x"]).permute(0, 3, 1, 2), torch.from_numpy(arrays["y"])
    return model, Scaling((0.5,), (0.5,))(pixels), labels


def cropped(path: Path) -> Tensor:
    """Bytes [3, 224, 224]: the middle of an image that is a little larger."""
    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB"))
    top, left = ((size - CROP) // 2 for size in pixels.shape[:2])
    return torch.from_numpy(pixels[top : top + CROP, left : left + CROP]).permute(2, 0, 1)


SUBJECTS: dict[str, Callable[[], tuple[nn.Module, Tensor, Tensor]]] = {
    "mobilenet_v2": mobilenet_v2,
    "resnet18_tiny": resnet18_tiny,
}

if __name__ == "__main__":
    sys.exit(main())
