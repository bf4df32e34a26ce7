"""`bitq report`: the page of a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitq.cli.answers import offers_document, offers_table
from bitq.cli.output import Json, accuracy_text, print_json, ratio_text, show
from bitq.cli.planned import plan_document, plan_tables
from bitq.files import RunFolder

if TYPE_CHECKING:
    from bitq.report.evidence import Evidence
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
    layers: Annotated[
        bool,
        typer.Option(
            "--layers",
            help="Show every layer of the plan: its formats, what it moves, takes and stores, what its formats are "
            "estimated to cost in accuracy, and what stays float and why.",
        ),
    ] = False,
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
    """Write report.html of a run again: one page that needs no network to be read. The terminal tells in a few lines
    what it says.

    Examples:

    `bitq report runs/demo --layers`

    `bitq report runs/demo --alpha 0.1 --alpha 0.4`
    """
    from bitq.report import write_report
    from bitq.report.evidence import load_evidence
    from bitq.report.tables import advised

    salvaged = _salvaged(run) if salvage else None
    if salvaged is not None and not as_json:
        show(_told(salvaged))
    planned = salvaged is None or RunFolder(run).plan.exists()  # a search that was stopped has no plan yet
    page = str(write_report(run, alpha) if alpha else write_report(run)) if planned else None
    evidence = load_evidence(run) if planned else None
    if as_json:
        aside = salvaged and salvaged.aside and str(salvaged.aside)
        found = {"salvaged": {**asdict(salvaged), "aside": aside}} if salvaged else {}
        offered = offers_document(evidence.offers, evidence.references) if evidence and evidence.offers else {}
        print_json({"report": page, **found, **(plan_document(evidence) if evidence and layers else {}), **offered})
    elif evidence is None:
        show("The search is not finished: there is no plan to report yet")
    else:
        tables = plan_tables(evidence) if layers else []
        offers = [offers_table(evidence.offers, evidence.references, evidence.measure)] if evidence.offers else []
        note = advised(evidence)
        show(*tables, *offers, *([f"Note: {note}"] if note else []), _result(evidence), f"Report: {page}")


def _result(run: Evidence) -> str:
    """What the plan comes to, in a line."""
    from bitq.report.text import quality

    plan, totals = run.plan, run.plan.totals
    return (
        f"{plan.network} on {plan.device}: {accuracy_text(totals.accuracy)} {quality(run.measure)} on test data "
        f"(float32: {accuracy_text(totals.accuracy_float)}), moves "
        f"{ratio_text(totals.movement_bits, totals.movement_bits_float)} of float32's bits "
        f"for {ratio_text(totals.energy_pj, totals.energy_pj_float)} of its energy; O "
        f"{totals.objective:.4f}"
    )


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
