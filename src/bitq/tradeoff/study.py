"""A study: a network, its task and data, all plans for it on a device, and every evaluation of them, each done once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from itertools import islice
from math import inf
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

from bitq.accuracy.evaluate import device_of, doubt
from bitq.accuracy.finetune import Training
from bitq.accuracy.quantized import apply, observing
from bitq.accuracy.ranges import Samples, fitted
from bitq.accuracy.sensitivity import perturbations, probed, unperturbed
from bitq.accuracy.sensitivity import scores as scores_of
from bitq.allocator import keeping_freed_memory
from bitq.batches import forward, no_batch, pairs, to_device
from bitq.calls import Call
from bitq.database import damaged
from bitq.errors import BitqError
from bitq.files import write_atomically
from bitq.formats import TENSORS, Format, Ranges, TensorFormats, TensorName, format_for
from bitq.memory import memory_told
from bitq.multiplying import products_of
from bitq.outside import read_outside
from bitq.store import Json
from bitq.tradeoff.allocate import Scores
from bitq.tradeoff.identity import bind, digest, formats_text
from bitq.tradeoff.ledger import Ledger
from bitq.tradeoff.measure import Bench, Measured, Subject, evaluate, first_inputs, ranges_in, seeded
from bitq.tradeoff.naming import measure
from bitq.tradeoff.predict import RECOVERED
from bitq.tradeoff.records import Calibration, FloatAccuracy, Measurement, Perturbations, Proposer, Record, objective
from bitq.tradeoff.settings import Settings
from bitq.tradeoff.space import Choices, Space

CALIBRATION_BATCHES = 8

_HEADER_BYTES = 64 << 20  # of a file of weights, at most: their names and shapes


@dataclass(frozen=True)
class Proposed:
    """A plan to measure: what it is called, its formats, where it comes from, and whether it is fine-tuned before."""

    label: str
    choices: Choices
    proposer: Proposer
    tune: bool = True


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
    def measure(self) -> str:
        """What the metric is called."""
        return measure(self.subject.task.metric_identity.text)

    @property
    def training(self) -> Training | None:
        """Fine-tuning of plans; None if this study goes without."""
        return None if self.settings.without == "qat" else self.settings.training

    def training_of(self, plan: Proposed) -> Training | None:
        """How a plan is fine-tuned; None if it is measured as it is."""
        return self.training if plan.tune else None

    @property
    def seed(self) -> int:
        """Of everything random in it."""
        return self.settings.training.seed

    @property
    def stored(self) -> Json:
        """Beside formats, what decides over what a plan computes: where outputs are quantized, if not where they come
        out."""
        return {"stored": digest(sorted(self.space.points.items()))} if self.space.points else {}

    @property
    def key(self) -> str:
        """Digest of all settings: what else but the run decides over an outcome."""
        return digest(asdict(self.settings))

    def objective(self, accuracy: float, movement_bits: float) -> float:
        """O of the settings' alpha and the space's largest movement."""
        return objective(accuracy, movement_bits, self.space.movement_max, self.settings.alpha)

    @cached_property
    def ranges(self) -> dict[str, Ranges]:
        """Calibration: between which numbers every module's input and output lie in some training batches."""

        def calibrate() -> Calibration:
            seen, _ = self._observed
            return Calibration(ranges={name: seen[name].known for name in self.space.modules})

        config = {"batches": CALIBRATION_BATCHES, "seed": self.seed, **self.stored}
        found = self.ledger.once(Calibration, config, calibrate).ranges
        with self.complete(Calibration):
            return {name: Ranges(*found[name]) for name in self.space.modules}

    def never_negative(self, module: int, tensor: int) -> bool:
        """Whether calibration met no negative number in a tensor, by index of its module and in `TENSORS`."""
        return self.ranges[self.space.modules[module]].non_negative(TENSORS[tensor])

    def offered(self, module: str, tensor: TensorName) -> tuple[int, ...]:
        """Of the space's formats, those that a tensor of the module of this path may take: none without negative
        numbers where calibration met one."""
        formats = self.space.formats
        return tuple(
            index
            for index in self.space.offered.indices(tensor)
            if not (isinstance(each := formats[index], Format) and each.never_negative)
            or self.ranges[module].non_negative(tensor)
        )

    @property
    def samples(self) -> Samples:
        """Of every module's input and output in these batches, by which ranges suit formats."""
        return self._observed[1]

    @cached_property
    def _observed(self) -> tuple[dict[str, Ranges], Samples]:
        model, samples = copy.deepcopy(self.subject.model).eval(), Samples(self.seed, self.settings.ranges)
        device = device_of(model)
        with (
            memory_told("calibrating"),
            torch.inference_mode(),
            seeded(self.seed),
            observing(model, self.space.modules, samples, self.space.points) as seen,
        ):
            for inputs, _ in islice(pairs(model, self.subject.data.train), CALIBRATION_BATCHES):
                forward(model, to_device(inputs, device))
        if not seen:
            raise no_batch("the training data")
        return seen, samples

    def ranges_for(self, formats: Mapping[str, TensorFormats]) -> dict[str, Ranges]:
        """The ranges that suit a plan's formats."""
        return fitted(self.samples, formats, self.ranges)

    def formats(self, module: str, tensor: TensorName) -> tuple[Format, ...]:
        """What the space's candidates mean for a tensor of the module of this path, in their order."""
        non_negative = self.ranges[module].non_negative(tensor)
        return tuple(format_for(each, tensor, non_negative) for each in self.space.formats)

    def probed(self, module: str, tensor: TensorName) -> tuple[Format, ...]:
        """The formats that are measured to score those which a tensor may take."""
        extents = self.space.extents(self.space.modules.index(module))
        return probed(self._own(module, tensor), extents[tensor])

    def _own(self, module: str, tensor: TensorName) -> tuple[Format, ...]:
        formats = self.formats(module, tensor)
        return tuple(formats[index] for index in self.offered(module, tensor))

    def tensor_formats(self, plan: Choices) -> dict[str, TensorFormats]:
        """A plan's formats by module path."""
        return self.space.tensor_formats(plan, self.ranges)

    @cached_property
    def float_accuracy(self) -> FloatAccuracy:
        """Metric of the float network."""
        model, data, task = self.subject.model, self.subject.data, self.subject.task

        def measure() -> FloatAccuracy:
            validation = evaluate(model, data.validation, task)
            if question := doubt(validation):
                self.ledger.listener.note(question)
            return FloatAccuracy(validation=validation.accuracy, test=evaluate(model, data.test, task).accuracy)

        found = self.ledger.once(FloatAccuracy, {}, measure)
        if not (0 <= found.validation <= 1 and 0 <= found.test <= 1):
            raise damaged(self.ledger.store.path, "the float network has an accuracy that none can have")
        return found

    @property
    def is_scored(self) -> bool:
        """Whether the store has what the scores come from."""
        return self.ledger.known(Perturbations, self._scored_by) is not None

    @property
    def _scored_by(self) -> Json:
        return {
            "inputs": self.settings.scored_inputs, "seed": self.seed, "ranges": self.settings.ranges, **self.stored
        }

    @cached_property
    def scores(self) -> Scores:
        """For each module the scores of its tensors in every format; see `bitq.accuracy.sensitivity`.

        Infinite in what a tensor may not take.
        """
        space, settings = self.space, self.settings
        extents = {name: space.extents(module) for module, name in enumerate(space.modules)}

        def perturb() -> Perturbations:
            with keeping_freed_memory():
                found = perturbations(
                    self.subject.model,
                    space.modules,
                    self.probed,
                    self.ranges,
                    first_inputs(self.subject.model, self.subject.data.train, settings.scored_inputs, self.seed),
                    self.subject.task.loss,
                    lambda done, total: self.ledger.listener.step("scoring formats", done, total),
                    points=space.points,
                    samples=self.samples,
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

        found = self.ledger.once(Perturbations, self._scored_by, perturb).found
        products = products_of(self.subject.model)
        with self.complete(Perturbations):
            values = {
                (name, tensor): {fmt: row[str(fmt)] for fmt in self.probed(name, tensor)}
                for name in space.modules
                for tensor, row in ((tensor, found[name][tensor]) for tensor in TENSORS)
            }
        found_scores = []
        for name in space.modules:
            table = np.full((len(TENSORS), len(space.formats)), inf)
            for row, tensor in zip(table, TENSORS, strict=True):
                own = scores_of(self._own(name, tensor), values[name, tensor], extents[name][tensor])
                untuned = self.training is None or isinstance(products.get(name), Call)  # whose weight is no parameter
                row[list(self.offered(name, tensor))] = (1.0 if untuned else RECOVERED[tensor]) * own
            found_scores.append(table)
        return found_scores

    def measured(self, plans: Sequence[Proposed]) -> Iterator[tuple[Proposed, Measurement]]:
        """Cost and, after fine-tuning from the float weights, metric on validation and test data of plans.

        What is not in the store is measured by the workers, stored, and given as soon as it is finished, in any order.
        """
        missing: dict[bool, dict[str, Proposed]] = {False: {}, True: {}}
        for plan in plans:
            known = self._known(plan)
            if known is None:
                missing[plan.tune][plan.label] = plan
            else:
                yield plan, known
        for those in filter(None, missing.values()):
            for label, found, seconds in self._worked(those):
                plan, measurement = those[label], self._measurement(those[label], found)
                write_atomically(self.checkpoint(plan), found.weights)
                self.ledger.store.put(Measurement.kind, self.config(plan), measurement.model_dump(), seconds)
                yield plan, self._known(plan) or measurement

    def load_finetuned(self, plan: Proposed) -> nn.Module:
        """The quantized network that `measured` trained, in evaluation mode.

        Weights that are lost, damaged or another plan's are told and made again, as they were made before.

        Raises:
            BitqError: a plan that was not measured, or weights that cannot be made again as they were.
        """
        model, path = copy.deepcopy(self.subject.model), self.checkpoint(plan)
        known = self._known(plan)
        if known is None:
            raise BitqError(f"the plan of {path} was not measured in this run; search again")
        try:
            content = _kept(path, model, known.weights)
        except BitqError as error:
            self.ledger.listener.note(f"{error}: making these weights again")
            content = self._made_again(plan, known)
        model.load_state_dict(safetensors.torch.load(content))
        apply(model, self.tensor_formats(plan.choices), ranges_in(content), points=self.space.points)
        return model.eval()

    def checkpoint(self, plan: Proposed) -> Path:
        """Where the weights of a measured plan are kept."""
        formats = formats_text(self.tensor_formats(plan.choices))
        key = formats, self.training_of(plan), self.settings.ranges, *self.stored.values()
        return self.ledger.folder.checkpoint(digest(key))

    def config(self, plan: Proposed) -> Json:
        """What the measuring of a plan depends on, beside the run."""
        training, counted = self.training_of(plan), self.space.counted
        return {
            "formats": formats_text(self.tensor_formats(plan.choices)),
            "training": None if training is None else asdict(training),
            "ranges": self.settings.ranges,
            **self.stored,
            **({"counted": list(map(str, counted))} if counted else {}),
        }

    def _known(self, plan: Proposed) -> Measurement | None:
        """What was measured of a plan before, or None."""
        found = self.ledger.known(Measurement, self.config(plan))
        if found is not None and not _usable(found):
            raise damaged(self.ledger.store.path, "a measured plan has an accuracy or a cost that none can have")
        if found is not None and found.ram_bytes is None:  # of an earlier version
            return found.model_copy(update={"ram_bytes": self.space.cost(plan.choices).ram_bytes})
        return found

    @contextmanager
    def complete(self, record: type[Record]) -> Iterator[None]:
        """Tell of a stored result that lacks a module, tensor or format."""
        try:
            yield
        except KeyError as error:
            what = f"a result of kind {record.kind!r} lacks {error.args[0]!r}"
            raise damaged(self.ledger.store.path, what) from None

    def _worked(self, plans: Mapping[str, Proposed]) -> Iterator[tuple[str, Measured, float]]:
        """What the workers measure of plans by their labels, with the seconds it takes."""
        subject, threads = self.subject, torch.get_num_threads()
        (training,) = {self.training_of(plan) for plan in plans.values()}
        bench = Bench(
            subject.model,
            subject.data,
            subject.task,
            training,
            self.ranges,
            threads,
            samples=self.samples,
            points=self.space.points,
        )
        jobs = {label: self.tensor_formats(plan.choices) for label, plan in plans.items()}
        return self.ledger.workers.measure(bench, jobs, self.ledger.listener)

    def _made_again(self, plan: Proposed, known: Measurement) -> bytes:
        """The weights that a plan had when it was measured."""
        path = self.checkpoint(plan)
        ((_, found, _),) = self._worked({plan.label: plan})
        again = self._measurement(plan, found)
        same = (again.validation, again.test) == (known.validation, known.test)
        if not same or known.weights not in (None, again.weights):
            raise BitqError(
                f"{path} is lost, and here the same fine-tuning gives other weights (accuracy {again.validation:.4f}, "
                f"{known.validation:.4f} before); give another run folder with --run"
            )
        write_atomically(path, found.weights)
        return found.weights

    def _measurement(self, plan: Proposed, found: Measured) -> Measurement:
        return Measurement(
            label=plan.label,
            proposer=plan.proposer,
            loss=found.loss,
            before=found.before,
            validation=found.validation,
            test=found.test,
            tuned=found.tuned,
            weights=sha256(found.weights).hexdigest(),
            **self.space.cost(plan.choices).figures(),
        )


def _kept(path: Path, model: nn.Module, told: str | None) -> bytes:
    """A file of fine-tuned weights.

    Args:
        path: of the file.
        model: that they are for.
        told: their SHA-256, if it is known.

    Raises:
        BitqError: no such file, or one of other weights.
    """
    state = model.state_dict()
    most = sum(tensor.nbytes for tensor in state.values()) + _HEADER_BYTES
    content = read_outside(path, most, "a file of fine-tuned weights")
    if told is not None and sha256(content).hexdigest() != told:
        raise BitqError(f"{path} is damaged, or of another plan")
    try:
        tensors = safetensors.torch.load(content)
    except Exception as error:  # whatever a decoder of untrusted bytes runs into
        raise BitqError(f"{path} is damaged") from error
    if tensors.keys() != state.keys() or any(
        (tensors[name].shape, tensors[name].dtype) != (tensor.shape, tensor.dtype) for name, tensor in state.items()
    ):
        raise BitqError(f"{path} is of another network")
    return content


def _usable(found: Measurement) -> bool:
    """Whether a measurement holds what every measurement does."""
    amounts = (found.movement_bits, found.dram_bits, found.energy_pj, found.model_bytes)
    return all(0 <= each <= 1 for each in (found.validation, found.test)) and all(0 <= each < inf for each in amounts)
