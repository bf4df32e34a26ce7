"""Fig. 6: accuracy and energy for the paper's seven weights of movement, on networks with weights.

Every weight is a search of its own, on the same scores and measurements. Energy is that of the plan of least O over
that at the least weight, times 100, as in the paper.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import altair as alt

from bitq.progress import Listener
from bitq.tradeoff.search import search
from bitq.tradeoff.study import Study
from evaluation.rows import NOT_MEASURED, Result, Rows, write_picture, write_table
from evaluation.trained import TRAINED, Amount, study_of
from subjects import MissingError

ALPHAS = (0.015, 0.05, 0.15, 0.2, 0.25, 1.5, 3.0)
BITS = (16, 8)
VERSION = 2


def options(parser: argparse.ArgumentParser) -> None:
    """Add this figure's own options."""
    parser.add_argument("--networks", nargs="+", choices=TRAINED, default=["resnet20"], help="default: resnet20")
    parser.add_argument("--bits", type=int, nargs="+", choices=BITS, default=BITS, help="to compute; both by default")
    Amount.options(parser)


def run(options: argparse.Namespace, folder: Path, listener: Listener) -> None:
    """Compute what is asked for and not there, and write the table and the picture of it."""
    rows, amount = Rows(folder / "rows"), Amount.given(options)
    for name in options.networks:
        for bits in options.bits:
            missing = [alpha for alpha in ALPHAS if rows.known(_config(name, bits, amount, alpha)) is None]
            if not missing:
                continue
            try:
                with study_of(name, bits, amount, folder.parent, listener) as (study, _):
                    for alpha in missing:
                        config = _config(name, bits, amount, alpha)
                        rows.once(config, lambda alpha=alpha, own=study: _found(own, alpha))
            except MissingError as error:
                listener.note(f"{name} is skipped: {error}")
    _write(rows, folder, options.networks, amount)


def _config(name: str, bits: int, amount: Amount, alpha: float) -> Result:
    return {"figure": 6, "version": VERSION, "network": name, "bits": bits, "alpha": alpha, **amount.of(name)}


def _found(study: Study, alpha: float) -> Result:
    best = search(replace(study, settings=replace(study.settings, alpha=alpha))).best
    measured = best.measured
    return {
        "plan": best.plan.label,
        "accuracy": measured.test,
        "float32": study.float_accuracy.test,
        "energy_pj": measured.energy_pj,
        "float32_pj": study.space.float_cost.energy_pj,
    }


def _write(rows: Rows, folder: Path, networks: Sequence[str], amount: Amount) -> None:
    lines, data = [], []
    for name in networks:
        for bits in BITS:
            found = {alpha: rows.known(_config(name, bits, amount, alpha)) for alpha in ALPHAS}
            first = found[ALPHAS[0]]
            for alpha, own in found.items():
                told = [TRAINED[name].name, f"{bits}-bit", f"{alpha:g}"]
                if own is None or first is None:
                    lines.append([*told, *[NOT_MEASURED] * 5])
                    continue
                share = own["energy_pj"] / own["float32_pj"]
                energy = 100 * own["energy_pj"] / first["energy_pj"]
                accuracy, plain = 100 * own["accuracy"], 100 * own["float32"]
                lines.append(
                    [*told, f"{accuracy:.2f}", f"{plain:.2f}", f"{energy:.1f}", f"{share:.3f}", own["plan"]]
                )
                point = {"network": f"{TRAINED[name].name}, {bits}-bit", "alpha": f"{alpha:g}"}
                data += [
                    {**point, "what": "accuracy %", "value": accuracy},
                    {**point, "what": "energy, 100 at 0.015", "value": energy},
                ]
    header = (
        *("network", "", "alpha", "accuracy %", "float32 %", "energy, 100 at 0.015", "of Original", "plan of least O"),
    )
    notes = [
        *amount.told(networks),
        "on the i7-10700F, each layer's tensors stored as in the paper",
        "the paper, of ten networks: energy is the same from 0.05 to 3 (16-bit) or 0.15 to 1.5 (8-bit), accuracy too",
    ]
    write_table(folder, "fig6", header, lines, notes)
    base = alt.Chart(alt.Data(values=data)).mark_line(point=True)
    order = [f"{alpha:g}" for alpha in ALPHAS]
    chart = base.encode(
        x=alt.X("alpha:N", sort=order, title="alpha"),
        y=alt.Y("value:Q", title=None),
        color=alt.Color("what:N", title=None),
    ).properties(width=260, height=180)
    write_picture(folder, "fig6", chart.facet(alt.Facet("network:N", title=None), columns=2), bool(data))
