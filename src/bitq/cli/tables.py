"""Tables that fit the terminal: where columns do not fit beside each other, they stand above each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

MOST_ROWS = 2000
"""That a table shows: more than any network has layers."""


@dataclass(frozen=True)
class TextColumn:
    """A heading, a cell for each row, and one for their total; an empty cell takes no line of a stack."""

    heading: str
    cells: Sequence[str]
    total: str = ""
    left: bool = False

    @classmethod
    def of(cls, heading: str, amounts: Sequence[float | None], text: Callable[[float], str]) -> TextColumn:
        """Amounts as a text tells them, and their sum; one that is not known is a "-" and does not count."""
        known = [amount for amount in amounts if amount is not None]
        return cls(heading, ["-" if each is None else text(each) for each in amounts], text(sum(known)))


Stack = Sequence[TextColumn]
"""Columns that stand above each other as one; none of them are no column."""


@dataclass(frozen=True)
class FirstThatFits:
    """A table that has its columns stacked in the first of several ways that fits the terminal, or else the last."""

    ways: Sequence[Sequence[Stack]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        fits = (stacks for stacks in self.ways if _width(stacks) <= options.max_width)
        yield table_of(next(fits, self.ways[-1]))


def table_of(stacks: Sequence[Stack]) -> Table:
    """A table with a column for each stack, of which the first folds if the terminal is too narrow."""
    given = [stack for stack in stacks if stack]
    table = Table(show_lines=any(len(stack) > 1 for stack in given))
    for place, stack in enumerate(given):
        heading = "\n".join(column.heading for column in stack)
        justify: Literal["left", "right"] = "left" if stack[0].left else "right"
        table.add_column(heading, justify=justify, no_wrap=place > 0, overflow="ellipsis" if place else "fold")
    rows = list(zip(*(zip(*(column.cells for column in stack), strict=True) for stack in given), strict=True))
    for row in rows[:MOST_ROWS]:
        table.add_row(*map(_lines, row))
    if len(rows) > MOST_ROWS:
        table.add_row(f"and {len(rows) - MOST_ROWS} more, which --json tells")
    totals = [_lines(column.total for column in stack) for stack in given]
    if any(totals):
        table.add_section()
        table.add_row(*totals)
    return table


def _width(stacks: Sequence[Stack]) -> int:
    """How wide the table is if nothing folds, in characters."""
    widths = (max(cell_len(text) for column in stack for text in _texts(column)) for stack in stacks if stack)
    return 1 + sum(width + 3 for width in widths)


def _texts(column: TextColumn) -> tuple[str, ...]:
    return (column.heading, *column.cells, column.total)


def _lines(cells: Iterable[str]) -> str:
    return "\n".join(filter(None, cells))
