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
from bitq.formats.format import ROUNDINGS, ContradictionError, Format, Rounding, made
from bitq.formats.scales import MODES, FloatScale, Mode, PowerOfTwo, Scale, ScaledExponent, SharedExponent

T = TypeVar("T")

LONGEST = 8192
"""Characters of a format's text: a table of 256 levels has fewer."""

_FLOATS = {"f32": (8, 23), "f16": (5, 10), "bf16": (8, 7)}
_NUMBER = r"[+-]?(?:\d{1,20}(?:\.\d{0,40})?|\.\d{1,40})(?:e[+-]?\d{1,3})?"
_INTEGER = re.compile(r"([sinu])(\d{1,3})", re.ASCII)
_LEVELS = re.compile(rf"l\(({_NUMBER}(?:;{_NUMBER})*)\)", re.ASCII)
_FLOAT = re.compile(r"(?:(f32|f16|bf16)|e(\d{1,2})m(\d{1,2})([fni]?))", re.ASCII)
_SHARED = re.compile(r"e(\d{1,3})(\*f32)?", re.ASCII)
_POWER = re.compile(rf"e(\d{{1,2}})m0([fni]?)(?:\.({'|'.join(MODES)}))?", re.ASCII)
_SCALE = re.compile(rf"{_FLOAT.pattern}(s?)((?:\.up|\*f32|\*e8m0)*)", re.ASCII)
_ALONG = re.compile(r"([bv])(\d{1,10})(?:p(\d{1,10}))?", re.ASCII)
_TILE = re.compile(r"t(\d{1,10})x(\d{1,10})", re.ASCII)
_PLAIN = re.compile(r"\d{1,3}", re.ASCII)

ELEMENTS = "s8, i8, n8, u8, a float such as e4m3, f16 or bf16, a table such as l(-1;0;1), or a number of BITS before eN"
SCALES = "eN, eN*f32, eXm0 (with .floor, .ceil, .even or .rceil), or a float such as f32, f16, e4m3 or e4m3*f32"
GEOMETRIES = "b16, v16, b16p3, t24x24, channel or tensor"


class _Piece(NamedTuple):
    """A piece of the text and where it stands, counted from 1."""

    text: str
    at: int


def parse_format(text: str) -> Format:
    """The format that a text or the name of a preset stands for.

    Case and surrounding blanks do not matter. ``str`` of the format is its canonical text, which parses to it.

    Args:
        text: such as ``8:e4:b16``, ``e2m1:e4m3*f32:v16``, ``bf16`` or ``mxfp4``; `bitq formats` lists the presets.

    Raises:
        BitqError: the text is no format: quotes the wrong part and says where it stands and what could stand there.
    """
    if not isinstance(text, str):
        raise BitqError(f"a number format is read from a text such as 8:e4:b16, not from a {type(text).__name__}")
    return _parsed(text)


@lru_cache(4096)
def _parsed(text: str) -> Format:
    from bitq.formats.presets import PRESETS  # which are made by the function below

    clean = text.strip()
    clean = clean.lower() if clean.isascii() else clean  # letters beyond may become those of the grammar
    known = PRESETS.get(clean)
    return parsed_text(clean, tuple(PRESETS)) if known is None else known


def parsed_text(text: str, names: tuple[str, ...] = ()) -> Format:
    """The same for texts alone; `names` are other words that were possible."""
    if len(text) > LONGEST:
        raise BitqError(f"a number format has at most {LONGEST} characters, not {len(text)}")
    parts, at = [], 1
    for piece in text.split(":", len(_KINDS)):
        parts.append(_Piece(piece, at))
        at += len(piece) + 1
    if len(parts) == 1 or (len(parts) == 2 and parts[1].text in ROUNDINGS):
        return _lone(parts[0], cast(Rounding, parts[1].text) if len(parts) == 2 else "nearest", names)
    if len(parts) > len(_KINDS):
        more = f"{shortened(parts[-1].text)!r} at character {parts[-1].at}" if parts[-1].text else "the last colon"
        raise BitqError(f"{shortened(text)}: {more} is too much; write ELEMENT:SCALE:GEOMETRY[:ROUNDING]")
    parts += [_Piece("", len(text) + 1)] * (3 - len(parts))
    plain = _PLAIN.fullmatch(parts[0].text)
    elements = () if plain else _elements(parts[0], text)
    scale = cast(Scale, _told(_scale, parts[1], text))
    geometry: Geometry = _told(_geometry, parts[2], text)
    if plain:
        elements = (_mantissa(parts[0], scale, text),)
    rounding: Rounding = _told(_rounding, parts[3], text) if len(parts) == 4 else "nearest"
    try:
        return made(elements, scale, geometry, rounding)
    except ContradictionError as error:
        raise _faulty(tuple(_KINDS.values())[error.part][0], parts[error.part], error.reason, text) from None


