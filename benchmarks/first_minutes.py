"""What a first, quick search gives on small networks unlike each other, beside formats that cost no fine-tuning.

    python benchmarks/first_minutes.py
    python benchmarks/first_minutes.py --networks ecg vit --seeds 0 1 --effort normal --device stm32h743

Every network is trained here, on signals, images, sequences and tables that are made up. O is measured on test data,
the best untuned uniform format is chosen of all 40 on validation data, as the plan is. The last column is what the
quick search gained over it: below -0.005 it would have been better to do nothing, and the command ends with 1.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import pi
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bitq
from bitq.cli.output import show
from bitq.progress import Silent
from bitq.tradeoff.records import Row, objective

CLASSES, NOISE = 6, 0.9
COUNTS = {"train": 3000, "validation": 1000, "test": 2000}
MARGIN = 0.005


@dataclass(frozen=True)
class Case:
    """A network and the inputs it tells apart.

    Attributes:
        network: makes it.
        inputs: of (labels [count], generator), tensors [count, ...].
        steps: of its training.
    """

    network: Callable[[], nn.Module]
    inputs: Callable[[Tensor, torch.Generator], Tensor]
    steps: int = 400


def beats(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Signals [count, 1, 256]: a pulse train whose rate and shape tell the class, at any phase."""
    time = torch.linspace(0, 2 * pi, 256)
    phase = 2 * pi * torch.rand(len(labels), 1, generator=generator)
    rate = 3 + labels[:, None].float()
    signal = torch.cos(rate * time + phase).clamp(0.6) * 3 + 0.4 * torch.sin(2 * time + phase)
    return (signal + 0.4 * NOISE * torch.randn(signal.shape, generator=generator))[:, None]


