"""Table 3: accuracy of networks with weights in the formats of the paper's seven columns, and in four it has not.

DBPS-like, FlexBlock, FAST and BSFP are `bitq.tradeoff.rules`, as rivals of 16 and 8 bits as in the paper; of each two
plans are measured, and that of least O on validation data counts, for BitQ as for them. Beside them stand int8 and
mxint8 for all tensors, as they are, and the best format of each grid for all tensors, by O on validation data, of those
that the search for BitQ's plan has measured. Each method is a result of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import altair as alt

from bitq.errors import BitqError
from bitq.progress import Listener
from bitq.tracing import Traced
from bitq.tradeoff.alternatives import alternatives
from bitq.tradeoff.compare import study_of as proposing
from bitq.tradeoff.records import Measurement
from bitq.tradeoff.rules import Called, rules_of
from bitq.tradeoff.search import search
from bitq.tradeoff.study import Study
from evaluation.rows import NOT_MEASURED, Result, Rows, write_picture, write_table
from evaluation.trained import TRAINED, Amount, study_of
from subjects import MissingError

ORIGINAL, BEST_UNIFORM = "Original", "uniform"
KNOWN = ("int8", "mxint8")
"""Formats that people know, beside either grid."""

RULES = {
    "uniform 16-bit": (16, BEST_UNIFORM),
    "DBPS-like": (16, "dbps-like"),
    "FlexBlock": (16, "flexblock"),
    "BitQ16": (16, "bitq"),
    "uniform 8-bit": (8, BEST_UNIFORM),
    "FAST": (8, "fast"),
    "BSFP": (8, "bsfp"),
    "BitQ8": (8, "bitq"),
}
"""By method, the bits of the grid that it stands beside, and its rule."""

METHODS = (ORIGINAL, *KNOWN, *RULES)
PLANS = 2
IN_PAPER = (ORIGINAL, "DBPS-like", "FlexBlock", "BitQ16", "FAST", "BSFP", "BitQ8")
CLAIMED = {
    "ResNet-18": (69.70, 68.42, 68.29, 69.83, 68.52, 69.67, 69.71),
    "ECA-MobileNetV2": (72.56, 68.93, 70.25, 70.85, 70.15, 69.63, 69.85),
    "YOLOv8_O": (37.30, 36.71, 36.28, 36.78, 36.36, 36.47, 36.50),
    "YOLOv8_I": (30.50, 30.03, 29.99, 30.19, 29.76, 29.88, 29.86),
}
"""Of the paper's Table 3 what comes near to a network that is measured here, in %, as `IN_PAPER`."""

VERSION = 2


def options(parser: argparse.ArgumentParser) -> None:
    """Add this table's own options."""
    parser.add_argument("--networks", nargs="+", choices=TRAINED, default=list(TRAINED), help="all by default")
    parser.add_argument("--methods", nargs="+", choices=RULES, default=list(RULES), help="all by default")
    Amount.options(parser)


def run(options: argparse.Namespace, folder: Path, listener: Listener) -> None:
    """Compute what is asked for and not there, and write the table and the picture of all that is."""
    rows, amount = Rows(folder / "rows"), Amount.given(options)
    for name in options.networks:
        try:
            for bits in dict.fromkeys(RULES[method][0] for method in options.methods):
                wanted = [method for method in options.methods if RULES[method][0] == bits]
                _measure(rows, name, bits, wanted, amount, folder.parent, listener)
        except MissingError as error:
            listener.note(f"{name} is skipped: {error}")
    _write(rows, folder, amount)


def _config(name: str, method: str, amount: Amount) -> Result:
    return {"table": 3, "version": VERSION, "network": name, "method": method, **amount.of(name)}


