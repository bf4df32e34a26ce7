"""How long a search will take on this machine, told before it starts: timed on a batch and a few steps."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
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
from bitq.movement.levels import movement
from bitq.movement.widths import widths
from bitq.progress import time_text
from bitq.tradeoff.measure import first_inputs, seeded
from bitq.tradeoff.records import FloatAccuracy
from bitq.tradeoff.space import Space, formats_in
from bitq.tradeoff.study import Study
from bitq.tradeoff.trials import most_in_full, most_trials
from bitq.tradeoff.workers import InProcess

_STAGE = "timing a few steps"
"""What a listener hears of."""

_STEPS = 3
"""Of fine-tuning that are timed, after a first one that meets its memory."""

_FEW, _MORE = 1, 3
"""Formats that a batch is scored in; what lies between tells what one costs."""

_SWEPT = 20
"""Times that the movement of every shape of layer takes once, as the movement of the report's sweep takes (8 on an
ECA-MobileNetV2, 19 on a ResNet-18, 10 and 40 on the demo, by device)."""

_PAGE_SECONDS = 4.0
"""Of the report's page, on a core of today: most of it goes into the script that draws."""


@dataclass(frozen=True)
class Paces:
    """Seconds that parts of a search take on this machine.

    Attributes:
        scored: a batch of training data, scored in all formats.
        float_batch: a batch of validation data through the float network.
        batch: the same with formats.
        step: one of fine-tuning.
        movement: of every shape of layer, once.
    """

    scored: float
    float_batch: float
    batch: float
    step: float
    movement: float


@dataclass(frozen=True)
class Forecast:
    """Seconds of the parts of a search, at most: one that finds no plan worth fine-tuning any more ends sooner.

    Attributes:
        scoring: of all tensors in all formats.
        screening: the measuring of plans as they are, few of them on all data.
        tuning: fine-tuning and measuring of plans, one after the other.
        tuned: so many plans.
        report: its sweep and its page.
    """

    scoring: float
    screening: float
    tuning: float
    tuned: int
    report: float

    @property
    def seconds(self) -> float:
        """The whole search."""
        return self.scoring + self.screening + self.tuning + self.report


def time_needed(study: Study) -> str:
    """How long a search will take, in a sentence.

    Args:
        study: that has its calibration, but no scores yet.
    """
    study.ledger.listener.step(_STAGE, 0, 1)
    found = forecast(study, timed(study))
    study.ledger.listener.step(_STAGE, 1, 1)
    parts = [f"{time_text(found.scoring)} to score formats"]
    if found.screening:
        parts.append(f"{time_text(found.screening)} to measure them as they are")
    parts.append(f"{time_text(found.tuning)} to {'fine-tune' if study.training else 'measure'} {found.tuned} of them")
    told = f"{', '.join(parts)}, {time_text(found.report)} for the report"
    if isinstance(study.ledger.workers, InProcess):
        return f"this will take about {time_text(found.seconds)} on this machine: {told}"
    return (
        f"this would take about {time_text(found.seconds)} in one process of this machine: {told}; other workers may "
        "need more time or less"
    )


def forecast(study: Study, paces: Paces) -> Forecast:
    """What the parts of a search take, by how often it does what was timed.

    Args:
        study: to be searched.
        paces: of this machine.
    """
    subject, settings, training = study.subject, study.settings, study.training
    (known,) = study.ledger.store.evaluations(FloatAccuracy.kind)
    likely = known.seconds / paces.float_batch / 2  # batches of data that do not tell how many they have
    validation, test = (
        paces.batch * (_length(data) or likely) for data in (subject.data.validation, subject.data.test)
    )
    part = min(validation, paces.batch * ceil(settings.screened_inputs / _size(study, subject.data.validation)))
    trials, in_full = most_trials(study), most_in_full(study)
    tuned = settings.plans if settings.alone else settings.uniforms + settings.rounds * settings.plans
    once = validation + test if training is None else training.steps * paces.step + 2 * validation + test
    return Forecast(
        scoring=ceil(settings.scored_inputs / _size(study, subject.data.train)) * paces.scored,
        screening=trials * part + in_full * (validation + test),
        tuning=tuned * once,
        tuned=tuned,
        report=_PAGE_SECONDS + _SWEPT * paces.movement,
    )


def timed(study: Study) -> Paces:
    """Time one batch, a few steps and the movement once."""
    subject, training = study.subject, study.training
    batches = first_inputs(subject.model, subject.data.train, 1, study.seed)
    measured = first_inputs(subject.model, subject.data.validation, 1, study.seed)
    middle = tuple(own[len(own) // 2] for own in map(study.space.offered.indices, TENSORS))
    formats = study.space.tensor_formats([(middle[0], middle[1], middle[2])] * len(study.space.modules))
    model = copy.deepcopy(subject.model).eval()
    with keeping_freed_memory(), seeded():
        float_batch = _least(lambda: _pass(model, measured))
        scored = _scoring(study, batches)
        apply(model, formats, study.ranges, points=study.space.points)
        batch = _least(lambda: _pass(model, measured))
        step = 0.0
        if training is not None:
            times = [time.perf_counter()]
            few = replace(training, steps=_STEPS + 1)
            finetune(
                model,
                batches,
                few,
                subject.task.loss,
                progress=lambda *_: times.append(time.perf_counter()),
                teacher=subject.model,
            )
            step = (times[-1] - times[1]) / _STEPS
    return Paces(scored, float_batch, batch, step, _least(lambda: _moved(study.space), 1))


def _moved(space: Space) -> None:
    """Solve the movement of every shape of layer for one format."""
    fmt = space.formats[len(space.formats) // 2]
    for layer in {layer.unnamed for layer in chain(*space.layers, space.fixed)}:
        movement(layer, widths(layer, formats_in((fmt,) * 3)), space.device)


def _pass(model: nn.Module, batches: Sequence[Batch]) -> None:
    with torch.no_grad():  # what a network keeps of it is learned with next
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
            samples=study.samples,
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


def _size(study: Study, data: Iterable[Batch]) -> int:
    """Inputs of a batch, at least 1."""
    batches = first_inputs(study.subject.model, data, 1, study.seed)
    return max(sum(count_inputs(inputs) for inputs, _ in batches), 1)


def _length(data: object) -> int | None:
    """Batches, if that is known without walking them."""
    try:
        return len(data)  # type: ignore[arg-type]
    except TypeError:
        return None
