"""The network and the data that a command is given, the same way for every command."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitq.errors import BitqError

if TYPE_CHECKING:
    from torch import nn

    from bitq.batches import Batch
    from bitq.datasets import Dataset

DEMO = "demo"
DEMO_DEVICE = "stm32f103c8"
IMAGES = "Images"
EVALUATION_BATCH = 500

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
        help="Labelled images: a folder train/CLASS/*.png (with val/ and test/ beside train/, or taken from it). "
        "Images, signals, token ids: an .npz with x_train, y_train, x_test, y_test, or for a network of several inputs "
        "their names in place of x, such as ids_train, mask_train. Numbers: a .csv table whose first line names the "
        "columns, with labels in `label` or the last. The demo has its own.",
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="Float weights: a .safetensors file or what torch.save wrote (nothing in it is run)."),
]
BatchSize = Annotated[int, typer.Option(min=1, max=10**6, help="Inputs per training step.", rich_help_panel=IMAGES)]
ImageSize = Annotated[
    int | None,
    typer.Option(
        help="Resize and crop the images of a folder to this height and width, in pixels.", rich_help_panel=IMAGES
    ),
]
Channels = Annotated[
    int, typer.Option(help="Channels that the images of a folder are read with: 3 or 1.", rich_help_panel=IMAGES)
]
Mean = Annotated[
    str,
    typer.Option(
        help="Subtracted from pixels in 0..1: one number, or one per channel as 0.5,0.4,0.4.", rich_help_panel=IMAGES
    ),
]
Std = Annotated[
    str, typer.Option(help="Divides pixels after that: one number, or one per channel.", rich_help_panel=IMAGES)
]
Limit = Annotated[int | None, typer.Option(help="Use at most this many inputs of every part.", rich_help_panel=IMAGES)]


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
    batch_size: int,
    image_size: int | None,
    channels: int,
    mean: str,
    std: str,
    limit: int | None,
    seed: int,
    not_from: Path | None = None,
) -> Source:
    """What the options name; no code comes from the folder `not_from`.

    Raises:
        BitqError: a network without data, options that do not fit together, or anything the loaders refuse.
    """
    if network == DEMO:
        if data is not None or checkpoint is not None:
            raise BitqError("the demo has its own data and checkpoint; leave --data and --checkpoint out")
        if (image_size, channels, mean, std, limit) != (None, 3, "0", "1", None):
            raise BitqError(
                "the demo's images are as its network needs them; leave --image-size, --channels, --mean, --std and "
                "--limit out"
            )
        return _demo(batch_size)
    if data is None:
        raise BitqError(f"network {network!r} needs --data: a folder of labelled images, an .npz file or a .csv table")
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
        seed=seed,
        takes=parameters(model),
    )
    parts, output = _fitting(model, parts)
    if output is not None and len(output) > 1:
        parts.check_labels(output[1])
    return Source(
        model,
        Batches(parts.train, batch_size, shuffle=True),
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


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BitqError(
            f"{option} is {text!r}; it must be numbers separated by commas, such as 0.485,0.456,0.406"
        ) from None
