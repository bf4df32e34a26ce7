"""How long a search will take on this machine, told before it starts: timed on a batch and a few steps."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil

import torch
from torch import nn

from bitq.accuracy.evaluate import device_of
from bitq.accuracy.finetune import finetune
from bitq.accuracy.quantized import apply
from bitq.accuracy.sensitivity import perturbations
from bitq.allocator import keeping_freed_memory
from bitq.batches import Batch, count_inputs, forward, to_device
from bitq.formats import TENSORS
from bitq.tradeoff.measure import first_inputs, seeded
from bitq.tradeoff.study import Study

_STEPS = 3
"""Of fine-tuning that are timed, after a first one that meets its memory."""

_FEW, _MORE = 1, 3
"""Formats that a batch is scored in; what lies between tells what one costs."""


@dataclass(frozen=True)
class Forecast:
    """Seconds of the parts of a search, at most: one that finds no plan worth fine-tuning any more ends sooner.

    Attributes:
        scoring: of all tensors in all formats.
        screening: the measuring of plans as they are.
        tuning: fine-tuning and measuring of plans, one after the other.
        tuned: so many plans.
    """

    scoring: float
    screening: float
    tuning: float
    tuned: int

    @property
    def seconds(self) -> float:
        """The whole search."""
        return self.scoring + self.screening + self.tuning


def forecast(study: Study, screened: int, float_seconds: float) -> Forecast:
    """Time one batch and a few steps of a study.

    Args:
        study: that has its calibration, but no scores yet.
        screened: plans that it will measure as they are.
        float_seconds: that the float network took on the validation and the test data.
    """
    subject, settings, training = study.subject, study.settings, study.training
    batches = first_inputs(subject.model, subject.data.train, 1, study.seed)
    formats = study.space.tensor_formats(study.space.uniform(len(study.space.formats) // 2))
    model = copy.deepcopy(subject.model).eval()

    measured = first_inputs(subject.model, subject.data.validation, 1, study.seed)
    with keeping_freed_memory(), seeded():
        float_pass = _least(lambda: _pass(model, measured))
        scoring = _scoring(study, batches)
        apply(model, formats, study.ranges)
        one_pass = _least(lambda: _pass(model, measured))
        step = 0.0
        if training is not None:
            times = [time.perf_counter()]
            few = replace(training, steps=_STEPS + 1)
            finetune(model, batches, few, subject.task.loss, progress=lambda *_: times.append(time.perf_counter()))
            step = (times[-1] - times[1]) / _STEPS
    likely = float_seconds / float_pass / 2  # batches of data that do not tell how many they have
    validation, test = (one_pass * (_length(data) or likely) for data in (subject.data.validation, subject.data.test))
    part = min(validation, one_pass * ceil(settings.screened_inputs / _count(measured)))
    size = _count(batches)
    tuned = settings.plans if settings.alone else settings.uniforms + settings.rounds * settings.plans
    steps = 0 if training is None else training.steps
    return Forecast(
        scoring=ceil(settings.scored_inputs / size) * scoring,
        screening=0.0 if settings.alone else screened * part,
        tuning=tuned * (steps * step + 2 * validation + test),
        tuned=tuned,
    )


def _pass(model: nn.Module, batches: Sequence[Batch]) -> None:
    with torch.inference_mode():
        for inputs, _ in batches:
            forward(model, to_device(inputs, device_of(model)))


def _scoring(study: Study, batches: list[Batch]) -> float:
    """Seconds that a batch is scored in all formats."""
    space, subject = study.space, study.subject

    def scored(count: int) -> None:
        perturbations(
            subject.model,
            space.modules,
            lambda name, tensor: study.probed(name, tensor)[:count],
            study.ranges,
            batches,
            subject.task.loss,
        )

    scored(_FEW)
    few, more = (_least(lambda count=count: scored(count)) for count in (_FEW, _MORE))  # type: ignore[misc]
    every = max(len(study.probed(name, tensor)) for name in space.modules for tensor in TENSORS)
    return few + max(more - few, 0.0) / (_MORE - _FEW) * (every - _FEW)


def _least(work: Callable[[], object], times: int = 2) -> float:
    """Seconds that some work takes, of several times the least."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return max(min(taken), 1e-9)


def _count(batches: Sequence[Batch]) -> int:
    return max(sum(count_inputs(inputs) for inputs, _ in batches), 1)


def _length(data: object) -> int | None:
    """Batches, if that is known without walking them."""
    try:
        return len(data)  # type: ignore[arg-type]
    except TypeError:
        return None
