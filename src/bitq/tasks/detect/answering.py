"""What a float detector finds, in place of boxes that nobody drew."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from bitq.accuracy.agreement import Agreement
from bitq.accuracy.evaluate import counted, tallied
from bitq.batches import Batch
from bitq.tasks.detect.boxes import ABSENT, Truth
from bitq.tasks.detect.heads import found_in_image, heads_of
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
        sure = found.scores > SURE
        own = known.restored(found.boxes[sure], image)
        whole = (own[:, 2:] > own[:, :2]).all(1)
        boxes.append(own[whole])
        classes.append(found.classes[sure][whole])
    together, labels = pad_sequence(boxes, True), pad_sequence(classes, True, ABSENT)
    areas = (together[..., 2:] - together[..., :2]).prod(-1)
    crowds = torch.zeros_like(labels, dtype=torch.bool)
    return replace(known, boxes=together, classes=labels, crowds=crowds, areas=areas)


@tallied(Precision)
def box_agreement_with_float32(model: nn.Module, batches: Iterable[Batch]) -> float:
    """COCO's average precision against the boxes that the float network is sure of."""
    return counted(model, batches, Precision())


OF_BOXES = Agreement("box agreement with float32", objects_found, box_agreement_with_float32)
