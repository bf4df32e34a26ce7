"""Amounts with units as options take them, and an option for the limit of every quantity."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any

import typer

from bitq.errors import BitqError, shortened
from bitq.tradeoff.quantities import QUANTITIES, Quantity
from bitq.tradeoff.shares import ShareOf

_AMOUNT = re.compile(r"(\d{1,18}(?:\.\d{1,9})?(?:e\d{1,2})?) ?([A-Za-zµ]*)", re.ASCII | re.IGNORECASE)


def amount(option: str, text: str | None, units: Mapping[str, float]) -> float | ShareOf | None:
    """A number with a unit, in the smallest of the units, or a share of a plain format; None for None.

    Args:
        option: that it was given with.
        text: such as "1.2 Mbit", without a unit in the smallest, or "50%int8".
        units: by name, what one is worth.

    Raises:
        BitqError: no number, another unit, or a share of something unknown.
    """
    if text is None:
        return None
    if "%" in text:
        return ShareOf.read(option, text)
    found = _AMOUNT.fullmatch(text.strip().replace("μ", "µ"))
    if found is None or found[2] not in {"", *units}:
        names = ", ".join(units)
        given = shortened(text)
        raise BitqError(
            f"{option} is {given!r}; it must be a number, with or without one of the units {names}, "
            "or a share such as 50%int8"
        )
    return float(found[1]) * units.get(found[2], 1.0)


def with_limits(panel: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command, which takes `limits` by the names of quantities, an option for each of `QUANTITIES`.

    Args:
        panel: of its help, in which the options stand.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        options = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[
                    str | None, typer.Option(*_names(quantity), help=quantity.help, rich_help_panel=panel)
                ],
            )
            for name, quantity in QUANTITIES.items()
        ]

        @wraps(command)
        def with_amounts(**given: Any) -> None:
            for name, quantity in QUANTITIES.items():
                given[name] = amount(quantity.option, given[name], quantity.units)
            command(**given)

        keyword_only = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
        parameters = [*keyword_only, *options]
        with_amounts.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        with_amounts.__annotations__ = {each.name: each.annotation for each in parameters}
        return with_amounts

    return decorate


def _names(quantity: Quantity) -> list[str]:
    """Of the option of a quantity, the one by which it is told first."""
    return [quantity.option, *([quantity.also] if quantity.also else [])]
