"""The whole of it in one call: `bitq.search`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from bitq.accuracy.evaluate import Batch, Loss, Metric, cross_entropy, top1
from bitq.accuracy.kinds import quantizable, unquantizable
from bitq.devices import Device, load_device
from bitq.errors import BitqError
from bitq.formats import grid
from bitq.layers import Layer
from bitq.progress import Listener, Terminal
from bitq.report import write_report
from bitq.store import Store
from bitq.tracing import stored_tensors, trace
from bitq.tradeoff.knapsack import check
from bitq.tradeoff.measure import Data, Task, seeded
from bitq.tradeoff.outcome import WITHOUT, Row, hand_over, note_ablation, stored_bytes
from bitq.tradeoff.plan import Plan
from bitq.tradeoff.run import Run
from bitq.tradeoff.search import search as search_run
from bitq.tradeoff.settings import Settings, Without
from bitq.tradeoff.space import Space, build_space
from bitq.tradeoff.stored import ties
from bitq.tradeoff.workers import Workers

STORE = "results.sqlite"


@dataclass(frozen=True)
class Result:
    """What a search hands over.

    Attributes:
        plan: formats, tilings and totals, as in `folder`/plan.json.
        model: the fine-tuned network in these formats, in evaluation mode.
        rows: float32, the best uniform format and the plan, measured on the test data.
        ablations: if asked for, the best without fine-tuning, without movement and without the trade-off.
        within_budgets: whether the plan, as measured on validation data, keeps the budgets of the settings.
        folder: of the run: plan.json, weights.safetensors, report.html, results.sqlite.
    """

    plan: Plan
    model: nn.Module
    rows: tuple[Row, ...]
    folder: Path
    ablations: tuple[Row, ...] = ()
    within_budgets: bool = True


def search(
    model: nn.Module,
    train: Iterable[Batch],
    validation: Iterable[Batch],
    test: Iterable[Batch] | None = None,
    *,
    device: str | Path | Device,
    run: str | Path,
    bits: int = 8,
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
        train: batches (input, target) to fine-tune on, such as a DataLoader. Shuffling that draws from torch's global
            generator is reproducible: the search seeds it.
        validation: batches that plans are chosen by.
        test: batches the result is measured on; by default the validation data, which flatters the result.
        device: name or file of a device, or a `Device`.
        run: folder for everything the search makes.
        bits: 8 or 16, width of an element if nothing were shared (paper: q_b).
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
        BitqError: what is wrong with the input, in one sentence.
    """
    target = device if isinstance(device, Device) else load_device(device)
    example = _first(validation) if example_input is None else example_input
    layers = trace(model, example)
    folder = Path(run)
    with Terminal() if listener is None else nullcontext(listener) as heard:
        space = space_of(model, layers, target, bits, heard)
        wanted = settings or Settings()
        shared = ties(space, stored_tensors(model, example))
        space = replace(space, ties=shared) if wanted.tied else space
        check(space, wanted.budgets)
        data = Data(train, validation, validation if test is None else test)
        task = Task(loss, metric)
        with Store(folder / STORE, alone=True) as store:

            def run_of(without: Without | None) -> Run:
                name = network or type(model).__name__
                own = replace(wanted, without=without)
                return Run(folder, name, model, data, task, space, own, store, heard, workers)

            this = run_of(wanted.without)
            found = search_run(this)
            others = []
            for without in get_args(Without) if ablations else ():
                heard.note(WITHOUT[without])
                other = run_of(without)
                others.append(note_ablation(other, search_run(other)))
            plan, rows = hand_over(this, found, layers, shared, command)
            best = this.load_finetuned(found.contenders[0].choices)
        write_report(folder)
    return Result(plan, best, rows, folder, tuple(others), found.contenders[0].excess == 0)


def space_of(model: nn.Module, layers: Sequence[Layer], device: Device, bits: int, listener: Listener) -> Space:
    """The search space of a network's own weights: every format of `bits` bits, for every module that can take one.

    The listener is told which modules cannot, and why.

    Args:
        model: the network.
        layers: as it was traced.
        device: the memories.
        bits: 8 or 16, as for `search`.
        listener: is told of progress.

    Raises:
        BitqError: no layer whose formats can be chosen, or a memory too small for any tiling.
    """
    for name, reason in unquantizable(model).items():
        listener.note(f"module {name!r} stays float: it {reason}")
    modules = {name: model.get_submodule(name) for name in quantizable(model)}
    elements = {name: module.weight.numel() for name, module in modules.items()}  # type: ignore[operator]
    return build_space(layers, elements, stored_bytes(model), device, grid(bits), listener.step)


def _first(batches: Iterable[Batch]) -> Any:
    with seeded():
        for inputs, _ in batches:
            return _head(inputs)
    raise BitqError("the validation data has no batch; give at least one batch of (input, target)")


def _head(inputs: Any) -> Any:
    """The first example of a batch's input."""
    if isinstance(inputs, Tensor):
        return torch.empty_like(inputs[:1], device="meta")
    if isinstance(inputs, Sequence):
        return tuple(_head(part) for part in inputs)
    raise BitqError(f"a batch's input is a {type(inputs).__name__}; it must be a tensor or a tuple of tensors")
