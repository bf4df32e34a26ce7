"""Networks whose weights and data can be had, opened for searches on the paper's device, grid and way to store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from bitq.cli.inputs import DataGiven, load_source
from bitq.devices import load_device
from bitq.files import RunFolder
from bitq.progress import Listener
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.measure import Data, Subject, Task
from bitq.tradeoff.opening import opened
from bitq.tradeoff.settings import Settings
from bitq.tradeoff.study import Study
from evaluation.energy import DEVICE
from posttraining import CALIBRATED, SCORED_BATCH, classes, mobilenet_v2, resnet18_tiny
from subjects import cifar_resnet20, needed_file, needed_folder

IMAGES = 2000
"""Of CIFAR-10 that plans are chosen by, and as many others that they are judged by."""
JUDGED_BATCH = 50


@dataclass(frozen=True)
class Trained:
    """A network with weights.

    Attributes:
        name: of the network.
        task: and its data, with their size.
        metric: what is told of it.
        make: it, its data and its task.
        nearest: what of the paper's Table 3 comes nearest to it.
    """

    name: str
    task: str
    metric: str
    make: Callable[[], Subject]
    nearest: str


def _resnet20() -> Subject:
    found = cifar_resnet20(0)

    def few(batches: object) -> list[tuple[Tensor, Tensor]]:
        return list(islice(iter(batches), IMAGES // 500))  # type: ignore[call-overload]

    data = Data(found.data.train, few(found.data.validation), few(found.data.test))
    return Subject("resnet20", found.model, data, Task())


def _labelled(name: str, model: nn.Module, images: Tensor, labels: Tensor) -> Subject:
    """Chosen by how the first images are taken by the float network, judged by all the others and their labels."""
    model = model.eval()
    first = images[:CALIBRATED]
    told = list(zip(first.split(SCORED_BATCH), classes(model, first).split(SCORED_BATCH), strict=True))
    rest = (images[CALIBRATED:].split(JUDGED_BATCH), labels[CALIBRATED:].split(JUDGED_BATCH))
    return Subject(name, model, Data(told, told, list(zip(*rest, strict=True))), Task())


def _of_folder(network: str, task: str, weights: tuple[str, str], data: tuple[str, str]) -> Subject:
    source = load_source(
        f"bitq.networks:{network}", needed_file(*weights), DataGiven(needed_folder(*data), task=task, batch_size=2)
    )
    return Subject(
        network, source.model, Data(source.train, source.validation, source.test), Task(source.loss, source.metric)
    )


TRAINED = {
    "resnet20": Trained(
        "ResNet-20",
        f"CIFAR-10, {IMAGES} test images; chosen by {IMAGES} others",
        "top-1",
        _resnet20,
        "ResNet-18",
    ),
    "resnet18_tiny": Trained(
        "ResNet-18",
        "Tiny-ImageNet, 1900 of a 2000-image subset",
        "top-1",
        lambda: _labelled("resnet18_tiny", *resnet18_tiny()),
        "ResNet-18",
    ),
    "mobilenet_v2": Trained(
        "MobileNetV2",
        "200 of a 300-image subset of ImageNet's validation images, which is easier than the whole",
        "top-1",
        lambda: _labelled("mobilenet_v2", *mobilenet_v2()),
        "ECA-MobileNetV2",
    ),
    "espnet": Trained(
        "ESPNet",
        "CamVid, 101 validation images",
        "mean IoU",
        lambda: _of_folder(
            "espnet",
            "segment",
            ("BITQ_ESPNET", "ESPNet's CamVid weights as .safetensors"),
            ("BITQ_CAMVID", "CamVid's folder of train, trainannot, val, valannot"),
        ),
        "",
    ),
    "yolov8n": Trained(
        "YOLOv8n",
        "a 128-image COCO val subset",
        "box AP",
        lambda: _of_folder(
            "yolov8n",
            "detect",
            ("BITQ_YOLOV8N", "YOLOv8n's COCO weights as .safetensors"),
            ("BITQ_COCO128", "COCO images of train and val with YOLO labels"),
        ),
        "YOLOv8_O",
    ),
}
"""The quick ones first."""


@contextmanager
def study_of(
    name: str, bits: int, settings: Settings, folder: Path, listener: Listener
) -> Iterator[Study]:
    """The study of one of `TRAINED` in Table 2's grid of so many bits.

    Raises:
        MissingError: its weights or its data.
    """
    torch.manual_seed(0)
    subject = TRAINED[name].make()
    run = RunFolder(folder / f"{name}-{bits}")
    with opened(subject, load_device(DEVICE), FormatSet.grid(bits), settings, run, listener) as (study, _):
        yield study
