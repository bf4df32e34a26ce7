"""The report's charts: plain rows in, Vega-Lite specifications out; nothing is computed but what is drawn.

Text and lines take the page's own colour (`currentColor`), so that a chart follows light, dark and print.
The hues are colour-blind safe: orange against blue (Okabe and Ito), and one hue of changing strength.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

Datum = Mapping[str, Any]
Spec = dict[str, Any]

TENSORS = ("input", "weight", "output")
ORANGE, BLUE, GREEN, GREY = "#d1701f", "#2f6fa8", "#1b9e77", "#8b9097"
ONCHIP = ("#235b8c", "#4d8fc0", "#8bbbdc", "#bdd7ea", "#9aa7b5", "#6f7f8f", "#4e5a66")
KINDS = {
    "predicted": ("predicted best", GREY, "circle"),
    "uniform": ("uniform", BLUE, "square"),
    "plan": ("plan", ORANGE, "diamond"),
    "other": ("other fine-tuned", GREEN, "triangle-up"),
}
INK = "currentColor"
_LEVEL = 10
"""Labels of groups that stand side by side without being turned."""

_SHOWN = 2.0
"""Times the least O that a chart of a search's course shows of what was not fine-tuned."""

_CONFIG = {
    "background": "transparent",
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
    "view": {"stroke": None},
    "axis": {
        **{f"{part}Color": INK for part in ("label", "title", "domain", "tick", "grid")},
        **{
            "labelOpacity": 0.85,
            "titleOpacity": 0.85,
            "domainOpacity": 0.3,
            "tickOpacity": 0.3,
            "gridOpacity": 0.1,
        },
        **{"titleFontWeight": 500, "labelFontSize": 11, "titleFontSize": 11, "titlePadding": 8},
    },
    "legend": {
        **{"labelColor": INK, "titleColor": INK, "labelFontSize": 11, "titleFontSize": 11},
        **{
            "titleFontWeight": 500,
            "orient": "top",
            "symbolStrokeWidth": 0,
            "labelLimit": 240,
            "titleLimit": 400,
        },
    },
    "header": {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "labelFontWeight": 600},
}


def allocation(cells: Sequence[Datum], layers: Sequence[str], mantissas: Sequence[int]) -> Spec:
    """Which format every tensor got: layers down, tensors across, colour for the mantissa.

    Args:
        cells: `layer`, `tensor`, `format` (short text), `mantissa` (bits of an element alone, None for float32), and
            the tooltip's `width` (bits per element, with its part of what is shared), and of block floating point
            `exponent_bits`, `block_size`, `bias`.
        layers: names in order. mantissas: the widths that the colour scale spans, in bits.
    """
    least, most = min(mantissas, default=2), max(mantissas, default=24)
    base = alt.Chart(alt.NamedData("rows")).encode(
        x=alt.X(
            "tensor:N",
            scale=alt.Scale(domain=list(TENSORS), paddingInner=0.012),
            axis=_plain_axis(orient="top", labelFontSize=12),
        ),
        y=_layer_axis(layers),
        tooltip=[
            *tooltips("layer", "tensor", "format"),
            alt.Tooltip("mantissa:Q", title="mantissa bits, sign included"),
            alt.Tooltip("width:Q", title="bits per element", format=".3f"),
            alt.Tooltip("exponent_bits:Q", title="shared exponent bits"),
            alt.Tooltip("block_size:Q", title="elements per block"),
            alt.Tooltip("bias:Q", title="exponent of code 0"),
        ],
    )
    shade = alt.Color(
        "mantissa:Q",
        title="mantissa bits",
        scale=alt.Scale(scheme="blues", domain=[least - 1, most]),
        legend=alt.Legend(values=sorted(mantissas), gradientLength=160),
    )
    light = f"datum.mantissa > {(least + most) / 2}"
    return spec(
        alt.layer(
            base.mark_rect(cornerRadius=3).encode(
                color=alt.condition("isValid(datum.mantissa)", shade, alt.value("#d8dade"))
            ),
            base.mark_text(fontSize=_font(len(layers))).encode(
                text="format:N", color=alt.condition(light, alt.value("#ffffff"), alt.value("#10243a"))
            ),
        ).properties(width="container", height=_height(layers)),
        cells,
        f"Formats of {len(layers)} layers: mantissa, exponent and block size of input, weight and output.",
    )


