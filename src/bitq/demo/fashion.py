"""Fashion-MNIST (Xiao et al., 2017): grey 28x28 pictures of clothing, kept as xz-compressed IDX files.

IDX is the data set's own layout: two zero bytes, the type code 8 (unsigned bytes), the number of dimensions,
each dimension as a big-endian 32-bit number, then the values in C order. Plain xz made the smallest files,
against bzip2, PNG's filters before either, and the cube transposed so that one pixel's values lie together.
"""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import zlib
from collections.abc import Callable
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from bitq.errors import BitqError

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SIZE = (28, 28)
MEAN, STD = 0.2860, 0.3530  # of all 60,000 training images, pixels in [0, 1]

_OPENERS: dict[str, Callable[[Path], io.BufferedIOBase]] = {".gz": gzip.GzipFile, ".xz": lzma.LZMAFile}
# Literal-context bits 4 and no alignment suit bytes without records; the dictionary spans the longest file.
_PRESET = 9 | lzma.PRESET_EXTREME
_XZ = [{"id": lzma.FILTER_LZMA2, "preset": _PRESET, "lc": 4, "lp": 0, "pb": 0, "dict_size": 1 << 24}]


def normalize(images: Tensor) -> Tensor:
    """Pixels as the network takes them: uint8 [n, 28, 28] to float32 [n, 1, 28, 28], mean 0, deviation 1."""
    return images.float().div_(255).sub_(MEAN).div_(STD).unsqueeze(1)


def read_split(images: Path, labels: Path, count: int) -> tuple[Tensor, Tensor]:
    """The pictures and classes of two IDX files: uint8 [count, 28, 28] and int64 [count].

    Raises:
        BitqError: as `read_idx` does, or a label that names no class.
    """
    classes = read_idx(labels, (count,)).long()
    if count and int(classes.max()) >= len(CLASSES):
        raise BitqError(f"{labels}: label {int(classes.max())} is not one of the {len(CLASSES)} classes 0..9")
    return read_idx(images, (count, *SIZE)), classes


def read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """The values of a compressed (.gz or .xz) IDX file, uint8 of the given shape.

    No more than the expected size is ever unpacked.

    Raises:
        BitqError: a file that is missing, damaged, or of another layout or shape.
    """
    header = _header(shape)
    size = len(header) + prod(shape)
    try:
        with _OPENERS[path.suffix](path) as file:
            data = file.read(size + 1)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise BitqError(f"{path}: {error}; it should be a whole {path.suffix} file") from error
    if len(data) != size or not data.startswith(header):
        expected = " x ".join(map(str, shape))
        raise BitqError(f"{path}: it does not hold {expected} unsigned bytes in IDX layout")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)[len(header) :].reshape(shape)


def encode_idx(values: Tensor) -> bytes:
    """The content of an .xz file that `read_idx` reads back, for uint8 values of any shape."""
    return lzma.compress(_header(tuple(values.shape)) + values.numpy().tobytes(), filters=_XZ)


def _header(shape: tuple[int, ...]) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