def spectrograms(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Images [count, 1, 32, 16]: a ridge that rises or falls from a place that tells the class."""
    start = 4.0 * labels[:, None, None] + 2 * torch.rand(len(labels), 1, 1, generator=generator)
    slope = 0.6 * (2 * (labels % 2)[:, None, None].float() - 1)
    rows, columns = torch.arange(32.0)[:, None], torch.arange(16.0)
    ridge = torch.exp(-((rows - start - slope * columns) ** 2) / 3)
    return (2 * ridge + 0.5 * NOISE * torch.randn(ridge.shape, generator=generator))[:, None]


def pictures(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Images [count, 3, 16, 16]: gratings whose direction tells the class, of any colour and phase."""
    angle = pi * labels[:, None, None] / CLASSES
    phase = 2 * pi * torch.rand(len(labels), 1, 1, generator=generator)
    rows, columns = torch.arange(16.0)[:, None], torch.arange(16.0)
    grating = torch.sin(0.9 * (rows * torch.cos(angle) + columns * torch.sin(angle)) + phase)
    colour = torch.rand(len(labels), 3, 1, 1, generator=generator)
    clean = grating[:, None] * colour
    return clean + 0.5 * NOISE * torch.randn(clean.shape, generator=generator)


def tables(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Rows [count, 24]: a point near its class's centre, some columns a thousand times the others."""
    centres = torch.randn(CLASSES, 24, generator=torch.Generator().manual_seed(1))
    scale = torch.logspace(-1.5, 1.5, 24)
    return (centres[labels] + 1.1 * torch.randn(len(labels), 24, generator=generator)) * scale


def words(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Sequences int64 [count, 24] of 64 words: every class prefers words of its own."""
    prefer = torch.randn(CLASSES, 64, generator=torch.Generator().manual_seed(2)).mul(0.9).softmax(-1)
    return torch.multinomial(prefer[labels], 24, replacement=True, generator=generator)


class Patches(nn.Module):
    """A small vision transformer over square patches of square images."""

    def __init__(self, channels: int = 3, size: int = 16, patch: int = 4, classes: int = CLASSES) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, 32, patch, stride=patch)
        self.place = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2, 32))
        self.blocks = nn.ModuleList(Block(32) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, size, size] to [N, classes]."""
        x = self.embed(x).flatten(2).transpose(1, 2) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention of one head and a perceptron, each beside its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.join = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, length, width] to the same."""
        y = self.before(x)
        attention = (self.query(y) @ self.key(y).transpose(1, 2) / y.shape[-1] ** 0.5).softmax(-1)
        x = x + self.join(attention @ self.value(y))
        return x + self.down(torch.nn.functional.gelu(self.up(self.between(x))))  # type: ignore[no-any-return]


class Sentences(nn.Module):
    """Embedded words, a transformer block, and their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block, self.head = nn.Embedding(64, 32), Block(32), nn.Linear(32, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [N, length] to [N, classes]."""
        return self.head(self.block(self.embed(ids)).mean(1))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """Two convolutions beside their input."""

    def __init__(self, channels: int, groups: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(channels, channels, 3, padding=1, groups=groups, bias=False), nn.BatchNorm2d(channels)),
            *(nn.ReLU(), nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] to the same."""
        return torch.relu(x + self.body(x))


def ecg() -> nn.Module:
    """A 1-D convolutional network."""
    return nn.Sequential(
        *(nn.Conv1d(1, 16, 7, stride=2, padding=3), nn.BatchNorm1d(16), nn.ReLU()),
        *(nn.Conv1d(16, 32, 5, stride=2, padding=2), nn.BatchNorm1d(32), nn.ReLU()),
        *(nn.Conv1d(32, 32, 5, stride=2, padding=2), nn.BatchNorm1d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, CLASSES)),
    )


def ds_cnn() -> nn.Module:
    """Depthwise separable convolutions, as for keyword spotting."""
    layers: list[nn.Module] = [nn.Conv2d(1, 24, (10, 4), stride=2, padding=(4, 1)), nn.BatchNorm2d(24), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.BatchNorm2d(24), nn.ReLU()]
        layers += [nn.Conv2d(24, 24, 1), nn.BatchNorm2d(24), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, CLASSES))


def images(body: nn.Module) -> nn.Module:
    """A stem, a body of 24 channels, and a classifier."""
    stem = nn.Conv2d(3, 24, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()
    return nn.Sequential(*stem, body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, CLASSES))


def perceptron() -> nn.Module:
    """Three linear layers."""
    first, second, third = nn.Linear(24, 64), nn.Linear(64, 64), nn.Linear(64, CLASSES)
    return nn.Sequential(nn.BatchNorm1d(24), first, nn.ReLU(), second, nn.ReLU(), third)


CASES = {
    "ecg": Case(ecg, beats),
    "ds-cnn": Case(ds_cnn, spectrograms),
    "resnet": Case(lambda: images(nn.Sequential(Residual(24), Residual(24))), pictures),
    "grouped": Case(lambda: images(nn.Sequential(Residual(24, 4), Residual(24, 4))), pictures),
    "plain": Case(lambda: images(nn.Sequential(nn.Conv2d(24, 24, 3, padding=1), nn.ReLU())), pictures),
    "mlp": Case(perceptron, tables),
    "vit": Case(Patches, pictures, 800),
    "transformer": Case(Sentences, words),
}


def main() -> int:
    """Search every network and compare; 1 if a plan was worse than doing nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--effort", choices=("quick", "normal", "thorough"), default="quick")
    parser.add_argument("--device", default="stm32f103c8")
    options = parser.parse_args()
    table = Table(header_style="bold")
    for heading in ("network", "float32", "best untuned uniform", "accuracy", "O", "plan", "O", "seconds", "gained"):
        table.add_column(heading, justify="right")
    worse = False
    for name in options.networks:
        for seed in options.seeds:
            cells, gained = compared(CASES[name], seed, options.effort, options.device)
            table.add_row(f"{name} {seed}", *cells)
            worse |= gained < -MARGIN
            print(name, seed, *cells, flush=True)
    show(table)
    return int(worse)


def compared(case: Case, seed: int, effort: str, device: str) -> tuple[list[str], float]:
    """What a table says of one network, and what its plan gained in O."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    parts = {}
    for part, count in COUNTS.items():
        labels = torch.randint(CLASSES, (count,), generator=generator)
        dataset = TensorDataset(case.inputs(labels, generator), labels)
        parts[part] = DataLoader(dataset, 64 if part == "train" else 500, shuffle=part == "train")
    model = trained(case.network(), parts["train"], case.steps)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        settings = getattr(bitq.Settings, effort)()
        found = bitq.search(
            model, *parts.values(), device=device, run=Path(folder) / "run", settings=settings, listener=Silent()
        )
    seconds = time.perf_counter() - start

    def reached(row: Row) -> float:
        return objective(row.accuracy, row.movement_bits, found.plan.totals.movement_bits_max, settings.alpha)

    def rungs(part: str, formats: tuple[bitq.BlockFormat, ...]) -> list[Row]:
        calibration = parts["train"]
        return list(
            bitq.evaluate(
                model, parts[part], formats, calibration=calibration, device=device, listener=Silent()
            )
        )

    best = min(rungs("validation", bitq.grid(8)), key=reached)
    (uniform,) = rungs("test", (bitq.BlockFormat.parse(best.name),))
    plan = found.rows[-1]
    gained = reached(uniform) - reached(plan)
    cells = [
        f"{found.rows[0].accuracy:.2%}",
        *(uniform.name, f"{uniform.accuracy:.2%}", f"{reached(uniform):.4f}"),
        *(f"{plan.accuracy:.2%}", f"{reached(plan):.4f}", f"{seconds:.0f}", f"{gained:+.4f}"),
    ]
    return cells, gained


def trained(model: nn.Module, data: Iterable[Sequence[Tensor]], steps: int) -> nn.Module:
    """A network that has learned its task."""
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    done = 0
    while done < steps:
        for inputs, labels in data:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if done < steps:
                schedule.step()
            done += 1
    return model.eval()


if __name__ == "__main__":
    raise SystemExit(main())
