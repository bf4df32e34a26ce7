"""Fig. 4: what networks find in images, in float32 beside the plans of 16 and 8 bits.

The plans are those of Table 3, found and measured as there. A row for each image.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from bitq.files import write_atomically
from bitq.pictures import pictures
from bitq.progress import Listener
from bitq.tradeoff.search import search
from bitq.tradeoff.study import Study
from evaluation.accuracies import ORIGINAL
from evaluation.rows import NOT_MEASURED, Result, Rows, write_table
from evaluation.trained import TRAINED, Amount, study_of
from subjects import MissingError

NETWORKS = ("espnet", "yolov8n", "yolov5n_seg")
COLUMNS = {"BitQ16": 16, "BitQ8": 8}
GAP, CAPTION = 6, 22
"""Pixels between pictures, and of a caption."""

VERSION = 1


def options(parser: argparse.ArgumentParser) -> None:
    """Add this figure's own options."""
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="all by default")
    parser.add_argument("--count", type=int, default=3, help="of images that are drawn (default: 3)")
    Amount.options(parser)


def run(options: argparse.Namespace, folder: Path, listener: Listener) -> None:
    """Compute what is asked for and not there, and write the table, and a picture of each network that is."""
    rows, amount = Rows(folder / "rows"), Amount.given(options)
    lines = []
    for name in options.networks:
        found: dict[str, Result] = {}
        drawn: dict[str, tuple[bytes, ...]] = {}
        try:
            for column, bits in COLUMNS.items():
                with study_of(name, bits, amount, folder.parent, listener) as (study, _):
                    config = {"figure": 4, "version": VERSION, "network": name, "bits": bits, **amount.of(name)}
                    both = rows.once(config, lambda own=study: _reached(own))
                    found |= {ORIGINAL: both["float32"], column: both["plan"]}
                    drawn |= _drawn(study, column, options.count)
        except MissingError as error:
            listener.note(f"{name} is skipped: {error}")
        else:
            place = folder / f"fig4-{name}.png"
            write_atomically(place, _beside(drawn))
            print(place)
        reached = (found.get(each) for each in (ORIGINAL, *COLUMNS))
        told = (f"{100 * each['accuracy']:.2f}" if each else NOT_MEASURED for each in reached)
        lines.append([TRAINED[name].name, f"{TRAINED[name].metric}, %", *told])
    notes = [*amount.told(options.networks), "the paper shows images, and says that there is no significant difference"]
    write_table(folder, "fig4", ("network", "", ORIGINAL, *COLUMNS), lines, notes)


def _reached(study: Study) -> Result:
    measured = search(study).best.measured
    return {"float32": {"accuracy": study.float_accuracy.test}, "plan": {"accuracy": measured.test}}


def _drawn(study: Study, column: str, count: int) -> dict[str, tuple[bytes, ...]]:
    """What the float network and the best plan's find in the first test images, as JPEG files."""
    subject = study.subject
    networks = {ORIGINAL: subject.model.eval(), column: study.load_finetuned(search(study).best.plan)}
    return {
        name: pictures(network, subject.data.test, subject.task.metric, count) for name, network in networks.items()
    }


def _beside(columns: dict[str, Sequence[bytes]]) -> bytes:
    """A PNG file of pictures in columns, each with its caption."""
    opened = {name: [Image.open(io.BytesIO(each)) for each in column] for name, column in columns.items()}
    sizes = [each.size for own in opened.values() for each in own]
    width, height = map(max, zip(*sizes, strict=True))
    rows = max(map(len, opened.values()))
    size = len(opened) * (width + GAP) - GAP, CAPTION + rows * (height + GAP) - GAP
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for across, (name, own) in enumerate(opened.items()):
        left = across * (width + GAP)
        draw.text((left, 2), name, fill="black", font_size=CAPTION - 6)
        for down, each in enumerate(own):
            sheet.paste(each, (left, CAPTION + down * (height + GAP)))
    content = io.BytesIO()
    sheet.save(content, "PNG")
    return content.getvalue()
