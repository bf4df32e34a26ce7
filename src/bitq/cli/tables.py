"""Tables that fit the terminal: where columns do not fit beside each other, they stand above each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table

_UNBOUNDED = 1 << 16  # characters, more than any terminal is wide


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
"""Columns that stand above each other as one."""


@dataclass(frozen=True)
class FirstThatFits:
    """Of several tables of the same content, the first that is no wider than the terminal, or else the last, folded."""

    tables: Sequence[Table]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unbounded = options.update(max_width=_UNBOUNDED)
        widths = (Measurement.get(console, unbounded, table).maximum for table in self.tables)
        fits = (table for table, width in zip(self.tables, widths, strict=True) if width <= options.max_width)
        yield next(fits, self.tables[-1])


def table_of(stacks: Sequence[Stack]) -> Table:
    """A table with a column for each stack that holds any, of which the first folds if the terminal is too narrow."""
    given = [stack for stack in stacks if stack]
    table = Table(show_lines=any(len(stack) > 1 for stack in given))
    for place, stack in enumerate(given):
        heading = "\n".join(column.heading for column in stack)
        justify: Literal["left", "right"] = "left" if stack[0].left else "right"
        table.add_column(heading, justify=justify, no_wrap=place > 0, overflow="ellipsis" if place else "fold")
    for row in zip(*(zip(*(column.cells for column in stack), strict=True) for stack in given), strict=True):
        table.add_row(*map(_lines, row))
    table.add_section()
    table.add_row(*(_lines(column.total for column in stack) for stack in given))
    return table


def _lines(cells: Iterable[str]) -> str:
    return "\n".join(filter(None, cells))
