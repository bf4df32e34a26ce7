"""How long work tells what it is doing: a protocol, a silent listener, and one that draws on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
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

    def outlook(self, left: Mapping[str, int], best: str) -> None:
        """What is still to come of the whole work, and the best so far.

        Args:
            left: parts of all stages to come, by how the names of these stages begin.
            best: in a few words, "" before there is any.
        """


class Silent:
    """Listens to nothing."""

    def step(self, what: str, done: int, total: int) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""

    def outlook(self, left: Mapping[str, int], best: str) -> None:
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
            TextColumn("{task.fields[outlook]}"),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("", outlook="")
        self._stage, self._done, self._best = "", 0, ""
        self._left: dict[str, float] = {}  # parts to come by kind of stage
        self._seconds: dict[str, float] = {}  # that a part takes
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
            self._stage, self._began, self._spoke, self._done = what, now, now, 0
            self._bar.reset(self._task, description=what, total=total, completed=done)
        self._count(what, done, now)
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, total=total, outlook=self._whole())
            if now - self._first > PATIENCE_SECONDS:
                self._bar.start()
        elif done and now - self._spoke > LINE_SECONDS:
            left = (now - self._began) / done * (total - done)
            whole = f"; {self._whole()}" if self._whole() else ""
            print(f"{what}: {done}/{total}, about {left:.0f} s left{whole}", file=sys.stderr, flush=True)
            self._spoke = now

    def note(self, text: str) -> None:
        """Print it above the bar."""
        self._console.print(text, soft_wrap=True)

    def outlook(self, left: Mapping[str, int], best: str) -> None:
        """Tell with the stage's progress how long the whole work takes, as soon as every kind of stage was met."""
        self._left, self._best = {kind: float(parts) for kind, parts in left.items()}, best

    def _count(self, what: str, done: int, now: float) -> None:
        """Take what was done of a stage from what is to come, and learn how long a part takes."""
        for kind in self._left:
            if what.startswith(kind):
                self._left[kind] = max(self._left[kind] - (done - self._done), 0.0)
                if done:
                    self._seconds[kind] = (now - self._began) / done
        self._done = done

    def _whole(self) -> str:
        told = []
        if any(self._left.values()) and all(kind in self._seconds for kind, parts in self._left.items() if parts):
            left = sum(parts * self._seconds.get(kind, 0.0) for kind, parts in self._left.items())
            told.append(f"in all about {left / 60:.0f} min left" if left > 90 else f"in all about {left:.0f} s left")
        if self._best:
            told.append(f"best so far {self._best}")
        return ", ".join(told)
