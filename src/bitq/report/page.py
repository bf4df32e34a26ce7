"""The page: a run's tables and charts in the template, with all that a browser needs to draw them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import altair
import jinja2
import vl_convert
from markupsafe import Markup

from bitq.files import RunFolder, write_atomically
from bitq.floating import names_text
from bitq.layers import LOOPS
from bitq.report import resources, tables, text
from bitq.report.alphas import ALPHAS, answers
from bitq.report.evidence import Evidence, load_evidence
from bitq.report.figures import all_shown, figures
from bitq.report.sweep import verdicts
from bitq.tradeoff.plan import PlanLayer, PlanLevel


def write_report(run: str | Path, alphas: Sequence[float] = ALPHAS) -> Path:
    """Write the report of a run folder (plan.json, results.sqlite) as `report.html` beside them.

    One self-contained page: it needs no network, and its own policy forbids it any. Sections whose
    evaluations are missing, as after an interrupted search, say so.

    Args:
        run: the folder.
        alphas: weights of movement that the page tells the best plan for.

    Returns:
        Path of the page.

    Raises:
        BitqError: no plan in the folder, or a file there that is not what it should be, or a weight below 0.
    """
    folder = Path(run)
    page = render(load_evidence(folder), alphas)
    path = RunFolder(folder).report
    write_atomically(path, page.encode("utf-8", errors="replace"))
    return path


def render(run: Evidence, alphas: Sequence[float] = ALPHAS) -> str:
    """The page as HTML."""
    rows = tables.comparison(run)
    float32, planned = run.plan.totals.rows()
    compared = {
        kind: tuple(zip(table, tables.cells(table, tables.columns(run)), strict=True))
        for kind, others in (("ablations", run.ablations), ("baselines", run.baselines))
        for table in [(rows[-1], *others) if others else ()]
    }
    return filled(
        "template.html",
        tile_text=_tile_text,
        names_text=names_text,
        boundaries=resources.boundaries(run.plan),
        taken=resources.taken(run.plan),
        run=run,
        plan=run.plan,
        measure=run.measure,
        float32=float32,
        planned=planned,
        uniform=next((row for row in rows if row.role == "uniform"), None),
        answers=answers(run, alphas),
        columns=tables.columns(run),
        lines=tuple(zip(rows, tables.cells(rows, tables.columns(run)), strict=True)),
        of_int8=partial(tables.of_int8, run),
        advice=tables.advised(run),
        compared=compared,
        specs=figures(run),
        fewer_formats=not all_shown(run),
        zip=zip,
        verdicts=verdicts(run.sweep) if run.sweep else [],
        device=run.outcome.device if run.outcome else None,
        finished=_date(run.finished),
    )


def filled(template: str, **shown: Any) -> str:
    """A page as HTML: a template of this package with what it shows, its style, and the script that draws its charts.

    Args:
        template: name of its file.
        shown: by the names that it has there; `specs` are the charts by the id of the page's element for them.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    script = _script()
    own = {"text": text, "style": Markup(_resource("style.css")), "script": script, "policy": _policy(script)}
    return environment.from_string(_resource(template)).render(**own, **shown)


def _tile_text(layer: PlanLayer, level: PlanLevel) -> str:
    """The tile's extents where the layer has any, such as "K 16, P 4"."""
    loops = [loop for loop in LOOPS if layer.loops.get(loop, 1) > 1]
    return ", ".join(f"{loop} {level.tiles[loop]}" for loop in loops) or "one element"


def _date(finished: float | None) -> str | None:
    return None if finished is None else datetime.fromtimestamp(finished, UTC).strftime("%Y-%m-%d %H:%M UTC")


@cache
def _script() -> Markup:
    """The few lines that draw the charts, with the Vega-Lite that Altair writes for and all it needs."""
    version = ".".join(altair.SCHEMA_VERSION.split(".")[:2])
    bundle = vl_convert.javascript_bundle(_resource("charts.js"), vl_version=version)
    return Markup(bundle.replace("</script", "<\\/script"))


def _policy(script: str) -> str:
    """Content security policy: this script alone may run, and nothing may be loaded from anywhere."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data: blob:"


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
