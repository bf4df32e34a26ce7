"""How long work tells what it is doing: a protocol, a silent listener, and one that draws on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bitq.errors import printable

PATIENCE_SECONDS = 2.0
"""Work that is done sooner shows no bar."""

LINE_SECONDS = 10.0
"""Where stderr is no terminal, a line so often stands in for the bar."""

SETTLED_SECONDS = 15.0
"""No time left is told before work was watched for so long: workers start one after the other and tell now and then
how far they are, and what comes between two stages is seen only once one is over."""


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


@dataclass(frozen=True)
class _Pace:
    """How long a part of some work takes, watched from when its first part was done: what came before may have been
    the start of workers or the filling of caches.

    Attributes:
        began, told: when a part was first and last told to be done, in seconds.
        parts: done between the two.
    """

    began: float
    told: float
    parts: int = 0

    @property
    def seconds(self) -> float | None:
        """That a part takes; None while it is too early to say."""
        watched = self.told - self.began
        return watched / self.parts if self.parts > 0 and watched >= SETTLED_SECONDS else None


def _after(pace: _Pace | None, parts: int, now: float) -> _Pace | None:
    """The pace once so many more parts are done; fewer than none have to be done again. None before the first."""
    if not parts:
        return pace
    return _Pace(now, now) if pace is None else _Pace(pace.began, now, pace.parts + parts)


class Terminal:
    """Draws a bar with the time left for the running stage, and prints notes, on stderr. A context manager.

    Names of others in them are shown, not obeyed: escape codes stand as such.

    Args:
        clock: seconds, from any start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[outlook]}", markup=False),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("", outlook="")
        self._clock = clock
        self._stage, self._done, self._best = "", 0, ""
        self._pace: _Pace | None = None  # of the stage
        self._paces: dict[str, _Pace | None] = {}  # of each kind of stage, with all that comes between two stages of it
        self._planned: dict[str, int] = {}  # parts to come by kind of stage, as the outlook said
        self._left: dict[str, int] = {}  # less what was done since
        self._first = self._spoke = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar.live.is_started:
            self._bar.stop()

    def step(self, what: str, done: int, total: int) -> None:
        """Move the stage's bar."""
        now, what = self._clock(), printable(what)
        if what != self._stage or (self._done and not done):
            if what != self._stage:
                self._spoke = now
            self._stage, self._done, self._pace = what, 0, None
            self._bar.reset(self._task, description=what, total=total, completed=done)
        self._count(what, done, now)
        told = "; ".join(filter(None, (self._stage_left(total), self._whole())))
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, total=total, outlook=told)
            if now - self._first > PATIENCE_SECONDS:
                self._bar.start()
        elif now - self._spoke > LINE_SECONDS:
            print(f"{what}: {done}/{total}" + (f", {told}" if told else ""), file=sys.stderr, flush=True)
            self._spoke = now

    def note(self, text: str) -> None:
        """Print it above the bar."""
        self._console.print(printable(text), soft_wrap=True)

    def outlook(self, left: Mapping[str, int], best: str) -> None:
        """Tell with the stage's progress how long the whole work takes, as soon as every kind of stage was met.

        What is done in part counts as to come in `left`, but steps may have told of it: what is left grows by no more
        than what is planned does.
        """
        for kind, parts in left.items():
            grown = max(parts - self._planned.get(kind, 0), 0)
            self._left[kind] = min(parts, self._left.get(kind, 0) + grown)
        self._left = {kind: self._left[kind] for kind in left}
        self._planned, self._best = dict(left), printable(best)

    def _count(self, what: str, done: int, now: float) -> None:
        """Take what was done of a stage from what is to come, and learn how long a part takes."""
        more, self._done = done - self._done, done
        self._pace = _after(self._pace, more, now)
        for kind in self._left:
            if what.startswith(kind):
                self._left[kind] = max(self._left[kind] - more, 0)
                self._paces[kind] = _after(self._paces.get(kind), more, now)

    def _stage_left(self, total: int) -> str:
        seconds = None if self._pace is None else self._pace.seconds
        return "" if seconds is None else f"about {time_text(seconds * (total - self._done))} left"

    def _whole(self) -> str:
        told = []
        left = [(parts, self._paces.get(kind)) for kind, parts in self._left.items() if parts]
        known = [parts * pace.seconds for parts, pace in left if pace and pace.seconds is not None]
        if left and len(known) == len(left):
            told.append(f"in all about {time_text(sum(known))} left")
        if self._best:
            told.append(f"best so far {self._best}")
        return ", ".join(told)


def time_text(seconds: float) -> str:
    """A time to wait, to two digits or so: "85 s", "12 min", "3.5 h", "4 days".

    Args:
        seconds: how long.
    """
    if seconds > 48 * 3600:
        return f"{seconds / 86400:,.0f} days"
    if seconds > 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
