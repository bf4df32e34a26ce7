"""Data without labels: what the float network answers stands for them, in learning as in judging.

Inputs that nobody labelled are what most people have to calibrate with. The float network's most probable classes are
taken for their labels: what is learned is what it answers, and what counts is how often another network agrees with it,
which says nothing of how often either is right.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bitq.accuracy.evaluate import Metric, counted, device_of, tallied
from bitq.batches import Batch, described, forward, input_of, is_bare, to_device, walked
from bitq.errors import BitqError

Answers = Callable[[Any, Any], Any]
"""(output of the float network, what data without labels have in place of a target) to a target; None is in place of
one where inputs stand alone."""


@dataclass(frozen=True)
class Agreement:
    """How data without labels are used.

    Attributes:
        name: of the metric.
        answers: makes targets.
        metric: how far a network agrees with them.
    """

    name: str
    answers: Answers
    metric: Metric

    def of(self, model: nn.Module, *data: Iterable[Any]) -> tuple[Iterable[Batch], ...]:
        """Batches without labels beside the targets that a network's answers are, as it is now; of a list, a list."""
        teacher = copy.deepcopy(model).eval()
        found = (Answered(batches, teacher, self.answers) for batches in data)
        return tuple(list(each) if isinstance(each.batches, list | tuple) else each for each in found)


@dataclass(frozen=True)
class Answered:
    """Batches without labels, each beside what a network answers to it; walked as often as they can be.

    Attributes:
        batches: of inputs alone, or of (inputs, what is known of them).
        model: the network, in evaluation mode; not changed.
        answers: makes targets of its outputs.
    """

    batches: Iterable[Any]
    model: nn.Module
    answers: Answers

    def __len__(self) -> int:
        """Batches, if these tell it; TypeError, as theirs, if not."""
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        device = device_of(self.model)
        for batch in walked(self.batches):
            inputs, known = input_of(batch), None if is_bare(batch) else batch[1]
            with torch.no_grad():
                output = forward(self.model, to_device(inputs, device))
            yield inputs, self.answers(output, known)

    @property
    def dataset(self) -> Any:
        """What a DataLoader draws from; None of others."""
        return getattr(self.batches, "dataset", None)


def classes_in(output: Any, known: Any) -> Tensor:
    """The most probable class of every input, or of every place in it: int64 [n, ...] of scores [n, classes, ...].

    Raises:
        BitqError: an output that is no scores of two classes or more.
    """
    scores = isinstance(output, Tensor) and output.is_floating_point() and output.dim() > 1 and output.shape[1] > 1
    if not scores:
        raise BitqError(
            f"without labels, what counts is whether the float network's classes are found, but it gives "
            f"{described(output)}; it must give scores (n, classes, ...), or data have targets: batches (input, target)"
        )
    found: Tensor = output.argmax(1)
    return found


class _Agreed:
    """How often the most probable class is the target's, over all inputs and places in them."""

    def __init__(self) -> None:
        self._alike = self._all = 0

    def count(self, output: Any, target: Any) -> None:
        """Take a batch in."""
        found = classes_in(output, None)
        if not isinstance(target, Tensor) or found.shape != target.shape:
            raise BitqError(f"agreement cannot judge {described(output)} with {described(target)}; give it classes")
        self._alike += int((found == target).sum())
        self._all += target.numel()

    @property
    def share(self) -> float:
        """The agreement."""
        return self._alike / max(self._all, 1)


@tallied(_Agreed)
def agreement_with_float32(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Share of the inputs, or of places in them such as pixels, whose most probable class is the float network's."""
    return counted(model, batches, _Agreed())


OF_CLASSES = Agreement("agreement with float32", classes_in, agreement_with_float32)
