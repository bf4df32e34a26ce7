"""Images with labels or without, in memory or in files: decoded, normalized, given out in batches."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import IO, Any, Protocol, Self, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bitq.arrays import labels_at
from bitq.errors import BitqError
from bitq.memory import check_fits, memory_told
from bitq.outside import opened_outside

MEANS, STDS = (-1e12, 1e12), (1e-12, 1e12)
"""What a mean and a standard deviation can be, so that what a network sees is finite."""

_MOST_PIXELS = 64 * 2**20  # of one image file
_MOST_FILE = 8 * _MOST_PIXELS + 2**26  # bytes: four channels of 16 bits, and what is written beside them
_MOST_READS = 2**20  # of one image file, by blocks; a decoder that looks for a beginning reads byte by byte

T = TypeVar("T")
ImageBatch = tuple[Tensor] | tuple[Tensor, Tensor]
"""Images [n, channels, height, width] and labels [n, ...], or images alone."""


@dataclass(frozen=True)
class Scaling:
    """How pixels become what the network sees: bytes divided by 255, then (x − mean) / std per channel.

    Raises:
        BitqError: a mean outside `MEANS` or a standard deviation outside `STDS`, or one that is no number.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for name, values, (least, most) in (("mean", self.mean, MEANS), ("std", self.std, STDS)):
            for value in values:
                if not least <= value <= most:
                    raise BitqError(f"{name} is {value!r}; it must be a number from {least:g} to {most:g}")

    def check_channels(self, count: int) -> None:
        """Refuse numbers that are not for images of so many channels.

        Raises:
            BitqError: neither one number nor one for each channel.
        """
        for name, values in (("--mean", self.mean), ("--std", self.std)):
            if len(values) not in (1, count):
                raise BitqError(f"{name} has {len(values)} numbers; it must have one, or {count} for as many channels")

    def __call__(self, pixels: Tensor) -> Tensor:
        """Float32 images of the same shape [..., channels, height, width]."""
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.mean, self.std))
        return ((pixels / 255 if pixels.dtype == torch.uint8 else pixels) - mean) / std


@dataclass(frozen=True)
class ArrayImages:
    """Images in memory: `pixels` uint8 or float32 [n, channels, height, width], `labels` of whole numbers [n, ...], or
    None of images without.

    A map-style dataset: an index gives (image, label), a tensor of indices or a slice gives a batch, labels as int64.
    Without labels it gives (image,).
    """

    pixels: Tensor
    labels: Tensor | None
    scaling: Scaling = Scaling()

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int | slice | Tensor) -> ImageBatch:
        images = self.scaling(self.pixels[index])
        return (images,) if self.labels is None else (images, self.labels[index].long())

    @property
    def shape(self) -> tuple[int, ...]:
        """Of every image: (channels, height, width)."""
        return tuple(self.pixels.shape[1:])

    @property
    def bytes_each(self) -> int:
        """Of one image, as the network sees it."""
        return _bytes_each(self.shape)

    @property
    def told(self) -> str:
        """What they are, for messages."""
        return _told(self.shape)

    def subset(self, indices: Tensor) -> ArrayImages:
        """The images at `indices` alone."""
        return replace(self, pixels=self.pixels[indices], labels=labels_at(self.labels, indices))


@dataclass(frozen=True)
class FileImages:
    """Images in PNG or JPEG files, decoded whenever they are asked for; otherwise as `ArrayImages`.

    Every image gets `shape` (channels, height, width). One of another size is fitted if `resize` (its shorter
    side resized, then the center cropped), else refused with a BitqError, as is a file that cannot be read.
    """

    paths: tuple[Path, ...]
    labels: Tensor | None
    shape: tuple[int, int, int]
    resize: bool
    scaling: Scaling = Scaling()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int | Tensor) -> ImageBatch:
        if isinstance(index, int):
            image = self.scaling(_decode(self.paths[index], self.shape, self.resize))
            return (image,) if self.labels is None else (image, self.labels[index])
        return self.subset(index).held()[:]

    @property
    def bytes_each(self) -> int:
        """As of `ArrayImages`."""
        return _bytes_each(self.shape)

    @property
    def told(self) -> str:
        """As of `ArrayImages`."""
        return _told(self.shape)

    def subset(self, indices: Tensor) -> FileImages:
        """The images at `indices` alone."""
        paths = tuple(self.paths[i] for i in indices.tolist())
        return replace(self, paths=paths, labels=labels_at(self.labels, indices))

    def held(self) -> ArrayImages:
        """The same images, decoded once and held in memory."""
        with memory_told("decoding images"):
            pixels = np.empty((len(self), *self.shape), np.uint8)

            def hold(index: int) -> None:
                pixels[index] = _decode(self.paths[index], self.shape, self.resize).numpy()

            in_threads(hold, len(self))
        return ArrayImages(torch.from_numpy(pixels), self.labels, self.scaling)


