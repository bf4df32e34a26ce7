"""What networks are for, by name: how people keep the data of it, and what judges it.

A new task is a new file or folder beside these, called as the task is, with a `TASK`. Nothing else names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from bitq.errors import BitqError, shortened

if TYPE_CHECKING:
    from bitq.accuracy.agreement import Agreement
    from bitq.accuracy.evaluate import Loss, Metric
    from bitq.batches import Parameters
    from bitq.datasets import Dataset


@dataclass(frozen=True)
class Reading:
    """How data are read, as options of a command say it; None where they say nothing.

    Attributes:
        image_size: height and width that images get, in pixels.
        channels: 3 (RGB) or 1 (gray).
        mean, std: of the network's normalization, per channel or one for all, for bytes divided by 255.
        limit: at most so many inputs of each split, drawn by `seed`.
        seed: of these draws.
        void: numbers in masks that mean no class.
        takes: what the network's forward takes.
    """

    image_size: tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    limit: int | None = None
    seed: int = 0
    void: tuple[int, ...] | None = None
    takes: Parameters | None = None

    def check_no_masks(self) -> None:
        """Refuse what is said of masks, for tasks without them.

        Raises:
            BitqError: something is.
        """
        if self.void is not None:
            raise BitqError("--void is of masks, which this task has none of; leave it out")


def scored_classes(output: Any) -> int | None:
    """Of a tensor of scores [n, classes, ...], how many classes; None of another output."""
    shape: tuple[int, ...] = getattr(output, "shape", ())
    return shape[1] if len(shape) > 1 else None


@dataclass(frozen=True)
class NamedTask:
    """A task.

    Attributes:
        loss: to train with.
        metrics: what judges it, by name, the usual one first.
        load: data as people keep them, at a path; BitqError for what is wrong with them.
        told: what is to be given as data, for messages.
        classes: how many a network's output tells apart; None where it does not tell.
        batch_size, evaluated: inputs of a training step, and of a batch that is measured, where nobody says.
        heaviness: so many times fewer steps are taken, and inputs scored and screened, where nobody says, since each
            input has so much in it.
        learning_rate: of fine-tuning, where nobody says.
        protocol: how it is measured, as far as figures of the same name are measured otherwise elsewhere.
        agreement: what data without labels are learned from and judged by; None refuses them.
    """

    loss: Loss
    metrics: Mapping[str, Metric]
    load: Callable[[Path, Reading], Dataset]
    told: str
    classes: Callable[[Any], int | None] = scored_classes
    batch_size: int = 64
    evaluated: int = 500
    heaviness: int = 1
    learning_rate: float = 1e-3
    protocol: Callable[[Reading], str] = lambda reading: ""
    agreement: Agreement | None = None


CLASSIFY = "classify"
"""The task of a command that names none."""


def names() -> tuple[str, ...]:
    """Of all tasks."""
    return tuple(file.name.replace("_", "-") for file in iter_modules(__path__))


def task_of(name: str) -> NamedTask:
    """The task of a name.

    Raises:
        BitqError: there is none of it.
    """
    if name not in names():
        raise BitqError(f"task {shortened(name, 60)!r} is unknown; tasks are {', '.join(names())}")
    found: NamedTask = import_module(f"{__name__}.{name.replace('-', '_')}").TASK
    return found


def metric_of(task: NamedTask, name: str | None) -> tuple[str, Metric]:
    """A metric of a task, and its name; by default the usual one.

    Raises:
        BitqError: the task has none of this name.
    """
    called = next(iter(task.metrics)) if name is None else name
    if called not in task.metrics:
        raise BitqError(f"metric {shortened(called, 60)!r} is unknown; this task has {', '.join(task.metrics)}")
    return called, task.metrics[called]

