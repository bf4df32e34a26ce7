"""Where people keep images and boxes: as COCO does, in a JSON document, or as YOLO does, in a text for each image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import nan
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from bitq.datasets.folders import SUFFIXES, bare_images, images_by_name, is_file
from bitq.datasets.splits import SPLITS
from bitq.errors import BitqError, shortened
from bitq.outside import read_outside
from bitq.tasks.detect.letterbox import Objects
from bitq.tasks.detect.outlines import Outline, runs_of
from bitq.validation import parsed, shown, told

MOST_CLASSES = 2**15
_MOST_DOCUMENT, _MOST_VALUES = 2**30, 2**26  # bytes and values of a COCO document; COCO's largest has 2^29 and 2^25
_MOST_TEXT, _MOST_OBJECTS = 2**22, 10_000  # bytes of an image's labels, and lines

_Whole = Annotated[int, Field(strict=True)]
_Side = Annotated[int, Field(strict=True, gt=0, le=10**9)]
_Real = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1e9, le=1e9)]


class _Picture(BaseModel):
    id: _Whole
    file_name: str
    width: _Side
    height: _Side


class _Annotation(BaseModel):
    image_id: _Whole
    category_id: _Whole
    bbox: Annotated[list[_Real], Field(min_length=4, max_length=4)]
    area: Annotated[_Real, Field(ge=0)] | None = None
    iscrowd: Literal[0, 1] = 0


class _Category(BaseModel):
    id: _Whole
    name: str


class _Runs(BaseModel):
    size: Annotated[list[_Side], Field(min_length=2, max_length=2)]
    counts: list[Annotated[int, Field(strict=True, ge=0, le=2**40)]] | str


class _Outlined(_Annotation):
    segmentation: Annotated[list[Annotated[list[_Real], Field(min_length=6)]], Field(min_length=1)] | _Runs


class _Instances(BaseModel):
    images: Annotated[list[_Picture], Field(min_length=1)]
    annotations: list[_Annotation]
    categories: Annotated[list[_Category], Field(min_length=1, max_length=MOST_CLASSES)]


class _OutlinedInstances(_Instances):
    annotations: list[_Outlined]  # type: ignore[assignment]


_BESIDE = "_annotations.coco.json"
_COCO = ("annotations/instances_*.json", f"*/{_BESIDE}")
_YOLO = (
    ("images/{}", "labels/{}"),
    ("{}/images", "{}/labels"),
    ("images/{}", "object_detection/labels/{}"),
    ("images/{}", "instance_segmentation/labels/{}"),
)
"""Folders of images and of their labels, in the order in which they are looked for; {} is a split's name."""

_NO_LABELS = "classes.txt"
"""What programs for labelling write beside labels: names of the classes."""


class Boxed(NamedTuple):
    """The images of a split and the objects in each."""

    images: tuple[Path, ...]
    objects: tuple[Objects, ...]


class BoxedFolder(NamedTuple):
    """What a folder of images holds: by split images and their objects; names of the classes, if they are told; whether
    there are labels."""

    parts: dict[str, Boxed]
    classes: tuple[str, ...] = ()
    labelled: bool = True


def found_in(root: Path, outlined: bool = False) -> BoxedFolder:
    """The images that a folder holds, and the objects in them; images alone, with none, where there are no labels.

    A folder's split is what its name begins with, as that of train2017 does with train.

    COCO: annotations/instances_NAME.json with images in NAME or images/NAME, or NAME/_annotations.coco.json with images
    beside it. Classes are the categories in the order of their ids.

    YOLO: images/NAME with labels/NAME, NAME/images with NAME/labels, or images with labels, all of them for train. A
    line of an image's text is a class and its box (centre x, centre y, width, height) or the corners of a polygon,
    as shares of the image's width and height. An image without a text has no object; a text without an image is for
    those who keep only some of the images.

    Args:
        root: the folder.
        outlined: whether outlines are read, too: of COCO polygons or runs of pixels, of YOLO polygons.

    Raises:
        BitqError: none of these, files that do not fit together, or a document that is wrong; says where.
    """
    documents = _by_split((_name(file), file) for pattern in _COCO for file in root.glob(pattern))
    parts, classes = _coco(root, documents, outlined) if documents else (_yolo(root, outlined), ())
    if not parts and (bare := bare_images(root)):
        return BoxedFolder({split: Boxed(each, (_listed([]),) * len(each)) for split, each in bare.items()}, (), False)
    if not parts:
        raise BitqError(
            f"{root} is no folder of images with boxes; keep them as images/train and labels/train (YOLO), or as "
            "images/train2017 and annotations/instances_train2017.json (COCO), val alike"
        )
    return BoxedFolder(parts, classes)


