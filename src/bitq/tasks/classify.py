"""One class for each input."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from bitq.accuracy.agreement import OF_CLASSES
from bitq.accuracy.evaluate import check_scores, counted, cross_entropy, tallied, top1
from bitq.batches import Batch
from bitq.datasets import Dataset, load_data
from bitq.errors import BitqError
from bitq.tasks import NamedTask, Reading


class _Among5:
    """How often the target's class is among the five largest outputs."""

    def __init__(self) -> None:
        self._hits = self._total = 0

    def count(self, output: Tensor, target: Tensor) -> None:
        """Take a batch in."""
        check_scores(output, target, "top-5 accuracy")
        best = output.topk(min(5, output.shape[-1])).indices
        self._hits += int((best == target.unsqueeze(-1)).sum())
        self._total += target.numel()

    @property
    def share(self) -> float:
        """Top-5 accuracy."""
        return self._hits / max(self._total, 1)


@tallied(_Among5)
def top5(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Share of inputs whose class is among the five largest outputs."""
    return counted(model, batches, _Among5())


def _load(path: Path, reading: Reading) -> Dataset:
    size = reading.image_size
    reading.check_no_masks()
    if size is not None and size[0] != size[1]:
        raise BitqError(
            f"an image size of {size[0]}x{size[1]} is no square, which images are cropped to; give one number"
        )
    return load_data(
        path,
        image_size=size[0] if size else None,
        channels=reading.channels,
        mean=reading.mean,
        std=reading.std,
        limit=reading.limit,
        seed=reading.seed,
        takes=reading.takes,
    )


TASK = NamedTask(
    cross_entropy,
    {"accuracy": top1, "top5": top5},
    _load,
    "a folder of images, an .npz file or a .csv table",
    agreement=OF_CLASSES,
)