class Split(Protocol):
    """Inputs, in memory or in files, of which some are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor, /) -> Any:
        """The batch (inputs, labels) at these indices, or (inputs,) without labels."""

    @property
    def bytes_each(self) -> int:
        """Of one input, as the network sees it."""

    @property
    def told(self) -> str:
        """What they are, for messages."""

    def subset(self, indices: Tensor) -> Self:
        """The inputs at `indices` alone."""


def _bytes_each(shape: tuple[int, ...]) -> int:
    return 4 * prod(shape)


def _told(shape: tuple[int, ...]) -> str:
    return f"images of shape {shape}"


@dataclass(frozen=True)
class Batches:
    """The batches (inputs, labels) of a split, or (inputs,) without labels, as often as iterated.

    Shuffled ones are drawn from torch's global generator, which fine-tuning seeds, and leave out a short last batch.

    Raises:
        BitqError: a batch is larger than this machine's memory.
    """

    images: Split
    size: int
    shuffle: bool = False

    def __post_init__(self) -> None:
        count = min(self.size, len(self.images))
        check_fits(count * self.images.bytes_each, f"{count} {self.images.told}, a batch,")

    def __len__(self) -> int:
        return len(range(*self._starts()))

    def __iter__(self) -> Iterator[Any]:
        count = len(self.images)
        order = torch.randperm(count) if self.shuffle else torch.arange(count)
        return (self.images[order[start : start + self.size]] for start in range(*self._starts()))

    def _starts(self) -> tuple[int, int, int]:
        count = len(self.images)
        return 0, count - count % self.size if self.shuffle and count >= self.size else count, self.size


def in_threads(hold: Callable[[int], None], count: int) -> None:
    """Call `hold` of every index below `count`, as many at once as PyTorch has threads; its first exception ends it."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in pool.map(hold, range(count)):
            pass


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file, in pixels.

    Raises:
        BitqError: the file is no PNG or JPEG image, or too large a one.
    """
    return opened_image(path, lambda image: (image.height, image.width))


def _decode(path: Path, shape: tuple[int, int, int], resize: bool) -> Tensor:
    """Pixels uint8 of `shape` (channels, height, width)."""
    channels, height, width = shape

    def pixels(image: Image.Image) -> Tensor:
        converted = image.convert("RGB" if channels == 3 else "L")
        if resize:
            longest = max(image.size) * height // min(image.size)
            if longest * height > _MOST_PIXELS:
                raise BitqError(f"{path} has {_extent(image)}, too long a strip for an image size of {height}; crop it")
            converted = _fitted(converted, height)
        elif converted.size != (width, height):
            raise BitqError(f"{path} has {_extent(image)} and others {width} x {height}; set an image size")
        array = np.array(converted).reshape(height, width, channels)
        return torch.from_numpy(array).permute(2, 0, 1).contiguous()

    return opened_image(path, pixels)


def opened_image(path: Path, use: Callable[[Image.Image], T]) -> T:
    """What `use` makes of an image file, which is PNG or JPEG whatever its name.

    Raises:
        BitqError: the file is none, or has too many pixels; and what `use` raises.
    """
    try:
        with opened_outside(path, _MOST_FILE, "a PNG or JPEG image") as file, _image(file) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise BitqError(f"{path} has {_extent(image)}; images have at most {_MOST_PIXELS}")
            return use(image)
    except (BitqError, MemoryError):
        raise
    except Exception as error:  # whatever a decoder of untrusted bytes runs into
        raise BitqError(f"{path} cannot be read as a PNG or JPEG image; replace or remove it") from error


def _image(file: IO[bytes]) -> Image.Image:
    return Image.open(Rationed(file, _MOST_FILE, _MOST_READS), formats=("PNG", "JPEG"))


class Rationed(io.BufferedReader):
    """A file for a decoder that trusts what it reads: it fails where a decoder asks for too much, or for ever.

    Args:
        file: open for reading.
        most_bytes: of one read.
        most_reads: of all.
    """

    def __init__(self, file: IO[bytes], most_bytes: int, most_reads: float) -> None:
        super().__init__(io.FileIO(file.fileno(), closefd=False))
        self._most_bytes, self._reads_left = most_bytes, most_reads

    def read(self, size: int | None = -1, /) -> bytes:
        """As a file does; OSError if it is too much."""
        self._reads_left -= 1
        bounded = size if size is not None and size >= 0 else self._most_bytes + 1
        if self._reads_left < 0 or bounded > self._most_bytes + 1:
            raise OSError("a decoder reads too much")
        found = super().read(bounded)
        if len(found) > self._most_bytes:
            raise OSError("a decoder reads too much")
        return found


def _extent(image: Image.Image) -> str:
    return f"{image.width} x {image.height} pixels"


def _fitted(image: Image.Image, size: int) -> Image.Image:
    """The central square of side `size` after the shorter side became `size`."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))
