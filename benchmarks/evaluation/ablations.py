"""Table 4: what BitQ is without fine-tuning, without movement, and without the trade-off.

Energy of ResNet-18 at the size of ImageNet, whose weights cannot be had: plans by scores of normal numbers. Accuracy
and energy of a CIFAR-10 ResNet-20, plans by its own scores. The ablations are the paper's, as we read them: without QAT
the plan of the least movement, as it is ("selecting quantization parameters solely based on DM size"); without the
expression of movement the plan of the least scores; without the trade-off the plan of the front that is nearest to the
least of both scores and movement, each as a share of its range ("using a Pareto optimal solution").
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import hypot
from pathlib import Path

import altair as alt

from bitq.devices import load_device
from bitq.formats import grid
from bitq.progress import Listener
from bitq.tradeoff.allocate import FrontPoint, front
from bitq.tradeoff.search import search
from bitq.tradeoff.space import Choices, energy_pj
from bitq.tradeoff.study import Proposed, Study
from evaluation import gaussian
from evaluation.energy import ALPHA, DEVICE, Shapes
from evaluation.pairs import PAIRS
from evaluation.rows import NOT_MEASURED, Result, Rows, write_picture, write_table
from evaluation.trained import Amount, study_of
from subjects import MissingError

BITS = (16, 8)
CLAIMED = {
    "BitQ": {16: (69.83, 0.143), 8: (69.71, 0.119)},
    "w/o QAT": {16: (66.82, 0.121), 8: (31.74, 0.066)},
    "w/o DM expression": {16: (69.84, 0.197), 8: (69.73, 0.142)},
    "w/o trade-off": {16: (69.43, 0.175), 8: (68.84, 0.136)},
}
"""The paper's Table 4: accuracy of ResNet-18 in %, energy in J."""

VERSION = 2
NETWORK = "resnet20"


def options(parser: argparse.ArgumentParser) -> None:
    """Add this table's own options."""
    parser.add_argument("--bits", type=int, nargs="+", choices=BITS, default=BITS, help="to compute; both by default")
    Amount.options(parser, 1000)
    parser.add_argument("--without-accuracy", action="store_true", help="compute the energy of ResNet-18 alone")


def run(options: argparse.Namespace, folder: Path, listener: Listener) -> None:
    """Compute what is asked for and not there, and write the table and the picture of all that is."""
    rows, amount = Rows(folder / "rows"), Amount.given(options)
    for bits in options.bits:
        rows.once(_energy_config(bits), lambda bits=bits: _energy(bits, listener))
        missing = [name for name in CLAIMED if rows.known(_config(name, bits, amount)) is None]
        if options.without_accuracy or not missing:
            continue
        try:
            with study_of(NETWORK, bits, amount, folder.parent, listener) as (study, _):
                for name in missing:
                    rows.once(_config(name, bits, amount), lambda own=(study, name): _accuracy(*own))
        except MissingError as error:
            listener.note(f"accuracy is skipped: {error}")
    _write(rows, folder, amount)


def ablated(points: Sequence[FrontPoint]) -> dict[str, Choices]:
    """The plans of the three ablations, from a front of the most movement first."""
    most, least = points[0], points[-1]

    def far(point: FrontPoint) -> float:
        lost = (point.lost - most.lost) / max(least.lost - most.lost, 1e-300)
        moved = (point.movement_bits - least.movement_bits) / max(most.movement_bits - least.movement_bits, 1e-300)
        return hypot(lost, moved)

    plans = {"w/o QAT": least, "w/o DM expression": most, "w/o trade-off": min(points, key=far)}
    return {name: point.choices for name, point in plans.items()}


def _energy_config(bits: int) -> Result:
    return {"table": 4, "version": VERSION, "what": "energy", "bits": bits}


def _config(name: str, bits: int, amount: Amount) -> Result:
    return {"table": 4, "version": VERSION, "method": name, "bits": bits, **amount.of(NETWORK)}


def _energy(bits: int, listener: Listener) -> Result:
    """By ablation, energy over Original's of ResNet-18."""
    (pair,) = (pair for pair in PAIRS if pair.name == "ResNet-18")
    space, formats = Shapes(pair, load_device(DEVICE), listener).ends(bits), grid(bits)
    points = gaussian.front(space, formats)
    plans = {"BitQ": gaussian.least_objective(points, ALPHA, space.movement_max), **ablated(points)}
    found = {
        name: {"energy_pj": energy_pj(space.device, gaussian.level_bits(space, formats, plan))}
        for name, plan in plans.items()
    }
    return {**found, "float32": {"energy_pj": space.float_cost.energy_pj}}


