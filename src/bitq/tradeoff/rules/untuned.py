"""Plans measured as they are, without fine-tuning, one after the other on one copy of the network."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

from bitq.accuracy.quantized import apply
from bitq.batches import Batch
from bitq.formats import TensorFormats
from bitq.tradeoff.measure import evaluate
from bitq.tradeoff.study import Study


class Untuned:
    """A copy of a study's network whose formats change from one measurement to the next."""

    def __init__(self, study: Study) -> None:
        self._task = study.subject.task
        self._float = {name: TensorFormats() for name in study.space.modules}
        self._ranges = study.ranges_for
        self._model = copy.deepcopy(study.subject.model).eval()
        self._points = study.space.points

    def accuracy(self, formats: Mapping[str, TensorFormats], batches: Iterable[Batch]) -> float:
        """The metric in these formats, by module path; modules that are not named stay float."""
        own = {**self._float, **formats}
        apply(self._model, own, self._ranges(own), points=self._points)
        return evaluate(self._model, batches, self._task).accuracy
