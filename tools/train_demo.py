"""Train the demo network and write the demo's data: everything under src/bitq/demo/data but the licence text.

    apt-get install dataset-fashion-mnist
    python tools/train_demo.py                  # ten minutes on two cores; replaces the files in the package
    python tools/train_demo.py --holdout 5000   # judges a recipe by held-out training images; writes nothing

The package's validation images are left out of the training. The test images are looked at once, after the last step;
recipes are compared with --holdout only.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from bitq.demo import CHECKPOINT, COUNTS, DATA, archives, validation_part
from bitq.demo.fashion import CLASSES, encode_idx, normalize, read_split
from bitq.demo.resnet8 import resnet8
from bitq.errors import BitqError

SOURCE = Path("/usr/share/datasets/fashion-mnist")
BATCH, RATE, DECAY, SHIFT = 128, 0.2, 5e-4, 1  # images, peak learning rate, weight decay, pixels


def main() -> int:
    """Read the source, train, measure, write; 0, or 2 on a user's mistake."""
    options = parse_options()
    try:
        images, labels = read_source(options.source, "train", 60_000)
        test_images, test_labels = read_source(options.source, "t10k", 10_000)
    except BitqError as error:
        print(f"{error}; install the Debian package dataset-fashion-mnist or give --source", file=sys.stderr)
        return 2
    torch.manual_seed(options.seed)
    if options.holdout:
        model = train(images[: -options.holdout], labels[: -options.holdout], options.epochs)
        share = accuracy(model, images[-options.holdout :], labels[-options.holdout :])
        print(f"accuracy on {options.holdout} held-out training images: {share:.4f}")
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    kept = first_of_each_class(labels, COUNTS["train"] // len(CLASSES))
    write_split(options.out, "train", images[kept], labels[kept])
    write_split(options.out, "test", test_images, test_labels)
    unseen = kept[validation_part(labels[kept])]  # plans are chosen by these
    seen = torch.ones(len(labels), dtype=torch.bool)
    seen[unseen] = False
    model = train(images[seen], labels[seen], options.epochs)
    share = accuracy(model, test_images, test_labels)
    print(f"accuracy on the {len(test_labels)} test images: {share:.4f}")
    facts = {"accuracy": f"{share:.4f}", "epochs": str(options.epochs), "seed": str(options.seed)}
    write_model(options.out, model, facts)
    return 0


def parse_options() -> argparse.Namespace:
    """The command line."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    add = parser.add_argument
    add("--source", type=Path, default=SOURCE, help=f"folder of the four .gz files (default: {SOURCE})")
    add("--out", type=Path, default=DATA, help="folder to write (default: the package's own)")
    add("--epochs", type=int, default=40, help="passes over the training images (default: 40)")
    add("--seed", type=int, default=0, help="of weights, order and augmentation (default: 0)")
    add("--holdout", type=int, default=0, metavar="N", help="keep the last N training images to judge by")
    return parser.parse_args()


def first_of_each_class(labels: Tensor, count: int) -> Tensor:
    """Indices of the first `count` items of every class, ascending."""
    return torch.cat([(labels == c).nonzero()[:count, 0] for c in range(len(CLASSES))]).sort().values


def read_source(folder: Path, split: str, count: int) -> tuple[Tensor, Tensor]:
    """Images uint8 [count, 28, 28] and labels int64 [count] of "train" or "t10k", the source's names."""
    images, labels = folder / f"{split}-images-idx3-ubyte.gz", folder / f"{split}-labels-idx1-ubyte.gz"
    return read_split(images, labels, count)


def train(images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """A network trained with SGD and a one-cycle rate on randomly shifted and mirrored images."""
    model = resnet8().to(memory_format=torch.channels_last).train()
    steps = len(images) // BATCH
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, nesterov=True, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * steps)
    windows = pad(images, [SHIFT] * 4).unfold(1, 28, 1).unfold(2, 28, 1)  # [image, down, right, 28, 28]
    start = time.monotonic()
    for epoch in range(1, epochs + 1):
        total = 0.0
        for chosen in torch.randperm(len(images))[: steps * BATCH].split(BATCH):
            down, right = torch.randint(2 * SHIFT + 1, (2, BATCH))
            batch = windows[chosen, down, right]
            batch = torch.where(torch.rand(BATCH, 1, 1) < 0.5, batch, batch.flip(2))
            loss = cross_entropy(model(normalize(batch)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.monotonic() - start
        print(f"epoch {epoch}/{epochs}: loss {total / steps:.4f}, {seconds:.0f} s", file=sys.stderr)
    return model.eval()


@torch.inference_mode()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the images whose largest logit is their label's."""
    answers = [model(batch).argmax(1) for batch in normalize(images).split(500)]
    return (torch.cat(answers) == labels).double().mean().item()


def write_model(folder: Path, model: nn.Module, facts: dict[str, str]) -> None:
    """The checkpoint, with the facts as its metadata."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write(folder / CHECKPOINT, safetensors.torch.save(tensors, facts))


def write_split(folder: Path, split: str, images: Tensor, labels: Tensor) -> None:
    """The two archives of one split."""
    for path, values in zip(archives(folder, split), (images, labels.byte()), strict=True):
        write(path, encode_idx(values))


def write(path: Path, content: bytes) -> None:
    """Replace a file in one step, so that an interrupted run leaves the old one."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)
    print(f"{path}: {len(content)} bytes", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
