"""Which of a command's options were given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitq.errors import BitqError


def given_of(**options: Any) -> dict[str, Any]:
    """The options that are given."""
    return {name: value for name, value in options.items() if value is not None}


def check_uses(why: str, idle: bool, options: Mapping[str, object]) -> None:
    """Refuse the options that are given if they would do nothing."""
    if idle and (given := [option for option, value in options.items() if value is not None]):
        raise BitqError(f"{why}; leave {', '.join(given)} out")
