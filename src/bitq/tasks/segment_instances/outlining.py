"""What a float network outlines, in place of masks that nobody drew."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from bitq.accuracy.agreement import Agreement
from bitq.accuracy.evaluate import counted, tallied
from bitq.batches import Batch
from bitq.pictures import drawn_by
from bitq.tasks.detect.answering import labelled_with, sure_of
from bitq.tasks.detect.heads import found_among
from bitq.tasks.detect.outlines import mask_utilities
from bitq.tasks.segment_instances.mask_precision import InstancePrecision
from bitq.tasks.segment_instances.masked import masked
from bitq.tasks.segment_instances.mixtures import Canvas, mixed_of
from bitq.tasks.segment_instances.truth import Instances


def instances_found(output: Any, known: Instances) -> Instances:
    """The objects that a network is sure of and whose masks have a pixel, as what images are labelled with.

    Args:
        output: as `mixed_of` takes it.
        known: of the images, their sizes and how they were letterboxed.

    Raises:
        BitqError: another output, or the package that encodes masks is not installed.
    """
    mixed, truth = mixed_of(output), known.boxes
    heads = mixed.heads(truth.shape)
    boxes: list[Tensor] = []
    classes: list[Tensor] = []
    outlines: list[tuple[str, ...]] = []
    for image in range(len(known)):
        found, cells = found_among(heads.boxes[image], heads.logits[image].sigmoid())
        own, sure = sure_of(found, truth, image)
        canvas = Canvas(mixed.prototypes[image], truth, image)
        masks = {
            place: canvas.encoded(mixed.mixtures[image, :, cells[place]], own[place])
            for place in sure.nonzero()[:, 0].tolist()
        }
        kept = [place for place, mask in masks.items() if mask_utilities().area(mask)]
        boxes.append(own[kept])
        classes.append(found.classes[kept])
        outlines.append(tuple(masks[place]["counts"].decode("ascii") for place in kept))
    return Instances(labelled_with(truth, boxes, classes), tuple(outlines))


@tallied(InstancePrecision)
@drawn_by(masked)
def mask_agreement_with_float32(model: nn.Module, batches: Iterable[Batch]) -> float:
    """COCO's average precision against the masks that the float network is sure of."""
    return counted(model, batches, InstancePrecision())


OF_INSTANCES = Agreement("mask agreement with float32", instances_found, mask_agreement_with_float32)
