"""One run: a network, its data, a search space, and every evaluation of it, each done once and kept."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

from bitq.accuracy.evaluate import device_of
from bitq.accuracy.finetune import Training
from bitq.accuracy.quantized import MaxAbs, apply, observing
from bitq.accuracy.sensitivity import TENSORS, perturbations, probed, unperturbed
from bitq.accuracy.sensitivity import scores as scores_of
from bitq.allocator import keeping_freed_memory
from bitq.batches import forward, pairs, to_device
from bitq.errors import BitqError
from bitq.formats import BlockFormat, TensorFormats
from bitq.memory import memory_told
from bitq.progress import Listener, Silent
from bitq.store import Json, Store
from bitq.tradeoff.allocate import Scores
from bitq.tradeoff.identity import bind, digest, formats_text
from bitq.tradeoff.measure import Bench, Data, Measured, Task, evaluate, first_inputs, seeded
from bitq.tradeoff.plan import write_atomically
from bitq.tradeoff.predict import RECOVERED
from bitq.tradeoff.settings import Settings
from bitq.tradeoff.space import Choice, Space, objective
from bitq.tradeoff.workers import InProcess, Workers

CALIBRATION_BATCHES = 8


class Run:
    """Evaluates plans of a space, or looks them up if they were evaluated before.

    Args:
        folder: of the run; holds results.sqlite and the checkpoints.
        name: of the network.
        model: the float network; never changed.
        data, task, space, settings: see their classes.
        store: open results store of the folder.
        listener: told of progress.
        workers: where plans are fine-tuned; by default here, one after the other.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        model: nn.Module,
        data: Data,
        task: Task,
        space: Space,
        settings: Settings,
        store: Store,
        listener: Listener | None = None,
        workers: Workers | None = None,
    ) -> None:
        self.folder, self.name, self.model, self.data, self.task = folder, name, model, data, task
        self.space, self.settings, self.store = space, settings, store
        self.listener: Listener = listener or Silent()
        self.workers: Workers = workers or InProcess()
        bind(store, name, model, data, task, space, self.listener)

    @cached_property
    def max_abs(self) -> dict[str, MaxAbs]:
        """Calibration: the largest |x| at every module's input and output over some training batches."""

        def calibrate() -> Json:
            model = copy.deepcopy(self.model).eval()
            device = device_of(model)
            with (
                memory_told("calibrating"),
                torch.inference_mode(),
                seeded(self.settings.training.seed),
                observing(model, self.space.modules) as seen,
            ):
                for inputs, _ in islice(pairs(model, self.data.train), CALIBRATION_BATCHES):
                    forward(model, to_device(inputs, device))
            if not seen:
                raise BitqError("the training data has no batch; give at least one batch of (input, target)")
            return {name: list(seen[name]) for name in self.space.modules}

        config = {"batches": CALIBRATION_BATCHES, "seed": self.settings.training.seed}
        found = self.store.get_or_run("calibration", config, calibrate)
        return {name: MaxAbs(*pair) for name, pair in found.items()}

    def float_accuracy(self) -> Json:
        """Metric of the float network: {"validation", "test"}."""

        def measure() -> Json:
            return {
                "validation": evaluate(self.model, self.data.validation, self.task).accuracy,
                "test": evaluate(self.model, self.data.test, self.task).accuracy,
            }

        return self.store.get_or_run("float", {}, measure)

    def scores(self) -> Scores:
        """For each module the scores of its tensors in every format; see `bitq.accuracy.sensitivity`."""
        space, settings = self.space, self.settings
        extents = {name: space.extents(module) for module, name in enumerate(space.modules)}

        def measure() -> Json:
            with keeping_freed_memory():
                found = perturbations(
                    self.model,
                    space.modules,
                    lambda name, tensor: probed(space.formats, extents[name][tensor]),
                    self.max_abs,
                    first_inputs(self.model, self.data.train, settings.scored_inputs, settings.training.seed),
                    self.task.loss,
                    lambda done, total: self.listener.step("scoring formats", done, total),
                )
            if idle := unperturbed(found):
                self.listener.note(
                    f"no format of {', '.join(idle)} changes the loss on the scored inputs: only movement chooses there"
                )
            return {
                name: {tensor: {str(fmt): value for fmt, value in each.items()} for tensor, each in row.items()}
                for name, row in found.items()
            }

        config = {"inputs": settings.scored_inputs, "seed": settings.training.seed}
        found = self.store.get_or_run("perturbation", config, measure)
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

    def measured(self, plans: Mapping[str, Sequence[Choice]]) -> Iterator[tuple[str, Json]]:
        """Cost and, after fine-tuning from the float weights, metric on validation and test data of plans, by label.

        What is not in the store is measured by the workers, stored, and given as soon as it is finished, in any order.
        """
        configs = {label: self.config(choices) for label, choices in plans.items()}
        missing = {
            label: self.space.tensor_formats(plans[label])
            for label, config in configs.items()
            if self.store.get("finetune", config) is None
        }
        for label, config in configs.items():
            if label not in missing:
                yield label, self.store.get("finetune", config) or {}
        if missing:
            bench = Bench(self.model, self.data, self.task, self.training, self.max_abs, torch.get_num_threads())
            for label, found, seconds in self.workers.measure(bench, missing, self.listener):
                write_atomically(self.checkpoint(missing[label]), found.weights)
                self.store.put("finetune", configs[label], self._result(label, plans[label], found), seconds)
                yield label, self.store.get("finetune", configs[label]) or {}

    @property
    def training(self) -> Training | None:
        """Fine-tuning of every contender; None if this run goes without."""
        return None if self.settings.without == "qat" else self.settings.training

    def objective(self, accuracy: float, movement_bits: float) -> float:
        """O of the run's alpha and space."""
        return objective(accuracy, movement_bits, self.space.movement_max, self.settings.alpha)

    def load_finetuned(self, choices: Sequence[Choice]) -> nn.Module:
        """The quantized network that `measured` trained, in evaluation mode.

        Raises:
            BitqError: its checkpoint is missing or damaged.
        """
        formats = self.space.tensor_formats(choices)
        model, path = copy.deepcopy(self.model), self.checkpoint(formats)
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
        return self.folder / "checkpoints" / f"{digest((formats_text(formats), self.training))}.safetensors"

    def config(self, choices: Sequence[Choice]) -> Json:
        """What the measuring of a plan depends on, beside the run."""
        training = None if self.training is None else asdict(self.training)
        return {"formats": formats_text(self.space.tensor_formats(choices)), "training": training}

    def _result(self, label: str, choices: Sequence[Choice], found: Measured) -> Json:
        cost = self.space.cost(choices)
        return {
            "label": label,
            "loss": found.loss,
            "validation": found.validation,
            "test": found.test,
            "tuned": found.tuned,
            "movement_bits": cost.movement_bits,
            "dram_bits": cost.dram_bits,
            "on_chip_bits": cost.on_chip_bits,
            "energy_pj": cost.energy_pj,
            "model_bytes": cost.model_bytes,
        }


def _by_format(values: Mapping[str, float]) -> dict[BlockFormat, float]:
    return {BlockFormat.parse(text): float(value) for text, value in values.items()}
