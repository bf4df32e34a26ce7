"""The network and the data that a command is given, the same way for every command."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from bitq.errors import BitqError, printable, shortened
from bitq.tasks import CLASSIFY, NamedTask, Reading, metric_of, names, task_of

if TYPE_CHECKING:
    from torch import nn

    from bitq.accuracy.agreement import Agreement
    from bitq.accuracy.evaluate import Loss, Metric
    from bitq.batches import Batch
    from bitq.datasets import Dataset

DEMO = "demo"
DEMO_DEVICE = "stm32f103c8"
DATA_OPTIONS = "Data"
MOST_VOID = 256
_MOST_TOLD = 20  # classes
_OF_DATA = ("image_size", "channels", "mean", "std", "limit", "void", "task")

Network = Annotated[
    str,
    typer.Argument(
        help="`demo`, or `package.module:function`: a function without arguments that returns a torch.nn.Module, "
        "in the current folder or installed."
    ),
]
NetworkOfRun = Annotated[
    str | None,
    typer.Option(
        "--network",
        help="`package.module:function` that gives the network, as the search was given it. It is imported because "
        "you name it: no code is taken from the run's folder. Not needed for the demo.",
    ),
]
DataPath = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Labelled images: a folder train/CLASS/*.png, or of images with a table labels.csv (file,label) in it or "
        "beside it; val/ and test/ stand beside train/ or are taken from it. Images alone, in train/ or in the folder "
        "itself, have no labels: what counts then is agreement with float32. "
        "Images, signals, token ids: an .npz with x_train, y_train, x_test, y_test, or for a network of several inputs "
        "their names in place of x, such as ids_train, mask_train. Numbers: a .csv table whose first line names the "
        "columns, with labels in `label` or the last: whole numbers from 0, or names of classes, which are numbered in "
        "sorted order. The demo has its own.",
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="Float weights: a .safetensors file or what torch.save wrote (nothing in it is run)."),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=10**6,
        help="Inputs of a training step.",
        show_default="64, 8 with masks or boxes",
        rich_help_panel=DATA_OPTIONS,
    ),
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        metavar="PIXELS",
        help="For a folder: resize and crop its images to this height and width; with masks, resize both to "
        "HEIGHTxWIDTH, such as 360x480; with boxes, letterbox to it, 640 by default.",
        rich_help_panel=DATA_OPTIONS,
    ),
]
Channels = Annotated[
    int | None,
    typer.Option(
        help="For a folder: channels that its images are read with, 3 or 1.",
        show_default="3",
        rich_help_panel=DATA_OPTIONS,
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        help="For images: subtracted from pixels in 0..1: one number, or one for each channel as 0.5,0.4,0.4.",
        show_default="0",
        rich_help_panel=DATA_OPTIONS,
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        help="For images: divides pixels after that: one number, or one for each channel.",
        show_default="1",
        rich_help_panel=DATA_OPTIONS,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(help="Use at most this many inputs of every part of the data.", rich_help_panel=DATA_OPTIONS),
]

TaskName = Annotated[
    str,
    typer.Option(
        "--task",
        help=f"What the network is for: {', '.join(names())}. segment: a class for each pixel; --data is a folder of "
        "images and masks, images/train with masks/train or as CamVid, ADE20K, Cityscapes and Pascal VOC are kept. "
        "detect: boxes, as YOLOv8 gives them; --data is a folder as of COCO, annotations/instances_train2017.json with "
        "images/train2017, or as of YOLO, images/train with labels/train. segment-instances: masks, as YOLOv8 gives "
        "them; --data as for detect, with polygons.",
        rich_help_panel=DATA_OPTIONS,
    ),
]
MetricName = Annotated[
    str | None,
    typer.Option(
        "--metric",
        help="What counts: accuracy (top-1) or top5; of masks mean-iou or pixel-accuracy; of boxes box-ap, box-ap50, "
        "box-ap75, box-ap-small, box-ap-medium or box-ap-large; of instances mask-ap, mask-ap50, … or box-ap.",
        show_default="the first of its task",
        rich_help_panel=DATA_OPTIONS,
    ),
]
Void = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBERS",
        help="In masks: pixels that belong to no class, such as 255 or 11,255.",
        show_default="as data of its layout have it, else 255",
        rich_help_panel=DATA_OPTIONS,
    ),
]


@dataclass(frozen=True)
class Source:
    """A float network with batches to fine-tune on, to choose by, and to measure on, and what it is for."""

    model: nn.Module
    train: Iterable[Batch]
    validation: Iterable[Batch]
    test: Iterable[Batch]
    loss: Loss
    metric: Metric
    measure: str
    """The metric's name."""
    protocol: str = ""
    """How it is measured, where figures of its name are measured otherwise elsewhere."""
    labelled: bool = True
    """Whether the data have labels; else the float network's answers stand for them."""
    lacking: str = ""
    """What the data lack of what a search needs, in a sentence."""

    @property
    def measured(self) -> dict[str, str]:
        """What its figures are, for documents."""
        return {"metric": self.measure, "protocol": self.protocol}

    def judged_by(self, agreement: Agreement) -> Source:
        """The same with the float network's answers in place of the labels that its data have not."""
        train, validation, test = agreement.of(self.model, self.train, self.validation, self.test)
        own = replace(self, train=train, validation=validation, test=test)
        return replace(own, metric=agreement.metric, measure=agreement.name)

    def check_searchable(self) -> None:
        """Refuse data that have nothing to fine-tune on.

        Raises:
            BitqError: what they lack.
        """
        if self.lacking:
            raise BitqError(self.lacking)


