"""Before anything is measured: one batch through all that a search does to a network, so that mistakes are told first.

What a user gives may fail where a search comes late: a metric that does not fit the output, a loss whose gradient
fails, a layer that cannot compute in a format, a weight that no file could hold. All of it is tried here on one batch
of validation and one of training data, on a copy of the network, and leaves neither results nor random states.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, TensorDataset, default_collate

from bitq.accuracy.evaluate import (
    InTraining,
    Loss,
    check_classes,
    cross_entropy,
    device_of,
    differentiate,
    loss_of,
    score,
    telling,
    top1,
)
from bitq.accuracy.finetune import Training, finetune
from bitq.accuracy.kinds import kind_of
from bitq.accuracy.quantized import apply
from bitq.accuracy.watching import watching
from bitq.batches import Batch, count_inputs, forward, no_batch, pairs, to_device
from bitq.calls import Points
from bitq.errors import BitqError
from bitq.formats import TENSORS, Format, TensorFormats, TensorName, format_for
from bitq.memory import memory_told
from bitq.randomness import random_states_kept
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.measure import Subject, Task, evaluate, seeded, with_own_parameters
from bitq.tradeoff.weights import check_savable, packed_names
from bitq.usercode import UserCodeError, reason

_DOING = "trying one batch"


def rehearse(
    subject: Subject,
    modules: Sequence[str],
    offered: FormatSet,
    training: Training | None,
    batch: Batch,
    points: Points | None = None,
) -> None:
    """Evaluate one batch, and fine-tune on one, in formats and for nothing.

    It takes about two steps of fine-tuning and an evaluation of as many inputs. Where a metric refuses a single batch,
    as one that ranks all inputs may, all validation data are evaluated.

    Args:
        subject: the network, its data and its task; none of them is changed.
        modules: paths of those that are to have formats.
        offered: that their formats are chosen from; tried are the finest.
        training: how plans are fine-tuned; None if they are not.
        batch: the first of the validation data.
        points: where what modules store comes out, as for `bitq.apply`.

    Raises:
        BitqError: what could not be evaluated, differentiated, quantized, fine-tuned or saved, and why; `UserCodeError`
            for an exception out of the network, the loss, the metric or the data.
    """
    model, data, own = subject.model, subject.data, subject.task
    _ = own.loss_identity, own.metric_identity  # as they are before they are called
    task = Task(_apart(own.loss), _apart(own.metric))
    wanted = dict.fromkeys(modules, finest(offered))
    check_savable(model.state_dict(), packed_names(model, modules))
    with memory_told(_DOING), random_states_kept(data.train, data.validation), seeded():
        tried, judged = _copied(model), with_own_parameters(model)  # which may keep what it met
        first = next(pairs(model, data.train), None)
        if first is None:
            raise no_batch("the training data")
        _judge(judged, [_cut(batch, count_inputs(first[0]))], subject, task)
        _check_labels(judged, batch, data.train, task)
        once = None if training is None else replace(training, steps=1)
        try:
            _learn(tried, wanted, first, task, once, points)
        except UserCodeError as error:
            raise _blamed(model, wanted, first, task, once, error) from error.__cause__


def finest(offered: FormatSet) -> TensorFormats:
    """For each tensor the format of the most bits for an element, with the most beside them."""

    def widest(tensor: TensorName) -> Format:
        formats = (format_for(offered.formats[index], tensor) for index in offered.indices(tensor))
        return max(formats, key=lambda fmt: (fmt.element_bits, fmt.bits_per_element((64, 64, 3, 3), 1, (2, 3))))

    return TensorFormats(*map(widest, TENSORS))


def _judge(model: nn.Module, batches: list[Batch], subject: Subject, task: Task) -> None:
    """The loss and the metric in evaluation."""
    try:
        score(model, batches, task.loss, task.metric)
    except BitqError as error:
        if _of_training(model, batches, task.loss):
            told = f"{error}; it takes what the network gives in training: give it as bitq.InTraining(loss)"
            raise UserCodeError(told) from error.__cause__
        if task.metric is top1:
            raise
        evaluate(model, subject.data.validation, task)


def _of_training(model: nn.Module, batches: list[Batch], loss: Loss) -> bool:
    """Whether a loss refuses what a network gives in evaluation and takes what it gives in training."""
    if isinstance(loss, InTraining):
        return False
    taken = []
    for asked in (loss, InTraining(loss)):
        try:
            with torch.no_grad(), telling(model.eval(), asked):
                inputs, target = to_device(batches[0], device_of(model))
                loss_of(forward(model, inputs), target, loss)
            taken.append(True)
        except BitqError:
            taken.append(False)
    return taken == [False, True]


def _cut(batch: Batch, count: int) -> Batch:
    """The first `count` inputs of a batch of tensors: batches to evaluate are often far larger than those to train."""
    inputs, target = batch
    if not (isinstance(inputs, Tensor) and isinstance(target, Tensor) and inputs.dim() and target.dim()):
        return batch
    return (inputs[:count], target[:count]) if len(inputs) == len(target) else batch


def _learn(
    model: nn.Module,
    formats: Mapping[str, TensorFormats],
    batch: Batch,
    task: Task,
    training: Training | None,
    points: Points | None = None,
) -> None:
    """What scoring does with a batch, and a step of fine-tuning, in formats."""
    apply(model, formats, points=points)
    model.eval()
    inputs, target = to_device(batch, device_of(model))
    with torch.enable_grad(), watching(model, formats, "scored", whole=False), telling(model, task.loss):
        value = loss_of(forward(model, inputs), target, task.loss)
    if value.requires_grad:
        differentiate(value)
    if training is not None:
        finetune(model, [batch], training, task.loss)


def _blamed(
    model: nn.Module,
    formats: Mapping[str, TensorFormats],
    batch: Batch,
    task: Task,
    training: Training | None,
    error: UserCodeError,
) -> BitqError:
    """What to say of an exception in formats: it is the user's, unless it needs the format of one module."""
    for names in ((), *((name,) for name in formats)):
        try:
            _learn(_copied(model), {name: formats[name] for name in names}, batch, task, training)
        except BitqError as found:
            if not names:
                return found
            layer = model.get_submodule(names[0])
            base = next(cls for cls in kind_of(layer).classes if isinstance(layer, cls)).__name__
            why = reason(found.__cause__ or found)
            return BitqError(
                f"module {names[0]!r}, a {type(layer).__name__}, cannot compute in a format: {why}; let it be called "
                f"with what {base}.forward takes, and return a tensor as that does"
            )
    return error