def _lone(part: _Piece, rounding: Rounding, names: tuple[str, ...]) -> Format:
    near = get_close_matches(part.text[:40], names, 1)
    try:
        element = _element(part.text)
        if element is not None:
            return made((element,), None, None, rounding)
    except BitqError as error:
        reason = error.reason if isinstance(error, ContradictionError) else str(error)
        raise BitqError(f"{shortened(part.text)}: {reason}") from None
    hint = f"; did you mean {near[0]}?" if near else ""
    raise BitqError(
        f"number format {shortened(part.text)!r} is unknown{hint}; write ELEMENT:SCALE:GEOMETRY, such as 8:e4:b16, a "
        "float such as bf16, or a name that `bitq formats` lists"
    )


def _mantissa(part: _Piece, scale: Scale, text: str) -> Integer:
    """The element of `BITS` with a shared exponent."""
    if not isinstance(scale, SharedExponent | ScaledExponent):
        raise _wrong(part, "element", "s8 or another element: BITS alone goes with a scale eN", text)
    bits = int(part.text) - scale.bits
    if not 2 <= bits <= 24:
        left = f"less {scale.bits} of exponent, a mantissa of {bits} bits is left"
        raise _faulty("element", part, f"{left}; it must have 2..24, sign included", text)
    return Integer("s", bits)


def _elements(part: _Piece, text: str) -> tuple[Element, ...]:
    found, at = [], part.at
    for piece in [part.text] if part.text.startswith("l(") else part.text.split("+"):  # a level may be 1e+2
        found.append(_told(_element, _Piece(piece, at), text))
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
        return (ScaledExponent if match[2] else SharedExponent)(int(match[1]))
    if match := _POWER.fullmatch(text):
        return PowerOfTwo(int(match[1]), cast(FloatKind, match[2] or "n"), cast(Mode, match[3] or "floor"))
    match = _SCALE.fullmatch(text)
    if match is None:
        return None
    ends = re.findall(r"\.up|\*f32|\*e8m0", match[6])
    if len(ends) != len(set(ends)) or {"*f32", "*e8m0"} <= set(ends):
        return None
    second = next((end[1:] for end in ends if end != ".up"), None)
    return FloatScale(_float(match.groups()), ".up" in ends, bool(match[5]), second)


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


def _rounding(text: str) -> Rounding | None:
    return text if text in ROUNDINGS else None


_KINDS: dict[Callable[[str], object], tuple[str, str]] = {
    _element: ("element", ELEMENTS),
    _scale: ("scale", SCALES),
    _geometry: ("geometry", GEOMETRIES),
    _rounding: ("rounding", ", ".join(ROUNDINGS)),
}
"""What reads a part of the text, what the part is called and what can stand there; in the order of the text."""


def _told(read: Callable[[str], T | None], part: _Piece, text: str) -> T:
    """What a part stands for."""
    kind, right = _KINDS[read]
    try:
        found = read(part.text)
    except BitqError as error:
        raise _faulty(kind, part, str(error), text) from None
    if found is None:
        raise _wrong(part, kind, right, text)
    return found


def _faulty(kind: str, part: _Piece, reason: str, text: str) -> BitqError:
    """A part that can be read, but not be."""
    return BitqError(f"{shortened(text)}: {kind} {shortened(part.text)!r} at character {part.at}: {reason}")


def _wrong(part: _Piece, kind: str, right: str, text: str) -> BitqError:
    """A part that cannot be read."""
    given = f"{kind} {shortened(part.text)!r}" if part.text else f"no {kind}"
    return BitqError(f"{shortened(text)}: {given} at character {part.at}; it must be {right}")
