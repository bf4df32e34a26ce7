"""`bitq search`: find, fine-tune and write the plan of a network."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitq.cli.answers import int8_text, offers_document, offers_table
from bitq.cli.choosing import (
    FORMATS,
    TUNING,
    Activations,
    Alpha,
    Amp,
    Grid,
    LearningRate,
    OutputAsInput,
    Weights,
    check_grid,
    offered_of,
)
from bitq.cli.given import TracedOn, example_of
from bitq.cli.inputs import (
    DEMO_DEVICE,
    Checkpoint,
    DataGiven,
    DataPath,
    Network,
    load_source,
    notes_of,
    with_data,
)
from bitq.cli.machines import RayAddress, WorkerCount, check_machines, machines
from bitq.cli.memories import MinimizeWhat, PlannedHow, planned_device
from bitq.cli.output import Json, accuracy_text, bits_text, bytes_text, energy_text, print_json, ram_text, show
from bitq.cli.planned import plan_tables
from bitq.cli.quantities import with_limits
from bitq.cli.stored import HELP as HELP_OF_STORED
from bitq.cli.stored import StoredChoice
from bitq.cli.tables import FirstThatFits, TextColumn
from bitq.cli.uses import check_uses, given_of
from bitq.errors import BitqError
from bitq.planning import Minimize, Planning
from bitq.tasks import task_of
from bitq.tradeoff.shares import ShareOf

if TYPE_CHECKING:
    from bitq.tradeoff.records import Cost, Row

BUDGETS, ABLATIONS = "Budgets", "Ablations"


class SearchEffort(StrEnum):
    """How much is tried; see `bitq.tradeoff.settings.Settings`."""

    quick = "quick"
    normal = "normal"
    thorough = "thorough"


@with_limits(BUDGETS)
@with_data
def search(
    network: Network,
    data: DataPath = None,
    checkpoint: Checkpoint = None,
    device: Annotated[
        str, typer.Option(help="A name that `bitq devices` lists, or a device file (TOML).")
    ] = DEMO_DEVICE,
    levels: PlannedHow = Planning.together,
    minimize: MinimizeWhat = Minimize.movement,
    run: Annotated[
        Path | None,
        typer.Option(help="Folder for plan.json, weights.safetensors, report.html and results.sqlite; `runs/NETWORK`."),
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="What tensors choose from: any, which is mantissas and integers of 2 to 8 bits and what others have "
            "named; formats that `bitq formats` lists, float16, and ranges, such as "
            '"8:e2..e6:b1..b48,mxint8,mxfp4,nvfp4,int3..int8".',
            show_default="any",
            rich_help_panel=FORMATS,
        ),
    ] = None,
    weights: Weights = None,
    activations: Activations = None,
    grid: Grid = None,
    output_as_input: OutputAsInput = False,
    alpha: Alpha = 0.2,
    within: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            help="The fewest bits moved, at most so many points of accuracy below float32: 0.5 where that has 93.1 % "
            "is 92.6 % or more.",
            rich_help_panel=BUDGETS,
        ),
    ] = None,
    max_accuracy_loss: Annotated[
        float | None,
        typer.Option(
            help="The plan of least O may be so much less accurate than float32, such as 0.003 for 0.3 points.",
            rich_help_panel=BUDGETS,
        ),
    ] = None,
    stored: Annotated[StoredChoice, typer.Option(help=HELP_OF_STORED)] = StoredChoice.after_activation,
    effort: Annotated[
        SearchEffort,
        typer.Option(
            help="quick: a first look; normal; thorough: more of everything. The options of fine-tuning change one of "
            "them in detail.",
        ),
    ] = SearchEffort.normal,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Optimizer steps of every fine-tuning: 200 if quick, 1000, 2000 if thorough; with boxes a "
            "sixteenth.",
            rich_help_panel=TUNING,
            show_default=False,
        ),
    ] = None,
    learning_rate: LearningRate = None,
    amp: Amp = False,
    seed: Annotated[
        int, typer.Option(help="Of everything random; the same seed finds the same plan.", rich_help_panel=TUNING)
    ] = 0,
    rounds: Annotated[
        int | None,
        typer.Option(
            help="How often plans are proposed, fine-tuned and the prediction corrected: 1 if quick, 2, 4 if thorough.",
            rich_help_panel=TUNING,
            show_default=False,
        ),
    ] = None,
    plans: Annotated[
        int | None,
        typer.Option(
            help="Plans to fine-tune in every round: 1, 2 if thorough.", rich_help_panel=TUNING, show_default=False
        ),
    ] = None,
    uniforms: Annotated[
        int | None,
        typer.Option(
            help="Uniform formats to fine-tune alike, the best of all: 1 if quick, 2, 3 if thorough.",
            rich_help_panel=TUNING,
            show_default=False,
        ),
    ] = None,
    without_qat: Annotated[
        bool, typer.Option("--without-qat", help="Fine-tune nothing.", rich_help_panel=ABLATIONS)
    ] = False,
    without_movement: Annotated[
        bool, typer.Option("--without-movement", help="Accuracy alone decides.", rich_help_panel=ABLATIONS)
    ] = False,
    without_tradeoff: Annotated[
        bool, typer.Option("--without-tradeoff", help="Movement alone decides.", rich_help_panel=ABLATIONS)
    ] = False,
    ablations: Annotated[
        bool,
        typer.Option(
            "--ablations", help="Search as ever, then without each of these, and compare.", rich_help_panel=ABLATIONS
        ),
    ] = False,
    workers: WorkerCount = None,
    ray: RayAddress = None,
    *,
    given: DataGiven,
    inputs: TracedOn = None,
    as_json: Json = False,
    **limits: float | ShareOf | None,
) -> None:
    """Find the number format of every tensor with the least O, fine-tune, and write plan and report.

    The search scores every tensor in every format by how much it perturbs the loss, knows exactly what every choice
    moves through the device's memories, and solves for the best plans. It measures uniform formats and some of
    these plans as they are, fine-tunes the best of both alike, corrects its prediction and solves again. Whatever has
    the least O on validation data is handed over; what is reported is accuracy measured on test data.
    Interrupted, it continues where it was: run the same command again.

    Examples:

    `bitq search demo`

    `bitq search demo --effort quick`

    `bitq search demo --within 1` moves as little as one point of accuracy allows

    `bitq search demo --max-movement 50%int8`

    `bitq search demo --formats "8:e2..e6:b16,mxint8,mxfp4,nvfp4,int3..int8"`

    `bitq search demo --grid paper8` chooses from the formats of the paper

    `bitq search my_package.nets:make --checkpoint net.safetensors --data images/ --image-size 64 --device stm32h743`

    `bitq search bitq.networks:yolov8n --task detect --checkpoint yolov8n.safetensors --data coco128/`
    """
    from bitq.api import search as search_network
    from bitq.tradeoff.budgets import Budgets
    from bitq.tradeoff.settings import Settings

    base: Settings = getattr(Settings, effort)().suited(task_of(given.task))
    counts = given_of(rounds=rounds, plans=plans, uniforms=uniforms)
    tuning = given_of(steps=steps, learning_rate=learning_rate)
    without = [
        name
        for name, wanted in (("qat", without_qat), ("movement", without_movement), ("tradeoff", without_tradeoff))
        if wanted
    ]
    if len(without) + ablations > 1:
        raise BitqError("give one of --without-qat, --without-movement, --without-tradeoff and --ablations at a time")
    check_uses(
        "nothing is fine-tuned with --without-qat",
        without_qat,
        {"--steps": steps, "--learning-rate": learning_rate, "--amp": amp or None},
    )
    alone = "--without-movement" if without_movement else "--without-tradeoff"
    check_uses(
        f"one plan is all there is to find with {alone}",
        without_movement or without_tradeoff,
        {"--rounds": rounds, "--plans": plans, "--uniforms": uniforms, "--within": within},
    )
    check_grid(grid, formats, weights, activations)
    check_machines(workers, ray)
    if within is not None and not 0 <= within <= 100:
        raise BitqError(f"--within is {within!r}; it must be a number of points of accuracy from 0 to 100")
    if within is not None and max_accuracy_loss is not None:
        raise BitqError("give --within for the fewest bits or --max-accuracy-loss for the least O, not both")
    settings = replace(
        base,
        alpha=alpha,
        training=replace(base.training, amp=amp, seed=seed, **tuning),
        budgets=Budgets(max_accuracy_loss if within is None else within / 100, **limits),
        fewest_bits=within is not None,
        stored=stored.value,
        without=without[0] if without else None,  # type: ignore[arg-type]
        **counts,
    )
    offered = offered_of(formats, weights, activations, output_as_input, grid)
    source = load_source(network, checkpoint, given._replace(path=data, seed=seed))
    source.check_searchable()
    folder = run or Path("runs") / network.replace(":", ".").replace("/", ".")
    with machines(workers, ray) as measuring:
        result = search_network(
            source.model,
            source.train,
            source.validation,
            source.test,
            device=planned_device(device, levels, minimize),
            run=folder,
            formats=offered,
            settings=settings,
            loss=source.loss,
            metric=source.metric,
            ablations=ablations,
            workers=measuring,
            network=network,
            example_input=example_of(inputs, source.model, network),
            command=shlex.join(["bitq", *sys.argv[1:]]),
        )
    if as_json:
        print_json(
            {
                "run": str(folder),
                **source.measured,
                "rows": [row.model_dump() for row in result.rows],
                "alternatives": [row.model_dump() for row in result.alternatives],
                "ablations": [row.model_dump() for row in result.ablations],
                "within_budgets": result.within_budgets,
                "totals": result.plan.totals.model_dump(),
                "stays_float": [part.model_dump() for part in result.plan.stays_float or ()],
                **offers_document(result.offers, result.references),
                "advice": result.advice,
            }
        )
    else:
        from bitq.report.evidence import load_evidence

        show(
            *plan_tables(load_evidence(result.folder)),
            _table(
                (result.rows[0], *result.alternatives, *result.rows[1:], *result.ablations),
                result.references,
                source.measure,
            ),
            f"{', '.join(row.name for row in result.alternatives)}: for all tensors, calibrated, not fine-tuned",
            *notes_of(source.measured),
            offers_table(result.offers, result.references, source.measure),
            *([f"Note: {result.advice}"] if result.advice else []),
            f"Plan, weights and report: {folder}/ (open {folder / 'report.html'})",
        )


def _table(rows: Sequence[Row], references: Mapping[str, Cost], measure: str) -> FirstThatFits:
    name = TextColumn("", [row.name for row in rows], left=True)
    accuracy = TextColumn(measure, [accuracy_text(row.accuracy) for row in rows])
    dram = TextColumn("DRAM", [bits_text(row.dram_bits) for row in rows])
    on_chip = TextColumn("on-chip", [bits_text(row.on_chip_bits) for row in rows])
    of_int8 = TextColumn("of int8", [int8_text(row, references) for row in rows])
    energy = TextColumn("energy", [energy_text(row.energy_pj) for row in rows])
    model = TextColumn("model", [bytes_text(row.model_bytes) for row in rows])
    ram = TextColumn("RAM", [ram_text(row.ram_bytes) for row in rows])
    objective = TextColumn("O", [f"{row.objective:.4f}" for row in rows])
    return FirstThatFits(
        (
            [[each] for each in (name, accuracy, dram, on_chip, of_int8, energy, model, ram, objective)],
            [[name], [accuracy, objective], [dram, on_chip], [of_int8], [energy], [model, ram]],
            [[name], [accuracy, objective], [dram, on_chip, of_int8], [energy, model, ram]],
        )
    )
