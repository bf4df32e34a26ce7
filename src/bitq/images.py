"""Labelled images, in memory or in files: decoded, normalized, given out in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bitq.errors import BitqError

_MOST_PIXELS = 64 * 2**20  # of one image file

T = TypeVar("T")
ImageBatch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Scaling:
    """How pixels become what the network sees: bytes divided by 255, then (x − mean) / std per channel."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Float32 images of the same shape [..., channels, height, width]."""
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.mean, self.std))
        return ((pixels / 255 if pixels.dtype == torch.uint8 else pixels) - mean) / std


@dataclass(frozen=True)
class ArrayImages:
    """Images in memory: `pixels` uint8 or float32 [n, channels, height, width], `labels` int64 [n].

    A map-style dataset: an index gives (image, label), a tensor of indices or a slice gives a batch.
    """

    pixels: Tensor
    labels: Tensor
    scaling: Scaling = Scaling()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | slice | Tensor) -> ImageBatch:
        return self.scaling(self.pixels[index]), self.labels[index]

    def subset(self, indices: Tensor) -> ArrayImages:
        """The images at `indices` alone."""
        return replace(self, pixels=self.pixels[indices], labels=self.labels[indices])


@dataclass(frozen=True)
class FileImages:
    """Images in PNG or JPEG files, decoded whenever they are asked for; otherwise as `ArrayImages`.

    Every image gets `shape` (channels, height, width). One of another size is fitted if `resize` (its shorter
    side resized, then the center cropped), else refused with a BitqError, as is a file that cannot be read.
    """

    paths: tuple[Path, ...]
    labels: Tensor
    shape: tuple[int, int, int]
    resize: bool
    scaling: Scaling = Scaling()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int | Tensor) -> ImageBatch:
        if isinstance(index, int):
            return self.scaling(_decode(self.paths[index], self.shape, self.resize)), self.labels[index]
        return self.subset(index).held()[:]

    def subset(self, indices: Tensor) -> FileImages:
        """The images at `indices` alone."""
        paths = tuple(self.paths[i] for i in indices.tolist())
        return replace(self, paths=paths, labels=self.labels[indices])

    def held(self) -> ArrayImages:
        """The same images, decoded once and held in memory."""
        decode = partial(_decode, shape=self.shape, resize=self.resize)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            pixels = torch.stack(list(pool.map(decode, self.paths)))
        return ArrayImages(pixels, self.labels, self.scaling)


Images = ArrayImages | FileImages


@dataclass(frozen=True)
class Batches:
    """The batches (images, labels) of a split, as often as iterated.

    Shuffled ones are drawn from torch's global generator, which fine-tuning seeds, and leave out a short last batch.
    """

    images: Images
    size: int
    shuffle: bool = False

    def __len__(self) -> int:
        return len(range(*self._starts()))

    def __iter__(self) -> Iterator[ImageBatch]:
        count = len(self.images)
        order = torch.randperm(count) if self.shuffle else torch.arange(count)
        return (self.images[order[start : start + self.size]] for start in range(*self._starts()))

    def _starts(self) -> tuple[int, int, int]:
        count = len(self.images)
        return 0, count - count % self.size if self.shuffle and count >= self.size else count, self.size


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file, in pixels.

    Raises:
        BitqError: the file is no PNG or JPEG image.
    """
    return _opened(path, lambda image: (image.height, image.width))


def _decode(path: Path, shape: tuple[int, int, int], resize: bool) -> Tensor:
    """Pixels uint8 of `shape` (channels, height, width)."""
    channels, height, width = shape

    def pixels(image: Image.Image) -> Tensor:
        converted = image.convert("RGB" if channels == 3 else "L")
        if resize:
            converted = _fitted(converted, height)
        elif converted.size != (width, height):
            raise BitqError(f"{path} has {_extent(image)} and others {width} x {height}; set an image size")
        array = np.array(converted).reshape(height, width, channels)
        return torch.from_numpy(array).permute(2, 0, 1).contiguous()

    return _opened(path, pixels)


def _opened(path: Path, use: Callable[[Image.Image], T]) -> T:
    """What `use` makes of an image file, which is PNG or JPEG whatever its name."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise BitqError(f"{path} has {_extent(image)}; images have at most {_MOST_PIXELS}")
            return use(image)
    except BitqError:
        raise
    except Exception as error:  # whatever a decoder of untrusted bytes runs into
        raise BitqError(f"{path} cannot be read as a PNG or JPEG image; replace or remove it") from error


def _extent(image: Image.Image) -> str:
    return f"{image.width} x {image.height} pixels"


def _fitted(image: Image.Image, size: int) -> Image.Image:
    """The central square of side `size` after the shorter side became `size`."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))
