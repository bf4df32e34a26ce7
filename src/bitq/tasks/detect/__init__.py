"""Boxes around objects: object detection, as networks of YOLOv8's kind answer it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import Any

from torch import nn

from bitq.accuracy.evaluate import counted, tallied
from bitq.batches import Batch
from bitq.datasets import Dataset
from bitq.datasets.splits import HELD_BYTES, drawn, held_once, lacking_of, with_test
from bitq.images import Scaling
from bitq.pictures import drawn_by
from bitq.tasks import NamedTask, Reading
from bitq.tasks.detect.annotations import BoxedFolder, found_in
from bitq.tasks.detect.answering import OF_BOXES
from bitq.tasks.detect.assigning import detection_loss
from bitq.tasks.detect.boxed import boxed
from bitq.tasks.detect.boxes import Truth
from bitq.tasks.detect.heads import CONFIDENCE, MOST, OVERLAP, classes_of
from bitq.tasks.detect.letterbox import PAD, LetterboxedFiles, LetterboxedImages, truth_of
from bitq.tasks.detect.precision import CocoFigure, Precision

__all__ = ["TASK", "Truth", "detection_loss"]

USUAL_SIZE = 640, 640
"""Height and width that images get where nobody says: what YOLO networks are trained with."""


@tallied(Precision)
@drawn_by(boxed)
def box_ap(model: nn.Module, batches: Iterable[Batch]) -> float:
    """COCO's average precision: mean over overlaps of 0.50, 0.55, …, 0.95 and over the classes that the images have."""
    return counted(model, batches, Precision())


@tallied(lambda: Precision(CocoFigure.AP50))
@drawn_by(boxed)
def box_ap50(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Average precision at an overlap of 0.50."""
    return counted(model, batches, Precision(CocoFigure.AP50))


@tallied(lambda: Precision(CocoFigure.AP75))
@drawn_by(boxed)
def box_ap75(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Average precision at an overlap of 0.75."""
    return counted(model, batches, Precision(CocoFigure.AP75))


@tallied(lambda: Precision(CocoFigure.SMALL))
@drawn_by(boxed)
def box_ap_small(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Average precision of objects of up to 32² pixels."""
    return counted(model, batches, Precision(CocoFigure.SMALL))


@tallied(lambda: Precision(CocoFigure.MEDIUM))
@drawn_by(boxed)
def box_ap_medium(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Average precision of objects of 32² to 96² pixels."""
    return counted(model, batches, Precision(CocoFigure.MEDIUM))


@tallied(lambda: Precision(CocoFigure.LARGE))
@drawn_by(boxed)
def box_ap_large(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Average precision of objects from 96² pixels on."""
    return counted(model, batches, Precision(CocoFigure.LARGE))


def load(path: Path, reading: Reading) -> Dataset:
    """Images with boxes, as `loaded` reads them from a folder kept as `bitq.tasks.detect.annotations` says.

    Raises:
        BitqError: a folder kept otherwise, and as `loaded`.
    """
    reading.check_no_masks()
    return loaded(path, reading, found_in(path), truth_of)


def loaded(path: Path, reading: Reading, folder: BoxedFolder, targets: Callable[..., Any]) -> Dataset:
    """Images with boxes from a folder kept as `bitq.tasks.detect.annotations` says.

    Where there is no test, val is what is judged by, and what is to choose by is taken from train, as test and val are
    where there is train alone. Images are decoded once where a split fits in 2 GiB.

    Args:
        path: of the folder.
        reading: how images are read.
        folder: what is in it.
        targets: makes what they are labelled with, as `truth_of`.

    Raises:
        BitqError: files that do not fit together, or options that do not fit them.
    """
    found, classes, labelled = folder
    parts = with_test(found)
    shape = (reading.channels or 3, *(reading.image_size or USUAL_SIZE))
    scaling = Scaling(reading.mean or (0.0,), reading.std or (1.0,))
    scaling.check_channels(shape[0])
    most = max(len(each.classes) for part in parts.values() for each in part.objects)
    files = {split: LetterboxedFiles(*part, shape, scaling, most, targets) for split, part in parts.items()}
    splits = held_once(drawn(files, reading.limit, reading.seed), _held)
    largest = {
        f"the labels of {split}": max((int(each.classes.max(initial=0)) for each in part.objects), default=0)
        for split, part in found.items()
    }
    return Dataset(
        splits["train"],
        splits["val"],
        splits["test"],
        largest if labelled else {},
        classes,
        labelled=labelled,
        lacking=lacking_of(path, found),
    )


def _held(part: LetterboxedFiles) -> LetterboxedFiles | LetterboxedImages:
    return part.held() if len(part) * prod(part.shape) <= HELD_BYTES else part


def protocol(reading: Reading) -> str:
    """How boxes are found and images letterboxed."""
    height, width = reading.image_size or USUAL_SIZE
    return (
        f"images letterboxed to {height} x {width}: centred, bilinear without antialiasing, padded with {PAD}; "
        f"boxes of confidence above {CONFIDENCE:g}, suppressed by others of their class from an IoU of {OVERLAP:g} on, "
        f"{MOST} an image at most"
    )


TASK = NamedTask(
    detection_loss,
    {
        "box-ap": box_ap,
        "box-ap50": box_ap50,
        "box-ap75": box_ap75,
        "box-ap-small": box_ap_small,
        "box-ap-medium": box_ap_medium,
        "box-ap-large": box_ap_large,
    },
    load,
    "a folder of images and boxes, such as images/train and labels/train, or annotations/instances_train2017.json",
    classes=classes_of,
    batch_size=8,
    evaluated=16,
    heaviness=16,
    learning_rate=1e-4,  # at 1e-3 YOLOv8n with folded norms forgets everything within 24 steps
    protocol=protocol,
    agreement=OF_BOXES,
)
