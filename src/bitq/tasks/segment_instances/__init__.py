"""Masks of objects: instance segmentation, as YOLOv8 and YOLOv5 with masks answer it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import nn

from bitq.accuracy.evaluate import counted, tallied
from bitq.batches import Batch
from bitq.datasets import Dataset
from bitq.pictures import drawn_by
from bitq.tasks import NamedTask, Reading
from bitq.tasks.detect import loaded, protocol
from bitq.tasks.detect.annotations import found_in
from bitq.tasks.detect.precision import CocoFigure
from bitq.tasks.segment_instances.mask_loss import instance_loss
from bitq.tasks.segment_instances.mask_precision import InstancePrecision
from bitq.tasks.segment_instances.masked import masked
from bitq.tasks.segment_instances.mixtures import classes_of_mixed
from bitq.tasks.segment_instances.outlining import OF_INSTANCES
from bitq.tasks.segment_instances.truth import Instances, instances_of

__all__ = ["TASK", "Instances", "instance_loss"]


@tallied(InstancePrecision)
@drawn_by(masked)
def mask_ap(model: nn.Module, batches: Iterable[Batch]) -> float:
    """COCO's average precision: mean over overlaps of 0.50, 0.55, …, 0.95 and over the classes that the images have."""
    return counted(model, batches, InstancePrecision())


@tallied(lambda: InstancePrecision(CocoFigure.AP50))
@drawn_by(masked)
def mask_ap50(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Average precision at an overlap of 0.50."""
    return counted(model, batches, InstancePrecision(CocoFigure.AP50))


@tallied(lambda: InstancePrecision(CocoFigure.AP75))
@drawn_by(masked)
def mask_ap75(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Average precision at an overlap of 0.75."""
    return counted(model, batches, InstancePrecision(CocoFigure.AP75))


@tallied(lambda: InstancePrecision(CocoFigure.SMALL))
@drawn_by(masked)
def mask_ap_small(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Average precision of objects of up to 32² pixels."""
    return counted(model, batches, InstancePrecision(CocoFigure.SMALL))


@tallied(lambda: InstancePrecision(CocoFigure.MEDIUM))
@drawn_by(masked)
def mask_ap_medium(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Average precision of objects of 32² to 96² pixels."""
    return counted(model, batches, InstancePrecision(CocoFigure.MEDIUM))


@tallied(lambda: InstancePrecision(CocoFigure.LARGE))
@drawn_by(masked)
def mask_ap_large(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Average precision of objects from 96² pixels on."""
    return counted(model, batches, InstancePrecision(CocoFigure.LARGE))


@tallied(lambda: InstancePrecision(kind="bbox"))
@drawn_by(masked)
def box_ap(model: nn.Module, batches: Iterable[Batch]) -> float:
    """COCO's average precision of the boxes of the same objects."""
    return counted(model, batches, InstancePrecision(kind="bbox"))


@tallied(lambda: InstancePrecision(CocoFigure.AP50, "bbox"))
@drawn_by(masked)
def box_ap50(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Average precision of the boxes at an overlap of 0.50."""
    return counted(model, batches, InstancePrecision(CocoFigure.AP50, "bbox"))


def load(path: Path, reading: Reading) -> Dataset:
    """Images with outlined objects, from a folder kept as `bitq.tasks.detect.annotations` says.

    Raises:
        BitqError: as for boxes, or an object without an outline.
    """
    reading.check_no_masks()
    return loaded(path, reading, found_in(path, outlined=True), instances_of)


def _protocol(reading: Reading) -> str:
    return (
        f"{protocol(reading)}; masks are prototypes at a quarter of that size, mixed, interpolated bilinearly at the "
        "pixels of the image as it is kept, and cut to the box where their logits are above 0"
    )


TASK = NamedTask(
    instance_loss,
    {
        "mask-ap": mask_ap,
        "mask-ap50": mask_ap50,
        "mask-ap75": mask_ap75,
        "mask-ap-small": mask_ap_small,
        "mask-ap-medium": mask_ap_medium,
        "mask-ap-large": mask_ap_large,
        "box-ap": box_ap,
        "box-ap50": box_ap50,
    },
    load,
    "a folder of images and polygons, such as images/train and labels/train, or annotations/instances_train2017.json",
    classes=classes_of_mixed,
    batch_size=8,
    evaluated=16,
    heaviness=16,
    learning_rate=1e-4,
    protocol=_protocol,
    agreement=OF_INSTANCES,
)
