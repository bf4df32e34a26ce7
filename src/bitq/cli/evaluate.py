"""`bitq evaluate`: measure a finished run again, from its files, or a float network in some formats, untuned."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from bitq.cli.inputs import (
    DATA_OPTIONS,
    DEMO,
    DEMO_DEVICE,
    DataGiven,
    DataPath,
    NetworkOfRun,
    Source,
    load_source,
    notes_of,
    with_data,
)
from bitq.cli.output import Json, accuracy_text, print_json, show
from bitq.cli.remembered import Remembered, remembered
from bitq.cli.rungs import print_rungs
from bitq.cli.stored import HELP as HELP_OF_STORED
from bitq.cli.stored import StoredChoice
from bitq.errors import BitqError, printable, shortened
from bitq.files import RunFolder
from bitq.tasks import metric_of, task_of

LADDER = "A network in formats"


@with_data
def evaluate(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of a finished search, with plan.json and weights.safetensors; or, with --formats, a network: "
            "`demo` or `package.module:function`."
        ),
    ],
    formats: Annotated[
        str | None,
        typer.Option(
            help="Measure the network in each of these formats as it is: float32, 8:e4:b16, mxint8, int8, and ranges "
            'as in "float32,8:e2..e6:b16,8:e4:b8..b32,int4..int8".',
            rich_help_panel=LADDER,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Float weights of that network: .safetensors, or what torch.save wrote. For a run, only beside data "
            "without labels, where agreement with them counts.",
            rich_help_panel=LADDER,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Whose memories its bits move through: a name that `bitq devices` lists, or a file (TOML); "
            f"{DEMO_DEVICE}.",
            rich_help_panel=LADDER,
        ),
    ] = None,
    stored: Annotated[StoredChoice | None, typer.Option(help=HELP_OF_STORED, rich_help_panel=LADDER)] = None,
    network: NetworkOfRun = None,
    data: DataPath = None,
    *,
    given: DataGiven,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**63 - 1,
            help="Of what is drawn from the data, as the search was given it.",
            show_default="0",
            rich_help_panel=DATA_OPTIONS,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the accuracy of a plan again on the test data, from the packed weights and the plan alone; or, with
    --formats, what a float network reaches and moves in each of some formats, with nothing fine-tuned.

    For a plan, give the network, the task and the image options that the search was given. Where a search had another
    metric, that is told.

    Examples:

    `bitq evaluate runs/demo`

    `bitq evaluate runs/resnet20 --network nets:resnet20 --data cifar10.npz`

    `bitq evaluate demo --formats "float32,8:e2..e6:b16,mxint8"`

    `bitq evaluate nets:resnet20 --checkpoint resnet20.safetensors --data cifar10.npz --formats 8:e4:b8..b32`
    """
    given = given._replace(path=data, seed=seed)
    if formats is not None:
        if network is not None:
            raise BitqError(f"with --formats, {shortened(source)!r} is the network itself; leave --network out")
        _check_seed(source, seed)
        own = load_source(source, checkpoint, given)
        print_rungs(own, formats, device or DEMO_DEVICE, (stored or StoredChoice.after_activation).value, as_json)
        return
    alone = checkpoint if data is None else None
    of_formats = {"--checkpoint": alone, "--device": device, "--batch-size": given.batch_size, "--stored": stored}
    for option, value in of_formats.items():
        if value is not None:
            raise BitqError(
                f"{option} belongs to --formats; a run folder has its own weights and device, and nothing is trained"
            )
    run = Path(source)
    if not run.exists() and (source == DEMO or ":" in source):
        raise BitqError(
            f"there is no folder {shortened(source)!r}; to measure a network, name formats: "
            f"{shlex.join(['bitq', 'evaluate', shortened(source), '--formats', 'float32,8:e2..e6:b16'])}"
        )
    from bitq.accuracy.evaluate import finite, score
    from bitq.tradeoff.plan import load_plan
    from bitq.tradeoff.weights import load_quantized

    judged_by = task_of(given.task)
    measure, judge = metric_of(judged_by, given.metric)
    plan, known = load_plan(RunFolder(run).plan), remembered(run, judged_by.loss, judge)
    if network is None and plan.network != DEMO:
        raise _unnamed(plan.network, run) if ":" in plan.network else _from_python(plan.network, run, known)
    _check_seed(network or DEMO, seed)
    found_in = load_source(network or DEMO, checkpoint, given, not_from=run)
    _check_float(found_in, checkpoint, known)
    if not found_in.labelled:
        measure, known = found_in.measure, remembered(run, found_in.loss, found_in.metric)
    plan = load_quantized(found_in.model, run)
    if plan.weights is None:
        note = f"{RunFolder(run).plan} is of an earlier version, which did not tell which weights belong to a plan"
        print(printable(note), file=sys.stderr)
    found = finite(score(found_in.model, found_in.test, found_in.loss, found_in.metric))
    if known.own:
        note = (
            f"the run has another {known.own}; here the metric is {measure}: give --task and --metric if the run had "
            "them, or measure in Python"
        )
        print(printable(note), file=sys.stderr)
    if known.tested is not None and found.labels is not None and known.tested != found.labels.count:
        note = f"the run was tested on {known.tested} inputs, and these are {found.labels.count}: other data"
        print(note, file=sys.stderr)
    planned, reached = plan.totals.accuracy, accuracy_text(found.accuracy)
    if as_json:
        figures = {"run": str(run), "accuracy": found.accuracy, "planned": planned, "loss": found.loss}
        print_json({**figures, "planned_metric": known.metric or measure, "protocol": found_in.protocol})
    elif known.metric is None:
        told = f"{plan.network}: {measure} {reached} on the test data, {accuracy_text(planned)} in the plan"
        show(told, *notes_of(found_in.measured))
    else:
        show(
            f"{plan.network}: {measure} {reached} on the test data; the plan has {planned:.4f} by "
            f"its metric {known.metric!r}",
            *notes_of(found_in.measured),
        )


