"""Fig. 5: energy of the paper's ten pairs in the formats of seven methods, as a share of that in 32-bit floats.

Movement is exact, on the paper's device. The rivals' formats are fixed, in the paper's class of bits, so that no
weights are needed: DBPS-like 8 bits of mantissa in blocks of 16, FlexBlock FB16, FAST 4 bits everywhere, BSFP (2, 2)
on MSFP16. BitQ's plans are of Table 2's grid at alpha 0.2, each tensor in a format of its own, by scores of normal
numbers. Beside each stands what all tensors take in the narrowest and in the widest format of the grid.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Collection, Sequence
from math import exp, log
from pathlib import Path
from statistics import fmean

import altair as alt
import torch
from torch import nn

from bitq.accuracy.storing import with_products
from bitq.devices import Device, load_device
from bitq.formats import Choosable, grid
from bitq.progress import Listener
from bitq.tracing import Traced, record
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.measure import Data, Subject, Task
from bitq.tradeoff.records import Cost
from bitq.tradeoff.rules import RULES
from bitq.tradeoff.rules.assigned import FLOAT32, chosen, first_convolution, last_linear, shortcuts
from bitq.tradeoff.settings import Settings
from bitq.tradeoff.space import Space, energy_pj, space_of
from bitq.tradeoff.stored import tied, ties
from bitq.tradeoff.study import Study
from evaluation import gaussian
from evaluation.pairs import CLAIMED, CLAIMED_OF_EIGHT, PAIRS, Pair
from evaluation.rows import NOT_MEASURED, Result, Rows, write_picture, write_table

DEVICE = "i7-10700f"
ALPHA = 0.2
BITQ = {"BitQ16": 16, "BitQ8": 8}
COLUMNS = ("Original", "DBPS-like", "FlexBlock", "BitQ16", "FAST", "BSFP", "BitQ8")
VERSION = 5
"""Of the rows: another one where the numbers would differ."""

Floating = Callable[[Study], Collection[int]]


def _none(study: Study) -> set[int]:
    return set()


def _ends(study: Study) -> set[int]:
    return {0, len(study.space.modules) - 1}


def _of_flexblock(study: Study) -> set[int]:
    return first_convolution(study) | shortcuts(study) | last_linear(study)


RIVALS: dict[str, tuple[str, str, str, Floating]] = {
    "DBPS-like": ("dbps-like", "16:e8:b16", "16:e8:b16", _ends),
    "FlexBlock": ("flexblock", "s8:e8m0:b12p3:toward_zero", "s8:e8m0:b12p3:toward_zero", _of_flexblock),
    "FAST": ("fast", "8:e3:v16", "8:e3:v16", _none),
    "BSFP": ("bsfp", "msfp16", "bsfp", _none),
}
"""Rule, formats of activations and of weights, and which modules stay float."""


def options(parser: argparse.ArgumentParser) -> None:
    """Add this figure's own options."""
    names = [pair.name for pair in PAIRS]
    parser.add_argument("--pairs", nargs="+", choices=names, default=names, help="to compute; all by default")
    parser.add_argument("--columns", nargs="+", choices=COLUMNS[1:], default=COLUMNS[1:], help="to compute")


def run(options: argparse.Namespace, folder: Path, listener: Listener) -> None:
    """Compute what is asked for and not there, and write the table and the picture of all that is."""
    rows = Rows(folder / "rows")
    for pair in PAIRS:
        wanted = [name for name in options.columns if pair.name in options.pairs]
        missing = [name for name in wanted if rows.known(_config(pair, name)) is None]
        if missing:
            traced = Shapes(pair, load_device(DEVICE), listener)
            for name in missing:
                rows.once(_config(pair, name), lambda name=name, own=traced: own.row(name))
                listener.note(f"{pair.name}: {name} is done")
    _write(rows, folder)


def _config(pair: Pair, column: str) -> Result:
    return {"figure": 5, "version": VERSION, "pair": pair.name, "shape": pair.shape, "column": column}


class Shapes:
    """A network without numbers, traced."""

    def __init__(self, pair: Pair, device: Device, listener: Listener) -> None:
        self._pair, self._device, self._listener = pair, device, listener
        with torch.device("meta"):
            model = pair.make().eval()
            self._traced: Traced = record(model, torch.empty(pair.shape))
        self._model: nn.Module = with_products(model, self._traced.products)

    def row(self, column: str) -> Result:
        """What a method's formats take, beside 32-bit floats."""
        start = time.perf_counter()
        space, cost, told = self._planned(BITQ[column]) if column in BITQ else self._rival(column)
        own = {"energy_pj": cost.energy_pj, "dram_bits": cost.dram_bits, "on_chip_bits": cost.on_chip_bits}
        plain = space.float_cost
        float32 = {"energy_pj": plain.energy_pj, "dram_bits": plain.dram_bits, "on_chip_bits": plain.on_chip_bits}
        return {"own": own, "float32": float32, **told, "seconds": time.perf_counter() - start}

    def space(self, offered: FormatSet) -> Space:
        """All its plans in some formats, each tensor of each layer in one of its own."""
        return space_of(self._model, self._traced.layers, self._device, offered, self._listener.step)

    def ends(self, bits: int) -> Space:
        """The plans of the narrowest and the widest formats of Table 2's grid."""
        return self.space(FormatSet(gaussian.ends(grid(bits))))

    def _planned(self, bits: int) -> tuple[Space, Cost, Result]:
        space, formats = self.ends(bits), grid(bits)
        plan = gaussian.least_objective(gaussian.front(space, formats), ALPHA, space.movement_max)
        least, most = (
            space.cost(space.uniform(end)).energy_pj for end in (gaussian.NARROWEST, gaussian.WIDEST)
        )
        moved = gaussian.level_bits(space, formats, plan)
        cost = Cost.of_levels(moved.tolist(), energy_pj(self._device, moved), 0)
        return space, cost, {"least_pj": least, "most_pj": most}

    def _rival(self, column: str) -> tuple[Space, Cost, Result]:
        rule, activation, weight, floating = RIVALS[column]
        brought = RULES[rule].brings(FormatSet.grid(8))
        assert brought is not None
        by_text = {str(each): place for place, each in enumerate(brought.offered.formats)}
        places = [by_text[str(FormatSet.of(text).formats[0])] for text in (activation, weight)]
        counted: Sequence[Choosable] = brought.counted or brought.offered.formats
        taken = tuple(dict.fromkeys((FLOAT32, *(counted[place] for place in places))))
        space = self.space(FormatSet(taken))
        study = Study(
            Subject(self._pair.name, self._model, Data((), (), ()), Task()),
            tied(space, ties(space, self._traced.stored)),
            Settings(),
            None,  # type: ignore[arg-type]
        )
        inputs, weights = (
            [taken.index(counted[place])] * len(space.modules) for place in places
        )
        return space, space.cost(chosen(study, inputs, weights, floating(study))), {}


