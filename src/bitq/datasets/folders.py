"""Images in folders: by classes, by tables of labels, or alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from bitq.csvfile import FileTable, read_files
from bitq.datasets.splits import SPLITS, FoundInputs
from bitq.errors import BitqError, shortened
from bitq.images import FileImages
from bitq.images import image_size as size_of_file

LABELS = "labels.csv"
"""In a folder of images, or beside it: its files and their labels."""

SUFFIXES = (".png", ".jpg", ".jpeg")
"""Of image files."""


def read_folder(root: Path, image_size: int | None, channels: int) -> dict[str, FoundInputs]:
    """Images by split, as `bitq.datasets.load_data` says how they are kept.

    Raises:
        BitqError: they are kept otherwise; says how.
    """
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


def _parts_of(found: Mapping[str, _Files], image_size: int | None, channels: int) -> dict[str, FoundInputs]:
    first = next(iter(found.values()))
    height, width = (image_size, image_size) if image_size else size_of_file(first.paths[0])
    shape, resize = (channels, height, width), image_size is not None
    return {
        name: FoundInputs(FileImages(files.paths, files.labels, shape, resize), files.where, files.classes)
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
