"""Where people keep images and masks, by the names that their folders have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bitq.datasets.folders import SUFFIXES, bare_images, images_by_name
from bitq.errors import BitqError, shortened
from bitq.outside import read_outside
from bitq.tasks.segment.masks import Marks

_MOST_LIST = 64 * 2**20  # bytes of a file of names


class Place(NamedTuple):
    """Of a split: folders of images and masks, and the file that names those of the split, if they hold others."""

    images: str
    masks: str
    named: str = ""


class MaskLayout(NamedTuple):
    """How a data set is kept.

    Attributes:
        name: whose way it is.
        places: by split.
        ends: what the names of an image and of its mask end in, beside the suffix of their files.
        marks: what the numbers in its masks mean.
    """

    name: str
    places: Mapping[str, Place]
    ends: tuple[str, str] = ("", "")
    marks: Marks = Marks()


def _split(images: str, masks: str, **names: str) -> dict[str, Place]:
    return {split: Place(images.format(name), masks.format(name)) for split, name in names.items()}


_USUAL = {"train": "train", "val": "val", "test": "test"}
LAYOUTS = (
    MaskLayout("CamVid", _split("{}", "{}annot", **_USUAL), marks=Marks(void=(11, 255))),
    MaskLayout(
        "ADE20K",
        _split("images/{}", "annotations/{}", train="training", val="validation"),
        marks=Marks(first=1, void=(0,)),
    ),
    MaskLayout(
        "Cityscapes", _split("leftImg8bit/{}", "gtFine/{}", **_USUAL), ("_leftImg8bit", "_gtFine_labelTrainIds")
    ),
    MaskLayout(
        "Pascal VOC",
        {
            split: Place("JPEGImages", "SegmentationClass", f"ImageSets/Segmentation/{split}.txt")
            for split in _USUAL
        },
    ),
    MaskLayout("images/train, masks/train", _split("images/{}", "masks/{}", **_USUAL)),
    MaskLayout("train/images, train/masks", _split("{}/images", "{}/masks", **_USUAL)),
    MaskLayout("images, masks", {"train": Place("images", "masks")}),
)
"""In the order in which they are looked for."""

Pairs = dict[str, tuple[tuple[Path, ...], tuple[Path, ...] | None]]
"""By split, images and their masks, or None without masks."""

_BARE = MaskLayout("images alone", {})


def found_in(root: Path) -> tuple[MaskLayout, Pairs]:
    """How a folder's images and masks are kept, and which they are; images alone where there are no masks.

    Raises:
        BitqError: in no way of `LAYOUTS`, or an image without a mask, or a mask without an image.
    """
    found = [(layout, {s: place for s, place in layout.places.items() if _is_there(root, place)}) for layout in LAYOUTS]
    for complete in (True, False):
        for layout, places in found:
            if "train" in places or (places and not complete):
                return layout, {split: _paired(root, place, layout) for split, place in places.items()}
    if bare := bare_images(root):
        return _BARE, {split: (files, None) for split, files in bare.items()}
    known = "; ".join(
        f"{layout.places['train'].images}/ with {layout.places['train'].masks}/ ({layout.name})"
        for layout in LAYOUTS[:4]
    )
    raise BitqError(
        f"{root} holds no images with masks; keep them as images/train and masks/train (val and test alike), as images "
        f"and masks, or as {known}"
    )


def _is_there(root: Path, place: Place) -> bool:
    folders = (root / place.images).is_dir() and (root / place.masks).is_dir()
    return folders and (not place.named or (root / place.named).is_file())


def _paired(root: Path, place: Place, layout: MaskLayout) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    images = images_by_name(root / place.images, layout.ends[0])
    masks = images_by_name(root / place.masks, layout.ends[1])
    if place.named:
        chosen = _names(root / place.named)
        for name in chosen:
            if name not in images:
                raise BitqError(f"{root / place.named} names {shortened(name)!r}, which {root / place.images} lacks")
        images, masks = {name: images[name] for name in chosen}, {n: file for n, file in masks.items() if n in chosen}
    if not images:
        raise BitqError(f"{root / place.images} holds no image *{layout.ends[0]} ({', '.join(SUFFIXES)})")
    if lacking := next((name for name in images if name not in masks), None):
        raise BitqError(
            f"{images[lacking]} has no mask; it must be {root / place.masks / (lacking + layout.ends[1] + '.png')}"
        )
    if alone := next((name for name in masks if name not in images), None):
        raise BitqError(f"{masks[alone]} is the mask of no image in {root / place.images}; remove it")
    names = sorted(images)
    return tuple(images[name] for name in names), tuple(masks[name] for name in names)


def _names(path: Path) -> list[str]:
    try:
        text = read_outside(path, _MOST_LIST, "a list of names").decode()
    except UnicodeDecodeError as error:
        raise BitqError(f"{path} is no text in UTF-8; it must name an image in every line") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
