"""Images or other inputs in .npz files of NumPy, whose writers nobody knows."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf, prod
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
import torch
from torch import Tensor

from bitq.arrays import ALONE, ArrayInputs
from bitq.batches import Parameters
from bitq.datasets.splits import SPLITS, FoundInputs
from bitq.errors import BitqError, shortened
from bitq.images import ArrayImages, Rationed, Split
from bitq.memory import check_fits
from bitq.outside import opened_outside

_MOST_BYTES = 16 * 2**30  # of one array
_FREE_BYTES, _MOST_GROWTH = 256 * 2**20, 100  # of all arrays; beyond, they have at most so many times the file's bytes
_MOST_LISTING = 4 * 2**20  # bytes of an .npz file's table of contents, and of what is read of it at once
_DEEPEST_NUMBER = 16  # bytes of NumPy's largest number


def read_npz(path: Path, takes: Parameters) -> dict[str, FoundInputs]:
    """Inputs by split, as `bitq.datasets.load_data` says how they are called.

    Raises:
        BitqError: what is missing, damaged, of another shape or type, too large, or does not fit together.
    """
    parts: dict[str, FoundInputs] = {}
    with _opened(path, takes) as (archive, splits, inputs):
        labelled = _has_labels(archive)
        for split in splits:
            read = {name: _array(archive, f"{name}_{split}", path) for name in inputs}
            labels = _array(archive, f"y_{split}", path) if labelled else None
            if inputs == ("x",) and _are_images(read["x"]):
                pixels = _pixels(read["x"], f"{path}: x_{split}")
                gray = read["x"].ndim == 3 and read["x"].dtype.kind == "f"
                own = _labels(labels, len(pixels), f"{path}: y_{split}")
                part = FoundInputs(ArrayImages(pixels, own), f"y_{split}", gray_floats=gray)
            else:
                arrays = {name: _as_is(array, f"{path}: {name}_{split}") for name, array in read.items()}
                count = len(arrays[inputs[0]])
                for name, array in arrays.items():
                    if len(array) != count:
                        first = f"{inputs[0]}_{split}"
                        raise BitqError(f"{path}: {name}_{split} has {len(array)} inputs, but {count} are in {first}")
                own = _labels(labels, count, f"{path}: y_{split}")
                named = {ALONE: arrays["x"]} if inputs == ("x",) else arrays
                part = FoundInputs(ArrayInputs(named, own), f"y_{split}")
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
