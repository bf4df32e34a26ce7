"""A user's data, from a folder of images, an .npz file or a .csv table, as three splits, with labels or without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch

from bitq.arrays import ALONE, ArrayInputs
from bitq.batches import Parameters
from bitq.csvfile import read_table
from bitq.datasets.folders import read_folder
from bitq.datasets.npzfile import read_npz
from bitq.datasets.splits import HELD_BYTES, FoundInputs, Known, drawn, held_once, lacking_of
from bitq.errors import BitqError, shortened
from bitq.images import ArrayImages, FileImages, Scaling, Split
from bitq.memory import memory_told

_MOST_SIDE = 4096  # pixels


@dataclass(frozen=True)
class Dataset:
    """Images or other inputs, with labels or without.

    Attributes:
        train, val, test: to train on, to choose by and to judge by.
        largest: label of all the inputs that were given, by where it stands, such as "y_val"; none without labels.
        classes: names of the labels 0, 1, …; none where labels were given as numbers.
        signals: the same data, if they were floating point [n, …, …]: not as gray images, but as they are.
        labelled: whether there are labels, or other targets.
        lacking: what a search needs that is not there, such as images of train, in a sentence; "" if it is all there.
    """

    train: Split
    val: Split
    test: Split
    largest: Mapping[str, int]
    classes: tuple[str, ...] = ()
    signals: Dataset | None = None
    labelled: bool = True
    lacking: str = ""

    def check_labels(self, outputs: int) -> None:
        """Refuse labels that a network with so many outputs has no output for.

        Raises:
            BitqError: the first such label, where it stands, and what it could be.
        """
        for where, label in self.largest.items():
            if label >= outputs:
                raise BitqError(
                    f"label {label} in {where}, but the network has {outputs} outputs; labels count classes from 0"
                )


def load_data(
    path: Path,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    limit: int | None = None,
    seed: int = 0,
    takes: Parameters | None = None,
) -> Dataset:
    """Images from a folder of PNG and JPEG files, or inputs from an .npz file or a .csv table, with labels or without.

    A folder holds train/, val/ and test/ with a folder of images per class in each, or these class folders
    alone; or, instead of class folders, images and a table `labels.csv` with the columns file and label, in a folder or
    beside it, that names each of them. Without labels, images alone lie there, as `bare_images` looks for them. An .npz
    file holds x_train, y_train, x_test, y_test and perhaps x_val, y_val: images uint8 [n, height, width, channels],
    floating point [n, channels, height, width], or either [n, height, width]; labels are whole numbers [n] from 0;
    without labels there is no y, and x_train is enough. Arrays of any other shape are given to the network as they are,
    floating point as float32 and whole numbers as int64: signals, tables [n, features], token ids [n, length]. The
    inputs of a network that takes several stand by their names in place of x, such as ids_train and mask_train, and are
    given as they are.
    A .csv file is a table as `bitq.csvfile` reads it. Classes by name are numbered in sorted order. Of val and test,
    what is missing is taken from train: every tenth input each, drawn by `seed`. Where a folder has val or test alone,
    each part is those, and `Dataset.lacking` says what a search needs beside them.

    Images of a folder are decoded when they are asked for, val and test only once where they fit in 2 GiB.

    Args:
        path: the folder or the file.
        image_size: height and width, in pixels, that the images of files get (shorter side resized, then
            center crop); None if they have one size already.
        channels: 3 (RGB) or 1 (gray), to which the files' images are converted; None for 3. Like `image_size`, only for
            a folder.
        mean, std: of the network's normalization, per channel or one for all, for bytes divided by 255; None for 0 and
            1. Only for images.
        limit: at most so many inputs of each split, drawn by `seed`.
        seed: of these draws; the same seed gives the same splits.
        takes: what the network's forward takes, for the names of arrays; only x by default.

    Raises:
        BitqError: what is missing, damaged, of another shape or type, too large, or does not fit together; a damaged
            image that is decoded later raises it then.
    """
    scaling = check_options(image_size, channels, mean, std, limit)
    with memory_told(f"reading {path}"):
        if path.is_dir():
            found = read_folder(path, image_size, channels or 3)
        elif path.suffix == ".npz" and path.exists():
            found = read_npz(path, takes or Parameters())
        elif path.suffix == ".csv" and path.exists():
            found = _read_csv(path)
        else:
            raise BitqError(f"{path} is no data; give a folder of images, an .npz file or a .csv table")
        fitting = {"--image-size": image_size, "--channels": channels}
        first = next(iter(found.values()))
        if isinstance(first.images, ArrayInputs):
            _check_left_out({**fitting, "--mean": mean, "--std": std}, f"{path} holds no images")
            return _split(path, found, limit, seed)
        depth = first.images.shape[0]
        if isinstance(first.images, ArrayImages):
            _check_left_out(fitting, f"the images of {path} are taken as they are, of one size and {depth} channels")
        scaling.check_channels(depth)
        parts = {name: replace(part, images=_scaled(part.images, scaling)) for name, part in found.items()}
        for name, part in parts.items():
            _check_scaled(part.images, f"{path}: x_{name}")
        images = _split(path, parts, limit, seed)
        if not first.gray_floats or scaling != Scaling():
            return images
        signals = {name: replace(part, images=_unstacked(part.images)) for name, part in found.items()}
        return replace(images, signals=_split(path, signals, limit, seed))


def _split(path: Path, parts: Mapping[str, FoundInputs], limit: int | None, seed: int) -> Dataset:
    splits = drawn({name: part.images for name, part in parts.items()}, limit, seed)
    labels = {part.where: part.images.labels for part in parts.values()}
    largest = {where: int(each.max()) for where, each in labels.items() if each is not None}
    classes, lacking = next(iter(parts.values())).classes, lacking_of(path, parts)
    held = held_once({name: splits[name] for name in ("val", "test")}, _held)
    known = bool(largest)
    return Dataset(splits["train"], held["val"], held["test"], largest, classes, labelled=known, lacking=lacking)


def _check_left_out(options: Mapping[str, object], why: str) -> None:
    """Refuse options that would do nothing."""
    if given := [name for name, value in options.items() if value is not None]:
        raise BitqError(f"{why}; leave {', '.join(given)} out")


def check_options(
    image_size: int | None,
    channels: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    limit: int | None,
) -> Scaling:
    """The scaling of these options, which are those of `load_data`, before anything is read.

    Raises:
        BitqError: one of them is out of range; names it and its range.
    """
    if limit is not None and limit < 1:
        raise BitqError(f"a limit of {limit} inputs leaves none; it must be at least 1")
    if image_size is not None and not 1 <= image_size <= _MOST_SIDE:
        raise BitqError(f"an image size of {image_size} pixels cannot be; it must be from 1 to {_MOST_SIDE}")
    if channels not in (None, 1, 3):
        raise BitqError(f"images have 1 channel (gray) or 3 (RGB), not {channels}")
    return Scaling((0.0,) if mean is None else tuple(mean), (1.0,) if std is None else tuple(std))


def _scaled(images: Known, scaling: Scaling) -> Known:
    return images if isinstance(images, ArrayInputs) else replace(images, scaling=scaling)


def _unstacked(images: Known) -> Known:
    """Gray images without the axis of their channel."""
    return ArrayInputs({ALONE: images.pixels[:, 0]}, images.labels) if isinstance(images, ArrayImages) else images


def _check_scaled(images: Split, where: str) -> None:
    """Refuse pixels that are no finite number once they are scaled."""
    if isinstance(images, ArrayImages) and images.pixels.dtype != torch.uint8:
        extremes = torch.stack(images.pixels.aminmax())[:, None, None, None].expand(-1, images.shape[0], 1, 1)
        if not torch.isfinite(images.scaling(extremes)).all():
            low, high = (f"{value:g}" for value in extremes[:, 0, 0, 0].tolist())
            raise BitqError(
                f"{where} goes from {low} to {high}; every pixel must be a finite float32, scaled by mean and std, too"
            )


def _held(images: Split) -> Split:
    fits = isinstance(images, FileImages) and len(images) * prod(images.shape) <= HELD_BYTES
    return images.held() if isinstance(images, FileImages) and fits else images


def _read_csv(path: Path) -> dict[str, FoundInputs]:
    table = read_table(path)
    inputs = ArrayInputs({ALONE: table.features}, table.labels)
    return {"train": FoundInputs(inputs, f"column {shortened(table.label)!r}", table.classes)}
