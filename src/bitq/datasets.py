"""A user's data, from a folder of images, an .npz file or a .csv table, as three splits, with labels or without."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from math import inf, prod
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
import torch
from torch import Tensor

from bitq.arrays import ALONE, ArrayInputs
from bitq.batches import Parameters
from bitq.csvfile import FileTable, read_files, read_table
from bitq.errors import BitqError, shortened
from bitq.images import ArrayImages, FileImages, Rationed, Scaling, Split
from bitq.images import image_size as size_of_file
from bitq.memory import check_fits, memory_told
from bitq.outside import opened_outside

S = TypeVar("S", bound=Split)
T = TypeVar("T")

SPLITS = ("train", "val", "test")
LABELS = "labels.csv"
"""In a folder of images, or beside it: its files and their labels."""

HELD_BYTES = 2 * 2**30
"""Decoded images of a split that is read again and again."""

SUFFIXES = (".png", ".jpg", ".jpeg")
"""Of image files."""

_MOST_BYTES = 16 * 2**30  # of one array
_FREE_BYTES, _MOST_GROWTH = 256 * 2**20, 100  # of all arrays; beyond, they have at most so many times the file's bytes
_MOST_LISTING = 4 * 2**20  # bytes of an .npz file's table of contents, and of what is read of it at once
_MOST_SIDE = 4096  # pixels
_DEEPEST_NUMBER = 16  # bytes of NumPy's largest number
_TAKEN = 10  # a split that is missing takes every tenth image of train


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
            found = _read_folder(path, image_size, channels or 3)
        elif path.suffix == ".npz" and path.exists():
            found = _read_npz(path, takes or Parameters())
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


def _split(path: Path, parts: Mapping[str, _Part], limit: int | None, seed: int) -> Dataset:
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


_Known = ArrayImages | FileImages | ArrayInputs


@dataclass(frozen=True)
class _Part:
    """Inputs of one split as they were found, where their labels stand, and the names of these.

    `gray_floats`: whether they were [n, height, width] in floating point, which may be no images.
    """

    images: _Known
    where: str
    classes: tuple[str, ...] = ()
    gray_floats: bool = False


def _scaled(images: _Known, scaling: Scaling) -> _Known:
    return images if isinstance(images, ArrayInputs) else replace(images, scaling=scaling)


def _unstacked(images: _Known) -> _Known:
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


def drawn(parts: Mapping[str, S], limit: int | None, seed: int) -> dict[str, S]:
    """All three splits, those missing taken from train, none larger than `limit`. Without train, val and test stand for
    what is missing.

    Args:
        parts: by names of `SPLITS`, one or more.
        limit, seed: as for `load_data`.

    Raises:
        BitqError: too few to take a split from.
    """
    generator = torch.Generator().manual_seed(seed)
    if "train" not in parts:
        own = {name: _limited(part, limit, generator) for name, part in parts.items()}
        val, test = (own.get(name, next(iter(own.values()))) for name in ("val", "test"))
        return {"train": val, "val": val, "test": test}
    train, splits = parts["train"], dict(parts)
    order, share = torch.randperm(len(train), generator=generator), -(-len(train) // _TAKEN)
    for name in SPLITS:
        if name not in parts:
            splits[name], order = train.subset(order[:share].sort().values), order[share:]
    if not len(order):
        raise BitqError(f"{len(train)} training {_called(train)} are too few to take a split from; give more")
    if len(order) < len(train):
        splits["train"] = train.subset(order.sort().values)
    return {name: _limited(part, limit, generator) for name, part in splits.items()}


def _limited(part: S, limit: int | None, generator: torch.Generator) -> S:
    if limit is None:
        return part
    return part.subset(torch.randperm(len(part), generator=generator)[:limit].sort().values)


def with_test(parts: Mapping[str, T]) -> dict[str, T]:
    """The parts of data whose val is judged by where there is no test, as data sets of masks and boxes have it: what
    is to choose by is then taken from train."""
    if "train" in parts and "val" in parts and "test" not in parts:
        return {"train": parts["train"], "test": parts["val"]}
    return dict(parts)


def held_once(splits: Mapping[str, S], hold: Callable[[S], T]) -> dict[str, T]:
    """What `hold` makes of each part, once where one part is several splits."""
    held = {key: hold(part) for key, part in {id(part): part for part in splits.values()}.items()}
    return {name: held[id(part)] for name, part in splits.items()}


def lacking_of(path: Path, parts: Collection[str]) -> str:
    """What data lack of what a search needs, in a sentence: images to fine-tune on; "" where they have them."""
    if "train" in parts:
        return ""
    return f"{path} has images of {' and '.join(parts)} but none of train, which a search fine-tunes on; give them, too"


def bare_images(root: Path) -> dict[str, tuple[Path, ...]]:
    """Images without labels, by split: in train/, val/ and test/ of a folder or of images/ in it, or all of them as
    train in images/ or in the folder itself; whatever else lies beside or below them.

    Returns:
        Nothing, if there are none.

    Raises:
        BitqError: images lie in one of the folders, but none in another.
    """
    for parent in (root, root / "images"):
        folders = {name: parent / name for name in SPLITS if (parent / name).is_dir()} or {"train": parent}
        found = {name: _images_in(folder) for name, folder in folders.items() if folder.is_dir()}
        if any(found.values()):
            if empty := next((name for name, files in found.items() if not files), None):
                raise BitqError(f"{folders[empty]} holds no image ({', '.join(SUFFIXES)}), as others beside it do")
            return found
    return {}


def _images_in(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(each for each in folder.iterdir() if each.suffix.lower() in SUFFIXES and each.is_file()))


def images_by_name(folder: Path, end: str = "") -> dict[str, Path]:
    """The image files of a folder and of those in it, by path below it without suffix and without `end`.

    Args:
        folder: of images.
        end: what their names end in before the suffix; others are not looked at.

    Raises:
        BitqError: two are called alike.
    """
    found: dict[str, Path] = {}
    for file in sorted(folder.rglob(f"*{end}.*")):
        if file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
            name = str(file.relative_to(folder).with_suffix("")).removesuffix(end)
            if name in found:
                raise BitqError(f"{file} and {found[name].name} are called alike; remove one")
            found[name] = file
    return found


def _called(images: Split) -> str:
    return "inputs" if isinstance(images, ArrayInputs) else "images"


def _held(images: Split) -> Split:
    fits = isinstance(images, FileImages) and len(images) * prod(images.shape) <= HELD_BYTES
    return images.held() if isinstance(images, FileImages) and fits else images


def _read_folder(root: Path, image_size: int | None, channels: int) -> dict[str, _Part]:
    folders = {name: root / name for name in SPLITS if (root / name).is_dir()} or {"train": root}
    if bare := _unlabelled(root, folders):
        files = {name: _Files(paths, None, str(root), ()) for name, paths in bare.items()}
        return _parts_of(files, image_size, channels)
    tables = {name: table for name, folder in folders.items() if (table := _table_of(folder))}
    if tables and (lacking := [name for name in folders if name not in tables]):
        raise BitqError(f"{folders[lacking[0]]} has class folders, but {min(tables)} a {LABELS}; give all the same way")
    return _parts_of(_listed(folders, tables) if tables else _by_class(folders), image_size, channels)


def _unlabelled(root: Path, folders: Mapping[str, Path]) -> dict[str, tuple[Path, ...]]:
    """Images that have neither folders of classes nor a table."""
    if any(_has_folders(folder) or _table_of(folder) for folder in folders.values()):
        return {}
    return bare_images(root)


def _has_folders(folder: Path) -> bool:
    """Whether it holds folders of classes: others than one that says no more than that images are in it."""
    found = [each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")]
    return bool(found) and found != ["images"]


def _parts_of(found: Mapping[str, _Files], image_size: int | None, channels: int) -> dict[str, _Part]:
    first = next(iter(found.values()))
    height, width = (image_size, image_size) if image_size else size_of_file(first.paths[0])
    shape, resize = (channels, height, width), image_size is not None
    return {
        name: _Part(FileImages(files.paths, files.labels, shape, resize), files.where, files.classes)
        for name, files in found.items()
    }


@dataclass(frozen=True)
class _Files:
    """The image files of a split with labels int64 [n] or none, where these stand, and their names."""

    paths: tuple[Path, ...]
    labels: Tensor | None
    where: str
    classes: tuple[str, ...]


def _by_class(folders: Mapping[str, Path]) -> dict[str, _Files]:
    """Images by their class folders."""
    listed = {name: _class_folders(folder) for name, folder in folders.items()}
    first, *_ = listed
    classes = tuple(listed[first])
    numbers = {name: number for number, name in enumerate(classes)}
    parts: dict[str, _Files] = {}
    for name, files in listed.items():
        if unknown := files.keys() - numbers.keys():
            raise BitqError(f"{folders[name] / min(unknown)} is a class that {folders[first]} lacks")
        paths = tuple(path for paths in files.values() for path in paths)
        labels = torch.tensor([numbers[label] for label, paths in files.items() for _ in paths])
        parts[name] = _Files(paths, labels, f"the class folders of {folders[name]}", classes)
    return parts


def _table_of(folder: Path) -> Path | None:
    """The table of labels in a folder, or beside one that has no class folders."""
    if (folder / LABELS).exists():
        return folder / LABELS
    if _has_folders(folder):
        return None
    return folder.parent / LABELS if (folder.parent / LABELS).exists() else None


def _listed(folders: Mapping[str, Path], tables: Mapping[str, Path]) -> dict[str, _Files]:
    """Images by tables of labels.

    A table in a folder names its files; one beside it names them so or, where it is of several folders, after theirs.
    """
    read = {path: read_files(path) for path in dict.fromkeys(tables.values())}
    leading = next(iter(tables.values()))
    first = read[leading]
    owners = Counter(tables.values())
    parts: dict[str, _Files] = {}
    for name, folder in folders.items():
        path, table = tables[name], read[tables[name]]
        if bool(table.classes) != bool(first.classes):
            raise BitqError(f"{path} names classes, or {leading} does, and the other numbers them; do the same")
        if unknown := set(table.classes) - set(first.classes):
            raise BitqError(f"{path} has a class {shortened(min(unknown))!r} that {leading} lacks")
        found = _files_in(folder, path, table, list(folders) if owners[path] > 1 else [])
        numbers = torch.tensor([first.classes.index(each) for each in table.classes])
        places = torch.tensor(list(found.values()))
        own = table.labels[places]
        labels = numbers[own] if table.classes else own
        parts[name] = _Files(tuple(found), labels, str(path), first.classes)
    return parts


def _files_in(folder: Path, path: Path, table: FileTable, folders: Sequence[str]) -> dict[Path, int]:
    """The files of a folder that a table names, and their places in it, by name.

    Args:
        folder: of images.
        path, table: where the table stands, and what it holds.
        folders: the names of several folders that the table is of, which stand before those of their files.
    """
    found: dict[Path, int] = {}
    for place, (name, line) in enumerate(zip(table.files, table.lines, strict=True)):
        parts = PurePosixPath(name).parts
        where = f"{path}, line {line} names {shortened(name)!r}"
        if not parts or parts[0] == "/" or ".." in parts:
            raise BitqError(f"{where}; it must be a file in the folder of images, such as cat/1.png")
        if folders and parts[0] not in folders:
            raise BitqError(f"{where}; it must begin with the name of a folder, such as {folders[0]}/1.png")
        if folders and parts[0] != folder.name:
            continue
        beside = path.parent != folder and parts[0] == folder.name and not is_file(folder.joinpath(*parts))
        if folders or beside:
            parts = parts[1:]
        file = folder.joinpath(*parts)
        if file in found:
            before = table.lines[found[file]]
            raise BitqError(f"{where} again, as line {before} does; give each file one label")
        if not is_file(file):
            raise BitqError(f"{where}, which {folder} does not hold; name files as they are called there")
        found[file] = place
    images = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if unlabelled := min((file for file in images if file not in found), default=None):
        raise BitqError(f"{unlabelled} has no label; name it in {path}, or remove it")
    if not found:
        raise BitqError(f"{path} names no file of {folder}; name one or more")
    return dict(sorted(found.items()))


def is_file(path: Path) -> bool:
    """Whether there is such a file, whatever it is called."""
    with suppress(OSError, ValueError):
        return path.is_file()
    return False


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    """The image files of every class, classes and files by name."""
    classes = {
        entry.name: sorted(file for file in entry.iterdir() if file.suffix.lower() in SUFFIXES)
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }
    if not classes:
        raise BitqError(f"{folder} holds no folder; it must hold one per class, or images and a table {LABELS}")
    if empty := [name for name, files in classes.items() if not files]:
        raise BitqError(f"{folder / empty[0]} holds no image ({', '.join(SUFFIXES)})")
    return classes


def _read_csv(path: Path) -> dict[str, _Part]:
    table = read_table(path)
    inputs = ArrayInputs({ALONE: table.features}, table.labels)
    return {"train": _Part(inputs, f"column {shortened(table.label)!r}", table.classes)}


def _read_npz(path: Path, takes: Parameters) -> dict[str, _Part]:
    parts: dict[str, _Part] = {}
    with _opened(path, takes) as (archive, splits, inputs):
        labelled = _has_labels(archive)
        for split in splits:
            read = {name: _array(archive, f"{name}_{split}", path) for name in inputs}
            labels = _array(archive, f"y_{split}", path) if labelled else None
            if inputs == ("x",) and _are_images(read["x"]):
                pixels = _pixels(read["x"], f"{path}: x_{split}")
                gray = read["x"].ndim == 3 and read["x"].dtype.kind == "f"
                own = _labels(labels, len(pixels), f"{path}: y_{split}")
                part = _Part(ArrayImages(pixels, own), f"y_{split}", gray_floats=gray)
            else:
                arrays = {name: _as_is(array, f"{path}: {name}_{split}") for name, array in read.items()}
                count = len(arrays[inputs[0]])
                for name, array in arrays.items():
                    if len(array) != count:
                        first = f"{inputs[0]}_{split}"
                        raise BitqError(f"{path}: {name}_{split} has {len(array)} inputs, but {count} are in {first}")
                own = _labels(labels, count, f"{path}: y_{split}")
                named = {ALONE: arrays["x"]} if inputs == ("x",) else arrays
                part = _Part(ArrayInputs(named, own), f"y_{split}")
            parts[split] = part
            _check_alike(part.images, parts["train"].images, split, path)
    return parts


def _check_alike(found: Split, train: Split, split: str, path: Path) -> None:
    """Refuse a split whose inputs are unlike those of train."""
    for name, kind, (shape, dtype), (expected, expected_dtype) in _kinds(found, train):
        if shape != expected:
            raise BitqError(f"{path}: {kind} of {name}_{split} have shape {shape}, but {expected} in {name}_train")
        if kind == "inputs" and dtype != expected_dtype:
            raise BitqError(f"{path}: {name}_{split} is of type {dtype}, but {expected_dtype} in {name}_train")


_Kind = tuple[tuple[int, ...], str]


def _kinds(found: Split, train: Split) -> Iterator[tuple[str, str, _Kind, _Kind]]:
    own, other = _arrays(found), _arrays(train)
    for name, array in own.items():
        each, its = ((tuple(a.shape[1:]), str(a.dtype)[6:]) for a in (array, other[name]))
        alike = isinstance(found, ArrayImages) and isinstance(train, ArrayImages)
        yield name or "x", "images" if alike else "inputs", each, its


def _arrays(inputs: Split) -> Mapping[str, Tensor]:
    match inputs:
        case ArrayInputs():
            return inputs.arrays
        case ArrayImages():
            return {ALONE: inputs.pixels}
    return {}


@contextmanager
def _opened(path: Path, takes: Parameters) -> Iterator[tuple[ZipFile, list[str], tuple[str, ...]]]:
    """An .npz file, the splits and the inputs in it, once its arrays are known to be there and to be of bounded size.
    """
    with opened_outside(path, 6 * _MOST_BYTES + _FREE_BYTES, "an .npz file") as file:
        with _damage_told(path):
            archive = ZipFile(Rationed(file, _MOST_LISTING, inf))
        with archive:
            inputs = _input_names(set(archive.namelist()), takes, path)
            yield archive, _splits(archive, inputs, takes, path, os.fstat(file.fileno()).st_size), inputs


def _input_names(members: Collection[str], takes: Parameters, path: Path) -> tuple[str, ...]:
    """Names of the inputs by which arrays are called: the network's, or x."""
    found = tuple(name for name in takes.names if name != "y" and f"{name}_train.npy" in members)
    if found in ((), ("x",)):
        return ("x",)
    known = ", ".join(takes.names)
    trained = sorted(name.removesuffix("_train.npy") for name in members if name.endswith("_train.npy"))
    if other := [name for name in trained if name not in (*found, "y")]:
        raise BitqError(f"{path}: {shortened(other[0])}_train is none of the network's inputs, which are {known}")
    if lacking := [name for name in takes.needed if name not in found]:
        raise BitqError(f"{path} has no array '{lacking[0]}_train'; the network's inputs are {known}")
    return found


