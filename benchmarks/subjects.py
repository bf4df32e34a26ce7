"""What the benchmarks measure: networks with trained weights, and images to train, choose and judge by."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from bitq.cli.inputs import DataGiven, load_source
from bitq.errors import BitqError
from bitq.files import write_atomically
from bitq.images import ArrayImages, Batches, Scaling
from bitq.loading import load_checkpoint
from bitq.tradeoff.measure import Data
from cifar_resnet import resnet20
from first_minutes import Patches, trained

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
EVALUATION_BATCH = 500
TRAINED = Path("runs/benchmark-subjects")
"""Folder of what was trained here."""

CHOSEN_BY = 5000
"""CIFAR-10 test images that plans are chosen by: the published network was trained on all 50,000 others."""


@dataclass(frozen=True)
class Subject:
    """A float network, its data, and one input to trace it with."""

    name: str
    model: nn.Module
    data: Data
    example: Tensor


class MissingError(BitqError):
    """Files that a benchmark needs are not there; says which were looked for."""


def demo(seed: int) -> Subject:
    """The package's own ResNet-8 on Fashion-MNIST."""
    source = load_source("demo", None, DataGiven(batch_size=64))
    return Subject("demo", source.model, Data(source.train, source.validation, source.test), torch.empty(1, 1, 28, 28))


def cifar_resnet20(seed: int) -> Subject:
    """ResNet-20 on CIFAR-10: fine-tuned on the 50,000 training images, chosen by 5,000 of the 10,000 test images (drawn
    with seed 0, whatever `seed`), judged by the other 5,000.

    Raises:
        MissingError: the images or the weights.
    """
    images = needed_file("BITQ_CIFAR10", "CIFAR-10 as an .npz of x_train, y_train, x_test, y_test")
    weights = needed_file("BITQ_RESNET20", "the weights of a CIFAR-10 ResNet-20 (option A) as .safetensors")
    model = resnet20()
    load_checkpoint(model, weights)
    with np.load(images) as arrays:
        x_train, y_train, x_test, y_test = (arrays[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    order = np.random.default_rng(0).permutation(len(x_test))
    chosen, judged = order[:CHOSEN_BY], order[CHOSEN_BY:]
    scaling = Scaling(*IMAGENET)

    def batches(x: np.ndarray, y: np.ndarray, size: int, shuffle: bool = False) -> Batches:
        pixels = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
        return Batches(ArrayImages(pixels, torch.from_numpy(y.astype(np.int64)), scaling), size, shuffle=shuffle)

    data = Data(
        batches(x_train, y_train, 64, shuffle=True),
        batches(x_test[chosen], y_test[chosen], EVALUATION_BATCH),
        batches(x_test[judged], y_test[judged], EVALUATION_BATCH),
    )
    return Subject("resnet20", model.eval(), data, torch.empty(1, 3, 32, 32))


def depthwise() -> nn.Module:
    """Depthwise separable convolutions of 16 to 64 channels, images [n, 1, 28, 28] to logits [n, 10]."""
    layers: list[nn.Module] = [nn.Conv2d(1, 16, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    for inputs, outputs, stride in ((16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)):
        layers += [nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False)]
        layers += [nn.BatchNorm2d(inputs), nn.ReLU()]
        layers += [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def fashion(name: str, network: Callable[[], nn.Module], steps: int, seed: int) -> Subject:
    """A small network on the demo's Fashion-MNIST, trained here in a minute or two when it is first asked for.

    The weights, the same for every `seed`, are kept under `TRAINED`.
    """
    own, path = demo(seed), TRAINED / f"{name}.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = network()
        if path.exists():
            load_checkpoint(model, path)
        else:
            trained(model, own.data.train, steps)
            write_atomically(path, safetensors.torch.save(model.state_dict()))
    return Subject(name, model.eval(), own.data, own.example)


SUBJECTS: dict[str, Callable[[int], Subject]] = {
    "demo": demo,
    "resnet20": cifar_resnet20,
    "depthwise": partial(fashion, "depthwise", depthwise, 2000),
    "transformer": partial(fashion, "transformer", partial(Patches, channels=1, size=28, patch=7, classes=10), 3000),
}


def needed_file(variable: str, what: str) -> Path:
    """The file that an environment variable names.

    Raises:
        MissingError: what was looked for, and where.
    """
    return _needed(variable, what, Path.is_file)


def needed_folder(variable: str, what: str) -> Path:
    """The folder that an environment variable names.

    Raises:
        MissingError: what was looked for, and where.
    """
    return _needed(variable, what, Path.is_dir)


def _needed(variable: str, what: str, is_there: Callable[[Path], bool]) -> Path:
    path = os.environ.get(variable)
    if not path or not is_there(Path(path)):
        raise MissingError(f"looked for {what} at {path or 'no path'}: set {variable} to where it is")
    return Path(path)
