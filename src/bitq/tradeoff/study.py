"""A study: a network, its task and data, all plans for it on a device, and every evaluation of them, each done once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

from bitq.accuracy.evaluate import device_of
from bitq.accuracy.finetune import Training
from bitq.accuracy.quantized import apply, observing
from bitq.accuracy.sensitivity import perturbations, probed, unperturbed
from bitq.accuracy.sensitivity import scores as scores_of
from bitq.allocator import keeping_freed_memory
from bitq.batches import forward, pairs, to_device
from bitq.errors import BitqError
from bitq.files import write_atomically
from bitq.formats import TENSORS, BlockFormat, MaxAbs, TensorFormats
from bitq.memory import memory_told
from bitq.store import Json
from bitq.tradeoff.allocate import Scores
from bitq.tradeoff.identity import bind, digest, formats_text
from bitq.tradeoff.ledger import Ledger
from bitq.tradeoff.measure import Bench, Measured, Subject, evaluate, first_inputs, seeded
from bitq.tradeoff.predict import RECOVERED
from bitq.tradeoff.records import Calibration, FloatAccuracy, Measurement, Perturbations, Proposer, objective
from bitq.tradeoff.settings import Settings
from bitq.tradeoff.space import Choice, Choices, Space

CALIBRATION_BATCHES = 8


@dataclass(frozen=True)
class Proposed:
    """A plan to measure: what it is called, its formats, and where it comes from."""

    label: str
    choices: Choices
    proposer: Proposer


@dataclass(frozen=True)
class Study:
    """What rules propose plans from, and what measures them.

    Attributes:
        subject: the float network, its data and its task; never changed.
        space: all plans.
        settings: what is looked for, and with which effort.
        ledger: keeps what was evaluated.
    """

    subject: Subject
    space: Space
    settings: Settings
    ledger: Ledger

    @classmethod
    def opened(cls, subject: Subject, space: Space, settings: Settings, ledger: Ledger) -> Study:
        """A study whose run folder is about this network, data, task and device, and no other.

        Raises:
            BitqError: the folder holds a run of something else; names the first difference.
        """
        bind(ledger.store, subject, space, ledger.listener)
        return cls(subject, space, settings, ledger)

    @property
    def training(self) -> Training | None:
        """Fine-tuning of every plan; None if this study goes without."""
        return None if self.settings.without == "qat" else self.settings.training

    @property
    def seed(self) -> int:
        """Of everything random in it."""
        return self.settings.training.seed

    @property
    def key(self) -> str:
        """Digest of all settings: what else but the run decides over an outcome."""
        return digest(asdict(self.settings))

    def objective(self, accuracy: float, movement_bits: float) -> float:
        """O of the settings' alpha and the space's largest movement."""
        return objective(accuracy, movement_bits, self.space.movement_max, self.settings.alpha)

    @cached_property
    def max_abs(self) -> dict[str, MaxAbs]:
        """Calibration: the largest |x| at every module's input and output over some training batches."""

        def calibrate() -> Calibration:
            model = copy.deepcopy(self.subject.model).eval()
            device = device_of(model)
            with (
                memory_told("calibrating"),
                torch.inference_mode(),
                seeded(self.seed),
                observing(model, self.space.modules) as seen,
            ):
                for inputs, _ in islice(pairs(model, self.subject.data.train), CALIBRATION_BATCHES):
                    forward(model, to_device(inputs, device))
            if not seen:
                raise BitqError("the training data has no batch; give at least one batch of (input, target)")
            return Calibration(max_abs={name: (seen[name].input, seen[name].output) for name in self.space.modules})

        config = {"batches": CALIBRATION_BATCHES, "seed": self.seed}
        found = self.ledger.once(Calibration, config, calibrate)
        return {name: MaxAbs(*pair) for name, pair in found.max_abs.items()}

    @cached_property
    def float_accuracy(self) -> FloatAccuracy:
        """Metric of the float network."""
        model, data, task = self.subject.model, self.subject.data, self.subject.task
        return self.ledger.once(
            FloatAccuracy,
            {},
            lambda: FloatAccuracy(
                validation=evaluate(model, data.validation, task).accuracy,
                test=evaluate(model, data.test, task).accuracy,
            ),
        )

    @cached_property
    def scores(self) -> Scores:
        """For each module the scores of its tensors in every format; see `bitq.accuracy.sensitivity`."""
        space, settings = self.space, self.settings
        extents = {name: space.extents(module) for module, name in enumerate(space.modules)}

        def perturb() -> Perturbations:
            with keeping_freed_memory():
                found = perturbations(
                    self.subject.model,
                    space.modules,
                    lambda name, tensor: probed(space.formats, extents[name][tensor]),
                    self.max_abs,
                    first_inputs(self.subject.model, self.subject.data.train, settings.scored_inputs, self.seed),
                    self.subject.task.loss,
                    lambda done, total: self.ledger.listener.step("scoring formats", done, total),
                )
            if idle := unperturbed(found):
                self.ledger.listener.note(
                    f"no format of {', '.join(idle)} changes the loss on the scored inputs: only movement chooses there"
                )
            return Perturbations(
                found={
                    name: {tensor: {str(fmt): value for fmt, value in each.items()} for tensor, each in row.items()}
                    for name, row in found.items()
                }
            )

        config = {"inputs": settings.scored_inputs, "seed": self.seed}
        found = self.ledger.once(Perturbations, config, perturb).found
        share = {tensor: 1.0 if self.training is None else RECOVERED[tensor] for tensor in TENSORS}
        return [
            np.stack(
                [
                    share[tensor] * scores_of(space.formats, _by_format(found[name][tensor]), extents[name][tensor])
                    for tensor in TENSORS
                ]
            )
            for name in space.modules
        ]

    def measured(self, plans: Sequence[Proposed]) -> Iterator[tuple[Proposed, Measurement]]:
        """Cost and, after fine-tuning from the float weights, metric on validation and test data of plans.

        What is not in the store is measured by the workers, stored, and given as soon as it is finished, in any order.
        """
        missing = {}
        for plan in plans:
            known = self.ledger.known(Measurement, self.config(plan.choices))
            if known is None:
                missing[plan.label] = plan
            else:
                yield plan, known
        if not missing:
            return
        subject, threads = self.subject, torch.get_num_threads()
        bench = Bench(subject.model, subject.data, subject.task, self.training, self.max_abs, threads)
        jobs = {label: self.space.tensor_formats(plan.choices) for label, plan in missing.items()}
        for label, found, seconds in self.ledger.workers.measure(bench, jobs, self.ledger.listener):
            plan, measurement = missing[label], self._measurement(missing[label], found)
            write_atomically(self.checkpoint(jobs[label]), found.weights)
            self.ledger.store.put(Measurement.kind, self.config(plan.choices), measurement.model_dump(), seconds)
            yield plan, self.ledger.known(Measurement, self.config(plan.choices)) or measurement

    def load_finetuned(self, choices: Sequence[Choice]) -> nn.Module:
        """The quantized network that `measured` trained, in evaluation mode.

        Raises:
            BitqError: its checkpoint is missing or damaged.
        """
        formats = self.space.tensor_formats(choices)
        model, path = copy.deepcopy(self.subject.model), self.checkpoint(formats)
        apply(model, formats, self.max_abs)
        try:
            model.load_state_dict(safetensors.torch.load_file(path))
        except (OSError, safetensors.SafetensorError, RuntimeError) as error:
            raise BitqError(
                f"{path} is missing or damaged ({type(error).__name__}); remove the run folder and search again"
            ) from None
        return model.eval()

    def checkpoint(self, formats: Mapping[str, TensorFormats]) -> Path:
        """Where the fine-tuned weights of a plan are kept."""
        return self.ledger.folder.checkpoint(digest((formats_text(formats), self.training)))

    def config(self, choices: Sequence[Choice]) -> Json:
        """What the measuring of a plan depends on, beside the run."""
        training = None if self.training is None else asdict(self.training)
        return {"formats": formats_text(self.space.tensor_formats(choices)), "training": training}

    def _measurement(self, plan: Proposed, found: Measured) -> Measurement:
        uniform = len({index for choice in plan.choices for index in choice}) == 1
        return Measurement(
            label=plan.label,
            proposer="uniform" if uniform else plan.proposer,
            loss=found.loss,
            validation=found.validation,
            test=found.test,
            tuned=found.tuned,
            **self.space.cost(plan.choices).figures(),
        )


def _by_format(values: Mapping[str, float]) -> dict[BlockFormat, float]:
    return {BlockFormat.parse(text): float(value) for text, value in values.items()}
