"""The options by which a command that fine-tunes plans is told of several processes or machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from bitq.errors import BitqError

if TYPE_CHECKING:
    from bitq.tradeoff.workers import Workers

WORKERS = "Several processes or machines"

WorkerCount = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=4096,
        help="Fine-tune on so many Ray workers of this machine at once (bitq\\[ray]).",
        rich_help_panel=WORKERS,
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Fine-tune on a running Ray cluster: auto, or ray://host:10001.",
        rich_help_panel=WORKERS,
    ),
]


def check_machines(count: int | None, address: str | None) -> None:
    """Refuse a cluster of this machine beside a running one."""
    if count is not None and address is not None:
        raise BitqError("give --workers for a cluster of this machine or --ray for a running one, not both")


@contextmanager
def machines(count: int | None, address: str | None) -> Iterator[Workers | None]:
    """The workers of these options while inside; None without any, for this process alone.

    Raises:
        BitqError: as `bitq.tradeoff.ray_workers.RayWorkers`.
    """
    if count is None and address is None:
        yield None
        return
    from bitq.tradeoff.ray_workers import RayWorkers

    with RayWorkers(address, count) as workers:
        yield workers