def _check_float(found: Source, checkpoint: Path | None, known: Remembered) -> None:
    """Refuse float weights that nothing is held against, and others than those that agreement was measured with."""
    from bitq.tradeoff.identity import fingerprint

    if found.labelled:
        if checkpoint is not None:
            raise BitqError("--checkpoint belongs to --formats; a run folder has its own weights, and data with labels")
        return
    if known.fingerprint not in (None, fingerprint(found.model)):
        raise BitqError(
            "agreement is with the float network, whose weights are not those that the search was given; give them "
            "with --checkpoint"
        )


def _check_seed(network: str, seed: int | None) -> None:
    if network == DEMO and seed is not None:
        raise BitqError("nothing is drawn from the demo's data; leave --seed out")


def _from_python(planned: str, run: Path, known: Remembered) -> BitqError:
    """What to say of a run whose network has no name that could be imported."""
    but = f", not its {known.own}" if known.own else ""
    return BitqError(
        f"{RunFolder(run).plan} is of a network {shortened(planned)!r} that was searched from Python; this command "
        f"measures on data of its --task{but}: give a function that makes the network and the images with "
        "--network package.module:function --data PATH, or measure in Python what bitq.load_quantized makes of it"
    )


def _unnamed(planned: str, run: Path) -> BitqError:
    """What to say where only the plan names a network."""
    name = planned if re.fullmatch(r"[\w.]+:[\w.]+", planned) else "package.module:function"
    given = sys.argv[1:] if sys.argv[1:2] == ["evaluate"] else ["evaluate", str(run)]
    return BitqError(
        f"{RunFolder(run).plan} names the network {shortened(planned)!r}; importing that runs its code, so it "
        f"has to be named by you: if you trust it, give {shlex.join(['bitq', *given, '--network', name])}"
    )