def _splits(archive: ZipFile, inputs: Sequence[str], takes: Parameters, path: Path, size: int) -> list[str]:
    members = {member.filename: member for member in archive.infolist()}
    labelled = _has_labels(archive)
    kinds = (*inputs, "y") if labelled else tuple(inputs)
    needed = ("train", "test") if labelled else ("train",)
    names = [name for name in SPLITS if name in needed or {f"{kind}_{name}.npy" for kind in kinds} & members.keys()]
    keys = [f"{kind}_{name}" for name in names for kind in kinds]
    for key in keys:
        if f"{key}.npy" not in members:
            several = ", ".join(f"{name}_train" for name in takes.names) if inputs == ("x",) else ""
            other = f" (or {several} in place of x_train, and so on)" if len(takes.names) > 1 and several else ""
            raise BitqError(f"{path} has no array {key!r}; it needs {', '.join(keys)}{other}")
        member = members[f"{key}.npy"]
        if member.file_size > _MOST_BYTES:
            raise BitqError(f"{path}: {key} has over {_MOST_BYTES} bytes; give a folder of images")
        if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise BitqError(f"{path}: {key} is compressed as NumPy does not; save it with numpy.savez")
    total = sum(members[f"{key}.npy"].file_size for key in keys)
    if total > max(_FREE_BYTES, _MOST_GROWTH * size):
        raise BitqError(
            f"{path} has {size} bytes and says that its arrays have {total}, over {_MOST_GROWTH} times as many; save "
            "them with numpy.savez, which does not compress"
        )
    check_fits(total, f"the arrays of {path}", "give a folder of images, or fewer")
    return names


