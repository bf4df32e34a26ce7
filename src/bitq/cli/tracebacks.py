"""`--traceback`, an option of every command: where a mistake was made, in full."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from bitq.errors import BitqError, printable

_OPTION = inspect.Parameter(
    "with_traceback",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool,
        typer.Option(
            "--traceback", help="Tell a mistake with the calls that led to it, as in your own network, loss or metric."
        ),
    ],
)


def traceable(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the option, with which the traceback of what it is ended by goes to stderr."""
    signature = inspect.signature(command, eval_str=True)
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in signature.parameters.values()]
    parameters.append(_OPTION)

    @wraps(command)
    def traced(*, with_traceback: bool, **given: Any) -> None:
        try:
            command(**given)
        except (BitqError, OSError, MemoryError) as error:
            if with_traceback:
                print(printable("".join(traceback.format_exception(error))), file=sys.stderr, end="")
            raise

    traced.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    traced.__annotations__ = {each.name: each.annotation for each in parameters}
    return traced
