"""What a float detector finds, in place of boxes that nobody drew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from bitq.accuracy.agreement import Agreement
from bitq.accuracy.evaluate import counted, tallied
from bitq.batches import Batch
from bitq.pictures import drawn_by
from bitq.tasks.detect.boxed import boxed
from bitq.tasks.detect.boxes import ABSENT, Truth
from bitq.tasks.detect.heads import Detected, found_in_image, heads_of
from bitq.tasks.detect.precision import Precision

SURE = 0.25
"""Probability of a class from which on an object counts as found: what YOLO networks are shown with."""


def objects_found(output: Any, known: Truth) -> Truth:
    """The objects that a detector is sure of, as what images are labelled with.

    Args:
        output: as `heads_of` takes it.
        known: of the images, their sizes and how they were letterboxed.

    Raises:
        BitqError: another output.
    """
    heads = heads_of(output, known.shape)
    boxes: list[Tensor] = []
    classes: list[Tensor] = []
    for image in range(len(known)):
        found = found_in_image(heads, image)
        own, sure = sure_of(found, known, image)
        boxes.append(own[sure])
        classes.append(found.classes[sure])
    return labelled_with(known, boxes, classes)


def sure_of(found: Detected, known: Truth, image: int) -> tuple[Tensor, Tensor]:
    """Boxes [k, 4] of what was found, in pixels of the image, and which of it is sure and has an extent, bool [k]."""
    own = known.restored(found.boxes, image)
    return own, (found.scores > SURE) & (own[:, 2:] > own[:, :2]).all(1)


def labelled_with(known: Truth, boxes: Sequence[Tensor], classes: Sequence[Tensor]) -> Truth:
    """The same images with these objects, boxes [k, 4] in their pixels and classes [k] of each."""
    together, labels = pad_sequence(list(boxes), True), pad_sequence(list(classes), True, ABSENT)
    areas = (together[..., 2:] - together[..., :2]).prod(-1)
    crowds = torch.zeros_like(labels, dtype=torch.bool)
    return replace(known, boxes=together, classes=labels, crowds=crowds, areas=areas)


@tallied(Precision)
@drawn_by(boxed)
def box_agreement_with_float32(model: nn.Module, batches: Iterable[Batch]) -> float:
    """COCO's average precision against the boxes that the float network is sure of."""
    return counted(model, batches, Precision())


OF_BOXES = Agreement("box agreement with float32", objects_found, box_agreement_with_float32)