def _has_labels(archive: ZipFile) -> bool:
    return any(f"y_{split}.npy" in archive.namelist() for split in SPLITS)


def _array(archive: ZipFile, key: str, path: Path) -> np.ndarray[Any, Any]:
    """An array of plain numbers; what its header says is held against the size of what follows before it is read."""
    name = f"{key}.npy"
    with _damage_told(path), archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(member)
        if dtype.kind not in "biufc" or dtype.itemsize > 2 * _DEEPEST_NUMBER:
            raise BitqError(f"{path}: {key} is of type {shortened(str(dtype))}; it must be plain numbers")
        if prod(shape) * dtype.itemsize != archive.getinfo(name).file_size - member.tell():
            said = f"shape {shortened(str(shape))} of {dtype}"
            raise BitqError(f"{path} is damaged: {key} says that it has {said}, which is not what it holds")
    with _damage_told(path), archive.open(name) as member:
        array: np.ndarray[Any, Any] = np.lib.format.read_array(member, allow_pickle=False)
        return array


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except BitqError:
        raise
    except Exception as error:  # whatever a decoder of untrusted bytes runs into
        if isinstance(error, MemoryError) and "allocate" in str(error):  # of an array, not of a header that nests
            raise
        raise BitqError(f"{path} is damaged, or no .npz file of plain arrays") from error


