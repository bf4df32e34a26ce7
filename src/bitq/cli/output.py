"""How commands speak: tables or one JSON document on stdout, progress on stderr, numbers with units."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment

from bitq.errors import printable

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout; all else goes to stderr.")
]

PIPE_COLUMNS = 180
"""Width of tables that neither a terminal nor the variable COLUMNS bounds, in characters."""


def print_json(document: Any) -> None:
    """Write one JSON document to stdout; what a terminal would obey, or stdout cannot encode, as an escape of JSON."""
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)
    if printable(text) != text or not _encodable(text):
        text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=True)
    print(text.replace("\x7f", "\\u007f"), flush=True)


def print_text(text: str) -> None:
    """Write lines of text, such as CSV, to stdout; what a terminal would obey, as an escape."""
    print(printable(text), end="", flush=True)


def _encodable(text: str) -> bool:
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def csv_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Records of the same fields as CSV with a line of headings (RFC 4180, but lines end in a newline alone)."""
    text = io.StringIO()
    writer = csv.DictWriter(text, records[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def show(*parts: RenderableType) -> None:
    """Write text and tables to stdout: markup in the names of others means nothing, an escape code stands as such."""
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit() else PIPE_COLUMNS
    console = Console(markup=False, highlight=False, emoji=False, width=width)
    shown = [printable(part) if isinstance(part, str) else _Printable(part) for part in parts]
    console.print(*shown, sep="\n", crop=False)  # escapes may widen a table


@dataclass(frozen=True)
class _Printable:
    """A table of which a terminal obeys nothing but its own style."""

    inner: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style, control in console.render(self.inner, options):
            yield Segment(text if control else printable(text), style, control)


def bits_text(bits: float) -> str:
    """Bits for a reader, such as "33.2 Mbit"."""
    return _scaled(bits, 1000, ("bit", "kbit", "Mbit", "Gbit", "Tbit", "Pbit"))


def bytes_text(size: float) -> str:
    """Bytes for a reader, such as "32 KiB"."""
    return _scaled(size, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def ram_text(size: float | None) -> str:
    """The memory of activations for a reader; "-" where it is not known."""
    return "-" if size is None else bytes_text(size)


def count_text(count: float) -> str:
    """A count for a reader, such as "1.81 G"."""
    return _scaled(count, 1000, ("", "k", "M", "G", "T", "P")).rstrip()


def energy_text(picojoules: float) -> str:
    """Energy in µJ for a reader."""
    return f"{_digits(picojoules * 1e-6)} µJ"


def ratio_text(part: float, whole: float) -> str:
    """A share for a reader, such as "16.2 %"; "-" of nothing."""
    return f"{_digits(100 * part / whole)} %" if whole else "-"


def accuracy_text(accuracy: float) -> str:
    """An accuracy in [0, 1] for a reader, such as "93.14 %"."""
    return f"{100 * accuracy:.2f} %"


def times_text(ratio: float) -> str:
    """How many times as much, for a reader, such as "1.04×"."""
    decimals = 2 if ratio < 9.995 else 1 if ratio < 99.95 else 0
    return f"{ratio:.{decimals}f}×"


def _scaled(value: float, base: int, units: Sequence[str]) -> str:
    power = 0
    while power + 1 < len(units) and round(value, 0) >= base:
        value, power = value / base, power + 1
    return f"{_digits(value)} {units[power]}"


def _digits(value: float) -> str:
    """Three significant digits, more before the point if need be; whole numbers as such."""
    if value >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:#.3g}".rstrip(".")
