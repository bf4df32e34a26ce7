"""The comparison of the plan with float32 and the best uniform format, as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite

from bitq.report import text
from bitq.report.evidence import Evidence
from bitq.tradeoff.answers import advice
from bitq.tradeoff.records import Cost, Row


@dataclass(frozen=True)
class Column:
    """One quantity: its heading and unit, its value in that unit, how that is written, and which is best."""

    title: str
    unit: str
    value: Callable[[Row], float | None]
    write: Callable[[float | None], str] = text.number
    best: Callable[[Sequence[float]], float] = min


MOVEMENT, RAM = "All traffic", "RAM"

COSTS = (
    Column("Off-chip traffic", "Mbit", lambda row: row.dram_bits / text.BITS_PER_MBIT),
    Column("On-chip traffic", "Mbit", lambda row: row.on_chip_bits / text.BITS_PER_MBIT),
    Column(MOVEMENT, "Mbit", lambda row: row.movement_bits / text.BITS_PER_MBIT),
    Column("Energy", "µJ", lambda row: row.energy_pj / text.PJ_PER_UJ),
    Column("Model size", "KiB", lambda row: row.model_bytes / 1024),
    Column(RAM, "KiB", lambda row: None if row.ram_bytes is None else row.ram_bytes / 1024),
    Column("Objective", "O", lambda row: row.objective),
)


@dataclass(frozen=True)
class Cell:
    """One number as it is shown, and whether none in its column is better."""

    text: str
    best: bool


def comparison(run: Evidence) -> tuple[Row, ...]:
    """What is compared: the search's outcome beside formats that people know, or without one float32 and the plan."""
    if run.outcome is None:
        return run.plan.totals.rows()
    first, *rest = run.outcome.rows
    return (first, *run.outcome.alternatives, *rest)


def advised(run: Evidence) -> str:
    """Of a plan that loses much, what that bought and how to lose less; "" where there is nothing to say, or the search
    did not finish."""
    if run.offers is None or run.outcome is None:
        return ""
    rows = run.outcome.rows
    return advice(rows[0], rows[-1], run.offers, run.plan.alpha, run.outcome.command, run.measure)


def of_int8(run: Evidence, cost: Cost) -> float | None:
    """What is moved beside 8 bits for every element, in percent; None where that is not known."""
    whole = run.references["int8"].movement_bits if "int8" in run.references else 0.0
    return 100 * cost.movement_bits / whole if whole > 0 else None


def columns(run: Evidence) -> tuple[Column, ...]:
    """The quantities of the table."""
    reached = Column(f"Test {run.measure}", "%", lambda row: 100 * row.accuracy, text.hundredths, max)
    costs = COSTS if run.plan.ram is not None else tuple(each for each in COSTS if each.title != RAM)
    if "int8" not in run.references:
        return reached, *costs
    place = next(place for place, column in enumerate(costs, 1) if column.title == MOVEMENT)
    return (reached, *costs[:place], Column(MOVEMENT, "% of int8", partial(of_int8, run)), *costs[place:])


def cells(rows: Sequence[Row], quantities: Sequence[Column]) -> tuple[tuple[Cell, ...], ...]:
    """The table's cells, row by row, one for each quantity."""
    return tuple(zip(*(_cells_of(column, rows) for column in quantities), strict=True))


def _cells_of(column: Column, rows: Sequence[Row]) -> tuple[Cell, ...]:
    values = [column.value(row) for row in rows]
    known = [value for value in values if value is not None and isfinite(value)]
    best = column.best(known) if known else None
    return tuple(Cell(column.write(value), value is not None and value == best) for value in values)
