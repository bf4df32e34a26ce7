"""Three splits of what data hold: what is missing, and what is in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from bitq.arrays import ArrayInputs
from bitq.errors import BitqError
from bitq.images import ArrayImages, FileImages, Split

S = TypeVar("S", bound=Split)
T = TypeVar("T")

SPLITS = ("train", "val", "test")

HELD_BYTES = 2 * 2**30
"""Decoded images of a split that is read again and again."""

_TAKEN = 10  # a split that is missing takes every tenth image of train


Known = ArrayImages | FileImages | ArrayInputs


@dataclass(frozen=True)
class FoundInputs:
    """Inputs of one split as they were found, where their labels stand, and the names of these.

    `gray_floats`: whether they were [n, height, width] in floating point, which may be no images.
    """

    images: Known
    where: str
    classes: tuple[str, ...] = ()
    gray_floats: bool = False


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


def _called(images: Split) -> str:
    return "inputs" if isinstance(images, ArrayInputs) else "images"
