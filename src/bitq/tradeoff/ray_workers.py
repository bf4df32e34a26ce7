"""Plans measured on a Ray cluster, several at once: of worker processes on this machine, or of many machines.

Every worker gets the network, the data and PyTorch's number of threads from here, so it measures what this process
would. What a crashed worker was at is measured anew by another.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any, Self

from bitq.errors import BitqError
from bitq.progress import Listener
from bitq.tradeoff.measure import Bench, Measured, measure
from bitq.tradeoff.workers import Jobs

RETRIES = 3
"""How often a plan is measured anew because the worker crashed."""


class RayWorkers:
    """Workers of a Ray cluster. A context manager; leaving it ends a cluster of its own, and leaves another running.

    Args:
        address: of a running cluster, as `ray.init` takes it; None starts one on this machine.
        count: worker processes of a cluster on this machine; by default one for each processor.

    Raises:
        BitqError: Ray is not installed, no cluster answers, or a count below 1.
    """

    def __init__(self, address: str | None = None, count: int | None = None) -> None:
        if count is not None and count < 1:
            raise BitqError(f"{count} workers measure nothing; it must be 1 or more")
        try:
            import ray
        except ImportError:
            raise BitqError("Ray is not installed; pip install 'bitq[ray]'") from None
        self._ray = ray
        own: dict[str, Any] = {"num_cpus": count, "include_dashboard": False} if address is None else {}
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = address or "this machine"
            raise BitqError(f"no Ray cluster at {where}: {' '.join(str(error).split())}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def measure(self, bench: Bench, jobs: Jobs, listener: Listener) -> Iterator[tuple[str, Measured, float]]:
        """See `bitq.tradeoff.workers.Workers`."""
        ray = self._ray
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_timed)
        shared = ray.put(bench)
        labels = {task.remote(shared, formats): label for label, formats in jobs.items()}
        waiting = list(labels)
        what = "measuring plans on Ray"
        try:
            while waiting:
                listener.step(what, len(labels) - len(waiting), len(labels))
                finished, waiting = ray.wait(waiting)
                for reference in finished:
                    found, seconds = ray.get(reference)
                    yield labels[reference], found, seconds
            listener.step(what, len(labels), len(labels))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[:200]
            raise BitqError(
                f"a worker failed {RETRIES + 1} times ({reason}); all that was finished is kept, and the same command "
                "continues"
            ) from None
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)


def _timed(bench: Bench, formats: Any) -> tuple[Measured, float]:
    start = time.perf_counter()
    found = measure(bench, formats)
    return found, time.perf_counter() - start
