"""How long work tells what it is doing: a protocol, a silent listener, and one that draws on a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Listener(Protocol):
    """Is told how far the work has come and what it found."""

    def step(self, what: str, done: int, total: int) -> None:
        """`done` of `total` parts of the stage `what` are done; the stage ends when they are equal."""

    def note(self, text: str) -> None:
        """Something worth a line: a result, a decision."""


class Silent:
    """Listens to nothing."""

    def step(self, what: str, done: int, total: int) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""


class Terminal:
    """Draws a bar with the time left for the running stage, and prints notes, on stderr. A context manager.

    Where stderr is no terminal, a line every ten seconds stands in for the bar.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._live = self._console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._stage: str | None = None
        self._began = self._spoke = time.monotonic()

    def __enter__(self) -> Self:
        if self._live:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._progress.stop()

    def step(self, what: str, done: int, total: int) -> None:
        """Move the stage's bar."""
        now = time.monotonic()
        if what != self._stage:
            for task in self._progress.task_ids:
                self._progress.remove_task(task)
            self._progress.add_task(what, total=total)
            self._stage, self._began, self._spoke = what, now, now
        if self._live:
            self._progress.update(self._progress.task_ids[0], completed=done, total=total)
        elif now - self._spoke > 10 and done:
            left = (now - self._began) / done * (total - done)
            print(f"{what}: {done}/{total}, about {left:.0f} s left", file=sys.stderr, flush=True)
            self._spoke = now
        if done >= total:
            self._stage = None

    def note(self, text: str) -> None:
        """Print it above the bar."""
        if self._live:
            self._progress.console.print(text)
        else:
            print(text, file=sys.stderr, flush=True)
