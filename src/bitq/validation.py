"""Documents from outside: read within bounds, and what is wrong with them in plain words.

Told is where a mistake is, what would be right, and what is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from bitq.errors import LONGEST_VALUE, BitqError, shortened

LONGEST_PLACE = 120
"""Characters of the way to an entry that are repeated."""

DEEPEST, MOST_DIGITS = 64, 400
"""How deep lists and named entries may lie in each other, and the digits of a number: 64-bit floats have at most 309
before the point."""

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BESIDES = bytes(set(range(256)) - set(b"[]{},"))
_STEPS = np.zeros(256, np.int32)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1


def parsed(content: bytes, most_values: int, nan: bool = False) -> Any:
    """What a JSON document holds.

    How many values it has and how deep they lie is known before the first is made, since one may take 40 times the
    memory of its text.

    Args:
        content: in UTF-8.
        most_values: that it may have.
        nan: whether NaN and infinities are numbers, too.

    Raises:
        BitqError: no such document; says how it differs, to follow upon its name: "is not JSON at line 1, column 3".
    """
    marks = np.frombuffer(_STRING.sub(b"", content).translate(None, _BESIDES), np.uint8)
    values = len(marks) + 1  # commas and brackets: no fewer than values
    if values > most_values:
        raise BitqError(f"has about {values} values, more than the {most_values} that it may have")
    if (deepest := int(_STEPS[marks].cumsum().max(initial=0))) > DEEPEST:
        raise BitqError(f"has brackets {deepest} deep in each other, more than the {DEEPEST} that it may have")
    try:
        return json.loads(
            content.decode(),
            object_pairs_hook=_unrepeated,
            parse_int=_whole,
            parse_constant=float if nan else _no_number,
        )
    except UnicodeDecodeError as error:
        raise BitqError(f"is not text in UTF-8 from byte {error.start} on") from None
    except json.JSONDecodeError as error:
        raise BitqError(f"is not JSON at line {error.lineno}, column {error.colno}") from None


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise BitqError(f"names {shortened(twice)!r} twice in one place")
    return entries


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise BitqError(f"has a number of {len(digits)} digits, more than the {MOST_DIGITS} that it may have")
    return int(digits)


def _no_number(word: str) -> Any:
    raise BitqError(f"has {word} where a finite number must stand")


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


def mistake(error: ValidationError) -> ErrorDetails:
    """The mistake of a document to tell: an entry that is not known, since another may be missing for it, or the first.
    """
    every = error.errors(include_url=False)
    return next((each for each in every if each["type"] == "extra_forbidden"), every[0])


def told(error: ValidationError, known: Collection[str] = ()) -> str:
    """A mistake of a document, such as "memories.0.capacity_bytes must be a number above 0, not -1".

    Repeats little of the document, whatever it holds.

    Args:
        error: what pydantic says of it.
        known: names of entries, for whom one was misspelt.
    """
    first = mistake(error)
    kind, context, found = first["type"], first.get("ctx", {}), first["input"]
    place = shortened(".".join(shortened(str(part)) for part in first["loc"]), LONGEST_PLACE) or "it"
    match kind:
        case "missing" | "missing_argument" | "missing_keyword_only_argument":
            return f"{place} is missing"
        case "extra_forbidden" | "unexpected_keyword_argument":
            near = get_close_matches(str(first["loc"][-1])[:LONGEST_VALUE], known, 1)
            return f"{place} is an entry that is not known; " + (f"did you mean {near[0]}?" if near else "leave it out")
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
            return repr(shortened(value))
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