def _by_split(named: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, path in sorted(named):
        split = next((each for each in SPLITS if name.lower().startswith(each)), None)
        if split in found:
            raise BitqError(f"{found[split]} and {path} are both of {split}; keep one of them there")
        if split is not None:
            found[split] = path
    return {split: found[split] for split in SPLITS if split in found}


def _name(document: Path) -> str:
    """What the images' folder of a COCO document is called."""
    return document.parent.name if document.name == _BESIDE else document.stem.removeprefix("instances_")


def _coco(
    root: Path, documents: Mapping[str, Path], outlined: bool
) -> tuple[dict[str, Boxed], tuple[str, ...]]:
    parts: dict[str, Boxed] = {}
    known: dict[int, str] = {}
    for split, path in documents.items():
        instances = _instances(path, outlined)
        categories = {each.id: each.name for each in sorted(instances.categories, key=lambda each: each.id)}
        if parts and categories != known:
            raise BitqError(f"{path} has other categories than {next(iter(documents.values()))}; give all the same")
        known = categories
        places = root / _name(path), root / "images" / _name(path)
        folder = next((each for each in places if each.is_dir()), None)
        if folder is None:
            raise BitqError(f"{path} is of images that must be in {places[0]} or {places[1]}; neither is there")
        parts[split] = _placed(instances, path, folder, list(categories))
    return parts, tuple(known.values())


def _instances(path: Path, outlined: bool) -> _Instances:
    content = read_outside(path, _MOST_DOCUMENT, "COCO's JSON of instances")
    try:
        return (_OutlinedInstances if outlined else _Instances).model_validate(parsed(content, _MOST_VALUES))
    except ValidationError as error:
        raise BitqError(f"{path}: {told(error)}") from error
    except BitqError as error:
        raise BitqError(f"{path} {error}") from error


def _placed(instances: _Instances, path: Path, folder: Path, categories: Sequence[int]) -> Boxed:
    """The images of a document, by name, and the objects of each."""
    images = sorted(instances.images, key=lambda each: each.file_name)
    files = tuple(_file(each.file_name, path, folder) for each in images)
    places = {each.id: place for place, each in enumerate(images)}
    numbers = {category: number for number, category in enumerate(categories)}
    for what, found, every in (
        ("id of images", places, images),
        ("file_name of images", set(files), images),
        ("id of categories", numbers, instances.categories),
    ):
        if len(found) < len(every):
            raise BitqError(f"{path} has one {what} twice; give each its own")
    annotations = instances.annotations
    for place, each in enumerate(annotations):
        for name, wanted, known in (("image_id", each.image_id, places), ("category_id", each.category_id, numbers)):
            if wanted not in known:
                kind = "images" if known is places else "categories"
                raise BitqError(f"{path}: annotations.{place}.{name} is {shown(wanted)}, which none of its {kind} has")
        _check_box(each.bbox, images[places[each.image_id]], f"{path}: annotations.{place}.bbox")
    outlines = [
        _outline(each.segmentation, images[places[each.image_id]], f"{path}: annotations.{place}.segmentation")
        for place, each in enumerate(annotations)
        if isinstance(each, _Outlined)
    ]
    owners = np.array([places[each.image_id] for each in annotations], np.int64)
    order = np.argsort(owners, kind="stable")
    ends = np.searchsorted(owners[order], np.arange(1, len(images)))
    boxes = np.array([each.bbox for each in annotations], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    columns = (
        boxes,
        np.array([numbers[each.category_id] for each in annotations], np.int64),
        np.array([each.iscrowd for each in annotations], np.bool_),
        np.array([each.bbox[2] * each.bbox[3] if each.area is None else each.area for each in annotations], np.float64),
    )
    sizes = [(each.height, each.width) for each in images]
    objects = list(map(Objects, *(np.split(column[order], ends) for column in columns), sizes))
    if outlines:
        own = (tuple(outlines[place] for place in places) for places in np.split(order, ends))
        objects = [replace(each, outlines=those) for each, those in zip(objects, own, strict=True)]
    return Boxed(files, tuple(objects))


def _outline(given: list[list[float]] | _Runs, image: _Picture, where: str) -> Outline:
    if isinstance(given, _Runs):
        size = [image.height, image.width]
        if given.size != size:
            raise BitqError(f"{where}.size is {given.size}, but its image has height and width {size}")
        try:
            runs = runs_of(given.counts) if isinstance(given.counts, str) else tuple(given.counts)
        except ValueError:
            raise BitqError(f"{where}.counts is no text of runs, as COCO writes them") from None
        if sum(runs) != image.height * image.width:
            raise BitqError(f"{where}.counts are runs of {sum(runs)} pixels, but its image has {size[0] * size[1]}")
        return Outline(runs=runs)
    if odd := next((len(each) for each in given if len(each) % 2), None):
        raise BitqError(f"{where} has a polygon of {odd} numbers; it must be x and y of three or more corners")
    return Outline(tuple(np.array(each, np.float64).reshape(-1, 2) for each in given))


def _file(name: str, path: Path, folder: Path) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts or not is_file(folder / name):
        raise BitqError(f"{path} names the image {shortened(name)!r}, which is no file in {folder}")
    return folder / name


def _check_box(box: Sequence[float], image: _Picture, where: str) -> None:
    left, top, width, height = box
    if width < 0 or height < 0:
        raise BitqError(f"{where} is {width:g} wide and {height:g} high; it must be left, top, width, height")
    across, down = image.width, image.height
    if left > across or top > down or left + width < 0 or top + height < 0:
        raise BitqError(f"{where} lies outside its image of {across} x {down} pixels")


def _yolo(root: Path, outlined: bool) -> dict[str, Boxed]:
    for images, labels in _YOLO:
        place = images.split("/").index("{}")
        named = ((path.relative_to(root).parts[place], path) for path in root.glob(images.format("*")) if path.is_dir())
        pairs = {
            split: (path, root / labels.format(path.relative_to(root).parts[place]))
            for split, path in _by_split(named).items()
        }
        if any(own.is_dir() for _, own in pairs.values()):
            return {
                split: _paired(*pair, outlined)
                for split, pair in pairs.items()
                if split != "test" or pair[1].is_dir()
            }
    plain = root / "images", root / "labels"
    return {"train": _paired(*plain, outlined)} if all(folder.is_dir() for folder in plain) else {}


def _paired(images: Path, labels: Path, outlined: bool) -> Boxed:
    files = images_by_name(images)
    texts = {
        str(file.relative_to(labels).with_suffix("")): file
        for file in sorted(labels.rglob("*.txt"))
        if file.name != _NO_LABELS
    }
    if not files:
        raise BitqError(f"{images} holds no image ({', '.join(SUFFIXES)})")
    if not texts.keys() & files.keys():
        first = labels / f"{next(iter(files))}.txt"
        raise BitqError(f"{images} has no labels; give a text for each image with objects, such as {first}")
    objects = (_listed(_lines(texts[name], outlined) if name in texts else []) for name in files)
    return Boxed(tuple(files.values()), tuple(objects))


class _Shape(NamedTuple):
    """A line of labels: the corners of its box, its area, and x and y of the corners of a polygon, as shares."""

    label: int
    box: tuple[float, float, float, float]
    area: float
    corners: tuple[float, ...] = ()


def _listed(shapes: Sequence[_Shape]) -> Objects:
    return Objects(
        np.array([shape.box for shape in shapes], np.float64).reshape(-1, 4),
        np.array([shape.label for shape in shapes], np.int64),
        np.zeros(len(shapes), np.bool_),
        np.array([shape.area for shape in shapes], np.float64),
        outlines=tuple(Outline((np.array(each.corners).reshape(-1, 2),)) for each in shapes),
    )


def _lines(path: Path, outlined: bool) -> list[_Shape]:
    try:
        lines = read_outside(path, _MOST_TEXT, "an image's labels").decode().splitlines()
    except UnicodeDecodeError as error:
        raise BitqError(f"{path} is no text in UTF-8; it must have a line for each object") from error
    if len(lines) > _MOST_OBJECTS:
        raise BitqError(f"{path} has {len(lines)} lines, more than the {_MOST_OBJECTS} objects that an image may have")
    numbered = ((line.split(), f"{path}, line {place}") for place, line in enumerate(lines, 1))
    return [_shape(words, where, outlined) for words, where in numbered if words]


def _shape(words: Sequence[str], where: str, outlined: bool) -> _Shape:
    label, *rest = words
    if not (label.isascii() and label.isdigit() and len(label) < 6 and int(label) < MOST_CLASSES):
        raise BitqError(f"{where} begins with {shortened(label)!r}; it must be the number of a class, from 0")
    if len(rest) != 4 and (len(rest) < 6 or len(rest) % 2):
        raise BitqError(
            f"{where} has {len(rest)} numbers behind the class; they must be centre x, centre y, width and height of a "
            "box, or x and y of three or more corners of a polygon"
        )
    if outlined and len(rest) == 4:
        raise BitqError(
            f"{where} is a box, which tells no mask; it must be a class and x and y of three or more corners"
        )
    numbers = [_share(word, where) for word in rest]
    if len(numbers) == 4:
        across, down, width, height = numbers
        box = across - width / 2, down - height / 2, across + width / 2, down + height / 2
        return _Shape(int(label), box, width * height)
    x, y = numbers[::2], numbers[1::2]
    area = abs(sum(a * d - b * c for a, b, c, d in zip(x, [*x[1:], x[0]], y, [*y[1:], y[0]], strict=True))) / 2
    return _Shape(int(label), (min(x), min(y), max(x), max(y)), area, tuple(numbers))


def _share(word: str, where: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = nan
    if not 0 <= number <= 1:
        raise BitqError(f"{where} has {shortened(word)!r}; it must be a share of the image's width or height, 0 to 1")
    return number
