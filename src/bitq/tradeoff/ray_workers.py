"""Plans measured on a Ray cluster, several at once: of worker processes on this machine, or of many machines.

Every worker gets the network, the data and PyTorch's number of threads from here, so it measures what this process
would. What a crashed worker was at is measured anew by another.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pickle import PicklingError
from typing import Any, Self

from bitq.accuracy.evaluate import device_of
from bitq.errors import BitqError, shortened
from bitq.progress import Listener
from bitq.tradeoff.measure import Bench, Measured, measure
from bitq.tradeoff.workers import Jobs
from bitq.usercode import MOST_REASON, summary

RETRIES = 3
"""How often a plan is measured anew because the worker crashed."""

TELL_SECONDS = 1.0
"""So often workers tell how far they are."""


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
        terminated = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = address or "this machine"
            raise BitqError(f"no Ray cluster at {where}: {' '.join(str(error).split())}") from None
        finally:
            if callable(terminated) and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, terminated)  # Ray sets its own, which ends this process in a crash

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def _sent(self, bench: Bench) -> Any:
        """A reference to it, for the workers."""
        try:
            return self._ray.put(bench)
        except (TypeError, AttributeError, PicklingError) as error:
            raise BitqError(
                "the network, data, loss and metric have to be sent to the Ray workers, and one of them cannot be "
                f"({summary(error.__cause__ or error)}); keep no open file, lock or process in it"
            ) from error

    def measure(self, bench: Bench, jobs: Jobs, listener: Listener) -> Iterator[tuple[str, Measured, float]]:
        """See `bitq.tradeoff.workers.Workers`."""
        from ray.util.queue import Queue

        ray = self._ray
        gpus = int(device_of(bench.model).type == "cuda")
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_timed)
        told = Queue(actor_options={"num_cpus": 0})
        shared = self._sent(bench)
        labels = {task.remote(shared, label, formats, told): label for label, formats in jobs.items()}
        waiting = list(labels)
        steps = 1 if bench.training is None else bench.training.steps
        what, total = "fine-tuning on Ray", steps * len(jobs)
        done = dict.fromkeys(jobs, 0)
        try:
            listener.step(what, 0, total)
            while waiting:
                finished, waiting = ray.wait(waiting, timeout=TELL_SECONDS)
                done |= _received(told) | {labels[reference]: steps for reference in finished}
                listener.step(what, sum(done.values()), total)
                for reference in finished:
                    found, seconds = ray.get(reference)
                    yield labels[reference], found, seconds
        except ray.exceptions.RayTaskError as error:
            raise _told(error.cause) from error  # whose text is the worker's traceback
        except ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[:200]
            raise BitqError(
                f"a worker failed {RETRIES + 1} times ({reason}); all that was finished is kept, and the same command "
                "continues"
            ) from None
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)
            told.shutdown(force=True)


def _told(cause: BaseException) -> BaseException:
    """What to say of an exception in a worker."""
    from ray.exceptions import RaySystemError

    if not isinstance(cause, RaySystemError):
        return cause
    why = str(cause).partition("\n")[0].removeprefix("System error: ")
    return BitqError(
        f"a Ray worker cannot take over the network, data, loss and metric ({shortened(why, MOST_REASON)}); install "
        "all that they are made of on every machine of the cluster"
    )


def _received(told: Any) -> dict[str, int]:
    """Steps done by the labels of plans, as far as workers told; nothing if the queue was on a lost machine."""
    from ray.exceptions import RayError

    steps: dict[str, int] = {}
    with suppress(RayError):
        while waiting := told.qsize():
            steps.update(told.get_nowait_batch(waiting))
    return steps


def _timed(bench: Bench, label: str, formats: Any, told: Any) -> tuple[Measured, float]:
    start = time.perf_counter()
    found = measure(bench, formats, _telling(told, label))
    return found, time.perf_counter() - start


def _telling(told: Any, label: str) -> Callable[[int, int], None]:
    """Progress of a plan, put into a queue now and then."""
    from ray.exceptions import RayError

    spoke = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal spoke
        if time.monotonic() - spoke > TELL_SECONDS:
            spoke = time.monotonic()
            with suppress(RayError):
                told.put_nowait((label, done))

    return progress
