"""`bitq report`: the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitq.cli.output import Json, print_json, show


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a search, with plan.json and results.sqlite.")],
    alpha: Annotated[
        list[float] | None,
        typer.Option(
            help="Tell the best plan for this weight of movement, from what is stored; can be given again. Without it "
            "for seven usual ones.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write report.html of a run again: one page that needs no network to be read.

    Example: `bitq report runs/demo --alpha 0.1 --alpha 0.4`
    """
    from bitq.report import write_report

    page = write_report(run, alpha) if alpha else write_report(run)
    if as_json:
        print_json({"report": str(page)})
    else:
        show(f"Report: {page}")
