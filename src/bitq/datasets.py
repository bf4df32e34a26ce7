"""A user's labelled images, from a folder of files or an .npz file, as three splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitq.errors import BitqError
from bitq.images import ArrayImages, FileImages, Images, Scaling
from bitq.images import image_size as size_of_file

SPLITS = ("train", "val", "test")
_SUFFIXES = (".png", ".jpg", ".jpeg")
_MOST_BYTES = 16 * 2**30  # of one array
_HELD_BYTES = 2 * 2**30  # decoded images of a split that is read again and again
_TAKEN = 10  # a split that is missing takes every tenth image of train


@dataclass(frozen=True)
class Dataset:
    """Images to train on, to choose by and to judge by; `classes` names the labels 0, 1, …"""

    train: Images
    val: Images
    test: Images
    classes: tuple[str, ...]


def load_data(
    path: Path,
    *,
    image_size: int | None = None,
    channels: int = 3,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    limit: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Labelled images from a folder of PNG and JPEG files or from an .npz file.

    A folder holds train/, val/ and test/ with a folder of images per class in each, or these class folders
    alone. An .npz file holds x_train, y_train, x_test, y_test and perhaps x_val, y_val: images uint8
    [n, height, width, channels], floating point [n, channels, height, width], or either [n, height, width];
    labels are whole numbers [n] from 0. Of val and test, what is missing is taken from train: every tenth
    image each, drawn by `seed`.

    Images of a folder are decoded when they are asked for, val and test only once where they fit in 2 GiB.

    Args:
        path: the folder or the file.
        image_size: height and width, in pixels, that the images of files get (shorter side resized, then
            center crop); None if they have one size already.
        channels: 3 (RGB) or 1 (gray), to which the files' images are converted.
        mean, std: of the network's normalization, per channel or one for all, for bytes divided by 255.
        limit: at most so many images of each split, drawn by `seed`.
        seed: of these draws; the same seed gives the same splits.

    Raises:
        BitqError: what is missing, damaged, of another shape or type, or does not fit together; a damaged
            image that is decoded later raises it then.
    """
    if limit is not None and limit < 1:
        raise BitqError(f"a limit of {limit} images leaves none; it must be at least 1")
    if path.is_dir():
        parts, classes = _read_folder(path, image_size, channels)
    elif path.suffix == ".npz" and path.is_file():
        parts, classes = _read_npz(path)
    else:
        raise BitqError(f"{path} is no data; give a folder of images or an .npz file")
    depth = parts["train"][0][0].shape[0]
    if {len(mean), len(std)} - {1, depth} or not all(0 < value < inf for value in std):
        raise BitqError(f"mean {tuple(mean)} and std {tuple(std)} must be 1 or {depth} numbers, std above 0")
    scaling = Scaling(tuple(mean), tuple(std))
    splits = _drawn({name: replace(part, scaling=scaling) for name, part in parts.items()}, limit, seed)
    return Dataset(splits["train"], _held(splits["val"]), _held(splits["test"]), classes)


