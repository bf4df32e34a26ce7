"""Table 3: accuracy of networks with weights in the formats of the paper's seven columns.

DBPS-like, FlexBlock, FAST and BSFP are `bitq.tradeoff.rules`, as rivals of 16 and 8 bits as in the paper; of each two
plans are measured, and that of least O on validation data counts, for BitQ as for them.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import altair as alt

from bitq.accuracy.finetune import Training
from bitq.devices import load_device
from bitq.files import RunFolder
from bitq.progress import Listener
from bitq.tradeoff.compare import Contest, Refused, compare
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.rules import rules_of
from bitq.tradeoff.settings import Settings
from evaluation.energy import ALPHA, DEVICE
from evaluation.rows import NOT_MEASURED, Result, Rows, write_picture, write_table
from evaluation.trained import TRAINED
from subjects import MissingError

CLASSES = {16: {"dbps-like": "DBPS-like", "flexblock": "FlexBlock", "bitq": "BitQ16"},
           8: {"fast": "FAST", "bsfp": "BSFP", "bitq": "BitQ8"}}
"""By bits, columns by rule."""

COLUMNS = tuple(column for own in CLASSES.values() for column in own.values())
PLANS = 2
CLAIMED = {
    "ResNet-18": (69.70, 68.42, 68.29, 69.83, 68.52, 69.67, 69.71),
    "ECA-MobileNetV2": (72.56, 68.93, 70.25, 70.85, 70.15, 69.63, 69.85),
    "YOLOv8_O": (37.30, 36.71, 36.28, 36.78, 36.36, 36.47, 36.50),
}
"""Of the paper's Table 3 what comes near to a network that is measured here, in %; Original first."""

VERSION = 1


def options(parser: argparse.ArgumentParser) -> None:
    """Add this table's own options."""
    parser.add_argument("--networks", nargs="+", choices=TRAINED, default=list(TRAINED), help="all by default")
    parser.add_argument("--bits", type=int, nargs="+", choices=CLASSES, default=list(CLASSES), help="default: both")
    parser.add_argument("--steps", type=int, default=0, help="of every fine-tuning; by default nothing is fine-tuned")
    parser.add_argument("--scored", type=int, default=64, help="inputs that tensors are scored on (default: 64)")


def run(options: argparse.Namespace, folder: Path, listener: Listener) -> None:
    """Compute what is asked for and not there, and write the table and the picture of all that is."""
    rows = Rows(folder / "rows")
    for name in options.networks:
        for bits in options.bits:
            try:
                where = RunFolder(folder / f"{name}-{bits}-{options.steps}-{options.scored}")
                config = _config(name, bits, options)
                rows.once(config, lambda own=(name, bits, where): _compared(*own, options, listener))
            except MissingError as error:
                listener.note(f"{name} is skipped: {error}")
    _write(rows, folder, options)


def _config(name: str, bits: int, options: argparse.Namespace) -> Result:
    own = {"network": name, "bits": bits, "steps": options.steps, "scored": options.scored}
    return {"table": 3, "version": VERSION, **own}


def _compared(
    name: str, bits: int, run: RunFolder, options: argparse.Namespace, listener: Listener
) -> Result:
    settings = Settings(alpha=ALPHA, stored="paper", scored_inputs=options.scored)
    tuned = (
        replace(settings, training=Training(options.steps)) if options.steps else replace(settings, without="qat")
    )
    contest = Contest(rules_of(",".join(CLASSES[bits])), PLANS)
    subject = TRAINED[name].make
    device, grid = load_device(DEVICE), FormatSet.grid(bits)
    found = compare(lambda seed: subject(), device, grid, tuned, contest, (0,), run, listener)
    (seed,) = found.seeds
    results = {
        CLASSES[bits][each.label]: {"reason": each.reason}
        if isinstance(each, Refused)
        else {"accuracy": each.row.accuracy, "energy_pj": each.row.energy_pj}
        for each in seed.results
    }
    plain = {"accuracy": seed.float32.accuracy, "energy_pj": seed.float32.energy_pj}
    return {"Original": plain, **results}


def _write(rows: Rows, folder: Path, options: argparse.Namespace) -> None:
    lines, data = [], []
    for name, own in TRAINED.items():
        found: Result = {}
        for bits in CLASSES:
            found |= rows.known(_config(name, bits, options)) or {}
        lines.append([own.name, f"{own.metric}, %", *(_told(found.get(each)) for each in ("Original", *COLUMNS))])
        lines.append(["", "energy over Original's", *(_energy(found, each) for each in ("Original", *COLUMNS))])
        if own.nearest:
            told = [f"{value:.2f}" for value in CLAIMED[own.nearest]]
            lines.append(["", f"the paper's {own.nearest}, %", *told])
        data += [
            {"network": own.name, "method": column, "accuracy": 100 * found[column]["accuracy"]}
            for column in ("Original", *COLUMNS)
            if "accuracy" in found.get(column, {})
        ]
    tuning = f"fine-tuned for {options.steps} steps" if options.steps else "nothing is fine-tuned, unlike in the paper"
    notes = [
        *(f"{own.name}: {own.task}" for own in TRAINED.values()),
        f"{tuning}; tensors scored on {options.scored} inputs at most; each method's better of {PLANS} plans by O",
        NOT_MEASURED + ": `python benchmarks/paper.py table3 --networks NAME` measures it",
    ]
    write_table(folder, "table3", ("network", "", "Original", *COLUMNS), lines, notes)
    bars = (
        alt.Chart(alt.Data(values=data))
        .mark_bar()
        .encode(
            x=alt.X("method:N", sort=["Original", *COLUMNS], title=None),
            y=alt.Y("accuracy:Q", title="%"),
            color=alt.Color("method:N", sort=["Original", *COLUMNS], legend=None),
        )
        .properties(width=150, height=130)
    )
    write_picture(folder, "table3", bars.facet(alt.Facet("network:N", title=None), columns=5), bool(data))


def _told(found: Result | None) -> str:
    if found is None:
        return NOT_MEASURED
    return f"{100 * found['accuracy']:.2f}" if "accuracy" in found else "cannot run"


def _energy(found: Result, column: str) -> str:
    own = found.get(column)
    if own is None or "energy_pj" not in own:
        return NOT_MEASURED
    return f"{own['energy_pj'] / found['Original']['energy_pj']:.3f}"