class DataGiven(NamedTuple):
    """The options that say what data are and how they are read, None where they are not given."""

    path: Path | None = None
    batch_size: int | None = None
    image_size: str | None = None
    channels: int | None = None
    mean: str | None = None
    std: str | None = None
    limit: int | None = None
    seed: int | None = None
    void: str | None = None
    task: str = CLASSIFY
    metric: str | None = None


_READ_BY: dict[str, Any] = {
    "batch_size": BatchSize,
    "image_size": ImageSize,
    "channels": Channels,
    "mean": Mean,
    "std": Std,
    "limit": Limit,
    "task": TaskName,
    "metric": MetricName,
    "void": Void,
}


def with_data(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command in place of its parameter `given`, a `DataGiven`, the options that say how data are read."""
    signature = inspect.signature(command, eval_str=True)
    usual, parameters = DataGiven(), []
    for each in signature.parameters.values():
        if each.name == "given":
            parameters += [
                each.replace(name=name, default=getattr(usual, name), annotation=option)
                for name, option in _READ_BY.items()
            ]
        else:
            parameters.append(each)

    @wraps(command)
    def with_given(**said: Any) -> None:
        given = DataGiven(**{name: said.pop(name) for name in _READ_BY})
        command(given=given, **said)

    with_given.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_given.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_given


def load_source(
    network: str, checkpoint: Path | None, given: DataGiven, not_from: Path | None = None
) -> Source:
    """What the options name; no code comes from the folder `not_from`.

    Raises:
        BitqError: a network without data, options that do not fit together, or anything the loaders refuse.
    """
    task = task_of(given.task)
    measure, metric = metric_of(task, given.metric)
    if network == DEMO:
        if given.path is not None or checkpoint is not None:
            raise BitqError("the demo has its own data and checkpoint; leave --data and --checkpoint out")
        usual = DataGiven()
        if own := [name for name in _OF_DATA if getattr(given, name) != getattr(usual, name)]:
            told = ", ".join(f"--{name.replace('_', '-')}" for name in own)
            raise BitqError(f"the demo's images are as its network needs them; leave {told} out")
        return _demo(given.batch_size or task.batch_size, task, metric, measure)
    if given.path is None:
        raise BitqError(f"network {shortened(network)!r} needs --data: {task.told}")
    from bitq.batches import parameters
    from bitq.datasets import check_options
    from bitq.images import Batches
    from bitq.loading import load_checkpoint, load_network

    size = _size(given.image_size)
    means, stds = _numbers("--mean", given.mean), _numbers("--std", given.std)
    for side in size or (None,):
        check_options(side, given.channels, means, stds, given.limit)
    model = load_network(network, not_from).eval()
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    void = None if given.void is None else _whole_numbers("--void", given.void)
    reading = Reading(size, given.channels, means, stds, given.limit, given.seed or 0, void, parameters(model))
    parts = task.load(given.path, reading)
    if parts.classes:
        print(printable(f"classes: {_numbered(parts.classes)}"), file=sys.stderr)
    parts, output = _fitting(model, parts)
    if parts.lacking:
        print(printable(f"{given.path} has no train: ranges are taken from what is measured on"), file=sys.stderr)
    if (known := task.classes(output)) is not None:
        parts.check_labels(known)
    source = Source(
        model,
        Batches(parts.train, given.batch_size or task.batch_size, shuffle=True),
        Batches(parts.val, task.evaluated),
        Batches(parts.test, task.evaluated),
        task.loss,
        metric,
        measure,
        task.protocol(reading),
        labelled=parts.labelled,
        lacking=parts.lacking,
    )
    return source if parts.labelled else source.judged_by(_agreement(task, given))


def _agreement(task: NamedTask, given: DataGiven) -> Agreement:
    """What data without labels are judged by.

    Raises:
        BitqError: the task needs labels, or options say what only labels can.
    """
    if task.agreement is None:
        raise BitqError(f"{given.path} has no labels, which task {given.task} needs: give {task.told}")
    for option, value in (("--metric", given.metric), ("--void", given.void)):
        if value is not None:
            raise BitqError(f"{given.path} has no labels, which {option} is about; leave it out")
    told = f"{given.path} has no labels: what counts is {task.agreement.name}"
    print(printable(told), file=sys.stderr)
    return task.agreement


def notes_of(measured: Mapping[str, str]) -> tuple[str, ...]:
    """What stands beside the figures that `Source.measured` is of."""
    return (f"{measured['metric']}: {measured['protocol']}",) if measured["protocol"] else ()


def _fitting(model: nn.Module, data: Dataset) -> tuple[Dataset, Any]:
    """The data as the network takes them, where they can be taken for two things, and its output for one input.

    Gray images come first; signals are what gives one row of scores where those do not.
    """
    from bitq.accuracy.evaluate import answer
    from bitq.batches import input_of
    from bitq.images import Batches

    def output(of: Dataset) -> Any:
        return answer(model, input_of(next(iter(Batches(of.test, 1)))))

    def is_row(found: Any) -> bool:
        return len(getattr(found, "shape", ())) == 2

    if data.signals is None:
        return data, output(data)
    try:
        found = output(data)
    except BitqError:
        return data.signals, output(data.signals)
    if is_row(found):
        return data, found
    try:
        other = output(data.signals)
    except BitqError:
        return data, found
    return (data.signals, other) if is_row(other) else (data, found)


def _demo(batch_size: int, task: NamedTask, metric: Metric, measure: str) -> Source:
    import torch
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

    from bitq import demo

    own = demo.load()

    def batches(images: torch.Tensor, labels: torch.Tensor, size: int, shuffle: bool) -> Iterable[Batch]:
        dataset = TensorDataset(images, labels)
        inner = RandomSampler(dataset) if shuffle else SequentialSampler(dataset)
        return DataLoader(dataset, sampler=BatchSampler(inner, size, drop_last=shuffle), batch_size=None)

    return Source(
        own.model,
        batches(own.train_images, own.train_labels, batch_size, True),
        batches(own.validation_images, own.validation_labels, task.evaluated, False),
        batches(own.test_images, own.test_labels, task.evaluated, False),
        task.loss,
        metric,
        measure,
    )


def _numbered(classes: Sequence[str]) -> str:
    """Names of classes and the labels that stand for them, such as "0 cat, 1 dog"."""
    told = [f"{number} {shortened(name, 30)}" for number, name in enumerate(classes)]
    return ", ".join(told if len(told) <= _MOST_TOLD else [*told[: _MOST_TOLD - 1], "…", told[-1]])


def _size(text: str | None) -> tuple[int, int] | None:
    """Height and width, of one number or two."""
    if text is None:
        return None
    sides = [part.strip() for part in text.lower().split("x")]
    if len(sides) > 2 or not all(side.isascii() and side.lstrip("-").isdigit() and len(side) < 12 for side in sides):
        raise BitqError(
            f"--image-size is {shortened(text)!r}; it must be a number of pixels such as 224, or HEIGHTxWIDTH such as "
            "360x480"
        )
    height, width = int(sides[0]), int(sides[-1])
    return height, width


def _whole_numbers(option: str, text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    right = all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts)
    if not right or not 0 < len(parts) <= MOST_VOID:
        raise BitqError(f"{option} is {shortened(text)!r}; it must be whole numbers separated by commas: 11,255")
    return tuple(map(int, parts))


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BitqError(
            f"{option} is {shortened(text)!r}; it must be numbers separated by commas, such as 0.485,0.456,0.406"
        ) from None
