"""The network and the data that a command is given, the same way for every command."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitq.errors import BitqError, printable, shortened

if TYPE_CHECKING:
    from torch import nn

    from bitq.batches import Batch
    from bitq.datasets import Dataset

DEMO = "demo"
DEMO_DEVICE = "stm32f103c8"
DATA_OPTIONS = "Data"
EVALUATION_BATCH = 500
_MOST_TOLD = 20  # classes

Network = Annotated[
    str,
    typer.Argument(
        help="`demo`, or `package.module:function`: a function without arguments that returns a torch.nn.Module, "
        "in the current folder or installed."
    ),
]
DataPath = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Labelled images: a folder train/CLASS/*.png, or of images with a table labels.csv (file,label) in it or "
        "beside it; val/ and test/ stand beside train/ or are taken from it. "
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
_BATCH = 64

BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1, max=10**6, help="Inputs of a training step.", show_default=str(_BATCH), rich_help_panel=DATA_OPTIONS
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        help="For a folder: resize and crop its images to this height and width, in pixels.",
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


@dataclass(frozen=True)
class Source:
    """A float network with batches to fine-tune on, to choose by, and to measure on."""

    model: nn.Module
    train: Iterable[Batch]
    validation: Iterable[Batch]
    test: Iterable[Batch]


def load_source(
    network: str,
    data: Path | None,
    checkpoint: Path | None,
    batch_size: int | None,
    image_size: int | None,
    channels: int | None,
    mean: str | None,
    std: str | None,
    limit: int | None,
    seed: int | None,
    not_from: Path | None = None,
) -> Source:
    """What the options name, None where they are not given; no code comes from the folder `not_from`.

    Raises:
        BitqError: a network without data, options that do not fit together, or anything the loaders refuse.
    """
    if network == DEMO:
        if data is not None or checkpoint is not None:
            raise BitqError("the demo has its own data and checkpoint; leave --data and --checkpoint out")
        own = {"image-size": image_size, "channels": channels, "mean": mean, "std": std, "limit": limit}
        if given := [f"--{name}" for name, value in own.items() if value is not None]:
            raise BitqError(f"the demo's images are as its network needs them; leave {', '.join(given)} out")
        return _demo(batch_size or _BATCH)
    if data is None:
        raise BitqError(
            f"network {shortened(network)!r} needs --data: a folder of labelled images, an .npz file or a .csv table"
        )
    from bitq.batches import parameters
    from bitq.datasets import check_options, load_data
    from bitq.images import Batches
    from bitq.loading import load_checkpoint, load_network

    means, stds = _numbers("--mean", mean), _numbers("--std", std)
    check_options(image_size, channels, means, stds, limit)
    model = load_network(network, not_from).eval()
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    parts = load_data(
        data,
        image_size=image_size,
        channels=channels,
        mean=means,
        std=stds,
        limit=limit,
        seed=seed or 0,
        takes=parameters(model),
    )
    if parts.classes:
        print(printable(f"classes: {_numbered(parts.classes)}"), file=sys.stderr)
    parts, output = _fitting(model, parts)
    if output is not None and len(output) > 1:
        parts.check_labels(output[1])
    return Source(
        model,
        Batches(parts.train, batch_size or _BATCH, shuffle=True),
        Batches(parts.val, EVALUATION_BATCH),
        Batches(parts.test, EVALUATION_BATCH),
    )


def _fitting(model: nn.Module, data: Dataset) -> tuple[Dataset, tuple[int, ...] | None]:
    """The data as the network takes them, where they can be taken for two things, and its output's shape for one input.

    Gray images come first; signals are what gives one row of scores where those do not.
    """
    from bitq.accuracy.evaluate import output_shape
    from bitq.images import Batches

    def output(of: Dataset) -> tuple[int, ...] | None:
        return output_shape(model, next(iter(Batches(of.test, 1)))[0])

    if data.signals is None:
        return data, output(data)
    try:
        shape = output(data)
    except BitqError:
        return data.signals, output(data.signals)
    if shape is not None and len(shape) == 2:
        return data, shape
    try:
        other = output(data.signals)
    except BitqError:
        return data, shape
    return (data.signals, other) if other is not None and len(other) == 2 else (data, shape)


def _demo(batch_size: int) -> Source:
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
        batches(own.validation_images, own.validation_labels, EVALUATION_BATCH, False),
        batches(own.test_images, own.test_labels, EVALUATION_BATCH, False),
    )


def _numbered(classes: Sequence[str]) -> str:
    """Names of classes and the labels that stand for them, such as "0 cat, 1 dog"."""
    told = [f"{number} {shortened(name, 30)}" for number, name in enumerate(classes)]
    return ", ".join(told if len(told) <= _MOST_TOLD else [*told[: _MOST_TOLD - 1], "…", told[-1]])


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BitqError(
            f"{option} is {shortened(text)!r}; it must be numbers separated by commas, such as 0.485,0.456,0.406"
        ) from None