def _accuracy(study: Study, name: str) -> Result:
    """Accuracy on test data and energy of BitQ or of an ablation, and float32's."""
    if name == "BitQ":
        found = search(study).best.measured
    else:
        choices = ablated(front(study.space, study.scores))[name]
        ((_, found),) = study.measured([Proposed(name, choices, "other", tune=name != "w/o QAT")])
    return {
        "accuracy": found.test,
        "energy_pj": found.energy_pj,
        "float32": {"accuracy": study.float_accuracy.test, "energy_pj": study.space.float_cost.energy_pj},
    }


def _write(rows: Rows, folder: Path, amount: Amount) -> None:
    energies = {bits: rows.known(_energy_config(bits)) for bits in BITS}
    measured = {bits: _together(rows, bits, amount) for bits in BITS}
    lines = []
    for bits in BITS:
        for name, claims in CLAIMED.items():
            accuracy, joules = claims[bits]
            own, small = energies[bits], measured[bits]
            lines.append(
                [
                    f"{bits}-bit",
                    name,
                    f"{accuracy:.2f}",
                    f"{joules:.3f}",
                    f"{joules / CLAIMED['BitQ'][bits][1]:.2f}",
                    *_told(own, name),
                    f"{100 * small[name]['accuracy']:.2f}" if name in small else NOT_MEASURED,
                    *_told(small, name),
                ]
            )
    header = (
        *("", "method", "paper: %", "paper: J", "paper: of BitQ"),
        *("ResNet-18: mJ", "of BitQ", "of Original"),
        *("ResNet-20: %", "mJ", "of BitQ", "of Original"),
    )
    floats = [each["float32"] for each in measured.values() if "float32" in each]
    notes = [
        "ResNet-18: an image of 224 x 224, plans by scores of normal numbers",
        *amount.told([NETWORK]),
        *(f"float32: {100 * each['accuracy']:.2f} %" for each in floats[:1]),
        "energy of an image's data movement on the i7-10700F; the paper does not say of how many images its joules are",
        "the paper's BitQ8 takes 0.119 / 0.143 = 0.83 of its BitQ16, where its text says 0.30",
    ]
    write_table(folder, "table4", header, lines, notes)
    data = [
        {"bits": f"{bits}-bit", "method": name, "of": which, "energy": value}
        for bits in BITS
        for name in CLAIMED
        for which, value in (
            ("paper", CLAIMED[name][bits][1] / CLAIMED["BitQ"][bits][1]),
            ("ResNet-18", _over(energies[bits], name)),
            ("ResNet-20", _over(measured[bits], name)),
        )
        if value is not None
    ]
    bars = (
        alt.Chart(alt.Data(values=data))
        .mark_bar()
        .encode(
            x=alt.X("method:N", sort=list(CLAIMED), title=None),
            xOffset="of:N",
            y=alt.Y("energy:Q", title="energy over BitQ's"),
            color=alt.Color("of:N", title=None),
        )
        .properties(width=260, height=160)
    )
    write_picture(folder, "table4", bars.facet(alt.Facet("bits:N", sort=["16-bit", "8-bit"], title=None)))


def _together(rows: Rows, bits: int, amount: Amount) -> Result:
    """What is known of ResNet-20 by method, and of its float network."""
    known = {name: rows.known(_config(name, bits, amount)) for name in CLAIMED}
    found = {name: each for name, each in known.items() if each is not None}
    plain = next((each["float32"] for each in found.values()), None)
    return found if plain is None else {**found, "float32": plain}


def _over(found: Result | None, name: str, other: str = "BitQ") -> float | None:
    if found is None or name not in found or other not in found:
        return None
    share: float = found[name]["energy_pj"] / found[other]["energy_pj"]
    return share


def _told(found: Result | None, name: str) -> list[str]:
    """Energy in mJ, over BitQ's and over Original's."""
    if found is None or name not in found:
        return [NOT_MEASURED] * 3
    shares = (_over(found, name), _over(found, name, "float32"))
    told = (NOT_MEASURED if share is None else f"{share:.3f}" for share in shares)
    return [f"{found[name]['energy_pj'] / 1e9:.4f}", *told]
