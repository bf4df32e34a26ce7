"""The charts of what a network moves against the size of a memory, in the style of the page's other charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, log2, log10
from typing import Any

import altair as alt

from bitq.report.charts import BLUE, GREEN, INK, Datum, Spec, spec, tooltips

Field = tuple[str, str]
SERIES = (BLUE, GREEN, "#a3568c", "#b08a00", "#3aa6a0", "#7a6a58")
_SIZE_LABEL = (
    "datum.value >= 1024 ? datum.value / 1024 + ' MiB' : "
    "datum.value >= 1 ? datum.value + ' KiB' : datum.value * 1024 + ' B'"
)


def curves(points: Sequence[Datum], marks: Sequence[Datum], colors: Mapping[str, str], memory: str, y: Field) -> Spec:
    """One quantity against the size of a memory, a line per set of formats, for the page.

    Args:
        points: `series`, `kib` (size of the memory), and the quantities `traffic` and `energy`.
        marks: what else is drawn, by `kind`: "own" (`kib` and `label`: the device's size), "level" (the `traffic` of
            float32 there, from `from_kib` on), "floor" (`series` and its compulsory `traffic`), "reached" (`kib` and
            `label`: where the traffic of `series` comes down to that).
        colors: by the names of the series, in order. memory: its name. y: the quantity, and what its axis says.
    """
    panel = _panel(points, colors, memory, y).properties(width="container", height=300)
    return spec(panel, points, f"{y[1]} against the size of {memory}.", marks=marks)


def picture(
    points: Sequence[Datum],
    marks: Sequence[Datum],
    colors: Mapping[str, str],
    memory: str,
    ys: Sequence[Field],
    title: str,
    words: Sequence[str],
) -> Spec:
    """Several quantities side by side under a title, for a picture that stands alone; see `curves`."""
    panels = [_panel(points, colors, memory, y).properties(width=430, height=320) for y in ys]
    heading = alt.Title(title, subtitle=list(words), anchor="start", offset=12, fontSize=16, subtitleFontSize=12)
    whole = alt.hconcat(*panels, spacing=40, title=heading, padding=24)
    return spec(whole, points, title, marks=marks)


def _panel(points: Sequence[Datum], colors: Mapping[str, str], memory: str, field: Field) -> Any:
    quantity, title = field
    sizes = [point["kib"] for point in points]
    least, most = min(sizes), max(sizes)
    ends = [least, most] if least < most else [least / 2, 2 * most]
    powers = [2.0**power for power in range(floor(log2(least)), ceil(log2(most)) + 1)]
    x = alt.X(
        "kib:Q",
        title=f"size of {memory}",
        scale=alt.Scale(type="log", base=2, domain=ends, nice=False),
        axis=alt.Axis(values=powers, labelExpr=_SIZE_LABEL, labelOverlap=True, gridOpacity=0.05),
    )
    y = alt.Y(
        f"{quantity}:Q",
        title=title,
        scale=alt.Scale(type="log", nice=False, padding=18),
        axis=alt.Axis(values=_decades([point[quantity] for point in points]), format=",~r", labelOverlap=True),
    )
    color = alt.Color(
        "series:N",
        title=None,
        scale=alt.Scale(domain=list(colors), range=list(colors.values())),
        legend=alt.Legend(symbolType="stroke", symbolStrokeWidth=2.5),
    )
    tips = [
        *tooltips("series"),
        alt.Tooltip("kib:Q", title=f"{memory} (KiB)", format=",.4~g"),
        alt.Tooltip(f"{quantity}:Q", title=title, format=",.4~g"),
    ]
    base, marks = alt.Chart(alt.NamedData("rows")), alt.Chart(alt.NamedData("marks"))
    own = marks.transform_filter("datum.kind == 'own'").encode(x=x)
    layers = [
        own.mark_rule(color=INK, opacity=0.4, strokeDash=[2, 3]),
        own.mark_text(align="left", dx=4, fontSize=11, fill=INK, opacity=0.85).encode(text="label:N", y=alt.value(6)),
        base.mark_line(strokeWidth=2).encode(x=x, y=y, color=color),
        base.mark_point(filled=True, size=22, opacity=1).encode(x=x, y=y, color=color, tooltip=tips),
    ]
    if quantity == "traffic":
        reached = marks.transform_filter("datum.kind == 'reached'").encode(x=x, y=y, color=color)
        layers += [
            marks.transform_filter("datum.kind == 'floor'")
            .mark_rule(strokeDash=[5, 4], opacity=0.55)
            .encode(y=y, color=color),
            marks.transform_filter("datum.kind == 'level'")
            .mark_rule(color=INK, opacity=0.4, strokeDash=[2, 3])
            .encode(x=alt.X("from_kib:Q"), x2="kib:Q", y=y),
            reached.mark_point(filled=True, size=80, opacity=1),
            reached.mark_text(dy=14, fontSize=11, fontWeight=600).encode(text="label:N"),
        ]
    return alt.layer(*layers)


def _decades(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times the powers of ten around positive values: the ticks of a logarithmic axis."""
    powers = range(floor(log10(min(values))), ceil(log10(max(values))) + 1)
    return [step * 10.0**power for power in powers for step in (1, 2, 5)]