def _write(rows: Rows, folder: Path) -> None:
    found = {
        (pair.name, name): own
        for pair in PAIRS
        for name in COLUMNS[1:]
        if (own := rows.known(_config(pair, name))) is not None
    }
    shares = {key: own["own"]["energy_pj"] / own["float32"]["energy_pj"] for key, own in found.items()}
    write_table(folder, "fig5", _HEADER, [*_lines(found, shares), *_means(shares)], _NOTES)
    write_picture(folder, "fig5", _chart(shares), bool(shares))


_HEADER = (
    *("task", "network", "Original mJ", *COLUMNS[1:]),
    *("narrowest to widest 16-bit", "narrowest to widest 8-bit", "BitQ8 / BitQ16"),
)

_NOTES = (
    "energy over Original's; " + NOT_MEASURED + ": `python benchmarks/paper.py fig5 --pairs NAME` computes it",
    "no weights: rivals in the formats that `benchmarks/evaluation/energy.py` names, BitQ's plans by scores of normal "
    "numbers; narrowest to widest: with all tensors in one of these formats of Table 2's grid",
    "the paper's means are those of its text: BitQ16 over Original, BitQ8 over BitQ16 in the last column, and in the "
    "column of BitQ8 what it says of BitQ8 over Original, which contradicts the product of the two others",
    *(f"{pair.name}: {pair.note}" for pair in PAIRS if pair.note),
)


def _lines(found: dict[tuple[str, str], Result], shares: dict[tuple[str, str], float]) -> list[list[str]]:
    lines = []
    for pair in PAIRS:
        own = {name: found[pair.name, name] for name in COLUMNS[1:] if (pair.name, name) in found}
        original = next((f"{each['float32']['energy_pj'] / 1e9:.4g}" for each in own.values()), NOT_MEASURED)
        told = [_share(shares.get((pair.name, name))) for name in COLUMNS[1:]]
        either = [_any(own.get(name)) for name in BITQ]
        lines.append([pair.task, pair.name, original, *told, *either, _eighth(own)])
    return lines


def _any(row: Result | None) -> str:
    if row is None:
        return NOT_MEASURED
    least, most = (row[end] / row["float32"]["energy_pj"] for end in ("least_pj", "most_pj"))
    return f"{least:.3f} to {most:.3f}"


def _eighth(own: dict[str, Result]) -> str:
    if not set(BITQ) <= set(own):
        return NOT_MEASURED
    return _share(own["BitQ8"]["own"]["energy_pj"] / own["BitQ16"]["own"]["energy_pj"])


def _share(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.3f}"


def _means(shares: dict[tuple[str, str], float]) -> list[list[str]]:
    lines = []
    for task, (sixteen, eight) in CLAIMED.items():
        names = [pair.name for pair in PAIRS if pair.task == task]
        means = {
            column: exp(fmean(log(shares[name, column]) for name in names))
            for column in COLUMNS[1:]
            if all((name, column) in shares for name in names)
        }
        ratio = means["BitQ8"] / means["BitQ16"] if set(BITQ) <= set(means) else None
        told = [_share(means.get(column)) for column in COLUMNS[1:]]
        lines.append([task, "Gmean", "", *told, "", "", _share(ratio)])
        claims = {"BitQ16": f"{sixteen:.2f}", "BitQ8": f"{CLAIMED_OF_EIGHT[task]:.2f}"}
        told = [claims.get(column, "") for column in COLUMNS[1:]]
        lines.append([task, "the paper's", "", *told, "", "", f"{eight:.2f}"])
    return lines


def _chart(shares: dict[tuple[str, str], float]) -> alt.Chart:
    tasks = {pair.name: pair.task for pair in PAIRS}
    data = [
        {"network": name, "task": tasks[name], "method": column, "energy": share}
        for (name, column), share in shares.items()
    ]
    data += [
        {"network": name, "task": tasks[name], "method": "Original", "energy": 1.0}
        for name in dict.fromkeys(name for name, _ in shares)
    ]
    bars = (
        alt.Chart(alt.Data(values=data))
        .mark_bar()
        .encode(
            x=alt.X("method:N", sort=list(COLUMNS), title=None),
            y=alt.Y("energy:Q", title="energy over Original's"),
            color=alt.Color("method:N", sort=list(COLUMNS), legend=None),
        )
        .properties(width=130, height=120)
    )
    return bars.facet(alt.Facet("network:N", sort=[pair.name for pair in PAIRS], title=None), columns=5)
