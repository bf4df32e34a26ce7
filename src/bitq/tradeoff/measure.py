"""Measuring one plan: fine-tuned from the float weights, and evaluated. It needs no run and no store."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import safetensors.torch
import torch
from torch import nn

from bitq.accuracy.evaluate import Loss, Metric, Score, cross_entropy, score, top1
from bitq.accuracy.finetune import Training, finetune
from bitq.accuracy.held import holding_scales
from bitq.accuracy.quantized import apply, calibration
from bitq.accuracy.ranges import Samples, fitted
from bitq.allocator import keeping_freed_memory
from bitq.batches import Batch, count_inputs, pairs
from bitq.calls import Points
from bitq.errors import BitqError
from bitq.formats import Ranges, TensorFormats
from bitq.tradeoff.functions import Identity, identity_of
from bitq.tradeoff.records import Calibration

_RANGES = "bitq_ranges"
"""The entry of the metadata of fine-tuned weights with the ranges that activations have, as `Calibration`."""


@dataclass(frozen=True)
class Data:
    """What a network learns from, what plans are chosen by, and what the result is measured on.

    Each is walked as often as needed and yields batches of (input, target), as `bitq.batches` describes them.
    """

    train: Iterable[Batch]
    validation: Iterable[Batch]
    test: Iterable[Batch]


@dataclass(frozen=True)
class Task:
    """What a network is for: the loss it is trained with and the metric, in [0, 1], that counts."""

    loss: Loss = cross_entropy
    metric: Metric = top1

    @cached_property
    def loss_identity(self) -> Identity:
        """What the loss is; one that cannot be identified is another for every task."""
        return identity_of(self.loss)

    @cached_property
    def metric_identity(self) -> Identity:
        """What the metric is, alike."""
        return identity_of(self.metric)


@dataclass(frozen=True)
class Subject:
    """What a study is about: a float network by its name, what it learns from, and what it is for."""

    name: str
    model: nn.Module
    data: Data
    task: Task


@dataclass(frozen=True)
class Bench:
    """What every plan of a run is measured with.

    Attributes:
        model: the float network; never changed.
        data, task: see their classes.
        training: None measures plans as they are, without fine-tuning.
        ranges: calibration of the activations.
        samples: of them; None takes ranges as they are, else those that suit a plan's formats.
        threads: of PyTorch, None to leave them: sums, and so results, depend on their number.
        points: where what modules store comes out, as for `bitq.apply`.
    """

    model: nn.Module
    data: Data
    task: Task
    training: Training | None
    ranges: Mapping[str, Ranges]
    threads: int | None = None
    samples: Samples | None = None
    points: Points = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """A measured plan.

    Attributes:
        loss: on validation data.
        before: the metric on validation data before fine-tuning.
        validation, test: the metric there.
        tuned: whether its weights are the fine-tuned ones.
        weights: as a safetensors file, which `ranges_in` reads the network's ranges from.
    """

    loss: float
    before: float
    validation: float
    test: float
    tuned: bool
    weights: bytes


def measure(
    bench: Bench,
    formats: Mapping[str, TensorFormats],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Measured:
    """Fine-tune a copy of the network in these formats and evaluate it.

    Fine-tuning can lose more than fine formats do: of the network before and after it, the one with the better metric
    on validation data counts.

    Args:
        bench: network, data, training.
        formats: by module path.
        progress: called with (steps done, steps).
    """
    if bench.threads is not None and torch.get_num_threads() != bench.threads:
        torch.set_num_threads(bench.threads)
    untuned = kept = _in_formats(bench, formats)
    with keeping_freed_memory():
        before = validation = evaluate(untuned, bench.data.validation, bench.task)
        if bench.training is not None:
            tuned = _in_formats(bench, formats)
            finetune(
                tuned, bench.data.train, bench.training, bench.task.loss, progress=progress, teacher=bench.model
            )
            after = evaluate(tuned, bench.data.validation, bench.task)
            if after.accuracy >= validation.accuracy:
                kept, validation = tuned, after
        test = evaluate(kept, bench.data.test, bench.task)
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in kept.state_dict().items()}
    ranges = Calibration(ranges={name: own.known for name, own in calibration(kept).items()})
    weights = safetensors.torch.save(tensors, {_RANGES: ranges.model_dump_json()})
    return Measured(
        validation.loss, before.accuracy, validation.accuracy, test.accuracy, kept is not untuned, weights
    )


def _in_formats(bench: Bench, formats: Mapping[str, TensorFormats]) -> nn.Module:
    model = copy.deepcopy(bench.model).eval()
    ranges = bench.ranges if bench.samples is None else fitted(bench.samples, formats, bench.ranges)
    apply(model, formats, ranges, points=bench.points)
    return model


def ranges_in(weights: bytes) -> dict[str, Ranges]:
    """The ranges of the activations of a measured network, by module path.

    Args:
        weights: as `Measured` has them.

    Raises:
        BitqError: a file without any, or with some that are none.
    """
    size = int.from_bytes(weights[:8], "little")
    try:
        told = json.loads(weights[8 : 8 + size])["__metadata__"][_RANGES]
        found = Calibration.model_validate_json(told).ranges
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BitqError("a file of fine-tuned weights does not tell the ranges of its activations") from error
    return {name: Ranges(*own) for name, own in found.items()}


def evaluate(model: nn.Module, batches: Iterable[Batch], task: Task) -> Score:
    """Loss and metric on some data, which are walked in the same order every time.

    What runs is a copy with the network's own parameters: some networks keep of the inputs that they meet first what
    no state has, as torchvision's detectors keep the scales of their features.
    """
    with seeded(), holding_scales(running := with_own_parameters(model)) as look_for_scales:
        look_for_scales()
        return score(running, batches, task.loss, task.metric)


def with_own_parameters(model: nn.Module) -> nn.Module:
    """A copy of a network that has its parameters, not copies of them."""
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


def first_inputs(model: nn.Module, batches: Iterable[Batch], count: int, seed: int = 0) -> list[Batch]:
    """The first batches, in the order that a seed gives, of at least `count` inputs, or all there are."""
    found: list[Batch] = []
    seen = 0
    with seeded(seed):
        for inputs, target in pairs(model, batches):
            found.append((inputs, target))
            seen += count_inputs(inputs)
            if seen >= count:
                break
    return found


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Whatever draws from torch's global generators inside repeats, and the caller's go on as if nothing was drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
