"""Images in files, each beside the file of a mask that holds the class of every pixel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bitq.accuracy.evaluate import IGNORED
from bitq.errors import BitqError
from bitq.images import ArrayImages, ImageBatch, Scaling, in_threads, opened_image
from bitq.memory import memory_told

MOST_CLASSES = 2**15
_INDEXED = ("1", "L", "P", "I", "I;16", "I;16B")
"""Modes of image files whose pixels are whole numbers, of a palette or as they are."""


@dataclass(frozen=True)
class Marks:
    """What the numbers in masks mean.

    Attributes:
        first: the number of class 0, that of class 1 follows.
        void: numbers of pixels that belong to no class.
    """

    first: int = 0
    void: tuple[int, ...] = (255,)

    def labels(self, mask: NDArray[np.int32], path: Path) -> NDArray[np.int16]:
        """Classes counted from 0, and `IGNORED`, of a mask [height, width].

        Raises:
            BitqError: another number; says which, and where.
        """
        void = np.isin(mask, self.void)
        labels = np.where(void, IGNORED, mask - self.first)
        wrong = ~void & ((labels < 0) | (labels >= MOST_CLASSES))
        if wrong.any():
            row, column = np.unravel_index(int(wrong.argmax()), wrong.shape)
            raise BitqError(
                f"{path} has the number {mask[row, column]} at row {row}, column {column}; classes are numbered from "
                f"{self.first}, and --void names the numbers of pixels that belong to none"
            )
        return labels.astype(np.int16)


@dataclass(frozen=True)
class MaskedFiles:
    """Images with masks or without, decoded whenever they are asked for: a split, as `bitq.images.Split` describes it.

    Args:
        images, masks: PNG or JPEG files; a mask's pixels are whole numbers. None without masks.
        shape: that every image gets: (channels, height, width).
        resize: images of another size, their masks by the nearest pixel; they are refused otherwise.
        marks: what the numbers mean.
        scaling: of the images.
    """

    images: tuple[Path, ...]
    masks: tuple[Path, ...] | None
    shape: tuple[int, int, int]
    resize: bool
    marks: Marks
    scaling: Scaling

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> ImageBatch:
        return self.subset(index).held()[:]

    @property
    def bytes_each(self) -> int:
        """Of an image as the network sees it, and its labels."""
        return 4 * prod(self.shape) + 8 * prod(self.shape[1:])

    @property
    def told(self) -> str:
        """What they are, for messages."""
        return f"images of shape {self.shape} with masks"

    def subset(self, indices: Tensor) -> MaskedFiles:
        """The images at `indices` alone."""
        chosen = indices.tolist()
        masks = None if self.masks is None else tuple(self.masks[i] for i in chosen)
        return replace(self, images=tuple(self.images[i] for i in chosen), masks=masks)

    def held(self) -> ArrayImages:
        """The same images and masks, decoded once and held in memory.

        Raises:
            BitqError: what cannot be read, has another size than it must have, or a mask with a number that means
                nothing.
        """
        with memory_told("decoding images and masks"):
            pixels = np.empty((len(self), *self.shape), np.uint8)
            labels = None if self.masks is None else np.empty((len(self), *self.shape[1:]), np.int16)

            def hold(index: int) -> None:
                size, pixels[index] = self._pixels(self.images[index])
                if self.masks is not None and labels is not None:
                    labels[index] = self._numbers(self.masks[index], self.images[index], size)

            in_threads(hold, len(self))
        return ArrayImages(
            torch.from_numpy(pixels), None if labels is None else torch.from_numpy(labels), self.scaling
        )

    def _pixels(self, path: Path) -> tuple[tuple[int, int], NDArray[np.uint8]]:
        """Width and height of an image as it is kept, and what it becomes."""
        channels, height, width = self.shape

        def pixels(image: Image.Image) -> tuple[tuple[int, int], NDArray[np.uint8]]:
            found = self._fitted(image.convert("RGB" if channels == 3 else "L"), path, Image.Resampling.BILINEAR)
            return image.size, np.array(found).reshape(height, width, channels).transpose(2, 0, 1)

        return opened_image(path, pixels)

    def _numbers(self, mask: Path, path: Path, size: tuple[int, int]) -> NDArray[np.int16]:
        """The labels in the mask of an image at `path`, which has such a width and height."""

        def numbers(image: Image.Image) -> tuple[tuple[int, int], NDArray[np.int32]]:
            if image.mode not in _INDEXED:
                raise BitqError(
                    f"{mask} is an image of mode {image.mode}; a mask's pixels must be numbers of classes, gray or of "
                    "a palette"
                )
            return image.size, np.array(self._fitted(image, mask, Image.Resampling.NEAREST)).astype(np.int32)

        own, found = opened_image(mask, numbers)
        if own != size:
            raise BitqError(f"{mask} has {own[0]} x {own[1]} pixels, but its image {path} {size[0]} x {size[1]}")
        return self.marks.labels(found, mask)

    def _fitted(self, image: Image.Image, where: Path, by: Image.Resampling) -> Image.Image:
        size = self.shape[2], self.shape[1]
        if image.size == size:
            return image
        if not self.resize:
            own, others = (f"{across} x {down} pixels" for across, down in (image.size, size))
            raise BitqError(f"{where} has {own} and others {others}; set an image size")
        return image.resize(size, by)
