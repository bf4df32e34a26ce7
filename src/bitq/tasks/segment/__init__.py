"""A class for each pixel: semantic segmentation."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from bitq.accuracy.agreement import OF_CLASSES
from bitq.accuracy.evaluate import IGNORED, counted, cross_entropy, tallied
from bitq.batches import Batch, described
from bitq.datasets import Dataset
from bitq.datasets.splits import HELD_BYTES, drawn, held_once, lacking_of, with_test
from bitq.errors import BitqError
from bitq.images import ArrayImages, Scaling, image_size
from bitq.pictures import drawn_by
from bitq.tasks import NamedTask, Reading
from bitq.tasks.segment.coloured import coloured
from bitq.tasks.segment.layouts import found_in
from bitq.tasks.segment.masks import Marks, MaskedFiles


class _Confusion:
    """How many pixels of each class were taken for which, over all images."""

    def __init__(self) -> None:
        self.counts = torch.zeros(0, 0, dtype=torch.long)
        """Pixels [true class, predicted class]."""

    def count(self, output: Tensor, target: Tensor) -> None:
        """Take a batch in."""
        if not (isinstance(output, Tensor) and output.dim() == 4 and output[:, 0].shape == target.shape):
            raise BitqError(
                f"segmentation cannot judge {described(output)} with {described(target)}; the output must be scores "
                "(n, classes, height, width) of the masks' height and width"
            )
        classes, known = output.shape[1], target != IGNORED
        pairs = target[known] * classes + output.argmax(1)[known]
        found = torch.bincount(pairs.cpu(), minlength=classes**2).view(classes, classes)
        self.counts = self.counts + found if len(self.counts) else found


class _Overlap(_Confusion):
    @property
    def share(self) -> float:
        """Mean over the classes that masks have of intersection over union."""
        counts = self.counts.double()
        hit, true, found = counts.diagonal(), counts.sum(1), counts.sum(0)
        met = true > 0
        return float((hit / (true + found - hit))[met].mean()) if met.any() else 0.0


class _Pixels(_Confusion):
    @property
    def share(self) -> float:
        """Share of the pixels that have a class."""
        return int(self.counts.diagonal().sum()) / max(int(self.counts.sum()), 1)


@tallied(_Overlap)
@drawn_by(coloured)
def mean_iou(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Intersection over union of all images' pixels of a class, mean over the classes that masks have.

    Pixels of no class do not count (Pascal VOC's definition; a class that no mask has counts nowhere, but what is taken
    for it is missing elsewhere).
    """
    return counted(model, batches, _Overlap())


@tallied(_Pixels)
@drawn_by(coloured)
def pixel_accuracy(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Share of the pixels with a class that the network finds."""
    return counted(model, batches, _Pixels())


def load(path: Path, reading: Reading) -> Dataset:
    """Images with masks from a folder kept as one of `bitq.tasks.segment.layouts`.

    Where there is no test, val is what is judged by, and what is to choose by is taken from train, as test and val are
    where there is train alone. Images are decoded once where a split fits in 2 GiB.

    Raises:
        BitqError: a folder kept otherwise, files that do not fit together, or options that do not fit them.
    """
    if not path.is_dir():
        raise BitqError(f"{path} is no folder; give one of images and masks")
    layout, found = found_in(path)
    pairs, first = with_test(found), next(iter(found.values()))
    marks = layout.marks if reading.void is None else Marks(layout.marks.first, reading.void)
    height, width = reading.image_size or image_size(first[0][0])
    shape, resize = (reading.channels or 3, height, width), reading.image_size is not None
    scaling = Scaling(reading.mean or (0.0,), reading.std or (1.0,))
    scaling.check_channels(shape[0])
    parts = {
        split: MaskedFiles(images, masks, shape, resize, marks, scaling) for split, (images, masks) in pairs.items()
    }
    splits = held_once(drawn(parts, reading.limit, reading.seed), _held)
    largest = {
        f"the masks of {name}": int(part.labels.max())
        for name, part in splits.items()
        if isinstance(part, ArrayImages) and part.labels is not None
    }
    return Dataset(
        splits["train"],
        splits["val"],
        splits["test"],
        largest,
        labelled=first[1] is not None,
        lacking=lacking_of(path, found),
    )


def _held(part: MaskedFiles) -> MaskedFiles | ArrayImages:
    return part.held() if len(part) * 3 * prod(part.shape) <= HELD_BYTES else part


TASK = NamedTask(
    cross_entropy,
    {"mean-iou": mean_iou, "pixel-accuracy": pixel_accuracy},
    load,
    "a folder of images and masks, such as images/train and masks/train",
    batch_size=8,
    evaluated=16,
    agreement=OF_CLASSES,
)
