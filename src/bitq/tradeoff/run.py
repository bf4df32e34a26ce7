"""One run: a network, its data, a search space, and every evaluation of it, each done once and kept."""

from __future__ import annotations

import copy
import hashlib
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate, islice
from math import inf
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from bitq.accuracy.evaluate import (
    Batch,
    Loss,
    Metric,
    cross_entropy,
    device_of,
    forward,
    score,
    to_device,
    top1,
)
from bitq.accuracy.finetune import Training, finetune
from bitq.accuracy.quantized import MaxAbs, apply, observing, set_formats
from bitq.accuracy.supernet import train_supernet, use_batch_statistics
from bitq.errors import BitqError
from bitq.formats import TensorFormats
from bitq.progress import Listener, Silent
from bitq.store import Json, Store
from bitq.tradeoff.plan import write_atomically
from bitq.tradeoff.space import Choice, Space, objective

CALIBRATION_BATCHES = 8


@dataclass(frozen=True)
class Data:
    """What a network learns from, what plans are chosen by, and what the result is measured on.

    Each is walked as often as needed and yields batches of (input, target).
    """

    train: Iterable[Batch]
    validation: Iterable[Batch]
    test: Iterable[Batch]


@dataclass(frozen=True)
class Task:
    """What a network is for: the loss it is trained with and the metric, in [0, 1], that counts."""

    loss: Loss = cross_entropy
    metric: Metric = top1


@dataclass(frozen=True)
class Settings:
    """How a search spends its time.

    Attributes:
        alpha: weight of movement in the objective (paper, Eq. 2).
        training: fine-tuning of every contender.
        supernet: training of the network that predicts.
        scored_inputs: validation inputs that the sensitivity of each tensor is measured on.
        probed_inputs: validation inputs that the accuracy of a plan is predicted from.
        rounds: how often the sensitivities are measured anew around the plan they led to.
        uniforms, plans: contenders of either kind that are fine-tuned and measured.

    Raises:
        BitqError: a value out of range (names it).
    """

    alpha: float = 0.2
    training: Training = field(default_factory=Training)
    supernet: Training = field(default_factory=Training)
    scored_inputs: int = 500
    probed_inputs: int = 2000
    rounds: int = 2
    uniforms: int = 1
    plans: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < inf:
            raise BitqError(f"alpha is {self.alpha!r}; it must be a finite number of at least 0")
        for name in ("scored_inputs", "probed_inputs", "rounds", "uniforms", "plans"):
            if getattr(self, name) < 1:
                raise BitqError(f"{name} is {getattr(self, name)!r}; it must be 1 or more")


