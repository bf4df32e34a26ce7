"""What a batch of images is labelled with: objects, and the pixels that each covers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bitq.tasks.detect.boxes import Truth
from bitq.tasks.detect.letterbox import Objects, truth_of
from bitq.tasks.detect.outlines import mask_of


@dataclass(frozen=True)
class Instances:
    """The objects in the images of a batch.

    Attributes:
        boxes: their boxes and classes.
        outlines: of each image the objects' runs of pixels, as COCO writes them, in the order of their boxes.
    """

    boxes: Truth
    outlines: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.outlines)

    def __getitem__(self, index: slice | Tensor) -> Instances:
        """Of the images at `index`."""
        places = range(len(self))[index] if isinstance(index, slice) else index.tolist()
        return Instances(self.boxes[index], tuple(self.outlines[place] for place in places))

    def size(self, image: int) -> tuple[int, int]:
        """Height and width of an image as it is kept."""
        width, height = self.boxes.sizes[image].tolist()
        return round(height), round(width)

    def masks(self, image: int, objects: Sequence[int], grid: tuple[int, int]) -> Tensor:
        """Which cells of a grid over what the network sees have their centres in an object: bool [objects, *grid].

        Args:
            image: its place in the batch.
            objects: their places in the image.
            grid: rows and columns.
        """
        height, width = self.size(image)
        scales, margins = self.boxes.scales[image].tolist(), self.boxes.margins[image].tolist()
        across, down = (
            ((np.arange(count) + 0.5) * side / count - margin) / scale
            for count, side, margin, scale in zip(grid[::-1], self.boxes.shape[::-1], margins, scales, strict=True)
        )
        inside = ((down >= 0) & (down < height))[:, None] & ((across >= 0) & (across < width))
        rows, columns = down.astype(int).clip(0, height - 1), across.astype(int).clip(0, width - 1)
        found = np.zeros((len(objects), *grid), np.bool_)
        for place, each in enumerate(objects):
            found[place] = mask_of(self.outlines[image][each], (height, width))[np.ix_(rows, columns)] & inside
        return torch.from_numpy(found)


def instances_of(
    objects: Sequence[Objects], sizes: Sequence[tuple[int, int]], shape: tuple[int, int], most: int
) -> Instances:
    """What images are labelled with, of arguments as of `truth_of`.

    Raises:
        BitqError: the package that fills polygons is not installed.
    """
    outlines = (
        tuple(outline.text(size) for outline in each.outlines) for each, size in zip(objects, sizes, strict=True)
    )
    return Instances(truth_of(objects, sizes, shape, most), tuple(outlines))
