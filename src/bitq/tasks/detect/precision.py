"""Average precision as COCO defines it."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitq.batches import described, to_device
from bitq.errors import BitqError
from bitq.tasks.detect.boxes import ABSENT, Truth
from bitq.tasks.detect.heads import Detected, found_in_image, heads_of

_CPU = torch.device("cpu")
"""Where boxes are suppressed: it takes many small steps, one after the other."""


class CocoFigure(IntEnum):
    """Places among COCO's figures: precision over overlaps of 0.50, 0.55, …, 0.95, at 0.50, at 0.75, and over all
    overlaps of objects of up to 32² pixels, of 32² to 96², and from 96² on."""

    AP, AP50, AP75, SMALL, MEDIUM, LARGE = range(6)


class Precision:
    """Objects found in images, beside those that are there.

    Args:
        figure: that counts.
        kind: what overlaps, as COCO calls it.

    Raises:
        BitqError: the package that counts them is not installed.
    """

    def __init__(self, figure: CocoFigure = CocoFigure.AP, kind: str = "bbox") -> None:
        self._coco, self._evaluation = _counters()
        self._figure, self.kind = figure, kind
        self._sizes: list[list[int]] = []
        self._true: list[dict[str, Any]] = []
        self._found: list[Tensor] = []

    def count(self, output: Any, target: Any) -> None:
        """Take a batch in."""
        if not isinstance(target, Truth):
            raise BitqError(f"detection cannot judge by {described(target)}; it must be a bitq.tasks.detect.Truth")
        output, target = to_device(output, _CPU, "the output"), to_device(target, _CPU)
        heads = heads_of(output, target.shape)
        for image in range(len(target)):
            self.add(target, image, found_in_image(heads, image))

    def add(self, target: Truth, image: int, found: Detected) -> int:
        """Take an image in, and what was found in it; its number among all."""
        number = len(self._sizes)
        self._sizes.append([round(side) for side in target.sizes[image].tolist()])
        self._true += _entries(target, image, number, len(self._true))
        boxes = target.restored(found.boxes, image)
        boxes[:, 2:] -= boxes[:, :2]
        numbers = torch.full_like(found.scores, number)
        columns = (numbers[:, None], boxes, found.scores[:, None], found.classes[:, None].to(boxes))
        self._found.append(torch.cat(columns, 1))
        return number

    @property
    def share(self) -> float:
        """The figure, mean over the classes that the images have; 0 if they have no object that it counts."""
        return max(float(self.figures[self._figure]), 0.0)

    @property
    def figures(self) -> NDArray[np.float64]:
        """All of COCO's figures; −1 where nothing is counted."""
        classes = sorted({entry["category_id"] for entry in self._true})
        if not classes:
            return np.full(12, -1.0)
        images = [
            {"id": number, "width": width, "height": height} for number, (width, height) in enumerate(self._sizes)
        ]
        known = [{"id": each, "name": str(each)} for each in classes]
        true = self._coco({"images": images, "annotations": self._true, "categories": known})
        found = torch.cat(self._found).double()
        of_known = torch.isin(found[:, 6].long(), torch.tensor(classes))
        results = self.results(found, of_known)
        if not len(results):
            return np.zeros(12)
        evaluation = self._evaluation(true, true.loadRes(results), self.kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return np.asarray(evaluation.stats, np.float64)

    def results(self, found: Tensor, known: Tensor) -> Any:
        """What was found, as COCO reads it: rows of image, box, score and class, of those that are `known`."""
        return found[known].numpy()


def _entries(target: Truth, image: int, number: int, before: int) -> list[dict[str, Any]]:
    """The objects of an image as COCO lists them, numbered from 1 on (a match with object 0 would not count)."""
    there = target.classes[image] != ABSENT
    rows = zip(
        *(each[image][there].tolist() for each in (target.boxes, target.classes, target.crowds, target.areas)),
        strict=True,
    )
    return [
        {
            "id": before + place,
            "image_id": number,
            "category_id": label,
            "iscrowd": int(crowd),
            "bbox": [left, top, right - left, bottom - top],
            "area": area,
        }
        for place, ((left, top, right, bottom), label, crowd, area) in enumerate(rows, 1)
    ]


def _counters() -> tuple[Any, Any]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ModuleNotFoundError as error:
        raise BitqError("average precision needs the package faster-coco-eval: pip install 'bitq[detect]'") from error
    return COCO, COCOeval_faster