def _measure(
    rows: Rows, name: str, bits: int, methods: Sequence[str], amount: Amount, folder: Path, listener: Listener
) -> None:
    """Add to the rows those of a network and of methods beside one grid that are missing."""
    if all(rows.known(_config(name, method, amount)) for method in (ORIGINAL, *KNOWN, *methods)):
        return
    rules = rules_of(",".join(RULES[method][1] for method in methods))
    with study_of(name, bits, amount, folder, listener) as (study, traced):
        rows.once(_config(name, ORIGINAL, amount), lambda: _original(study))
        for method in KNOWN:
            rows.once(_config(name, method, amount), lambda own=method: _as_it_is(study, own))
        for method, called in zip(methods, rules, strict=True):
            listener.note(f"{TRAINED[name].name}: {method}")
            rows.once(_config(name, method, amount), lambda own=called: _reached(study, traced, own))


def _original(study: Study) -> Result:
    return {"accuracy": study.float_accuracy.test, "energy_pj": study.space.float_cost.energy_pj}


def _as_it_is(study: Study, name: str) -> Result:
    (row,) = alternatives(study, (name,))
    return {"accuracy": row.accuracy, "energy_pj": row.energy_pj}


def _reached(study: Study, traced: Traced, called: Called) -> Result:
    """What a rule's plan of least O on validation data has on test data, or why it cannot run.

    Formats that a rule brings keep their signs, as the paper's have them.
    """
    if called.label == BEST_UNIFORM:
        best = search(study).best_uniform
        return {"reason": "no format suits all tensors"} if best is None else _told_of(best.measured)
    try:
        brought = called.rule.brings(study.space.offered)
        own = study if brought is None else proposing(study, traced, brought)
        found = called.rule.proposals(own, called.label, PLANS)
    except BitqError as error:
        return {"reason": str(error)}
    measured = [each for _, each in own.measured(found.plans)]
    return _told_of(
        min(measured, key=lambda each: (study.objective(each.validation, each.movement_bits), each.label))
    )


def _told_of(found: Measurement) -> Result:
    return {"plan": found.label, "accuracy": found.test, "energy_pj": found.energy_pj}


def _write(rows: Rows, folder: Path, amount: Amount) -> None:
    lines, data = [], []
    for name, own in TRAINED.items():
        known = {method: rows.known(_config(name, method, amount)) for method in METHODS}
        plain = known[ORIGINAL]
        lines.append([own.name, f"{own.metric}, %", *(_told(found) for found in known.values())])
        lines.append(["", "energy over Original's", *(_energy(found, plain) for found in known.values())])
        if own.nearest:
            claimed = dict(zip(IN_PAPER, CLAIMED[own.nearest], strict=True))
            told = (f"{claimed[method]:.2f}" if method in claimed else "" for method in METHODS)
            lines.append(["", f"the paper's {own.nearest}, %", *told])
        data += [
            {"network": own.name, "method": method, "accuracy": 100 * found["accuracy"]}
            for method, found in known.items()
            if found and "accuracy" in found
        ]
    notes = [
        *amount.told(TRAINED),
        f"each rival's better of {PLANS} plans, BitQ's best and the best uniform format, by O on what is chosen by; "
        f"{' and '.join(KNOWN)} as they are",
        NOT_MEASURED + ": `python benchmarks/paper.py table3 --networks NAME` measures it",
    ]
    write_table(folder, "table3", ("network", "", *METHODS), lines, notes)
    bars = (
        alt.Chart(alt.Data(values=data))
        .mark_bar()
        .encode(
            x=alt.X("method:N", sort=METHODS, title=None),
            y=alt.Y("accuracy:Q", title="%"),
        )
        .properties(width=150, height=130)
    )
    write_picture(folder, "table3", bars.facet(alt.Facet("network:N", title=None), columns=5), bool(data))


def _told(found: Result | None) -> str:
    if found is None:
        return NOT_MEASURED
    return f"{100 * found['accuracy']:.2f}" if "accuracy" in found else "cannot run"


def _energy(found: Result | None, plain: Result | None) -> str:
    if found is None or plain is None or "energy_pj" not in found:
        return NOT_MEASURED
    return f"{found['energy_pj'] / plain['energy_pj']:.3f}"
