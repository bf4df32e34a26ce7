"""Table 3: accuracy of networks with weights in the formats of the paper's seven columns.

DBPS-like, FlexBlock, FAST and BSFP are `bitq.tradeoff.rules`, as rivals of 16 and 8 bits as in the paper; of each two
plans are measured, and that of least O on validation data counts, for BitQ as for them. Each method is a result of its
own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import altair as alt

from bitq.errors import BitqError
from bitq.progress import Listener
from bitq.tracing import Traced
from bitq.tradeoff.compare import study_of as proposing
from bitq.tradeoff.rules import Called, rules_of
from bitq.tradeoff.study import Study
from evaluation.rows import NOT_MEASURED, Result, Rows, write_picture, write_table
from evaluation.trained import TRAINED, Amount, study_of
from subjects import MissingError

ORIGINAL = "Original"
RULES = {
    "DBPS-like": (16, "dbps-like"),
    "FlexBlock": (16, "flexblock"),
    "BitQ16": (16, "bitq"),
    "FAST": (8, "fast"),
    "BSFP": (8, "bsfp"),
    "BitQ8": (8, "bitq"),
}
"""By method, the bits of the grid that it stands beside, and its rule."""

METHODS = (ORIGINAL, *RULES)
PLANS = 2
CLAIMED = {
    "ResNet-18": (69.70, 68.42, 68.29, 69.83, 68.52, 69.67, 69.71),
    "ECA-MobileNetV2": (72.56, 68.93, 70.25, 70.85, 70.15, 69.63, 69.85),
    "YOLOv8_O": (37.30, 36.71, 36.28, 36.78, 36.36, 36.47, 36.50),
    "YOLOv8_I": (30.50, 30.03, 29.99, 30.19, 29.76, 29.88, 29.86),
}
"""Of the paper's Table 3 what comes near to a network that is measured here, in %; Original first."""

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
    if all(rows.known(_config(name, method, amount)) for method in (ORIGINAL, *methods)):
        return
    rules = rules_of(",".join(RULES[method][1] for method in methods))
    with study_of(name, bits, amount, folder, listener) as (study, traced):
        for method, called in zip(methods, rules, strict=True):
            listener.note(f"{TRAINED[name].name}: {method}")
            rows.once(_config(name, method, amount), lambda own=called: _reached(study, traced, own))
        rows.once(_config(name, ORIGINAL, amount), lambda: _original(study))


def _original(study: Study) -> Result:
    return {"accuracy": study.float_accuracy.test, "energy_pj": study.space.float_cost.energy_pj}


def _reached(study: Study, traced: Traced, called: Called) -> Result:
    """What a rule's plan of least O on validation data has on test data, or why it cannot run.

    Formats that a rule brings keep their signs, as the paper's have them.
    """
    try:
        brought = called.rule.brings(study.space.offered)
        own = study if brought is None else proposing(study, traced, brought)
        found = called.rule.proposals(own, called.label, PLANS)
    except BitqError as error:
        return {"reason": str(error)}
    measured = [each for _, each in own.measured(found.plans)]
    best = min(measured, key=lambda each: (study.objective(each.validation, each.movement_bits), each.label))
    return {"plan": best.label, "accuracy": best.test, "energy_pj": best.energy_pj}


def _write(rows: Rows, folder: Path, amount: Amount) -> None:
    lines, data = [], []
    for name, own in TRAINED.items():
        known = {method: rows.known(_config(name, method, amount)) for method in METHODS}
        plain = known[ORIGINAL]
        lines.append([own.name, f"{own.metric}, %", *(_told(found) for found in known.values())])
        lines.append(["", "energy over Original's", *(_energy(found, plain) for found in known.values())])
        if own.nearest:
            lines.append(["", f"the paper's {own.nearest}, %", *(f"{value:.2f}" for value in CLAIMED[own.nearest])])
        data += [
            {"network": own.name, "method": method, "accuracy": 100 * found["accuracy"]}
            for method, found in known.items()
            if found and "accuracy" in found
        ]
    notes = [
        *amount.told(TRAINED),
        f"each method's better of {PLANS} plans by O on what is chosen by",
        NOT_MEASURED + ": `python benchmarks/paper.py table3 --networks NAME` measures it",
    ]
    write_table(folder, "table3", ("network", "", *METHODS), lines, notes)
    bars = (
        alt.Chart(alt.Data(values=data))
        .mark_bar()
        .encode(
            x=alt.X("method:N", sort=METHODS, title=None),
            y=alt.Y("accuracy:Q", title="%"),
            color=alt.Color("method:N", sort=METHODS, legend=None),
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
