"""A tiny network, a task it learns in a few steps, and a device so small that formats matter to it."""

from dataclasses import replace

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bitq
from bitq.accuracy.finetune import Training
from bitq.devices import Device, Memory
from bitq.progress import Silent
from bitq.tradeoff.settings import Settings

torch.set_num_threads(1)

FORMATS = "8:e2..e4:b8..b16"
"""Few enough that what they move is soon known."""

CLASSES, SIDE = 4, 8

DEVICE = Device(
    "tiny",
    "Tiny device",
    "",
    (Memory("registers", 512.0, 0.0, ""), Memory("SRAM", 4096.0, 0.16, ""), Memory("DRAM", float("inf"), 20.0, "")),
)


def network(seed=0):
    """A full, a depthwise and a pointwise convolution, each with batch norm, and a linear layer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(24, CLASSES),
        )


def images(count, seed):
    """Images float32 [count, 1, 8, 8], each with one bright quadrant in noise; its number is the label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    pixels = torch.randn(count, 1, SIDE, SIDE, generator=generator)
    for i, label in enumerate(labels.tolist()):
        row, column = 4 * (label // 2), 4 * (label % 2)
        pixels[i, :, row : row + 4, column : column + 4] += 0.7
    return pixels, labels


def loader(count, seed, batch_size=64, shuffle=False):
    """A DataLoader of `images`."""
    return DataLoader(TensorDataset(*images(count, seed)), batch_size, shuffle=shuffle, drop_last=shuffle)


def loaders():
    """Train, validation and test data."""
    return loader(1500, 1, shuffle=True), loader(500, 2, 250), loader(500, 3, 250)


def trained(seed=0, steps=60):
    """The network, trained in float."""
    from bitq.accuracy.finetune import finetune

    model = network(seed)
    finetune(model, loaders()[0], Training(steps=steps, learning_rate=1e-2, seed=seed))
    return model


def settings(**changes):
    """Few steps."""
    few = Training(steps=20, learning_rate=3e-3)
    own = Settings(training=few, scored_inputs=250, plans=2)
    return replace(own, **changes)


class Listening(Silent):
    """Keeps what it is told."""

    def __init__(self):
        self.steps, self.notes = [], []

    def step(self, what, done, total):
        self.steps.append((what, done, total))

    def note(self, text):
        self.notes.append(text)


def search(folder, metric, workers=None, listener=None, **changes):
    """A search of the network with these settings, in silence unless there is a listener."""
    return bitq.search(
        trained(),
        *loaders(),
        device=DEVICE,
        formats=FORMATS,
        run=folder,
        metric=metric,
        settings=settings(**changes),
        listener=listener or Silent(),
        workers=workers,
    )
