"""COCO's average precision of masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bitq.batches import described, to_device
from bitq.errors import BitqError
from bitq.tasks.detect.boxes import ABSENT
from bitq.tasks.detect.heads import found_among
from bitq.tasks.detect.precision import CocoFigure, Precision
from bitq.tasks.segment_instances.mixtures import Canvas, mixed_of
from bitq.tasks.segment_instances.truth import Instances

_CPU = torch.device("cpu")


class InstancePrecision(Precision):
    """Objects found in images, beside those that are there, by their masks, or by their boxes.

    Args:
        figure: that counts.
        kind: "segm" or "bbox".

    Raises:
        BitqError: the package that counts them is not installed.
    """

    def __init__(self, figure: CocoFigure = CocoFigure.AP, kind: str = "segm") -> None:
        super().__init__(figure, kind)
        self._masks: list[dict[str, Any]] = []

    def count(self, output: Any, target: Any) -> None:
        """Take a batch in."""
        if not isinstance(target, Instances):
            raise BitqError(
                f"instance segmentation cannot judge by {described(target)}; it must be a "
                "bitq.tasks.segment_instances.Instances"
            )
        mixed, target = mixed_of(to_device(output, _CPU, "the output")), to_device(target, _CPU)
        truth = target.boxes
        heads = mixed.heads(truth.shape)
        for image in range(len(target)):
            found, cells = found_among(heads.boxes[image], heads.logits[image].sigmoid())
            before = len(self._true)
            number = self.add(truth, image, found)
            if self.kind == "segm":
                canvas = Canvas(mixed.prototypes[image], truth, image)
                self._outline(before, target, image, canvas.size)
                self._draw(canvas, number, truth.restored(found.boxes, image), mixed.mixtures[image].T[cells])

    def _outline(self, before: int, target: Instances, image: int, size: tuple[int, int]) -> None:
        """Add to an image's true objects, which were listed behind so many, what they cover."""
        there = (target.boxes.classes[image] != ABSENT).nonzero()[:, 0].tolist()
        for entry, place in zip(self._true[before:], there, strict=True):
            entry["segmentation"] = {"size": list(size), "counts": target.outlines[image][place]}

    def _draw(self, canvas: Canvas, number: int, boxes: Tensor, mixtures: Tensor) -> None:
        """Keep the masks of what was found in an image of a number."""
        rows = self._found[-1]
        for box, mixture, row in zip(boxes, mixtures, rows, strict=True):
            self._masks.append(
                {
                    "image_id": number,
                    "category_id": int(row[6]),
                    "score": float(row[5]),
                    "segmentation": canvas.encoded(mixture, box),
                }
            )

    def results(self, found: Tensor, known: Tensor) -> Any:
        """As of boxes, or the masks of what is `known`."""
        if self.kind == "bbox":
            return super().results(found, known)
        return [each for each, own in zip(self._masks, known.tolist(), strict=True) if own]