class Run:
    """Evaluates plans of a space, or looks them up if they were evaluated before.

    Args:
        folder: of the run; holds results.sqlite and the checkpoints.
        name: of the network.
        model: the float network; never changed.
        data, task, space, settings: see their classes.
        store: open results store of the folder.
        listener: told of progress.
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
    ) -> None:
        self.folder, self.name, self.model, self.data, self.task = folder, name, model, data, task
        self.space, self.settings, self.store = space, settings, store
        self.listener: Listener = listener or Silent()
        store.bind(
            {
                "network": name,
                "fingerprint": fingerprint(model),
                "data": _data_fingerprint(data),
                "training batch": _first_shapes(data.train),
                "loss": _name(task.loss),
                "metric": _name(task.metric),
                "device": space.device.name,
                "memories": [[m.name, m.capacity_bits, m.energy_pj_per_bit] for m in space.device.memories[:-1]],
                **({"partial sum bits": sums} if (sums := space.device.partial_sum_bits) else {}),
                "bits": space.formats[0].bits,
            }
        )

    @cached_property
    def max_abs(self) -> dict[str, MaxAbs]:
        """Calibration: the largest |x| at every module's input and output over some training batches."""

        def calibrate() -> Json:
            model = copy.deepcopy(self.model).eval()
            device = device_of(model)
            with (
                torch.inference_mode(),
                seeded(self.settings.training.seed),
                observing(model, self.space.modules) as seen,
            ):
                for inputs, _ in islice(self.data.train, CALIBRATION_BATCHES):
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
                "validation": self._score(self.model, self.data.validation).accuracy,
                "test": self._score(self.model, self.data.test).accuracy,
            }

        return self.store.get_or_run("float", {}, measure)

    def probe(self, choices: Sequence[Choice]) -> Json:
        """A plan's cost, and its loss and metric on the supernet without training: {"loss", "accuracy", ...}."""
        return self._probe("probe", choices, self.settings.probed_inputs)

    def loss(self, choices: Sequence[Choice]) -> float:
        """A plan's loss on the supernet without training, from fewer inputs: for differences between similar plans."""
        loss: float = self._probe("score", choices, self.settings.scored_inputs)["loss"]
        return loss

    def _probe(self, kind: str, choices: Sequence[Choice], inputs: int) -> Json:
        formats = self.space.tensor_formats(choices)

        def measure() -> Json:
            set_formats(self._supernet, formats)
            found = self._score(self._supernet, self._some_validation(inputs))
            return {"loss": found.loss, "accuracy": found.accuracy, **_cost(self.space, choices)}

        config = {
            "training": asdict(self.settings.supernet),
            "inputs": inputs,
            "formats": _text(formats),
        }
        return self.store.get_or_run(kind, config, measure)

    def finetuned(self, choices: Sequence[Choice], label: str) -> Json:
        """A plan's cost and, after fine-tuning from the float weights, its metric on validation and test data."""
        formats = self.space.tensor_formats(choices)
        config = {"formats": _text(formats), "training": asdict(self.settings.training)}
        checkpoint = self.checkpoint(formats)

        def measure() -> Json:
            model = copy.deepcopy(self.model)
            apply(model, formats, self.max_abs)
            finetune(
                model,
                self.data.train,
                self.settings.training,
                self.task.loss,
                progress=lambda done, total: self.listener.step(f"fine-tuning {label}", done, total),
            )
            validation = self._score(model, self.data.validation)
            test = self._score(model, self.data.test)
            write_atomically(checkpoint, safetensors.torch.save(_tensors(model)))
            return {
                "label": label,
                "loss": validation.loss,
                "validation": validation.accuracy,
                "test": test.accuracy,
                **_cost(self.space, choices),
            }

        return self.store.get_or_run("finetune", config, measure)

    def objective(self, accuracy: float, movement_bits: float) -> float:
        """O of the run's alpha and space."""
        return objective(accuracy, movement_bits, self.space.movement_max, self.settings.alpha)

    def load_finetuned(self, choices: Sequence[Choice]) -> nn.Module:
        """The quantized network that `finetuned` trained, in evaluation mode."""
        formats = self.space.tensor_formats(choices)
        model = copy.deepcopy(self.model)
        apply(model, formats, self.max_abs)
        _load(model, self.checkpoint(formats))
        return model

    def checkpoint(self, formats: Mapping[str, TensorFormats]) -> Path:
        """Where the fine-tuned weights of a plan are kept."""
        return self.folder / "checkpoints" / f"{_digest((_text(formats), self.settings.training))}.safetensors"

    @cached_property
    def _supernet(self) -> nn.Module:
        training = self.settings.supernet
        path = self.folder / "checkpoints" / f"supernet-{_digest(training)}.safetensors"
        model = copy.deepcopy(self.model)

        def train() -> Json:
            train_supernet(
                model,
                self.space.modules,
                self.space.formats,
                self.max_abs,
                self.data.train,
                training,
                self.task.loss,
                progress=lambda done, total: self.listener.step("training the predictor", done, total),
            )
            write_atomically(path, safetensors.torch.save(_tensors(model)))
            return {"checkpoint": path.name}

        config = {"training": asdict(training)}
        if self.store.get("supernet", config) is None:
            self.store.get_or_run("supernet", config, train)
        elif not path.is_file():
            train()
        apply(model, {name: TensorFormats() for name in self.space.modules}, self.max_abs)
        use_batch_statistics(model)
        _load(model, path)
        return model

    @cached_property
    def _validation_head(self) -> list[Batch]:
        batches, inputs = [], 0
        with seeded():
            for batch in self.data.validation:
                batches.append(batch)
                inputs += _count(batch)
                if inputs >= max(self.settings.probed_inputs, self.settings.scored_inputs):
                    break
        if not batches:
            raise BitqError("the validation data has no batch; give at least one batch of (input, target)")
        return batches

    def _some_validation(self, inputs: int) -> list[Batch]:
        """The first batches of the validation data that hold so many inputs, or all there are."""
        before = accumulate((_count(batch) for batch in self._validation_head), initial=0)
        return [batch for batch, seen in zip(self._validation_head, before, strict=False) if seen < inputs]

    def _score(self, model: nn.Module, batches: Iterable[Batch]) -> Any:
        with seeded():
            return score(model, batches, self.task.loss, self.task.metric)


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Whatever draws from torch's global generators inside repeats, and the caller's go on as if nothing was drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def fingerprint(model: nn.Module) -> str:
    """Digest of a network's weights and their names."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions that results depend on."""
    from importlib.metadata import version

    return {"bitq": version("bitq"), "torch": torch.__version__, "python": platform.python_version()}


def _data_fingerprint(data: Data) -> str:
    digest = hashlib.sha256()
    with seeded():
        for batches in (data.validation, data.test):
            for batch in islice(iter(batches), 1):
                for part in _leaves(batch):
                    digest.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _first_shapes(batches: Iterable[Batch]) -> list[list[int]]:
    with seeded():
        return [list(part.shape) for batch in islice(iter(batches), 1) for part in _leaves(batch)]


def _name(function: object) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _leaves(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    if isinstance(batch, tuple | list):
        return [leaf for part in batch for leaf in _leaves(part)]
    return []


def _count(batch: Batch) -> int:
    leaves = _leaves(batch)
    return len(leaves[0]) if leaves else 1


def _text(formats: Mapping[str, TensorFormats]) -> dict[str, list[str | None]]:
    return {
        name: [str(fmt) if fmt else None for fmt in (entry.input, entry.weight, entry.output)]
        for name, entry in formats.items()
    }


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}


def _load(model: nn.Module, path: Path) -> None:
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        raise BitqError(
            f"{path} is missing or damaged ({type(error).__name__}); remove the run folder and search again"
        ) from None
    model.eval()


def _cost(space: Space, choices: Sequence[Choice]) -> Json:
    cost = space.cost(choices)
    return {
        "movement_bits": cost.movement_bits,
        "dram_bits": cost.dram_bits,
        "on_chip_bits": cost.on_chip_bits,
        "energy_pj": cost.energy_pj,
        "model_bytes": cost.model_bytes,
    }


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
