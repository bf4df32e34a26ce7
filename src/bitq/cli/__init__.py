"""The command line: `bitq COMMAND`.

Results go to stdout, everything else to stderr. Exit codes: 0, 2 for a mistake of the user's (told in one
sentence, with `--traceback` after the calls that led to it), 130 when interrupted (143 by SIGTERM), 141 if nobody
reads the result. Commands import what they compute with when they are called, so that `--help` answers at once.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from bitq.cli.buffer import buffer
from bitq.cli.compare import compare
from bitq.cli.devices import devices
from bitq.cli.evaluate import evaluate
from bitq.cli.export import export
from bitq.cli.formats import formats
from bitq.cli.movement import movement
from bitq.cli.quantize import quantize
from bitq.cli.report import report
from bitq.cli.search import search
from bitq.cli.streams import own_streams
from bitq.cli.tracebacks import traceable
from bitq.errors import BitqError
from bitq.files import refusal
from bitq.interrupts import INTERRUPTED, interrupts, sentence

MISTAKE = 2

app = typer.Typer(
    name="bitq",
    help="Find the block floating point format of every tensor of a neural network that moves the fewest "
    "bits for the accuracy it keeps.",
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (search, compare, movement, buffer, evaluate, quantize, export, report, formats, devices):
    app.command()(traceable(command))


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run one command, of `sys.argv` by default, and exit; no command at all asks for help."""
    words = sys.argv[1:] if args is None else args
    try:
        interrupts.working = True
        code, mistake = _run(words, own=args is None)
        interrupts.working = False
    except BaseException as error:
        interrupts.working = False
        if not interrupts.code and not isinstance(error, KeyboardInterrupt):
            raise
        code, mistake = INTERRUPTED, ""
    if interrupts.code or code == INTERRUPTED:
        code, mistake = interrupts.code or INTERRUPTED, sentence(words)
    if mistake:
        print(mistake, file=sys.stderr)
    sys.exit(code)


def _run(words: Sequence[str], own: bool) -> tuple[int, str]:
    """Exit code of a command, and what to tell of a mistake; `own` if the standard streams are this process's own."""
    try:
        if own:
            own_streams()
        code = app(words or ["--help"], prog_name="bitq", standalone_mode=False) or 0
        sys.stdout.flush()
        return code, ""
    except typer.TyperException as error:
        mistake = BitqError(_told(error))
    except BitqError as error:
        mistake = error
    except OSError as error:
        mistake = BitqError(f"{error.filename or 'a file or stream'} cannot be read or written: {refusal(error)}")
    except MemoryError as error:
        mistake = BitqError(str(error) or "this takes more memory than there is; ask for less at once")
    return MISTAKE, f"Error: {mistake}"


def _told(error: typer.TyperException) -> str:
    """What is wrong with the words of a command; for values of options, in the words of documents."""
    from pydantic import ValidationError

    message = error.format_message()
    option = re.match(r"Invalid value for '(.*?)'", message)
    if option is None or not isinstance(error.__cause__, ValidationError):
        return message
    from bitq.validation import told

    return f"{option[1]} {told(error.__cause__).partition(' ')[2]}"
