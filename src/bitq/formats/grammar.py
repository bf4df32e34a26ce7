"""The text of a format: ``ELEMENT[+ELEMENT]:SCALE:GEOMETRY[:ROUNDING]``, a lone ``ELEMENT``, or a preset's name."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from functools import lru_cache
from typing import NamedTuple, TypeVar, cast

from bitq.errors import BitqError, shortened
from bitq.formats.blocking import Along, Channel, Geometry, Tile, Whole
from bitq.formats.elements import Element, Float, FloatKind, Integer, Levels
from bitq.formats.format import ROUNDINGS, Format, Rounding, made
from bitq.formats.scales import MODES, FloatScale, Mode, PowerOfTwo, Scale, SharedExponent

T = TypeVar("T")

LONGEST = 4096
"""Characters of a format's text: a table of 256 levels has fewer."""

_FLOATS = {"f32": (8, 23), "f16": (5, 10), "bf16": (8, 7)}
_NUMBER = r"[+-]?(?:\d{1,20}(?:\.\d{0,40})?|\.\d{1,40})(?:e[+-]?\d{1,3})?"
_INTEGER = re.compile(r"([sinu])(\d{1,3})", re.ASCII)
_LEVELS = re.compile(rf"l\(({_NUMBER}(?:;{_NUMBER})*)\)", re.ASCII)
_FLOAT = re.compile(r"(?:(f32|f16|bf16)|e(\d{1,2})m(\d{1,2})([fni]?))", re.ASCII)
_SHARED = re.compile(r"e(\d{1,3})", re.ASCII)
_POWER = re.compile(rf"e(\d{{1,2}})m0([fni]?)(?:\.({'|'.join(MODES)}))?", re.ASCII)
_SCALE = re.compile(rf"{_FLOAT.pattern}(s?)((?:\.up|\*f32|\*e8m0)*)", re.ASCII)
_ALONG = re.compile(r"([bv])(\d{1,10})(?:p(\d{1,10}))?", re.ASCII)
_TILE = re.compile(r"t(\d{1,10})x(\d{1,10})", re.ASCII)
_SUM = re.compile(r"\+(?![^(]*\))")  # not the sign of a level
_PLAIN = re.compile(r"\d{1,3}", re.ASCII)

ELEMENTS = "s8, i8, n8, u8, a float such as e4m3, f16 or bf16, a table such as l(-1;0;1), or a number of BITS before eN"
SCALES = "eN, eXm0 (with .floor, .ceil, .even or .rceil), or a float such as f32, f16, e4m3 or e4m3*f32"
GEOMETRIES = "b16, v16, b16p3, t24x24, channel or tensor"


class _Part(NamedTuple):
    """A piece of the text and where it stands, counted from 1."""

    text: str
    at: int


@lru_cache(4096)
def parse_format(text: str) -> Format:
    """The format that a text or the name of a preset stands for.

    Case and surrounding blanks do not matter. ``str`` of the format is its canonical text, which parses to it.

    Args:
        text: such as ``8:e4:b16``, ``e2m1:e4m3*f32:v16``, ``bf16`` or ``mxfp4``; `bitq formats` lists the presets.

    Raises:
        BitqError: the text is no format: quotes the wrong part and says where it stands and what could stand there.
    """
    from bitq.formats.presets import PRESETS  # which are made by the function below

    clean = text.strip().lower()
    known = PRESETS.get(clean)
    return parsed_text(clean, tuple(PRESETS)) if known is None else known


def parsed_text(text: str, names: tuple[str, ...] = ()) -> Format:
    """The same for texts alone; `names` are other words that were possible."""
    if len(text) > LONGEST:
        raise BitqError(f"a number format has at most {LONGEST} characters, not {len(text)}")
    parts: list[_Part] = []
    for piece in text.split(":"):
        parts.append(_Part(piece, 1 + sum(len(before.text) + 1 for before in parts)))
    if len(parts) == 1 or (len(parts) == 2 and parts[1].text in ROUNDINGS):
        return _lone(parts[0], names, cast(Rounding, parts[1].text if len(parts) == 2 else "nearest"))
    if len(parts) not in (3, 4):
        missing = _Part("", len(text) + 1) if len(parts) < 3 else parts[4]
        raise _wrong(missing, "part", "ELEMENT:SCALE:GEOMETRY[:ROUNDING], such as 8:e4:b16 or e2m1:e4m3*f32:v16", text)
    scale, geometry = _told(_scale, parts[1], text), _told(_geometry, parts[2], text)
    elements = _elements(parts[0], scale, text)
    rounding = parts[3].text if len(parts) == 4 else "nearest"
    if rounding not in ROUNDINGS:
        raise _wrong(parts[3], "rounding", ", ".join(ROUNDINGS), text)
    try:
        return made(elements, scale, geometry, cast(Rounding, rounding))
    except BitqError as error:
        raise BitqError(f"{shortened(text)}: {str(error).removeprefix('number format: ')}") from None


