"""`bitq compare`: the rules by which others choose formats beside bitq's search, all fine-tuned alike."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

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
from bitq.cli.inputs import (
    DEMO,
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
from bitq.cli.output import Json, print_json, show
from bitq.cli.stored import HELP as HELP_OF_STORED
from bitq.cli.stored import StoredChoice
from bitq.cli.tables import FirstThatFits, TextColumn
from bitq.cli.uses import check_uses, given_of
from bitq.errors import BitqError, shortened
from bitq.planning import Minimize, Planning
from bitq.progress import time_text
from bitq.tasks import task_of

if TYPE_CHECKING:
    from bitq.tradeoff.compare import Comparison, Reached, Refused, Spread, Summary
    from bitq.tradeoff.measure import Subject

USUAL_RULES = "bitq,gradient,hessian,greedy,uniform,random,named,flexblock,fast,hbfp,bsfp,dbps-like,int-mixed"
DEMO_LOSS = 0.005
"""Of accuracy, that plans for the demo may lose, as with `make demo`: nobody wants a first look to cost two points."""

MOST_SEEDS, LARGEST_SEED = 100, 2**63 - 1


@with_data
def compare(
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
        typer.Option(
            help="Folder for compare.html, and seed-N with the results of each seed; `runs/NETWORK-compared`."
        ),
    ] = None,
    rules: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Who chooses formats, in the order of the table: bitq; gradient, hessian, greedy as other tools; "
            "uniform and random; named: int8, int4, mxint8, mxfp4 for all tensors; flexblock, fast, hbfp, bsfp, "
            "dbps-like, int-mixed with formats of their own; uniform-within, bitq-within for the fewest bits near "
            "float32. Options follow a colon: flexblock:upper=0.2+0.4, fast:rounding=toward_zero. All have plain: "
            "without what bitq lends to all, which is activations without a sign, stored after the activation "
            "function, and ranges fitted and learned; hbfp,hbfp:plain tells what that gives.",
        ),
    ] = USUAL_RULES,
    formats: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="What rules choose from that bring no formats of their own, as in `bitq search`; `any` by default.",
            rich_help_panel=FORMATS,
        ),
    ] = None,
    weights: Weights = None,
    activations: Activations = None,
    grid: Grid = None,
    output_as_input: OutputAsInput = False,
    stored: Annotated[StoredChoice, typer.Option(help=HELP_OF_STORED)] = StoredChoice.after_activation,
    alpha: Alpha = 0.2,
    max_accuracy_loss: Annotated[
        float | None,
        typer.Option(
            help="Of every rule the plan of least O that is at most so much less accurate than float32 on validation "
            "data, such as 0.003 for 0.3 points; 1 is no limit.",
            show_default=f"1, {DEMO_LOSS:g} for demo",
        ),
    ] = None,
    within: Annotated[
        float,
        typer.Option(
            metavar="POINTS",
            help="The fewest bits of every rule are told, too: of its plans at most so many points of accuracy below "
            "float32 on validation data.",
        ),
    ] = 0.3,
    seeds: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="All is done once with each: a seed of fine-tuning and of what is drawn from the data."
        ),
    ] = "0,1,2",
    plans: Annotated[
        int, typer.Option(min=2, max=100, help="Plans of every rule to fine-tune at most.", rich_help_panel=TUNING)
    ] = 3,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Optimizer steps of every fine-tuning.", show_default="1000, 63 with boxes", rich_help_panel=TUNING
        ),
    ] = None,
    learning_rate: LearningRate = None,
    amp: Amp = False,
    without_qat: Annotated[
        bool, typer.Option("--without-qat", help="Fine-tune nothing.", rich_help_panel=TUNING)
    ] = False,
    workers: WorkerCount = None,
    ray: RayAddress = None,
    *,
    given: DataGiven,
    as_json: Json = False,
) -> None:
    """Compare rules that choose formats: every rule's plans are fine-tuned alike, and its best is measured.

    Every rule proposes plans, of which as many are fine-tuned from the same weights, with the same data, steps and
    seeds. Of those that keep --max-accuracy-loss the one of least O on validation data counts for the rule; what is
    reported is measured on test data. A rule that cannot run on the network is told with the reason. Beside them stand
    float32 and formats that people know, not fine-tuned. Interrupted, it continues where it was: run the same command
    again.

    Examples:

    `bitq compare demo --rules bitq,uniform,int-mixed --seeds 0 --steps 200`

    `bitq compare demo --rules "bitq,flexblock,flexblock:sign=beside,flexblock:plain"`

    `bitq compare demo --formats "8:e2..e6:b16,mxint8,int3..int8"`

    `bitq compare nets:resnet20 --checkpoint resnet20.safetensors --data cifar10.npz --device stm32h743 --plans 7`
    """
    from bitq.files import RunFolder, check_replaceable
    from bitq.progress import Terminal
    from bitq.report.comparison import PAGE, write_comparison
    from bitq.tradeoff.budgets import Budgets
    from bitq.tradeoff.compare import Contest
    from bitq.tradeoff.compare import compare as compared
    from bitq.tradeoff.rules import rules_of
    from bitq.tradeoff.settings import Settings

    tuning = given_of(steps=steps, learning_rate=learning_rate)
    check_uses(
        "nothing is fine-tuned with --without-qat",
        without_qat,
        {"--steps": steps, "--learning-rate": learning_rate, "--amp": amp or None},
    )
    check_grid(grid, formats, weights, activations)
    check_machines(workers, ray)
    if not 0 <= within <= 100:
        raise BitqError(f"--within is {within!r}; it must be a number of points of accuracy from 0 to 100")
    wanted = seeds_of(seeds)
    loss = max_accuracy_loss
    if loss is None:
        loss = DEMO_LOSS if network == DEMO else 1.0
    base = Settings().suited(task_of(given.task))
    settings = replace(
        base,
        alpha=alpha,
        budgets=Budgets(None if loss >= 1 else loss),
        training=replace(base.training, amp=amp, **tuning),
        stored=stored.value,
        without="qat" if without_qat else None,
    )
    folder = RunFolder(run or Path("runs") / f"{network.replace(':', '.').replace('/', '.')}-compared")
    measured: dict[str, str] = {}

    def subject(seed: int) -> Subject:
        from bitq.tradeoff.measure import Data, Subject, Task

        own = load_source(network, checkpoint, given._replace(path=data, seed=seed))
        own.check_searchable()
        measured.update(own.measured)
        return Subject(network, own.model, Data(own.train, own.validation, own.test), Task(own.loss, own.metric))

    contest = Contest(rules_of(rules), plans, within / 100)
    offered = offered_of(formats, weights, activations, output_as_input, grid)
    command = shlex.join(["bitq", *sys.argv[1:]])
    check_replaceable(folder.path / PAGE)
    target = planned_device(device, levels, minimize)
    with machines(workers, ray) as measuring, Terminal() as listener:
        found = compared(
            subject, target, offered, settings, contest, wanted, folder, listener, command, workers=measuring
        )
    page = write_comparison(folder, found)
    if as_json:
        print_json({**document(found, folder.path, page), **measured})
    else:
        show(*tables(found), *notes_of(measured), f"Page: {page}; results: {folder.path}/seed-N")


def seeds_of(text: str) -> tuple[int, ...]:
    """The seeds in a list such as "0,1,2".

    Raises:
        BitqError: no whole numbers from 0, one twice, or too many.
    """
    parts = [each.strip() for each in text.split(",")]
    if not all(each.isascii() and each.isdigit() and len(each) < 20 and int(each) <= LARGEST_SEED for each in parts):
        given = shortened(text, 60)
        raise BitqError(f"--seeds is {given!r}; it must be whole numbers from 0 to 2^63 - 1, such as 0,1,2")
    found = tuple(map(int, parts))
    if len(set(found)) < len(found) or len(found) > MOST_SEEDS:
        raise BitqError(f"--seeds is {shortened(text, 60)!r}; give each seed once, and at most {MOST_SEEDS} of them")
    return found


def document(found: Comparison, folder: Path, page: Path) -> dict[str, Any]:
    """The comparison for JSON: the lines of the table, and every seed's results."""
    return {
        "run": str(folder),
        "report": str(page),
        "network": found.network,
        "device": found.device,
        "alpha": found.settings.alpha,
        "accuracy_loss": found.settings.budgets.accuracy_loss,
        "within": found.contest.within,
        "rules": [asdict(each) for each in found.rules],
        "untuned": [asdict(each) for each in found.untuned],
        "seeds": [
            {
                "seed": seed.seed,
                "movement_bits_max": seed.movement_max,
                "results": [_result(each) for each in seed.results],
            }
            for seed in found.seeds
        ],
    }


