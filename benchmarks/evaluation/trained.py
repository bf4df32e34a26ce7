"""Networks whose weights and data can be had, opened for searches on the paper's device, grid and way to store."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitq.accuracy.finetune import Training
from bitq.cli.inputs import DataGiven, load_source
from bitq.devices import load_device
from bitq.files import RunFolder
from bitq.progress import Listener
from bitq.tracing import Traced
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.measure import Data, Subject, Task
from bitq.tradeoff.opening import opened
from bitq.tradeoff.settings import Settings
from bitq.tradeoff.study import Study
from evaluation.energy import ALPHA, DEVICE
from posttraining import CALIBRATED, SCORED_BATCH, classes, mobilenet_v2, resnet18_tiny
from subjects import EVALUATION_BATCH, SUBJECTS, needed_file, needed_folder

JUDGED_BATCH = 50


@dataclass(frozen=True)
class Trained:
    """A network with weights.

    Attributes:
        name: of the network.
        task: and its data, with their size.
        metric: what is told of it.
        make: it, its data and its task, with at most so many images that it is judged by.
        images: that it is judged by where nobody says.
        scored: images of which tensors are scored and uniform formats tried, where nobody says.
        nearest: what of the paper's Table 3 comes nearest to it.
    """

    name: str
    task: str
    metric: str
    make: Callable[[int], Subject]
    images: int
    scored: int
    nearest: str


def _subject(name: str, images: int) -> Subject:
    """One of `SUBJECTS`, chosen by and judged by its first images."""
    found = SUBJECTS[name](0)

    def few(batches: Iterable[Any]) -> list[tuple[Tensor, Tensor]]:
        firsts = islice(batches, -(-images // EVALUATION_BATCH))
        x, y = (torch.cat(each)[:images] for each in zip(*firsts, strict=True))
        return list(zip(x.split(EVALUATION_BATCH), y.split(EVALUATION_BATCH), strict=True))

    data = Data(found.data.train, few(found.data.validation), few(found.data.test))
    return Subject(name, found.model, data, Task())


def _labelled(name: str, found: tuple[nn.Module, Tensor, Tensor], most: int) -> Subject:
    """Chosen by how the first images are taken by the float network, judged by others and their labels."""
    model, images, labels = found
    model, first, last = model.eval(), images[: min(CALIBRATED, most)], CALIBRATED + most
    taken = classes(model, first).clone()  # a tensor of inference mode could not be learned from
    told = list(zip(first.split(SCORED_BATCH), taken.split(SCORED_BATCH), strict=True))
    rest = (each[CALIBRATED:last].split(JUDGED_BATCH) for each in (images, labels))
    return Subject(name, model, Data(told, told, list(zip(*rest, strict=True))), Task())


def _of_folder(network: str, task: str, weights: tuple[str, str], data: tuple[str, str], images: int) -> Subject:
    given = DataGiven(needed_folder(*data), task=task, batch_size=2, limit=images)
    source = load_source(f"bitq.networks:{network}", needed_file(*weights), given)
    return Subject(
        network, source.model, Data(source.train, source.validation, source.test), Task(source.loss, source.metric)
    )


TRAINED = {
    "resnet20": Trained(
        "ResNet-20",
        "of CIFAR-10, chosen by as many other test images",
        "top-1",
        partial(_subject, "resnet20"),
        2000,
        256,
        "ResNet-18",
    ),
    "transformer": Trained(
        "a vision transformer of two blocks",
        "of Fashion-MNIST, chosen by as many others",
        "top-1",
        partial(_subject, "transformer"),
        2000,
        256,
        "",
    ),
    "resnet18_tiny": Trained(
        "ResNet-18",
        "of a 2000-image subset of Tiny-ImageNet",
        "top-1",
        lambda images: _labelled("resnet18_tiny", resnet18_tiny(), images),
        200,
        16,
        "ResNet-18",
    ),
    "mobilenet_v2": Trained(
        "MobileNetV2",
        "of a 300-image subset of ImageNet's validation images, which is easier than the whole",
        "top-1",
        lambda images: _labelled("mobilenet_v2", mobilenet_v2(), images),
        100,
        16,
        "ECA-MobileNetV2",
    ),
    "espnet": Trained(
        "ESPNet",
        "of CamVid's 101 validation images",
        "mean IoU",
        partial(
            _of_folder,
            "espnet",
            "segment",
            ("BITQ_ESPNET", "ESPNet's CamVid weights as .safetensors"),
            ("BITQ_CAMVID", "CamVid's folder of train, trainannot, val, valannot"),
        ),
        24,
        4,
        "",
    ),
    "yolov8n": Trained(
        "YOLOv8n",
        "of a 128-image COCO val subset",
        "box AP",
        partial(
            _of_folder,
            "yolov8n",
            "detect",
            ("BITQ_YOLOV8N", "YOLOv8n's COCO weights as .safetensors"),
            ("BITQ_COCO128", "COCO images of train and val with YOLO labels"),
        ),
        32,
        4,
        "YOLOv8_O",
    ),
    "yolov5n_seg": Trained(
        "YOLOv5n with masks",
        "of a 100-image COCO val subset, which plans are chosen by, too",
        "mask AP",
        partial(
            _of_folder,
            "yolov5n_seg",
            "segment-instances",
            ("BITQ_YOLOV5N_SEG", "the COCO weights of YOLOv5n with masks as .safetensors"),
            ("BITQ_COCO_MASKS", "COCO images of val2017 with annotations/instances_val2017.json"),
        ),
        24,
        4,
        "YOLOv8_I",
    ),
}
"""The quick ones first."""

SETTINGS = Settings(alpha=ALPHA, stored="paper", rounds=1, uniforms=1)
"""Of every search: a plan and a uniform format, beside what is best as it is."""


@dataclass(frozen=True)
class Amount:
    """How much is measured, as options say it; None as suits each network.

    Attributes:
        steps: of every fine-tuning; 0 to fine-tune nothing.
        images: to judge by, at most.
        scored: to score tensors and try uniform formats on, at most.
    """

    steps: int
    images: int | None
    scored: int | None

    @classmethod
    def options(cls, parser: argparse.ArgumentParser, steps: int = 0) -> None:
        """Add what says it."""
        told = "nothing is fine-tuned" if steps == 0 else str(steps)
        parser.add_argument("--steps", type=int, default=steps, help=f"of every fine-tuning (default: {told})")
        parser.add_argument("--images", type=int, help="to judge by, at most (default: as suits each network)")
        parser.add_argument("--scored", type=int, help="images to score tensors on (default: as suits each network)")

    @classmethod
    def given(cls, options: argparse.Namespace) -> Amount:
        """As `options` say."""
        return cls(options.steps, options.images, options.scored)

    def of(self, name: str) -> dict[str, int]:
        """What results of a network of `TRAINED` depend on."""
        own = TRAINED[name]
        return {"steps": self.steps, "images": self.images or own.images, "scored": self.scored or own.scored}

    def told(self, names: Iterable[str]) -> list[str]:
        """In words, of each network, and of all."""
        each = (
            f"{own.name}: {found['images']} images {own.task}; {own.metric}; tensors scored and uniform formats tried "
            f"on {found['scored']}"
            for own, found in ((TRAINED[name], self.of(name)) for name in names)
        )
        return [*each, f"fine-tuned for {self.steps} steps" if self.steps else "nothing is fine-tuned"]

    def settings(self, name: str) -> Settings:
        """`SETTINGS` with so much."""
        scored = self.of(name)["scored"]
        own = replace(SETTINGS, scored_inputs=scored, screened_inputs=scored)
        return replace(own, training=Training(self.steps)) if self.steps else replace(own, without="qat")


@contextmanager
def study_of(
    name: str, bits: int, amount: Amount, folder: Path, listener: Listener
) -> Iterator[tuple[Study, Traced]]:
    """The study of one of `TRAINED` in Table 2's grid of so many bits.

    Args:
        name, bits: of both.
        amount: how much is measured.
        folder: of all tables and figures, which share what they measure.
        listener: is told of progress.

    Raises:
        MissingError: its weights or its data.
    """
    torch.manual_seed(0)
    found = amount.of(name)
    subject = TRAINED[name].make(found["images"])
    run = RunFolder(folder / "studies" / "-".join(map(str, (name, bits, *found.values()))))
    wanted = amount.settings(name)
    with opened(subject, load_device(DEVICE), FormatSet.grid(bits), wanted, run, listener) as (study, traced):
        yield study, traced