def _check_labels(model: nn.Module, batch: Batch, data: Any, task: Task) -> None:
    """Refuse a label of a class that the network has not, as far as labels are at hand without walking the data."""
    inputs, targets = batch[0], _targets(model, data)
    if task.loss is not cross_entropy or not isinstance(inputs, Tensor) or not targets:
        return
    with torch.inference_mode():
        output = forward(model.eval(), to_device(inputs[:1], device_of(model)))
    for target in targets:
        check_classes(output, target)


def _targets(model: nn.Module, data: Any) -> list[Any]:
    """The targets of data that lie in memory."""
    if isinstance(data, list | tuple):
        return [target for _, target in pairs(model, data)]
    if (
        isinstance(data, DataLoader)
        and data.collate_fn is default_collate
        and isinstance(data.dataset, TensorDataset)
        and isinstance(data.sampler, RandomSampler | SequentialSampler)
    ):
        return list(data.dataset.tensors[1:2])
    return []


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise UserCodeError(
            f"the network cannot be copied, which fine-tuning every plan from the same weights takes: "
            f"{reason(error, model)}"
        ) from error


def _apart(function: Any) -> Any:
    """A loss or metric that is a module and so has a state, as a copy."""
    return copy.deepcopy(function) if isinstance(function, nn.Module) else function
