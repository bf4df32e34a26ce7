"""How much memory a format saves: as sentences, as charts of the page, and as a picture of its own."""

from __future__ import annotations

import json

import vl_convert

from bitq.movement.sweep import Series, Sweep
from bitq.report import charts, curves, text

PICTURE_INK, PICTURE_PAPER = "#1b2028", "#ffffff"
PIXELS_PER_POINT = 2.0


def verdicts(sweep: Sweep) -> list[str]:
    """What memory each set of formats needs, compared with float32; a sentence for each."""
    original, *others = sweep.series
    float_once = f"{original.name} needs {_needed(sweep, original.floor_bytes)}"
    return [
        f"{_subject(each.name)} needs {_needed(sweep, each.float_bytes)} for the traffic that {original.name} has at "
        f"{text.size(sweep.reference_bytes)}, and {_needed(sweep, each.floor_bytes)} to move nothing twice, "
        f"where {float_once}."
        for each in others
    ] or [f"{float_once} to move nothing twice."]


def sweep_figures(sweep: Sweep) -> dict[str, charts.Spec]:
    """The charts of the page, by the id of their elements."""
    points, marks, colors = _points(sweep), _marks(sweep), _colors(sweep)
    return {f"buffer-{y[0]}": curves.curves(points, marks, colors, sweep.memory, y) for y in _quantities(sweep)}


def picture(sweep: Sweep, title: str, kind: str) -> bytes:
    """The charts side by side under the sentences, as the content of a file of this kind, "png" or "svg"."""
    points, marks, colors = _points(sweep), _marks(sweep), _colors(sweep)
    spec = curves.picture(points, marks, colors, sweep.memory, _quantities(sweep), title, verdicts(sweep))
    drawn = json.dumps({**spec, "config": {**spec["config"], "background": PICTURE_PAPER}})
    drawn = drawn.replace(charts.INK, PICTURE_INK)  # there is no page to take the colour from
    if kind == "svg":
        return vl_convert.vegalite_to_svg(drawn).encode()
    return bytes(vl_convert.vegalite_to_png(drawn, scale=PIXELS_PER_POINT))


def _subject(name: str) -> str:
    """A format's own name as it is; "plan" and "best uniform ..." as the beginning of a sentence."""
    return name if name[:1].isdigit() else f"The {name}"


def _needed(sweep: Sweep, size: float | None) -> str:
    if size is None:
        return f"more than {text.size(sweep.sizes_bytes[-1])}"
    return f"at most {text.size(size)}" if size == sweep.sizes_bytes[0] else text.size(size)


def _quantities(sweep: Sweep) -> list[curves.Field]:
    """What is drawn; a device without energies has none, which a logarithmic axis could not show."""
    traffic = ("traffic", f"{sweep.source} ↔ {sweep.memory} (Mbit)")
    known = all(energy > 0 for series in sweep.series for energy in series.energy_pj)
    return [traffic, ("energy", "energy of all memories (µJ)")] if known else [traffic]


def _points(sweep: Sweep) -> list[charts.Datum]:
    return [
        {
            "series": series.name,
            "kib": size / 1024,
            "traffic": bits / text.BITS_PER_MBIT,
            "energy": energy / text.PJ_PER_UJ,
        }
        for series in sweep.series
        for size, bits, energy in zip(sweep.sizes_bytes, series.traffic_bits, series.energy_pj, strict=True)
    ]


def _marks(sweep: Sweep) -> list[charts.Datum]:
    own = {"kib": sweep.reference_bytes / 1024, "label": f"{sweep.memory} of {text.size(sweep.reference_bytes)}"}
    level = {
        "from_kib": sweep.sizes_bytes[0] / 1024,
        "kib": own["kib"],
        "traffic": sweep.series[0].traffic_bits[sweep.reference] / text.BITS_PER_MBIT,
    }
    floors = [{"kind": "floor", **_floor(series)} for series in sweep.series]
    reached = [
        {
            "kind": "reached",
            **_floor(series),
            "kib": series.floor_bytes / 1024,
            "label": _label(sweep, series.floor_bytes),
        }
        for series in sweep.series
        if series.floor_bytes is not None
    ]
    return [{"kind": "own", **own}, {"kind": "level", **level}, *floors, *reached]


def _label(sweep: Sweep, size: float) -> str:
    return f"≤ {text.size(size)}" if size == sweep.sizes_bytes[0] else text.size(size)


def _floor(series: Series) -> charts.Datum:
    return {"series": series.name, "traffic": series.floor_bits / text.BITS_PER_MBIT}


def _colors(sweep: Sweep) -> dict[str, str]:
    """Grey for float32, the plan's orange, and a colour of its own for each of the others."""
    original, *others = (series.name for series in sweep.series)
    uniform = [name for name in others if not name.startswith("plan")]
    shades = {name: curves.SERIES[index % len(curves.SERIES)] for index, name in enumerate(uniform)}
    return {original: charts.GREY, **{name: shades.get(name, charts.ORANGE) for name in others}}
