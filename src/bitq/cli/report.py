"""`bitq report`: the page of a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from bitq.cli.answers import offers_document, offers_table
from bitq.cli.output import Json, print_json, show
from bitq.files import RunFolder

if TYPE_CHECKING:
    from bitq.salvage import Salvaged


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a search, with plan.json and results.sqlite.")],
    alpha: Annotated[
        list[float] | None,
        typer.Option(
            help="Tell the best plan for this weight of movement, from what is stored; can be given again. Without it "
            "for seven usual ones.",
        ),
    ] = None,
    salvage: Annotated[
        bool,
        typer.Option(
            "--salvage",
            help="First put a fresh results.sqlite, with all results that can still be read, in the place of a damaged "
            "one, which is kept beside it. The search command then does the rest again.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write report.html of a run again: one page that needs no network to be read.

    Example: `bitq report runs/demo --alpha 0.1 --alpha 0.4`
    """
    from bitq.report import write_report

    salvaged = _salvaged(run) if salvage else None
    if salvaged is not None and not as_json:
        show(_told(salvaged))
    planned = salvaged is None or RunFolder(run).plan.exists()  # a search that was stopped has no plan yet
    page = str(write_report(run, alpha) if alpha else write_report(run)) if planned else None
    if as_json:
        aside = salvaged and salvaged.aside and str(salvaged.aside)
        found = {"salvaged": {**asdict(salvaged), "aside": aside}} if salvaged else {}
        print_json({"report": page, **found, **(_document(run) if page else {})})
    elif page is None:
        show("The search is not finished: there is no plan to report yet")
    else:
        show(*_answers(run), f"Report: {page}")


def _answers(run: Path) -> list[Table]:
    """What the search offered, if that was kept."""
    from bitq.report.evidence import load_evidence

    found = load_evidence(run)
    return [offers_table(found.offers, found.references)] if found.offers else []


def _document(run: Path) -> dict[str, Any]:
    """The same for JSON."""
    from bitq.report.evidence import load_evidence

    found = load_evidence(run)
    return offers_document(found.offers, found.references) if found.offers else {}


def _salvaged(run: Path) -> Salvaged:
    from bitq.report.evidence import check_result
    from bitq.salvage import salvage

    where = RunFolder(run).results
    return salvage(where, lambda each: check_result(each, where))


def _told(salvaged: Salvaged) -> str:
    kept = f"{salvaged.kept} finished evaluation{'' if salvaged.kept == 1 else 's'}"
    if salvaged.aside is None:
        return f"Nothing is damaged: the results store holds {kept}"
    return f"Kept {kept}, lost {salvaged.lost}; the damaged results store is {salvaged.aside} now"
