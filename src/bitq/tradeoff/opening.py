"""From a network and its data to a study in a run folder: traced, tried on one batch, and with its space."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from bitq.accuracy.kinds import staying_float
from bitq.accuracy.storing import with_products
from bitq.batches import check_lasting, count_inputs, no_batch, one_example, pairs, unlike_inputs
from bitq.devices import Device
from bitq.errors import BitqError
from bitq.files import RunFolder, check_own_folder, remove_leftovers
from bitq.floating import sentence
from bitq.progress import Listener
from bitq.store import Store
from bitq.tracing import Traced, record
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.knapsack import check
from bitq.tradeoff.ledger import Ledger
from bitq.tradeoff.measure import Subject, seeded
from bitq.tradeoff.references import reference_costs
from bitq.tradeoff.rehearsal import rehearse
from bitq.tradeoff.settings import Settings
from bitq.tradeoff.space import modules_of, space_of
from bitq.tradeoff.stored import points_of, stored_as
from bitq.tradeoff.study import Study
from bitq.tradeoff.workers import InProcess, Workers
from bitq.usercode import UserCodeError


def _traced(model: nn.Module, inputs: Any) -> Traced:
    """A network traced on one input of a batch.

    Raises:
        BitqError: as `record` does.
    """
    try:
        return record(model, one_example(inputs))
    except UserCodeError as error:
        if (count := count_inputs(inputs)) == 1:
            raise
        told = f"{error}; this is one of a batch of {count} inputs: give example_input, if it has to be cut otherwise"
        raise UserCodeError(told) from error.__cause__


@contextmanager
def opened(
    subject: Subject,
    device: Device,
    offered: FormatSet,
    settings: Settings,
    folder: RunFolder,
    listener: Listener,
    *,
    workers: Workers | None = None,
    example_input: Any = None,
) -> Iterator[tuple[Study, Traced]]:
    """The study of a network in a run folder, which is held until the end, and the network as it was traced.

    Args:
        subject: the network, its data and its task.
        device: whose memories the bits move through.
        offered: what tensors choose from.
        settings: of the study.
        folder: of the run.
        listener: is told what stays float, and of progress.
        workers: where plans are fine-tuned; by default in this process.
        example_input: one input the layers are traced with; by default the first of the validation data.

    Raises:
        BitqError: as for `bitq.search`.
    """
    model, data = subject.model, subject.data
    for each, name in ((data.train, "training"), (data.validation, "validation"), (data.test, "test")):
        check_lasting(each, f"the {name} data")
    with seeded():
        batch = next(pairs(model, data.validation), None)
    if batch is None:
        raise no_batch("the validation data")
    if any(each.is_meta for each in (*model.parameters(), *model.buffers())):
        raise BitqError("the network has tensors on the meta device, which have no values; load its weights before")
    traced = _traced(model, batch[0]) if example_input is None else record(model, example_input)
    model = with_products(model, traced.products)
    subject = replace(subject, model=model)
    if example_input is None and (told := unlike_inputs(batch[0])) is not None:
        listener.note(told)
    if traced.by_values:
        listener.note("the network computes by the values of its input; it is counted as it computes the first one")
    for part in staying_float(model, traced.layers):
        listener.note(sentence(part))
    if modules := modules_of(model, traced.layers):
        training = None if settings.without == "qat" else settings.training
        rehearse(subject, modules, offered, training, batch, points_of(traced, settings.stored, modules))
    space = stored_as(space_of(model, traced.layers, device, offered, listener.step), traced, settings.stored)
    given = replace(settings, budgets=settings.budgets.beside(lambda: reference_costs(space)))
    wanted = given.affordable(macs := sum(layer.macs for layer in traced.layers))
    if wanted != given:
        cuts = (
            ("tensors are scored", wanted.scored_inputs, given.scored_inputs),
            ("plans are tried", wanted.screened_inputs, given.screened_inputs),
        )
        fewer = (f"{what} on at most {most} inputs instead of {asked}" for what, most, asked in cuts if most != asked)
        listener.note(f"the network takes {macs / 1e9:.1f} G multiply-accumulates for an input: {', '.join(fewer)}")
    check(space, wanted.budgets)
    with Store(folder.results, alone=True) as store:
        check_own_folder(folder.checkpoints)
        remove_leftovers(folder.path)
        remove_leftovers(folder.checkpoints)
        yield Study.opened(subject, space, wanted, Ledger(folder, store, listener, workers or InProcess())), traced
