"""What exported C gives, compiled here, beside bitq's own emulation; and what it takes beside the plan's count.

    python benchmarks/compiled.py
    python benchmarks/compiled.py --run runs/demo             # a plan of the demo, too
    BITQ_CIFAR10=... BITQ_RESNET20=... python benchmarks/compiled.py --subjects resnet20 --images 500

Each network is calibrated on validation images, given each format for all of its tensors, exported, compiled by
`gcc -O2` and run on test images. `counted` is the memory of activations that a plan counts, `activations` the C's.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from bitq.exporting import export
from bitq.exporting.c99.compiled import outputs
from bitq.exporting.c99.lowering import lowered
from bitq.files import RunFolder
from bitq.movement.widths import widths
from bitq.tracing import record
from bitq.tradeoff.activations import buffers, placed
from bitq.tradeoff.plan import load_plan
from exported import quantized
from instructions import formats_of, lacks, networks_asked_for, planned
from subjects import SUBJECTS, MissingError, Subject, demo

FORMATS = ("int8/int8-tensor", "8:e3:b16", "7:e2:b32", "mxint8")


def main() -> int:
    """A row for each network and format."""
    parser = networks_asked_for(__doc__, FORMATS)
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--images", type=int, default=10_000, help="of the test images, the first (default: 10000)")
    options = parser.parse_args()
    if lacks(("gcc",)):
        return 0
    columns = ("network", "formats", "images", "logits alike", "labels alike", "C, %", "emulated, %", "activations, B")
    print("| " + " | ".join((*columns, "counted, B")) + " |\n|" + " --- |" * (len(columns) + 1))
    if options.run:
        plan = load_plan(RunFolder(options.run).plan)
        row("demo", f"the plan of {options.run}", demo(0), planned(options.run), options.images, plan.totals.ram_bytes)
    for name in options.subjects:
        try:
            subject = SUBJECTS[name](0)
        except MissingError as error:
            print(f"{name}: skipped: {error}", file=sys.stderr)
            continue
        for text in options.formats:
            row(name, text, subject, quantized(subject, formats_of(text)), options.images, counted(subject, text))
    return 0


def counted(subject: Subject, text: str) -> int:
    """Bytes that hold all activations in formats, as a plan counts them."""
    formats, traced = formats_of(text), record(subject.model, subject.example)
    held = buffers(traced.activations, lambda layer, tensor: getattr(widths(layer, formats), tensor))
    return placed(held).peak


def row(name: str, text: str, subject: Subject, model: nn.Module, images: int, plan_bytes: int | None) -> None:
    """Prints it."""
    batches = list(subject.data.test)
    x, y = (torch.cat(each)[:images] for each in zip(*batches, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        handed = export(model, x[:1], Path(folder) / "net", to="c")
        found = torch.from_numpy(outputs(handed.path, lowered(model, x[:1]), x.numpy(), "gcc").copy())
    expected = emulated(model, x)
    alike, labels = float((found == expected).double().mean()), int((found.argmax(1) == expected.argmax(1)).sum())
    right = [f"{100 * float((each.argmax(1) == y).double().mean()):.2f}" for each in (found, expected)]
    cells = (name, text, len(x), f"{alike:.5f}", labels, *right, handed.figures["activation_bytes"], plan_bytes)
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def emulated(model: nn.Module, x: Tensor) -> Tensor:
    """What the network gives here."""
    with torch.inference_mode():
        return torch.cat([model(each) for each in x.split(500)])


if __name__ == "__main__":
    sys.exit(main())
