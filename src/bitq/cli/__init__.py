"""The command line: `bitq COMMAND`.

Results go to stdout, everything else to stderr. Exit codes: 0, 2 for a mistake of the user's (told in one
sentence), 130 when interrupted. Commands import what they compute with when they are called, so that `--help`
answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from bitq.cli.buffer import buffer
from bitq.cli.devices import devices
from bitq.cli.evaluate import evaluate
from bitq.cli.movement import movement
from bitq.cli.quantize import quantize
from bitq.cli.report import report
from bitq.cli.search import search
from bitq.errors import BitqError

MISTAKE, INTERRUPTED = 2, 130

CONTINUED = {"search": "; the same command continues where it stopped"}
"""What an interrupt of a command is told with, beside that it happened."""

app = typer.Typer(
    name="bitq",
    help="Find the block floating point format of every tensor of a neural network that moves the fewest "
    "bits for the accuracy it keeps.",
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(search)
app.command()(movement)
app.command()(buffer)
app.command()(evaluate)
app.command()(quantize)
app.command()(report)
app.command()(devices)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run one command, of `sys.argv` by default, and exit; no command at all asks for help."""
    if args is None:
        _own_stdout()
    words = sys.argv[1:] if args is None else args
    try:
        code = app(words or ["--help"], prog_name="bitq", standalone_mode=False) or 0
    except typer.TyperException as error:
        code = _mistake(error.format_message())
    except (BitqError, OSError, MemoryError) as error:
        code = _mistake(str(error) or type(error).__name__)
    if code == INTERRUPTED:
        print("Error: interrupted before the end" + CONTINUED.get("".join(words[:1]), ""), file=sys.stderr)
    sys.exit(code)


def _own_stdout() -> None:
    """Leave what libraries print from C, as a solver does, to stderr: stdout is for results alone."""
    if not sys.stdout:  # closed
        return
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(own, "w", buffering=1, encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def _mistake(message: str) -> int:
    print("Error:", " ".join(message.split()), file=sys.stderr)
    return MISTAKE
