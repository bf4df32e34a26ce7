"""YOLOv8's loss with masks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from bitq.batches import described
from bitq.errors import BitqError
from bitq.tasks.detect.assigning import BOXES, Assigned, lost
from bitq.tasks.segment_instances.mixtures import Mixed, mixed_of
from bitq.tasks.segment_instances.truth import Instances


class InstanceLoss(NamedTuple):
    """`total` is that of `bitq.tasks.detect.detection_loss` + 7.5 `masks`, the weight of YOLOv8."""

    total: Tensor
    boxes: Tensor
    classes: Tensor
    sides: Tensor
    masks: Tensor


def instance_loss(output: Any, target: Any) -> InstanceLoss:
    """What YOLOv8 with masks is trained with.

    Beside what boxes lose, for every cell that answers for an object the binary cross entropy of its mask's logits, at
    the prototypes' resolution: the mean within the object's box, which is not rounded; the mean over these cells. Of a
    network without maps, as YOLOv5, `sides` is 0.

    Args:
        output: as `bitq.tasks.segment_instances.mixtures.mixed_of` takes it.
        target: an `Instances`.

    Raises:
        BitqError: another output or target, or an object of a class that the network has not.
    """
    if not isinstance(target, Instances):
        raise BitqError(
            f"instance segmentation cannot learn from {described(target)}; it must be a "
            "bitq.tasks.segment_instances.Instances"
        )
    mixed = mixed_of(output)
    boxes, assigned = lost(mixed.heads(target.boxes.shape), target.boxes)
    found = [of_image(mixed, target, image, cells) for image, cells in assigned.items()]
    count = sum(len(each.cells) for each in assigned.values())
    masks = torch.stack(found).sum() / max(count, 1) if found else mixed.prototypes.sum() * 0
    return InstanceLoss(boxes.total + BOXES * masks, boxes.boxes, boxes.classes, boxes.sides, masks)


def of_image(mixed: Mixed, target: Instances, image: int, assigned: Assigned) -> Tensor:
    """The sum over the cells of an image of what their masks lose."""
    height, width = mixed.prototypes.shape[2:]
    truth = target.boxes
    objects = truth.taught(image).nonzero()[:, 0].tolist()
    masks = target.masks(image, objects, (height, width)).to(mixed.prototypes.device)
    down, across = truth.shape
    scale = truth.boxes.new_tensor((width / across, height / down))
    sides = (truth.learned(image).boxes * scale.repeat(2))[assigned.objects]
    logits = torch.einsum(
        "mk,mhw->khw", mixed.mixtures[image, :, assigned.cells].float(), mixed.prototypes[image].float()
    )
    wrong = functional.binary_cross_entropy_with_logits(
        logits, masks[assigned.objects].to(logits), reduction="none"
    )
    rows = torch.arange(height, device=wrong.device)[:, None]
    columns = torch.arange(width, device=wrong.device)
    left, top, right, bottom = sides.T[..., None, None]
    inside = (columns >= left) & (columns < right) & (rows >= top) & (rows < bottom)
    areas = (sides[:, 2:] - sides[:, :2]).prod(1)  # the share of the image times the number of cells
    lost_within: Tensor = ((wrong * inside).sum((1, 2)) / areas).sum()
    return lost_within
