"""Where plans are measured: here, one after the other, or on Ray workers, several at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Protocol

from bitq.formats import TensorFormats
from bitq.progress import Listener
from bitq.tradeoff.measure import Bench, Measured, measure

Jobs = Mapping[str, Mapping[str, TensorFormats]]
"""Formats by module path, by the label of the plan."""


class Workers(Protocol):
    """Measures plans."""

    def measure(self, bench: Bench, jobs: Jobs, listener: Listener) -> Iterator[tuple[str, Measured, float]]:
        """Each job's label, what was measured, and the seconds it took, as they are finished, in any order."""


class InProcess:
    """Measures one plan after the other in this process."""

    def measure(self, bench: Bench, jobs: Jobs, listener: Listener) -> Iterator[tuple[str, Measured, float]]:
        """See `Workers`."""
        for label, formats in jobs.items():
            start = time.perf_counter()
            found = measure(bench, formats, partial(listener.step, f"fine-tuning {label}"))
            yield label, found, time.perf_counter() - start
