"""What is wrong with a document from outside, in plain words: where, what would be right, and what is there."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from bitq.errors import shortened

LONGEST_VALUE, LONGEST_PLACE = 60, 120
"""Characters of others that are repeated."""

_TYPES = {
    "string": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "dict": "named entries",
    "mapping": "named entries",
    "model": "named entries",
    "model_attributes": "named entries",
    "dataclass": "named entries",
}
_ENDS = ("_type", "_parsing", "_parsing_size", "_from_float", "_sub_type", "_unicode", "_exact_type")

_RULES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than": lambda told: f"a number above {_number(told['gt'])}",
    "greater_than_equal": lambda told: f"a number of at least {_number(told['ge'])}",
    "less_than": lambda told: f"a number below {_number(told['lt'])}",
    "less_than_equal": lambda told: f"a number of at most {_number(told['le'])}",
    "finite_number": lambda told: "a finite number",
    "int_parsing_size": lambda told: "a whole number of few digits",
    "none_required": lambda told: "left empty",
    "literal_error": lambda told: str(told["expected"]),
    "enum": lambda told: str(told["expected"]),
    "string_too_short": lambda told: f"a text of at least {_counted(told['min_length'], 'character')}",
    "string_too_long": lambda told: f"a text of at most {_counted(told['max_length'], 'character')}",
}
"""What would be right, by the kind of mistake; what is there follows."""


def told(error: ValidationError) -> str:
    """The first mistake of a document, such as "memories.0.capacity_bytes must be a number above 0, not -1".

    Repeats little of the document, whatever it holds.
    """
    first = error.errors(include_url=False)[0]
    kind, context, found = first["type"], first.get("ctx", {}), first["input"]
    place = shortened(".".join(shortened(str(part), LONGEST_VALUE) for part in first["loc"]), LONGEST_PLACE) or "it"
    match kind:
        case "missing" | "missing_argument" | "missing_keyword_only_argument":
            return f"{place} is missing"
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"{place} is an entry that is not known; leave it out"
        case "value_error" | "assertion_error":
            return f"{place}: {shortened(str(context['error']), 4 * LONGEST_VALUE)}"
        case "json_invalid":
            at = re.search(r"line (\d+) column (\d+)", str(context.get("error", "")))
            return f"{place} is not JSON" + (f" at line {at[1]}, column {at[2]}" if at else "")
        case "too_long" | "too_short":
            most = context["max_length"] if kind == "too_long" else context["min_length"]
            limit = "most" if kind == "too_long" else "least"
            has = context.get("actual_length")
            other = f", not {has}" if has is not None else ""
            return f"{place} must have at {limit} {_counted(most, 'entry', 'entries')}{other}"
    rule = _RULES[kind](context) if kind in _RULES else _TYPES.get(_stem(kind))
    return f"{place} must be {rule}, not {shown(found)}" if rule else f"{place} cannot be {shown(found)}"


def shown(value: object) -> str:
    """A value of a document for a message: short, whatever it is."""
    match value:
        case None:
            return "empty"
        case bool():
            return "true" if value else "false"
        case int() if abs(value) >= 10**20:
            return "a number of very many digits"
        case int() | float():
            return repr(value)
        case str():
            return repr(shortened(value, LONGEST_VALUE))
        case list() | tuple():
            return "a list"
        case Mapping():
            return "named entries"
    return "something else"


def _stem(kind: str) -> str:
    return next((kind.removesuffix(end) for end in sorted(_ENDS, key=len, reverse=True) if kind.endswith(end)), kind)


def _number(limit: float) -> str:
    return str(int(limit)) if abs(limit) < 1e16 and limit == int(limit) else repr(limit)


def _counted(count: int, one: str, more: str | None = None) -> str:
    return f"{count} {one if count == 1 else more or one + 's'}"