def arena(buffers: Sequence[Datum]) -> Spec:
    """Where activations lie in memory from step to step.

    Args:
        buffers: `name`, `begin` and `end` in steps, `low` and `high` in KiB, and the tooltip's `size`.
    """
    base = alt.Chart(alt.NamedData("rows")).encode(
        x=alt.X("begin:Q", title="step", axis=alt.Axis(tickMinStep=1, format="d")),
        x2="end:Q",
        y=alt.Y("low:Q", title="offset (KiB)"),
        y2="high:Q",
        tooltip=[
            *tooltips("name", "size"),
            alt.Tooltip("begin:Q", title="from step"),
            alt.Tooltip("low:Q", title="offset (KiB)", format=",.4~g"),
        ],
    )
    return spec(
        base.mark_rect(fill=BLUE, fillOpacity=0.55, stroke=INK, strokeOpacity=0.5, strokeWidth=0.8).properties(
            width="container", height=220
        ),
        buffers,
        f"Where {len(buffers)} activations lie in memory, from step to step.",
    )


def per_layer(
    bars: Sequence[Datum], layers: Sequence[str], levels: Sequence[str], quantity: str, unit: str
) -> Spec:
    """Stacked bars of one quantity per layer and pair of memories.

    Args:
        bars: `layer`, `level`, `order` (0 for DRAM's), `value` in `unit`, and the tooltip's `parts`.
        layers, levels: names in order, DRAM's level first. quantity, unit: what the axis says.
    """
    chart = (
        alt.Chart(alt.NamedData("rows"))
        .mark_bar(cornerRadius=1)
        .encode(
            x=alt.X("value:Q", title=f"{quantity} ({unit})", axis=alt.Axis(tickCount=4, labelFlush=False)),
            y=_layer_axis(layers),
            color=alt.Color(
                "level:N",
                title=None,
                scale=alt.Scale(domain=list(levels), range=[ORANGE, *ONCHIP[: len(levels) - 1]]),
                legend=alt.Legend(columns=2),
            ),
            order="order:Q",
            tooltip=[
                *tooltips("layer", "level"),
                alt.Tooltip("value:Q", title=f"{quantity} ({unit})", format=",.4~g"),
                alt.Tooltip("parts:N", title="bits moved"),
            ],
        )
        .properties(width="container", height=_height(layers))
    )
    return spec(chart, bars, f"{quantity} of {len(layers)} layers in {unit}, by memory.")


