"""`bitq report`: the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitq.cli.output import Json, print_json, show


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a search, with plan.json and results.sqlite.")],
    as_json: Json = False,
) -> None:
    """Write report.html of a run again: one page that needs no network to be read.

    Example: `bitq report runs/demo`
    """
    from bitq.report import write_report

    page = write_report(run)
    if as_json:
        print_json({"report": str(page)})
    else:
        show(f"Report: {page}")
