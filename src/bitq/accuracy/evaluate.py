"""How good a network is: its loss and its metric on some data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite, sqrt
from types import FunctionType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitq.accuracy.quantized import in_formats
from bitq.batches import Batch, described, forward, no_batch, pairs, to_device
from bitq.errors import BitqError
from bitq.memory import memory_told
from bitq.usercode import users_own

Loss = Callable[[Any, Any], Any]
"""(output of the network, target) to a scalar, smaller is better, or to a tuple that begins with it; or to a mapping of
scalars, of which that called "loss" counts, or else their sum."""

@dataclass(frozen=True)
class InTraining:
    """A loss of what a network gives in training mode, as torchvision's detectors give their losses.

    Wherever it is asked for, the network is in training mode. Only while its weights learn, norms and dropout are, too:
    else they go on as in evaluation. The metric sees the network in evaluation mode. A network that goes on from its
    layers in another way in training, as by a loss of logits, is told so and can be searched as in the paper
    (`Settings(stored="paper")`).

    Attributes:
        loss: of that output and the target; by default the output is the loss, or the losses, itself. Then nothing is
            learned from the float network's answers, which are no target.
    """

    loss: Loss | None = None

    def __call__(self, output: Any, target: Any) -> Any:
        """The loss."""
        return output if self.loss is None else self.loss(output, target)


_AS_IN_EVALUATION = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
)


@contextmanager
def telling(model: nn.Module, loss: Loss) -> Iterator[None]:
    """Inside, a network in evaluation mode gives what a loss is of; then it is in evaluation mode again."""
    if not isinstance(loss, InTraining):
        yield
        return
    for module in model.modules():
        module.training = not isinstance(module, _AS_IN_EVALUATION)
    try:
        yield
    finally:
        model.eval()


Metric = Callable[[nn.Module, Iterable[Batch]], float]
"""(network in evaluation mode, batches) to a number in [0, 1], larger is better."""


class Tally(Protocol):
    """What a metric is counted by, batch by batch."""

    def count(self, output: Any, target: Any) -> None:
        """Take a batch in."""

    @property
    def share(self) -> float:
        """The metric of all batches, in [0, 1]."""


_TALLIES: dict[Any, Callable[[], Tally]] = {}


def tallied(tally: Callable[[], Tally]) -> Callable[[Metric], Metric]:
    """Say of a metric what it is counted by: `score` then counts it in the pass that measures the loss."""

    def register(metric: Metric) -> Metric:
        _TALLIES[metric] = tally
        return metric

    return register


def counted(model: nn.Module, batches: Iterable[Batch], tally: Tally) -> float:
    """What a metric is on some data that is counted by `tally`."""
    for inputs, target in _on_device(model, batches):
        tally.count(forward(model, inputs), target)
    return tally.share


@dataclass(frozen=True)
class Labels:
    """The labels that top-1 accuracy was measured on.

    Attributes:
        classes: that the network tells apart.
        count: of labels.
        most: how many of them are the most frequent one.
    """

    classes: int
    count: int
    most: int


@dataclass(frozen=True)
class Score:
    """Mean loss and metric of a network on some batches.

    Attributes:
        loss: averaged over batches.
        accuracy: the metric, in [0, 1].
        labels: what top-1 accuracy was measured on; None for another metric, or targets that are no classes.
    """

    loss: float
    accuracy: float
    labels: Labels | None = field(default=None, compare=False)


def doubt(found: Score) -> str:
    """What to ask about a float network that does no better than guessing; "" if it does, or where that is not known.

    Whoever guesses best always answers the most frequent label. An accuracy counts as no better if it is above that
    label's share by less than two standard deviations of a share of so many labels.
    """
    labels = found.labels
    if labels is None or labels.most == labels.count:
        return ""
    share = labels.most / labels.count
    if found.accuracy > share + 2 * sqrt(share * (1 - share) / labels.count):
        return ""
    return (
        f"float32 reaches {100 * found.accuracy:.1f} % on {labels.classes} classes, where always answering the most "
        f"frequent one reaches {100 * share:.1f} %: is this the trained checkpoint?"
    )


def finite(found: Score) -> Score:
    """The same score, unless its loss is no finite number: then its metric says nothing.

    Raises:
        BitqError: it is not.
    """
    if not isfinite(found.loss):
        raise BitqError(
            f"the loss is {found.loss} instead of a finite number; give the network, and --mean and --std, that the "
            "search was given"
        )
    return found


cross_entropy: Loss = functional.cross_entropy
IGNORED = -100
"""Label that cross entropy leaves out."""
_LABELS = (torch.long, torch.uint8)
"""Types of targets that cross entropy takes for classes."""


def device_of(model: nn.Module) -> torch.device:
    """Where a network's parameters are."""
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))


def loss_of(output: Any, target: Any, loss: Loss) -> Tensor:
    """The loss of one batch: one number, as `Loss` says which.

    Memory that runs out and a device that fails are not the loss's: they pass as they are.

    Raises:
        BitqError: a loss that refuses the output or the target, such as a label of a class the network has not, or
            that gives no single number.
    """
    if loss is cross_entropy:
        check_classes(output, target)
    with users_own(lambda: f"the loss refuses {_fit(output, target)}"):
        given = loss(output, target)
    value = _total(given)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise BitqError(f"the loss gave {described(given)} for {_fit(output, target)}; it must give one number")
    return value


def _total(given: Any) -> Any:
    """What counts of all that a loss gives."""
    if isinstance(given, Mapping) and given:
        parts = [given["loss"]] if "loss" in given else list(given.values())
        if all(isinstance(part, Tensor) and part.numel() == 1 for part in parts):
            return torch.stack([part.reshape(()) for part in parts]).sum()
    elif isinstance(given, tuple | list) and given:
        return given[0]
    return given


