"""The page of a comparison of rules: what each reaches, as tables and as a chart of accuracy against movement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt

from bitq.files import RunFolder, write_atomically
from bitq.report.charts import GREY, INK, ORANGE, Datum, Spec, spec, tooltips
from bitq.report.curves import SERIES
from bitq.report.page import filled
from bitq.tradeoff.compare import Comparison, OfSeed, Reached

PAGE = "compare.html"

SHAPES = ("circle", "square", "triangle-up", "triangle-down", "triangle-right")
OWN = "bitq"
"""The rule in orange."""

ROOM = 2.0
"""Formats that are not fine-tuned are drawn where they lose at most so many times what the worst rule loses."""


def write_comparison(folder: RunFolder, found: Comparison) -> Path:
    """Write the page of a comparison into its folder: one file that needs no network to be read.

    Args:
        folder: of the comparison.
        found: what it came to.

    Returns:
        Path of the page.

    Raises:
        BitqError: the folder cannot be written.
    """
    path = folder.path / PAGE
    write_atomically(path, render_comparison(found).encode("utf-8", errors="replace"))
    return path


def render_comparison(found: Comparison) -> str:
    """The page as HTML."""
    points = [(each, seed) for seed in found.seeds for each in seed.results if isinstance(each, Reached)]
    return filled("compared.html", found=found, points=points, specs={"rules-landscape": _landscape(found, points)})


def _landscape(found: Comparison, points: Sequence[tuple[Reached, OfSeed]]) -> Spec:
    """Accuracy against movement, a point for every rule and seed, a name beside the mean of every rule."""
    rules = list(dict.fromkeys(each.label for each, _ in points))
    rows = [_datum(each.label, seed, each.row.accuracy, each.row.movement_bits) for each, seed in points]
    tips = [{"plan": each.row.name, "objective": each.row.objective, "seed": seed.seed} for each, seed in points]
    names = [
        {"rule": _shown(each.label), "accuracy": 100 * each.accuracy.mean, "movement": 100 * each.share.mean}
        for each in found.rules
        if each.accuracy and each.share
    ]
    float32 = 100 * found.untuned[0].accuracy.mean if found.untuned[0].accuracy else 0.0
    lost = max((float32 - row["accuracy"] for row in rows), default=0.0)
    widest = max((row["movement"] for row in rows), default=100.0)
    usual = [
        {"rule": _shown(each.label), "accuracy": 100 * each.accuracy.mean, "movement": 100 * each.share.mean}
        for each in found.untuned[1:]
        if each.accuracy
        and each.share
        and float32 - 100 * each.accuracy.mean <= ROOM * max(lost, 1.0)
        and 100 * each.share.mean <= ROOM * widest
    ]
    return spec(
        _chart(rules, found.measure),
        [{**row, **tip} for row, tip in zip(rows, tips, strict=True)],
        f"Test {found.measure} against data moved of {len(rules)} rules with {len(found.seeds)} seeds.",
        names=names,
        usual=usual,
        reference=[{"accuracy": float32}],
    )


def _datum(label: str, seed: OfSeed, accuracy: float, bits: float) -> Datum:
    return {"rule": _shown(label), "accuracy": 100 * accuracy, "movement": 100 * bits / seed.movement_max}


def _shown(name: str) -> str:
    """A name that is no property of JavaScript's objects, in which Vega groups rows."""
    return f"{name}\u200b"


def _chart(rules: Sequence[str], measure: str) -> Any:
    others = [label for label in rules if label != OWN]
    colours = {label: SERIES[place % len(SERIES)] for place, label in enumerate(others)} | {OWN: ORANGE}
    shapes = {label: SHAPES[place // len(SERIES) % len(SHAPES)] for place, label in enumerate(others)}
    shapes[OWN] = "diamond"
    domain = [_shown(label) for label in rules]
    legend = alt.Legend(symbolOpacity=1, symbolSize=70, columns=6)
    x = alt.X("movement:Q", title="data moved (% of the largest movement)", scale=alt.Scale(zero=False, padding=24))
    y = alt.Y("accuracy:Q", title=f"test {measure} (%)", scale=alt.Scale(zero=False, padding=16))
    colour = alt.Color(
        "rule:N", title=None, scale=alt.Scale(domain=domain, range=[colours[each] for each in rules]), legend=legend
    )
    shape = alt.Shape(
        "rule:N", title=None, scale=alt.Scale(domain=domain, range=[shapes[each] for each in rules]), legend=legend
    )
    amounts = [
        alt.Tooltip("accuracy:Q", title=f"test {measure} (%)", format=".2f"),
        alt.Tooltip("movement:Q", title="data moved (% of the largest)", format=".2f"),
    ]
    dots = (
        alt.Chart(alt.NamedData("rows"))
        .mark_point(filled=True, size=90, opacity=0.9)
        .encode(
            x=x,
            y=y,
            color=colour,
            shape=shape,
            tooltip=[
                *tooltips("rule", "plan", "seed"),
                *amounts,
                alt.Tooltip("objective:Q", title="O on test data", format=".4f"),
            ],
        )
    )
    means = alt.Chart(alt.NamedData("names")).encode(x=x, y=y)
    rings = means.mark_point(shape="circle", size=70, color=INK, strokeWidth=1, opacity=0.6, aria=False)
    labels = means.mark_text(align="left", dx=8, dy=-8, color=INK, opacity=0.8, fontSize=11, aria=False).encode(
        text="rule:N"
    )
    usual = alt.Chart(alt.NamedData("usual")).encode(x=x, y=y)
    crosses = usual.mark_point(shape="cross", filled=True, color=GREY, size=60, opacity=0.9).encode(
        tooltip=[alt.Tooltip("rule:N", title="not fine-tuned"), *amounts]
    )
    known = usual.mark_text(align="left", dx=8, color=GREY, fontSize=11, aria=False).encode(text="rule:N")
    reference = (
        alt.Chart(alt.NamedData("reference"))
        .mark_rule(color=INK, strokeDash=[5, 4], opacity=0.6)
        .encode(y=y, tooltip=alt.Tooltip("accuracy:Q", title=f"float32, test {measure} (%)", format=".2f"))
    )
    return alt.layer(reference, crosses, known, dots, rings, labels).properties(width="container", height=420)
