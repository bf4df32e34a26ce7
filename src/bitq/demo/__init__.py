"""A trained network and its data, part of the package, so that everything can be tried without a download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bitq.demo.fashion import CLASSES, normalize, read_split
from bitq.demo.resnet8 import resnet8
from bitq.errors import BitqError

DATA = Path(__file__).parent / "data"
CHECKPOINT = "resnet8.safetensors"
COUNTS = {"train": 20_000, "test": 10_000}
VALIDATION_PER_CLASS = 400


@dataclass(frozen=True)
class Demo:
    """A float32 network in evaluation mode with normalized images and their labels.

    Attributes:
        model: `resnet8` with trained weights, images [n, 1, 28, 28] to logits [n, 10].
        train_images, validation_images, test_images: float32 [n, 1, 28, 28] of 16,000, 4,000 and 10,000 images. The
            first two are the first 2,000 of every class among Fashion-MNIST's 60,000 training images, the last 400 of
            each for validation: the network was trained on all 60,000 but those 4,000. The test images are all there
            are.
        train_labels, validation_labels, test_labels: int64 [n], indices into `classes`.
        classes: the ten names.
    """

    model: nn.Module
    train_images: Tensor
    train_labels: Tensor
    validation_images: Tensor
    validation_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...] = CLASSES


def load(folder: Path = DATA) -> Demo:
    """The demo from the package, or from another folder that `tools/train_demo.py` wrote.

    Raises:
        BitqError: a file that is missing, damaged, or not of the demo's shapes.
    """
    model = load_model(folder)
    images, labels = read_split(*archives(folder, "train"), COUNTS["train"])
    test_images, test_labels = read_split(*archives(folder, "test"), COUNTS["test"])
    held_out = validation_part(labels)
    return Demo(
        model,
        normalize(images[~held_out]),
        labels[~held_out],
        normalize(images[held_out]),
        labels[held_out],
        normalize(test_images),
        test_labels,
    )


def validation_part(labels: Tensor) -> Tensor:
    """Which of the package's training images are for validation: bool [n], the last 400 of every class."""
    part = torch.zeros_like(labels, dtype=torch.bool)
    for label in range(len(CLASSES)):
        part[(labels == label).nonzero()[-VALIDATION_PER_CLASS:, 0]] = True
    return part


def load_model(folder: Path = DATA) -> nn.Module:
    """The trained `resnet8` alone, float32 in evaluation mode.

    Raises:
        BitqError: a checkpoint that is missing, damaged, or of another network.
    """
    path, model = folder / CHECKPOINT, resnet8()
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise BitqError(f"{path}: it is not the demo network's checkpoint ({reason})") from error
    return model.eval()


def archives(folder: Path, split: str) -> tuple[Path, Path]:
    """Where the images and the labels of "train" or "test" lie."""
    return folder / f"{split}-images.idx.xz", folder / f"{split}-labels.idx.xz"