def differentiate(value: Tensor) -> None:
    """The gradients of a loss, as `loss_of` gives it.

    Raises:
        UserCodeError: an exception out of a gradient of the user's own.
    """
    with users_own(lambda: "the loss cannot be differentiated"):
        value.backward()  # type: ignore[no-untyped-call]


def check_classes(output: Any, target: Any) -> None:
    """Refuse a label of a class that the network has not, before a device fails on it."""
    if not (isinstance(output, Tensor) and isinstance(target, Tensor)) or target.dtype not in _LABELS:
        return
    if output.dim() and target.numel():
        classes = output.shape[min(1, output.dim() - 1)]
        for label in torch.stack(target.where(target != IGNORED, 0).aminmax()).tolist():
            if not 0 <= label < classes:
                raise BitqError(
                    f"label {label} in a batch's target, but the network has {classes} outputs; labels count classes "
                    f"from 0 to {classes - 1}"
                )


class _Hits:
    """How often the largest output is the target's class, and how often each class is one."""

    def __init__(self) -> None:
        self._correct = self._total = 0
        self._targets: Tensor | None = torch.zeros(0, dtype=torch.long)

    def count(self, output: Any, target: Any) -> None:
        """Take a batch in."""
        self._correct += _hits(output, target)
        self._total += target.numel()
        if self._targets is None or target.dtype not in _LABELS:
            self._targets = None
            return
        classes, labels = output.shape[-1], target.flatten().cpu()
        labels = labels[(labels >= 0) & (labels < classes)]  # others are left out by the loss, or told by it
        found = torch.bincount(labels, minlength=max(classes, len(self._targets)))
        found[: len(self._targets)] += self._targets
        self._targets = found

    @property
    def share(self) -> float:
        """Top-1 accuracy."""
        return self._correct / max(self._total, 1)

    @property
    def labels(self) -> Labels | None:
        """What was counted."""
        if self._targets is None or not self._total:
            return None
        return Labels(len(self._targets), self._total, int(self._targets.max()))


@tallied(_Hits)
def top1(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Share of inputs whose largest output is the target's class: the default metric.

    Raises:
        BitqError: a target that is not one class for each of the network's answers.
    """
    return counted(model, batches, _Hits())


def check_scores(output: Any, target: Any, metric: str) -> None:
    """Refuse an output that has no score of each class for each class of the target; `metric` names who asks."""
    if not (isinstance(output, Tensor) and isinstance(target, Tensor) and output.shape[:-1] == target.shape):
        raise BitqError(
            f"{metric} cannot judge {_fit(output, target)}: they must be scores [..., classes], classes [...]; "
            "give a metric of your own"
        )


def _hits(output: Any, target: Any) -> int:
    check_scores(output, target, "top-1 accuracy")
    return int((output.argmax(-1) == target).sum())


def _fit(output: Any, target: Any) -> str:
    shapes = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in (output, target)]
    return f"output {shapes[0]} with target {shapes[1]}"


def score(model: nn.Module, batches: Iterable[Batch], loss: Loss = cross_entropy, metric: Metric = top1) -> Score:
    """Mean loss and metric in evaluation mode; every module's mode is restored.

    Args:
        model: any network.
        batches: can be walked more than once.
        loss: averaged over batches.
        metric: one that is `tallied`, such as `top1`, costs no second pass over the data, another function does, and
            so does each beside a loss `InTraining`.

    Raises:
        BitqError: no batch or one that is none (see `bitq.batches`), a network, a loss or a metric that fails
            (`UserCodeError`), a metric outside [0, 1], a network that does not compute in the formats `bitq.apply` gave
            it, or memory that runs out.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode(), memory_told("evaluating the network"), in_formats(model):
            losses, tally = [], None if isinstance(loss, InTraining) else _tally_of(metric)
            with telling(model, loss):
                for inputs, target in _on_device(model, batches):
                    output = forward(model, inputs)
                    losses.append(float(loss_of(output, target, loss)))
                    if tally is not None:
                        tally.count(output, target)
            accuracy = _judged(model, batches, metric) if tally is None else tally.share
    finally:
        for module, training in modes.items():
            module.training = training
    if not losses:
        raise no_batch("the data to measure on")
    if not 0 <= accuracy <= 1:
        raise BitqError(f"the metric gave {accuracy!r}; it must be a number in [0, 1], larger being better")
    return Score(sum(losses) / len(losses), accuracy, tally.labels if isinstance(tally, _Hits) else None)


def _tally_of(metric: Metric) -> Tally | None:
    """What a metric is counted by; None for one that has to look at the network itself."""
    found = _TALLIES.get(metric) if isinstance(metric, FunctionType) else None
    return None if found is None else found()


def _judged(model: nn.Module, batches: Iterable[Batch], metric: Metric) -> float:
    """What a metric of the user's own gives."""
    with users_own(lambda: "the metric failed", model):
        value = metric(model, batches)
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BitqError(f"the metric gave {described(value)}; it must be a number in [0, 1]") from error


def answer(model: nn.Module, inputs: Any) -> Any:
    """A network's output for one input.

    Args:
        model: in evaluation mode.
        inputs: of a batch of one.

    Raises:
        BitqError: the network cannot run on the input, or memory runs out.
    """
    with torch.inference_mode(), memory_told("running the network on one input"):
        return forward(model, to_device(inputs, device_of(model)))


def _on_device(model: nn.Module, batches: Iterable[Batch]) -> Iterable[Batch]:
    device = device_of(model)
    for batch in pairs(model, batches):
        yield to_device(batch, device)