def _lone(part: _Part, names: tuple[str, ...], rounding: Rounding) -> Format:
    try:
        if _FLOAT.fullmatch(part.text):
            return made((_element(part.text),), None, None, rounding)
    except BitqError as error:
        raise BitqError(f"{shortened(part.text)}: {error}") from None
    near = get_close_matches(part.text[:40], names, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise BitqError(
        f"number format {shortened(part.text)!r} is unknown{hint}; write ELEMENT:SCALE:GEOMETRY, such as 8:e4:b16, a "
        "float such as bf16, or a name that `bitq formats` lists"
    )


def _elements(part: _Part, scale: Scale, text: str) -> tuple[Element, ...]:
    if _PLAIN.fullmatch(part.text):
        if not isinstance(scale, SharedExponent):
            raise _wrong(part, "element", "s8 or another element: BITS alone goes with a scale eN", text)
        mantissa = int(part.text) - scale.bits
        if not 2 <= mantissa <= 24:
            raise BitqError(
                f"{shortened(text)}: {part.text} bits less {scale.bits} of exponent leave a mantissa of {mantissa}; it "
                "must have 2..24 bits, sign included"
            )
        return (Integer("s", mantissa),)
    found, at = [], part.at
    for piece in _SUM.split(part.text):
        found.append(_told(_element, _Part(piece, at), text))
        at += len(piece) + 1
    return tuple(found)


def _element(text: str) -> Element | None:
    if match := _INTEGER.fullmatch(text):
        return Integer(match[1], int(match[2]))  # type: ignore[arg-type]
    if match := _LEVELS.fullmatch(text):
        return Levels(tuple(map(float, match[1].split(";"))))
    match = _FLOAT.fullmatch(text)
    return _float(match.groups()) if match else None


def _float(groups: tuple[str | None, ...]) -> Float:
    short, exponent, mantissa, kind = groups[:4]
    widths = _FLOATS[short] if short else (int(exponent or 0), int(mantissa or 0))
    return Float(*widths, cast(FloatKind, kind) or Float.usual_kind(widths[0]))


def _scale(text: str) -> Scale | None:
    if match := _SHARED.fullmatch(text):
        return SharedExponent(int(match[1]))
    if match := _POWER.fullmatch(text):
        return PowerOfTwo(int(match[1]), cast(FloatKind, match[2] or "n"), cast(Mode, match[3] or "floor"))
    match = _SCALE.fullmatch(text)
    if match is None:
        return None
    ends = re.findall(r"\.up|\*f32|\*e8m0", match[6])
    if len(ends) != len(set(ends)) or {"*f32", "*e8m0"} <= set(ends):
        return None
    second = next((end[1:] for end in ends if end != ".up"), None)
    return FloatScale(_float(match.groups()), ".up" in ends, bool(match[5]), second)  # type: ignore[arg-type]


def _geometry(text: str) -> Geometry | None:
    if text == "channel":
        return Channel()
    if text == "tensor":
        return Whole()
    if match := _TILE.fullmatch(text):
        return Tile(int(match[1]), int(match[2]))
    match = _ALONG.fullmatch(text)
    if match is None or (match[1] == "v" and match[3]):
        return None
    return Along(int(match[2]), match[1] == "b", int(match[3]) if match[3] else None)


_KINDS: dict[Callable[[str], object], tuple[str, str]] = {
    _element: ("element", ELEMENTS),
    _scale: ("scale", SCALES),
    _geometry: ("geometry", GEOMETRIES),
}


def _told(read: Callable[[str], T | None], part: _Part, text: str) -> T:
    """What a part stands for."""
    kind, right = _KINDS[read]
    try:
        found = read(part.text)
    except BitqError as error:
        raise BitqError(
            f"{shortened(text)}: {kind} {shortened(part.text)!r} at character {part.at}: {error}"
        ) from None
    if found is None:
        raise _wrong(part, kind, right, text)
    return found


def _wrong(part: _Part, kind: str, right: str, text: str) -> BitqError:
    given = f"{kind} {shortened(part.text)!r}" if part.text else f"nothing for a {kind}"
    return BitqError(f"{shortened(text)}: {given} at character {part.at}; it must be {right}")