def _drawn(parts: Mapping[str, Images], limit: int | None, seed: int) -> dict[str, Images]:
    """All three splits, those missing taken from train, none larger than `limit`."""
    generator = torch.Generator().manual_seed(seed)
    train, splits = parts["train"], dict(parts)
    order, share = torch.randperm(len(train), generator=generator), -(-len(train) // _TAKEN)
    for name in SPLITS:
        if name not in parts:
            splits[name], order = train.subset(order[:share].sort().values), order[share:]
    if not len(order):
        raise BitqError(f"{len(train)} training images are too few to take a split from; give more")
    if len(order) < len(train):
        splits["train"] = train.subset(order.sort().values)
    if limit is None:
        return splits
    drawn = {name: torch.randperm(len(part), generator=generator)[:limit] for name, part in splits.items()}
    return {name: part.subset(drawn[name].sort().values) for name, part in splits.items()}


def _held(images: Images) -> Images:
    fits = isinstance(images, FileImages) and len(images) * prod(images.shape) <= _HELD_BYTES
    return images.held() if isinstance(images, FileImages) and fits else images


def _read_folder(
    root: Path, image_size: int | None, channels: int
) -> tuple[dict[str, Images], tuple[str, ...]]:
    if channels not in (1, 3):
        raise BitqError(f"images have 1 channel (gray) or 3 (RGB), not {channels}")
    if image_size is not None and image_size < 1:
        raise BitqError(f"an image size of {image_size} pixels is none; it must be at least 1")
    folders = {name: root / name for name in SPLITS if (root / name).is_dir()} or {"train": root}
    if "train" not in folders:
        raise BitqError(f"{root} has a folder {min(folders)} but no train; give both, or class folders alone")
    listed = {name: _class_folders(folder) for name, folder in folders.items()}
    classes = tuple(listed["train"])
    height, width = (image_size, image_size) if image_size else size_of_file(listed["train"][classes[0]][0])
    parts: dict[str, Images] = {}
    for name, files in listed.items():
        if unknown := files.keys() - set(classes):
            raise BitqError(f"{folders[name] / min(unknown)} is a class that {folders['train']} lacks")
        paths = tuple(path for paths in files.values() for path in paths)
        labels = torch.tensor([classes.index(label) for label, paths in files.items() for _ in paths])
        parts[name] = FileImages(paths, labels, (channels, height, width), resize=image_size is not None)
    return parts, classes


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    """The image files of every class, classes and files by name."""
    classes = {
        entry.name: sorted(file for file in entry.iterdir() if file.suffix.lower() in _SUFFIXES)
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }
    if not classes:
        raise BitqError(f"{folder} holds no folder; it must hold one per class")
    if empty := [name for name, files in classes.items() if not files]:
        raise BitqError(f"{folder / empty[0]} holds no image ({', '.join(_SUFFIXES)})")
    return classes


def _read_npz(path: Path) -> tuple[dict[str, Images], tuple[str, ...]]:
    arrays = _read_arrays(path)
    parts: dict[str, Images] = {}
    for name in (name for name in SPLITS if f"x_{name}" in arrays):
        pixels = _pixels(arrays[f"x_{name}"], f"{path}: x_{name}")
        labels = _labels(arrays[f"y_{name}"], len(pixels), f"{path}: y_{name}")
        parts[name] = ArrayImages(pixels, labels)
        shape, expected = tuple(pixels.shape[1:]), tuple(parts["train"][0][0].shape)
        if shape != expected:
            raise BitqError(f"{path}: images of x_{name} have shape {shape}, but {expected} in x_train")
    count = max(int(part.labels.max()) for part in parts.values()) + 1
    return parts, tuple(str(label) for label in range(count))


def _read_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = [name for name in SPLITS if name != "val" or {"x_val", "y_val"} & {*archive}]
            keys = [f"{kind}_{name}" for name in names for kind in "xy"]
            for key in keys:
                if key not in archive:
                    raise BitqError(f"{path} has no array {key!r}; it needs {', '.join(keys)}")
                if archive.zip.getinfo(f"{key}.npy").file_size > _MOST_BYTES:
                    raise BitqError(f"{path}: {key} has over {_MOST_BYTES} bytes; give a folder of images")
            return {key: archive[key] for key in keys}
    except BitqError:
        raise
    except Exception as error:  # whatever a decoder of untrusted bytes runs into
        raise BitqError(f"{path} is damaged, or no .npz file of plain arrays") from error


def _pixels(array: np.ndarray[Any, Any], where: str) -> Tensor:
    """Images uint8 or float32 [n, channels, height, width] from an array as the user keeps it."""
    is_bytes = array.dtype == np.uint8
    if not is_bytes and array.dtype.kind != "f":
        raise BitqError(f"{where} is of type {array.dtype}; it must be uint8 or floating point")
    if array.ndim == 3:
        array = array[..., None] if is_bytes else array[:, None]
    if array.ndim != 4 or not array.size or (is_bytes and array.shape[3] > 4):
        layout = "(n, height, width, channels)" if is_bytes else "(n, channels, height, width)"
        raise BitqError(f"{where} has shape {array.shape}; {array.dtype} images must be {layout}")
    if is_bytes:
        return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))
    with np.errstate(over="ignore"):
        images = torch.from_numpy(array.astype(np.float32))
    if not torch.isfinite(images).all():
        raise BitqError(f"{where} holds a NaN or an infinity; every pixel must be a finite float32")
    return images


def _labels(array: np.ndarray[Any, Any], count: int, where: str) -> Tensor:
    if array.dtype.kind not in "iu" or array.shape != (count,):
        raise BitqError(f"{where} is {array.dtype} of shape {array.shape}; it must be {count} whole numbers")
    if array.min() < 0 or array.max() >= 2**31:
        raise BitqError(f"{where} goes from {array.min()} to {array.max()}; labels count classes from 0")
    return torch.from_numpy(array.astype(np.int64))
