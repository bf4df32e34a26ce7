"""YOLOv8's loss: which cells answer for which object, and how wrong they are."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from bitq.batches import described
from bitq.errors import BitqError
from bitq.tasks.detect.boxes import Labelled, Truth, complete_overlap
from bitq.tasks.detect.heads import BINS, Heads, heads_of

CANDIDATES = 10
"""Cells that answer for an object, at most."""

_OF_SCORE, _OF_OVERLAP = 0.5, 6.0  # powers in the alignment
BOXES = 7.5
"""Weight of boxes in the loss."""

_CLASSES, _SIDES = 0.5, 1.5  # weights


class DetectionLoss(NamedTuple):
    """`total` is 7.5 `boxes` + 0.5 `classes` + 1.5 `sides`, the weights of YOLOv8."""

    total: Tensor
    boxes: Tensor
    classes: Tensor
    sides: Tensor


class Assigned(NamedTuple):
    """The cells that answer for objects: their places, those of the objects, and how well they do, in [0, 1]: [k]."""

    cells: Tensor
    objects: Tensor
    weights: Tensor


def detection_loss(output: Any, target: Any) -> DetectionLoss:
    """What YOLOv8 is trained with.

    Cells are assigned to objects by task alignment (Feng et al., 2021: TOOD). With w the weight of a cell for its
    object and 0 elsewhere, the parts are the sums, divided by the sum of w over the batch, of

    - boxes: w · (1 − CIoU) of the cell's box and the object's;
    - classes: binary cross entropy of all cells' logits with w for the object's class;
    - sides: w · the cross entropies of the two distances next to the true one, by how near they are, mean over the
      four sides (Li et al., 2020: distribution focal loss).

    Args:
        output: as `heads_of` takes it, of training or of evaluation.
        target: a `Truth`.

    Raises:
        BitqError: another output or target, or an object of a class that the network has not.
    """
    if not isinstance(target, Truth):
        raise BitqError(f"detection cannot learn from {described(target)}; it must be a bitq.tasks.detect.Truth")
    return lost(heads_of(output, target.shape), target)[0]


def lost(heads: Heads, target: Truth) -> tuple[DetectionLoss, dict[int, Assigned]]:
    """What `detection_loss` is of an answer, and by image with objects the cells that answer for those `learned`.

    Raises:
        BitqError: an object of a class that the network has not.
    """
    known = heads.logits.shape[-1]
    if target.classes.numel() and (label := int(target.classes.max())) >= known:
        raise BitqError(
            f"label {label} in a batch's target, but the network has {known} classes; labels count classes from 0 to "
            f"{known - 1}"
        )
    boxes, total = heads.boxes.sum() * 0, heads.logits.new_zeros(())
    sides = total if heads.sides is None else heads.sides.sum() * 0
    found: dict[int, Assigned] = {}
    wanted = torch.zeros_like(heads.logits)
    for image in range(len(target)):
        objects = target.learned(image)
        if not len(objects.boxes):
            continue
        cells, own, weights = found[image] = assigned(heads, image, objects)
        right = objects.boxes[own]
        wanted[image, cells, objects.classes[own]] = weights
        boxes = boxes + (weights * (1 - complete_overlap(heads.boxes[image, cells], right))).sum()
        if heads.sides is not None:
            centres, strides = heads.centres[cells], heads.strides[cells]
            away = torch.cat((centres - right[:, :2], right[:, 2:] - centres), 1) / strides
            sides = sides + (weights * _between(heads.sides[image, cells], away)).sum()
        total = total + weights.sum()
    total = total.clamp(min=1)
    classes = functional.binary_cross_entropy_with_logits(heads.logits, wanted, reduction="sum")
    parts = boxes / total, classes / total, sides / total
    return DetectionLoss(BOXES * parts[0] + _CLASSES * parts[1] + _SIDES * parts[2], *parts), found


@torch.no_grad()
def assigned(heads: Heads, image: int, objects: Labelled) -> Assigned:
    """Which cells answer for the objects of an image.

    A cell's alignment with an object, in whose box its centre has to lie, is √score · CIoU⁶, by what it answers. The
    ten best aligned cells answer for an object, each cell for that one of several which its box overlaps most. Its
    weight is its alignment, scaled so that an object's largest is its largest CIoU.

    Args:
        heads: the answer.
        image: its place in the batch.
        objects: one or more.
    """
    boxes = objects.boxes[:, None]
    inside = ((heads.centres > boxes[..., :2]) & (heads.centres < boxes[..., 2:])).all(-1)
    overlaps = complete_overlap(heads.boxes[image], boxes).clamp(min=0) * inside
    alignment = heads.logits[image].sigmoid()[:, objects.classes].T ** _OF_SCORE * overlaps**_OF_OVERLAP
    best = alignment.topk(min(CANDIDATES, alignment.shape[1])).indices
    chosen = torch.zeros_like(inside).scatter(1, best, True) & inside
    nearest = torch.where(chosen, overlaps, -1).argmax(0)
    chosen &= nearest == torch.arange(len(boxes), device=nearest.device)[:, None]
    alignment, overlaps = alignment * chosen, overlaps * chosen
    largest = alignment.amax(1).clamp(min=torch.finfo(alignment.dtype).tiny)
    own, cells = chosen.nonzero(as_tuple=True)
    return Assigned(cells, own, alignment[own, cells] / largest[own] * overlaps.amax(1)[own])


def _between(logits: Tensor, away: Tensor) -> Tensor:
    """Cross entropy [k] with the two whole distances that a distance lies between, the mean over four sides.

    Args:
        logits: [k, 4, BINS].
        away: distances in cells, [k, 4]; those beyond the last whole one are taken for it.
    """
    right = away.clamp(0, BINS - 1)
    low = right.floor().clamp(max=BINS - 2)
    losses = [
        functional.cross_entropy(logits.transpose(1, 2), each.long(), reduction="none") for each in (low, low + 1)
    ]
    return (losses[0] * (low + 1 - right) + losses[1] * (right - low)).mean(1)