def _are_images(array: np.ndarray[Any, Any]) -> bool:
    """Whether an array of a network's only input is taken for images; if wrongly shaped, they are refused as such."""
    pixels = array.dtype == np.uint8 or array.dtype.kind == "f"
    return array.ndim == 4 or not array.size or (array.ndim == 3 and pixels)


def _as_is(array: np.ndarray[Any, Any], where: str) -> Tensor:
    """An array [n, …] as it is given to a network, whole numbers in what they are kept in."""
    if not array.ndim or not array.size:
        raise BitqError(f"{where} has shape {array.shape}; it must be an array of one input or more")
    kind = array.dtype.kind
    if kind == "c":
        raise BitqError(f"{where} is of type {array.dtype}; it must be real numbers")
    if kind == "f":
        with np.errstate(over="ignore"):
            found = torch.from_numpy(array.astype(np.float32, copy=False))
        low, high = found.aminmax()
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise BitqError(f"{where} goes from {low:g} to {high:g}; every number must be a finite float32")
        return found
    if kind == "u" and array.max() >= 2**63:
        raise BitqError(f"{where} goes to {array.max()}; every whole number must be an int64")
    native = array.dtype.isnative and array.dtype.name not in ("uint16", "uint32", "uint64")
    return torch.from_numpy(array if native else array.astype(np.int64))


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
        return torch.from_numpy(array.astype(np.float32, copy=False))


def _labels(array: np.ndarray[Any, Any] | None, count: int, where: str) -> Tensor | None:
    """Labels int64 [n] of so many inputs, where there are labels."""
    if array is None:
        return None
    if array.dtype.kind not in "iu" or array.shape != (count,):
        raise BitqError(f"{where} is {array.dtype} of shape {array.shape}; it must be {count} whole numbers")
    if array.min() < 0 or array.max() >= 2**31:
        raise BitqError(f"{where} goes from {array.min()} to {array.max()}; labels count classes from 0")
    return torch.from_numpy(array.astype(np.int64))
