"""How long work tells what it is doing: a protocol, a silent listener, and one that draws on a terminal."""

from __future__ import annotations

import sys
import time
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PATIENCE_SECONDS = 2.0
"""Work that is done sooner shows no bar."""

LINE_SECONDS = 10.0
"""Where stderr is no terminal, a line so often stands in for the bar."""


class Listener(Protocol):
    """Is told how far the work has come and what it found."""

    def step(self, what: str, done: int, total: int) -> None:
        """`done` of `total` parts of the stage `what` are done."""

    def note(self, text: str) -> None:
        """Something worth a line: a result, a decision."""


class Silent:
    """Listens to nothing."""

    def step(self, what: str, done: int, total: int) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""


class Terminal:
    """Draws a bar with the time left for the running stage, and prints notes, on stderr. A context manager."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("")
        self._stage = ""
        self._first = self._began = self._spoke = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar.live.is_started:
            self._bar.stop()

    def step(self, what: str, done: int, total: int) -> None:
        """Move the stage's bar."""
        now = time.monotonic()
        if what != self._stage:
            self._stage, self._began, self._spoke = what, now, now
            self._bar.reset(self._task, description=what, total=total, completed=done)
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, total=total)
            if now - self._first > PATIENCE_SECONDS:
                self._bar.start()
        elif done and now - self._spoke > LINE_SECONDS:
            left = (now - self._began) / done * (total - done)
            print(f"{what}: {done}/{total}, about {left:.0f} s left", file=sys.stderr, flush=True)
            self._spoke = now

    def note(self, text: str) -> None:
        """Print it above the bar."""
        self._console.print(text, soft_wrap=True)
