"""The whole of it in one call: `bitq.search`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from torch import nn

from bitq.accuracy.evaluate import Loss, Metric, cross_entropy, top1
from bitq.batches import Batch
from bitq.devices import Device, load_device
from bitq.errors import BitqError
from bitq.files import RunFolder
from bitq.progress import Listener, Terminal
from bitq.report import write_report
from bitq.tradeoff.answers import advice
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.measure import Data, Subject, Task
from bitq.tradeoff.opening import opened
from bitq.tradeoff.outcome import WITHOUT, hand_over, note_ablation
from bitq.tradeoff.plan import Plan
from bitq.tradeoff.records import Cost, Offers, Row
from bitq.tradeoff.search import search as search_study
from bitq.tradeoff.settings import Settings, Without
from bitq.tradeoff.unlabelled import with_answers
from bitq.tradeoff.workers import Workers


@dataclass(frozen=True)
class Result:
    """What a search hands over.

    Attributes:
        plan: formats, tilings and totals, as in `folder`/plan.json.
        model: the fine-tuned network in these formats, in evaluation mode.
        rows: float32, the best uniform format and the plan, measured on the test data.
        alternatives: the network in formats that people know (float16, int8, int4, mxint8, mxfp4), as it is.
        ablations: if asked for, the best without fine-tuning, without movement and without the trade-off.
        within_budgets: whether the plan, as measured on validation data, keeps the budgets of the settings.
        folder: of the run: plan.json, weights.safetensors, report.html, results.sqlite.
        offers: what was measured that answers what people ask: the least O; the fewest bits near float32.
        references: by the names int8, float16 and float32, what the network costs in these plain formats.
        advice: of a plan that loses more than two points of accuracy, what that bought and how to lose less.
    """

    plan: Plan
    model: nn.Module
    rows: tuple[Row, ...]
    folder: Path
    ablations: tuple[Row, ...] = ()
    within_budgets: bool = True
    offers: Offers = field(default_factory=lambda: Offers(offers=(), within=()))
    references: Mapping[str, Cost] = field(default_factory=dict)
    advice: str = ""
    alternatives: tuple[Row, ...] = ()


def search(
    model: nn.Module,
    train: Iterable[Batch],
    validation: Iterable[Batch],
    test: Iterable[Batch] | None = None,
    *,
    device: str | Path | Device,
    run: str | Path,
    bits: int | None = None,
    formats: str | FormatSet | None = None,
    settings: Settings | None = None,
    loss: Loss = cross_entropy,
    metric: Metric = top1,
    ablations: bool = False,
    workers: Workers | None = None,
    network: str | None = None,
    example_input: Any = None,
    listener: Listener | None = None,
    command: str = "bitq.search(...)",
) -> Result:
    """Find, fine-tune and write the plan of least objective O for a network on a device (paper, Eq. 2).

    Called again with the same run folder it continues where it was interrupted, and repeats no finished evaluation.

    Args:
        model: float network with convolutions or linear modules; is not changed.
        train: batches (input, target) to fine-tune on, such as a DataLoader; `bitq.batches` says what they can be.
            Where they are inputs alone, the float network's classes are learned, and where validation and test data
            are, what counts is agreement with it.
            Shuffling that draws from torch's global generator is reproducible: the search seeds it.
        validation: batches that plans are chosen by.
        test: batches the result is measured on; by default the validation data, which flatters the result.
        device: name or file of a device, or a `Device`.
        run: folder for everything the search makes. Given again, it must be of the same network, data, loss and metric.
            Data are known by their first batch (training data by its shapes) and their length, lists of batches wholly.
        bits: 8 or 16: tensors choose from the grid of the paper's Table 2, whose elements have so many bits if nothing
            is shared (paper: q_b).
        formats: what tensors choose from in its place: a list such as "any,8:e6:b48" or
            "8:e2..e6:b1..b48,mxint8,int3..int8", or `FormatSet`, which tell weights from activations; by default "any",
            which is what `bitq.tradeoff.anyformats` says. A run folder is for one such set.
        settings: alpha, steps, seeds and effort.
        loss: of (output, target), to train with; cross entropy by default.
        metric: (network, batches) to a number in [0, 1], larger is better; top-1 accuracy by default.
        ablations: search again without fine-tuning, without movement and without the trade-off (paper, Table 4).
        workers: where plans are fine-tuned; by default in this process, one after the other.
        network: its name in the plan; by default its class's.
        example_input: one input the layers are traced with; by default the first of the validation data.
        listener: is told of progress; by default a bar on the terminal.
        command: how the report says the run is repeated.

    Returns:
        The plan, the fine-tuned network, the table, and the folder with plan.json, weights.safetensors, report.html.

    Raises:
        BitqError: what is wrong with the input, in one sentence. An exception out of the network, the loss, the metric
            or the data is told as a `UserCodeError` from it. Most mistakes are told before anything is measured:
            one batch goes through all of it first.
    """
    target = device if isinstance(device, Device) else load_device(device)
    given = Data(train, validation, validation if test is None else test)
    data, task = with_answers(model, given, Task(loss, metric))
    folder = RunFolder(Path(run))
    wanted = settings or Settings()
    if isinstance(formats, FormatSet) and bits is not None:
        raise BitqError("formats are given, and bits of a grid of them; leave one out")
    offered = formats if isinstance(formats, FormatSet) else FormatSet.of(formats, bits=bits)
    subject = Subject(network or type(model).__name__, model, data, task)
    with Terminal() if listener is None else nullcontext(listener) as heard:
        with opened(
            subject, target, offered, wanted, folder, heard, workers=workers, example_input=example_input
        ) as (study, traced):
            space = study.space
            if space.fixed:
                share = float(space.fixed_bits.sum()) / space.float_cost.movement_bits
                heard.note(f"what stays float moves {100 * share:.1f} % of all bits of float32, which no plan changes")
            if ablations:
                heard.note(f"the search is followed by {len(get_args(Without))} ablations, on top of the time it tells")
            found = search_study(study)
            others = []
            for without in get_args(Without) if ablations else ():
                heard.note(WITHOUT[without])
                other = replace(study, settings=replace(study.settings, without=without))
                others.append(note_ablation(study, other, search_study(other)))
            left = hand_over(study, found, traced, command)
            best = study.load_finetuned(found.best.plan)
        write_report(folder.path)
    return Result(
        left.plan,
        best,
        left.rows,
        folder.path,
        tuple(others),
        found.best.excess == 0,
        left.offers,
        left.references,
        advice(left.rows[0], left.rows[-1], left.offers, wanted.alpha, command, study.measure),
        left.alternatives,
    )