def _result(found: Reached | Refused) -> dict[str, Any]:
    from bitq.tradeoff.compare import Refused

    if isinstance(found, Refused):
        return {"rule": found.label, "reason": found.reason}
    own = {"validation": found.measured.validation, "tuned": found.tuned, "passes": found.passes}
    return {"rule": found.label, **found.row.model_dump(), **own, "keeps": found.keeps, "seconds": found.seconds}


def tables(found: Comparison) -> list[RenderableType]:
    """The rules, then the formats that people know and the rules that could not run."""
    limit = found.settings.budgets
    kept = "" if limit.accuracy_loss is None else f" within a loss of {100 * limit.accuracy_loss:g} points"
    several = f", mean ± standard deviation of {len(found.seeds)} seeds" if len(found.seeds) > 1 else ""
    ran = [each for each in found.rules if not each.reason]
    shown: list[RenderableType] = [
        f"{found.network} on {found.device}, alpha {found.settings.alpha:g}; {found.tuning}; each rule's best of "
        f"{found.contest.plans} plans at most by validation data{kept}, on test data{several}",
        _table(found, ran),
        *found.remarks,
        *(f"{each.label} cannot run: {each.reason}" for each in found.rules if each.reason),
        "float32, and formats that people know for all tensors, not fine-tuned:",
        _table(found, found.untuned),
        f"fewest: what the plan of the fewest bits at most {100 * found.contest.within:g} points below float32 on "
        f"validation data moves, and its {found.measure}; passes: over a batch, to find the plans",
    ]
    return shown