def over_bound(dots: Sequence[Datum], layers: Sequence[str], levels: Sequence[str]) -> Spec:
    """How many times its lower bound each layer moves, a lane of each layer's row for each pair of memories.

    Args:
        dots: `layer`, `level`, `ratio` (1 or more), and the tooltip's `moved` and `bound` (texts).
        layers, levels: names in order, DRAM's level first.
    """
    most = max([1.3, *(1.08 * dot["ratio"] for dot in dots)])
    steps = (1, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
    ratio = alt.X(
        "ratio:Q",
        title="times the lower bound",
        scale=alt.Scale(type="log", domain=[most**-0.015, most], nice=False),
        axis=alt.Axis(
            values=[step for step in steps if step <= most],
            labelExpr="datum.value + '×'",
            labelOverlap="greedy",
            domain=False,
        ),
    )
    lane = alt.YOffset("level:N", scale=alt.Scale(domain=list(levels), paddingOuter=0.6))
    shade = alt.Color(
        "level:N",
        title=None,
        scale=alt.Scale(domain=list(levels), range=[ORANGE, *ONCHIP[: len(levels) - 1]]),
        legend=alt.Legend(symbolType="circle", symbolOpacity=1, columns=2),
    )
    base = alt.Chart(alt.NamedData("rows")).encode(x=ratio, y=_layer_axis(layers), yOffset=lane, color=shade)
    stem = base.mark_rule(opacity=0.4, strokeWidth=1.5).encode(x2=alt.datum(1))
    limit = alt.Chart(alt.NamedData("limit")).mark_rule(color=INK, opacity=0.6).encode(x="ratio:Q")
    dot = base.mark_point(filled=True, opacity=1, size=min(46, 3 * _step(len(layers)))).encode(
        tooltip=[
            *tooltips("layer", "level"),
            alt.Tooltip("ratio:Q", title="times the lower bound", format=",.4~g"),
            *tooltips("moved", "bound"),
        ]
    )
    chart = alt.layer(limit, stem, dot).properties(width="container", height=_height(layers))
    words = f"Traffic of {len(layers)} layers over its lower bound, by memory."
    return spec(chart, dots, words, limit=[{"ratio": 1}])


def landscape(
    points: Sequence[Datum], front: Sequence[Datum], accuracy_float: float | None, measure: str, closer: bool = False
) -> Spec:
    """Accuracy against movement of everything evaluated.

    Args:
        points: `kind` (a key of `KINDS`), `movement` (Mbit), `accuracy` (%, validation), and the tooltip's
            `label`, `test`, `energy`.
        front: the points of the Pareto front from the least movement to the most.
        accuracy_float: of the float32 network, in %, on the same data.
        measure: what the metric is called.
        closer: show only where the fine-tuned points lie.
    """
    tuned = [point for point in points if point["kind"] != "predicted"]
    shown = tuned if closer else points
    heights = [point["accuracy"] for point in shown] + ([] if accuracy_float is None else [accuracy_float])
    kinds = [kind for kind in KINDS if any(point["kind"] == kind for point in points)]
    x = alt.X("movement:Q", title="data moved (Mbit)", scale=_span([point["movement"] for point in shown]))
    y = alt.Y("accuracy:Q", title=f"validation {measure} (%)", scale=_span(heights))
    names, colours, shapes = zip(*(KINDS[kind] for kind in kinds), strict=True) if kinds else ((), (), ())
    legend = alt.Legend(symbolOpacity=1, symbolSize=70)
    base = alt.Chart(alt.NamedData("rows")).encode(
        x=x,
        y=y,
        color=alt.Color(
            "series:N", title=None, scale=alt.Scale(domain=list(names), range=list(colours)), legend=legend
        ),
        shape=alt.Shape(
            "series:N", title=None, scale=alt.Scale(domain=list(names), range=list(shapes)), legend=legend
        ),
    )
    dots = base.transform_filter("datum.kind == 'predicted'").mark_point(
        filled=True, size=14, opacity=0.28, clip=True, aria=False
    )
    strong = (
        base.transform_filter("datum.kind != 'predicted'")
        .mark_point(filled=True, size=90, opacity=1, clip=True)
        .encode(
            tooltip=[
                *tooltips("label"),
                alt.Tooltip("accuracy:Q", title=f"validation {measure} (%)", format=".2f"),
                alt.Tooltip("test:Q", title=f"test {measure} (%)", format=".2f"),
                alt.Tooltip("movement:Q", title="data moved (Mbit)", format=",.4~g"),
                alt.Tooltip("energy:Q", title="energy (µJ)", format=",.4~g"),
            ]
        )
    )
    weak_tips = [
        *tooltips("series"),
        alt.Tooltip("accuracy:Q", title=f"validation {measure} (%)", format=".2f"),
        alt.Tooltip("movement:Q", title="data moved (Mbit)", format=",.4~g"),
    ]
    line = (
        alt.Chart(alt.NamedData("front"))
        .mark_line(interpolate="step-after", color=INK, opacity=0.45, strokeWidth=1.2, clip=True)
        .encode(x=x, y=y)
    )
    reference = (
        alt.Chart(alt.NamedData("reference"))
        .mark_rule(color=INK, strokeDash=[5, 4], opacity=0.6)
        .encode(
            y=y, tooltip=alt.Tooltip("accuracy:Q", title=f"float32, validation {measure} (%)", format=".2f")
        )
    )
    chart = alt.layer(dots.encode(tooltip=weak_tips), line, reference, strong).properties(
        width="container", height=320
    )
    return spec(
        chart,
        [{**point, "series": KINDS[point["kind"]][0]} for point in points],
        f"Validation {measure} against data moved of {len(shown)} evaluated combinations of formats"
        f"{', around the fine-tuned ones' if closer else ''}.",
        front=front,
        reference=[] if accuracy_float is None else [{"accuracy": accuracy_float}],
    )


def course(steps: Sequence[Datum], best: Sequence[Datum]) -> Spec:
    """O of everything that was measured against the time that was spent, and the least so far.

    Args:
        steps: `seconds`, `objective`, `label`, `tuned` (whether it was fine-tuned).
        best: `seconds`, `objective`, the least up to then.
    """
    least = min((step["objective"] for step in steps), default=0.0)
    shown = [step["objective"] for step in steps if step["tuned"] or step["objective"] < _SHOWN * least]
    spent = max((step["seconds"] for step in steps), default=1.0)
    x = alt.X("seconds:Q", title="time spent (s)", scale=alt.Scale(domain=[0, 1.03 * spent], nice=False))
    y = alt.Y("objective:Q", title="O, validation data", scale=_span(shown))
    names, colours, shapes = (("as it is", "fine-tuned"), (BLUE, ORANGE), ("circle", "diamond"))
    base = alt.Chart(alt.NamedData("rows")).encode(x=x, y=y)
    points = base.mark_point(filled=True, opacity=0.8, clip=True).encode(
        color=alt.Color(
            "series:N",
            title=None,
            scale=alt.Scale(domain=list(names), range=list(colours)),
            legend=alt.Legend(symbolOpacity=1, symbolSize=70),
        ),
        shape=alt.Shape("series:N", title=None, scale=alt.Scale(domain=list(names), range=list(shapes))),
        size=alt.condition("datum.tuned", alt.value(110), alt.value(30)),
        tooltip=[
            *tooltips("label", "series"),
            alt.Tooltip("objective:Q", title="O", format=".4f"),
            alt.Tooltip("seconds:Q", title="after (s)", format=",.0f"),
        ],
    )
    line = (
        alt.Chart(alt.NamedData("best"))
        .mark_line(interpolate="step-after", color=INK, opacity=0.45, strokeWidth=1.2, clip=True)
        .encode(x=x, y=y)
    )
    return spec(
        alt.layer(line, points).properties(width="container", height=220),
        [{**step, "series": names[step["tuned"]]} for step in steps],
        f"O of {len(steps)} evaluations against the time spent, and the least so far.",
        best=best,
    )


def sensitivity(rows: Sequence[Datum], modules: Sequence[str], formats: Sequence[str], measure: str) -> Spec:
    """Estimated loss of accuracy if one tensor alone takes one format; a ring marks the plan's choice.

    Args:
        rows: one per module and tensor: `module`, `tensor`, `chosen` (short text), and as long as each other
            `format` (short texts) and `drop` (percentage points).
        modules, formats: in order; formats of one mantissa and exponent width stand together.
        measure: what the metric is called.
    """
    base = alt.Chart().encode(
        x=alt.X("format:N", title=None, scale=alt.Scale(domain=list(formats)), axis=_group_axis(formats)),
        y=_layer_axis(modules, "module"),
        tooltip=[
            *tooltips("module", "tensor", "format"),
            alt.Tooltip("drop:Q", title="loss (points)", format=".3f"),
        ],
    )
    heat = base.mark_rect(color=ORANGE, aria=False).encode(
        opacity=alt.Opacity(
            "drop:Q",
            title=f"estimated loss of {measure} (points)",
            scale=alt.Scale(type="sqrt", range=[0.03, 1], domainMin=0, clamp=True),
            legend=alt.Legend(symbolType="square", symbolSize=160, symbolFillColor=ORANGE),
        )
    )
    ring = base.transform_filter("datum.format == datum.chosen").mark_point(
        color=INK, size=2 * _step(len(modules)), strokeWidth=1.2, opacity=0.9
    )
    panel = alt.layer(heat, ring).properties(width=300, height=_height(modules))
    chart = panel.facet(
        data=alt.NamedData("rows"), column=alt.Column("tensor:N", title=None, sort=list(TENSORS)), spacing=16
    ).transform_flatten(["format", "drop"])
    return spec(
        chart,
        rows,
        f"Estimated loss of {measure} of {len(rows)} tensors in {len(formats)} formats, one tensor at a time.",
    )


def _group_axis(formats: Sequence[str]) -> alt.Axis:
    """One label and line at the first format of each mantissa and exponent width."""
    first: dict[str, str] = {}
    for each in formats:
        first.setdefault(each.rsplit(" ", 1)[0], each)
    turned = len(first) > _LEVEL
    return alt.Axis(
        values=list(first.values()),
        labelExpr="indexof(datum.label, ' b') < 0 ? datum.label : slice(datum.label, 0, indexof(datum.label, ' b'))",
        labelAngle=-90 if turned else 0,
        labelAlign="right" if turned else "left",
        bandPosition=0,
        grid=True,
        gridOpacity=0.25,
        domain=False,
        ticks=False,
        zindex=1,
    )


def spec(chart: Any, rows: Sequence[Datum], description: str, **more: Sequence[Datum]) -> Spec:
    """The chart as plain data, the rows beside it: Altair would check each of them against its schema."""
    plain: Spec = chart.properties(description=description).to_dict(validate=False)  # a test validates
    datasets = {name: [dict(row) for row in values] for name, values in {"rows": rows, **more}.items()}
    fit = {"autosize": {"type": "fit-x", "contains": "padding"}} if plain.get("width") == "container" else {}
    return {**plain, **fit, "config": _CONFIG, "datasets": datasets}


def _layer_axis(names: Sequence[str], field: str = "layer") -> alt.Y:
    size = _font(len(names))
    axis = _plain_axis(labelLimit=150, labelFontSize=size, labelOverlap=False)
    return alt.Y(f"{field}:N", title=None, scale=alt.Scale(domain=list(names), paddingInner=0.12), axis=axis)


def _plain_axis(**settings: Any) -> alt.Axis:
    return alt.Axis(title=None, domain=False, ticks=False, labelAngle=0, **settings)


def tooltips(*fields: str) -> list[alt.Tooltip]:
    """Tooltips that show these fields as they are."""
    return [alt.Tooltip(f"{field}:N") for field in fields]


def _span(values: Sequence[float]) -> alt.Scale:
    least, most = min(values, default=0.0), max(values, default=1.0)
    margin = 0.06 * (most - least) or 0.02 * abs(most) or 1.0
    return alt.Scale(domain=[least - margin, most + margin], nice=False, zero=False)


def _height(rows: Sequence[str]) -> int:
    return _step(len(rows)) * max(len(rows), 1)


def _step(count: int) -> int:
    """Height of one of `count` rows, in pixels."""
    return 26 if count <= 24 else 18 if count <= 60 else 12


def _font(count: int) -> int:
    return 11 if count <= 24 else 10 if count <= 60 else 8
