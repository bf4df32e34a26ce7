"""Images of any size made alike without distortion: resized as a whole, and padded to one shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from bitq.errors import BitqError
from bitq.images import Scaling, in_threads, opened_image
from bitq.memory import memory_told
from bitq.tasks.detect.boxes import ABSENT, Truth
from bitq.tasks.detect.outlines import Outline

PAD = 114
"""Gray of the margins, of 255: what YOLO networks are trained with."""


@dataclass(frozen=True)
class Objects:
    """The objects in an image.

    Attributes:
        boxes: left, top, right, bottom, float64 [k, 4].
        classes: int64 [k].
        crowds: whether a box stands around many objects, bool [k].
        areas: of the objects, float64 [k].
        size: height and width of the image whose pixels boxes and areas are given in; None if they are shares of the
            image's sides and area.
        outlines: of the objects, where they are asked for.
    """

    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    crowds: NDArray[np.bool_]
    areas: NDArray[np.float64]
    size: tuple[int, int] | None = None
    outlines: tuple[Outline, ...] = ()

    def in_pixels(self, path: Path, size: tuple[int, int]) -> Objects:
        """The same in pixels of the image.

        Args:
            path: of the image.
            size: its height and width.

        Raises:
            BitqError: it has not the size that the boxes are of.
        """
        height, width = size
        if self.size is None:
            boxes = self.boxes * [width, height, width, height]
            outlines = tuple(each.scaled(width, height) for each in self.outlines)
            return replace(self, boxes=boxes, areas=self.areas * width * height, size=size, outlines=outlines)
        if self.size != size:
            raise BitqError(
                f"{path} has {width} x {height} pixels, but its labels are of {self.size[1]} x {self.size[0]}"
            )
        return self


class Fit(NamedTuple):
    """How an image is letterboxed.

    Attributes:
        size: height and width that it is resized to.
        margins: pixels above it and on its left.
    """

    size: tuple[int, int]
    margins: tuple[int, int]


def fit_of(size: tuple[int, int], shape: tuple[int, int]) -> Fit:
    """The largest size of an image within a shape, in its middle; an odd pixel of margin lies below or on the right.

    Args:
        size, shape: heights and widths, in pixels.
    """
    scale = min(shape[0] / size[0], shape[1] / size[1])
    height, width = (max(1, round(side * scale)) for side in size)
    return Fit((height, width), ((shape[0] - height) // 2, (shape[1] - width) // 2))


@dataclass(frozen=True)
class LetterboxedFiles:
    """Images with objects, decoded whenever they are asked for: a split, as `bitq.images.Split` describes it.

    Args:
        images: PNG or JPEG files of any size.
        objects: of each.
        shape: that every image gets: (channels, height, width).
        scaling: of the images.
        most: objects that targets have room for, those of any image at least.
        targets: makes what the images are labelled with, as `truth_of`.
    """

    images: tuple[Path, ...]
    objects: tuple[Objects, ...]
    shape: tuple[int, int, int]
    scaling: Scaling
    most: int
    targets: Callable[[Sequence[Objects], Sequence[tuple[int, int]], tuple[int, int], int], Any]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Any]:
        return self.subset(index).held()[:]

    @property
    def bytes_each(self) -> int:
        """Of one image, as the network sees it."""
        return 4 * prod(self.shape)

    @property
    def told(self) -> str:
        """What they are, for messages."""
        return f"images of shape {self.shape} with boxes"

    def subset(self, indices: Tensor) -> LetterboxedFiles:
        """The images at `indices` alone."""
        chosen = indices.tolist()
        return replace(
            self, images=tuple(self.images[i] for i in chosen), objects=tuple(self.objects[i] for i in chosen)
        )

    def held(self) -> LetterboxedImages:
        """The same images, decoded once and held in memory.

        Raises:
            BitqError: what cannot be read, or has not the size that its labels are of.
        """
        with memory_told("decoding images"):
            pixels = np.full((len(self), *self.shape), PAD, np.uint8)
            objects, sizes = list(self.objects), [(0, 0)] * len(self)

            def hold(index: int) -> None:
                sizes[index] = self._decoded(self.images[index], pixels[index])
                objects[index] = self.objects[index].in_pixels(self.images[index], sizes[index])

            in_threads(hold, len(self))
            truth = self.targets(objects, sizes, self.shape[1:], self.most)
        return LetterboxedImages(torch.from_numpy(pixels), truth, self.scaling)

    def _decoded(self, path: Path, into: NDArray[np.uint8]) -> tuple[int, int]:
        """Write an image's pixels into their place; its height and width as it is kept."""
        channels = self.shape[0]

        def pixels(image: Image.Image) -> NDArray[np.uint8]:
            array = np.array(image.convert("RGB" if channels == 3 else "L"))
            return array.reshape(image.height, image.width, channels).transpose(2, 0, 1)

        found = opened_image(path, pixels)
        size = found.shape[1], found.shape[2]
        (height, width), (top, left) = fit_of(size, self.shape[1:])
        into[:, top : top + height, left : left + width] = _resized(found, (height, width))
        return size


@dataclass(frozen=True)
class LetterboxedImages:
    """Letterboxed images in memory, uint8 [n, channels, height, width]; otherwise as `LetterboxedFiles`."""

    pixels: Tensor
    truth: Any
    scaling: Scaling

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: slice | Tensor) -> tuple[Tensor, Any]:
        return self.scaling(self.pixels[index]), self.truth[index]

    @property
    def bytes_each(self) -> int:
        """As of `LetterboxedFiles`."""
        return 4 * prod(self.pixels.shape[1:])

    @property
    def told(self) -> str:
        """As of `LetterboxedFiles`."""
        return f"images of shape {tuple(self.pixels.shape[1:])} with boxes"

    def subset(self, indices: Tensor) -> LetterboxedImages:
        """The images at `indices` alone."""
        return replace(self, pixels=self.pixels[indices], truth=self.truth[indices])


def truth_of(objects: Sequence[Objects], sizes: Sequence[tuple[int, int]], shape: tuple[int, int], most: int) -> Truth:
    """What images are labelled with.

    Args:
        objects: of each image, in its pixels.
        sizes: of the images, height and width.
        shape: height and width that they get.
        most: objects that there is room for.
    """

    def padded(rows: Sequence[NDArray[np.generic]], fill: float) -> Tensor:
        array = np.full((len(rows), most, *rows[0].shape[1:]), fill, rows[0].dtype)
        for place, row in enumerate(rows):
            array[place, : len(row)] = row
        return torch.from_numpy(array)

    fits = [fit_of(size, shape) for size in sizes]
    original = torch.tensor([(width, height) for height, width in sizes]).float()
    return Truth(
        boxes=padded([each.boxes for each in objects], 0).float(),
        classes=padded([each.classes for each in objects], ABSENT),
        crowds=padded([each.crowds for each in objects], False),
        areas=padded([each.areas for each in objects], 0).float(),
        scales=torch.tensor([fit.size[::-1] for fit in fits]) / original,
        margins=torch.tensor([fit.margins[::-1] for fit in fits]).float(),
        sizes=original,
        shape=shape,
    )


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Bilinear between the nearest four pixels, without antialiasing: what OpenCV calls INTER_LINEAR."""
    if pixels.shape[1:] == size:
        return pixels
    found = functional.interpolate(torch.from_numpy(pixels[None].astype(np.float32)), size, mode="bilinear")
    return found[0].round().clamp(0, 255).byte().numpy()