def _table(found: Comparison, lines: Sequence[Summary]) -> FirstThatFits:
    bits, energy_unit, size = (found.unit(name) for name in ("movement_bits", "energy_pj", "model_bytes"))

    def column(heading: str, cell: Callable[[Summary], str]) -> TextColumn:
        return TextColumn(heading, [cell(each) for each in lines])

    def spread(heading: str, name: str, digits: int, unit: float = 1.0) -> TextColumn:
        return column(heading, lambda line: _told(getattr(line, name), digits, unit))

    rule = TextColumn("", [each.label for each in lines], left=True)
    objective, accuracy = spread("O", "objective", 4), spread(f"{found.measure} %", "accuracy", 2, 0.01)
    share, moved = spread("moved %", "share", 1, 0.01), spread(bits.name, "movement_bits", 2, bits.size)
    energy = spread(f"energy {energy_unit.name}", "energy_pj", 2, energy_unit.size)
    model = spread(f"model {size.name}", "model_bytes", 1, size.size)
    known = [[each] for each in (rule, objective, accuracy, share, moved, energy, model)]
    if not any(each.seconds is not None for each in lines):
        return FirstThatFits((known, [[rule], [objective, accuracy], [share, moved], [energy, model]]))
    near = spread(f"fewest {bits.name}", "fewest_bits", 2, bits.size)
    reached = spread(f"{found.measure} %", "fewest_accuracy", 2, 0.01)
    tuned = column("plans", lambda line: f"{line.tuned or 0:.0f}")
    passes = column("passes", lambda line: f"{line.passes or 0:.0f}")
    time = column("time", lambda line: time_text(line.seconds or 0.0))
    return FirstThatFits(
        (
            [*known, [near], [reached], [tuned], [passes], [time]],
            [[rule], [objective, accuracy], [share, moved], [energy, model], [near, reached], [tuned, passes, time]],
        )
    )


def _told(value: Spread | None, digits: int, unit: float) -> str:
    return "-" if value is None else value.text(digits, unit)
