"""What networks of YOLOv8's kind with masks answer, and the masks that this says there are (Bolya et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitq.batches import described
from bitq.errors import BitqError
from bitq.tasks.detect.boxes import Truth, corners
from bitq.tasks.detect.heads import BINS, Heads, cells_of, heads_of
from bitq.tasks.detect.outlines import mask_utilities

STRIDES = (8, 16, 32)
"""Pixels that a cell is wide, of the maps of a network that gives predictions alone."""


@dataclass(frozen=True)
class Mixed:
    """An answer.

    Attributes:
        predictions: of every cell, or anchor box: centre x, centre y, width, height in pixels, probabilities of the
            classes, [n, 4 + classes, cells]; None in training.
        maps: scores that these come of, as `bitq.tasks.detect.heads` takes them; None of networks that give none.
        mixtures: of every cell, how to mix the prototypes, [n, masks, cells].
        prototypes: [n, masks, height, width], logits.
    """

    predictions: Tensor | None
    maps: Any
    mixtures: Tensor
    prototypes: Tensor

    @property
    def classes(self) -> int:
        """That are told apart."""
        if self.predictions is not None:
            return self.predictions.shape[1] - 4
        return int(self.maps[0].shape[1]) - 4 * BINS

    def heads(self, shape: tuple[int, int]) -> Heads:
        """The answer as of a network without masks, whose images have such a height and width."""
        if self.predictions is None:
            return heads_of(self.maps, shape)
        if self.maps is not None:
            return heads_of((self.predictions, self.maps), shape)
        boxes, scores = torch.split(self.predictions.transpose(1, 2).float(), [4, self.classes], 2)
        sizes = [(shape[0] // stride, shape[1] // stride) for stride in STRIDES]
        each, rest = divmod(boxes.shape[1], sum(height * width for height, width in sizes))
        if rest or not each:
            raise BitqError(
                f"predictions of {boxes.shape[1]} cells are not of images of {shape[0]} x {shape[1]} pixels and cells "
                f"of {', '.join(map(str, STRIDES))} pixels; give an --image-size that the network's strides divide"
            )
        centres, strides = cells_of([size for size in sizes for _ in range(each)], shape)
        logits = scores.clamp(1e-6, 1 - 1e-6).logit()
        return Heads(corners(boxes), logits, None, centres.to(boxes.device), strides.to(boxes.device))


def mixed_of(output: Any) -> Mixed:
    """A network's answer, in training or in evaluation mode.

    Args:
        output: of `bitq.networks:yolov8n_seg`: maps, mixtures and prototypes, or in evaluation a pair of predictions,
            which end in the mixtures, and these three; or of `bitq.networks:yolov5n_seg`: predictions and prototypes.

    Raises:
        BitqError: another output.
    """
    first, maps, prototypes = None, None, None
    parts = output if isinstance(output, tuple | list) else ()
    if len(parts) == 2 and isinstance(parts[1], tuple | list):
        first, parts = parts[0], parts[1]
    elif len(parts) == 2:
        first, prototypes = parts
    if len(parts) == 3:
        maps, mixtures, prototypes = parts
    if isinstance(prototypes, Tensor) and prototypes.dim() == 4:
        count = prototypes.shape[1]
        if isinstance(first, Tensor) and first.dim() == 3 and first.shape[1] > 4 + count:
            predictions, own = torch.split(first, [first.shape[1] - count, count], 1)
            return Mixed(predictions, maps, own, prototypes)
        if first is None and isinstance(mixtures, Tensor) and mixtures.dim() == 3 and mixtures.shape[1] == count:
            return Mixed(None, maps, mixtures, prototypes)
    raise BitqError(
        f"instance segmentation cannot judge {described(output)}; the output must be maps, mixtures (n, masks, cells) "
        "and prototypes (n, masks, height, width), in evaluation predictions (n, 4 + classes + masks, cells) and "
        "these, as of YOLOv8 with masks, or predictions and prototypes, as of YOLOv5"
    )


def classes_of_mixed(output: Any) -> int:
    """How many classes an answer, as `mixed_of` takes it, tells apart; BitqError of another output."""
    return mixed_of(output).classes


class Canvas:
    """Where masks are drawn: an image as it is kept, at whose pixels prototypes are interpolated.

    Args:
        prototypes: of the image, [masks, height, width].
        truth: of the batch.
        image: its place.
    """

    def __init__(self, prototypes: Tensor, truth: Truth, image: int) -> None:
        self._prototypes = prototypes.float()
        width, height = (round(side) for side in truth.sizes[image].tolist())
        self.size = height, width
        scales, margins = truth.scales[image].tolist(), truth.margins[image].tolist()
        self._across, self._down = (
            _interpolation(count, scale, margin, side, cells)
            for count, scale, margin, side, cells in zip(
                (width, height), scales, margins, truth.shape[::-1], prototypes.shape[:0:-1], strict=True
            )
        )

    def mask(self, mixture: Tensor, box: Tensor) -> tuple[slice, slice, Tensor]:
        """Rows and columns of the image, and which pixels there an object covers: where its logit is above 0.

        Args:
            mixture: of the prototypes, [masks].
            box: left, top, right, bottom in pixels of the image; pixels whose number lies within count.
        """
        left, top, right, bottom = (int(side) for side in box.ceil())
        rows, columns = slice(top, max(top, bottom)), slice(left, max(left, right))
        logits = torch.einsum("m,mhw->hw", mixture.float(), self._prototypes)
        return rows, columns, self._down[rows] @ logits @ self._across[columns].T > 0

    def encoded(self, mixture: Tensor, box: Tensor) -> dict[str, Any]:
        """The same mask over the whole image, as COCO's functions take it.

        Raises:
            BitqError: the package that encodes masks is not installed.
        """
        drawn = np.zeros(self.size, np.uint8, order="F")
        down, across, mask = self.mask(mixture, box)
        drawn[down, across] = mask.cpu().numpy()
        found: dict[str, Any] = mask_utilities().encode(drawn)
        return found


def _interpolation(count: int, scale: float, margin: float, side: int, cells: int) -> Tensor:
    """The matrix [count, cells] that interpolates bilinearly at an image's pixels from cells over its letterbox."""
    places = ((torch.arange(count) + 0.5) * scale + margin) * cells / side - 0.5
    low = places.clamp(0, cells - 1).floor()
    share = (places.clamp(0, cells - 1) - low)[:, None]
    found = torch.zeros(count, cells)
    found.scatter_add_(1, low.long()[:, None], 1 - share)
    found.scatter_add_(1, (low + 1).clamp(max=cells - 1).long()[:, None], share)
    return found
