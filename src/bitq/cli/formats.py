"""`bitq formats`: the number formats by name, and what each of them means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from textwrap import wrap
from typing import Annotated, Any

import typer

from bitq.cli.output import Json, print_json, print_text
from bitq.formats import PRESETS, parse_format
from bitq.formats.explained import (
    ACTIVATION,
    EXAMPLE,
    MOST_LISTED,
    WEIGHT,
    Explained,
    Special,
    floor_log2,
    number_text,
    short_text,
)
from bitq.formats.presets import GROUPS, Preset

COLUMNS = 80
"""Characters of a line, at most: what every terminal shows, and what documents quote."""


def formats(
    fmt: Annotated[
        str | None,
        typer.Argument(metavar="[NAME_OR_TEXT]", help="A name of the list, or a format such as e4m3:e8m0:v32."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the number formats by name, or explain one: a name of the list or any ELEMENT:SCALE:GEOMETRY[:ROUNDING].

    **ELEMENT**, what each number is stored as: s8 sign and magnitude, i8 two's complement, n8 never negative, u8 with
    a zero point, e4m3 a float of 4 bits of exponent and 3 of mantissa (f, n or i behind it: every code a number, one
    NaN, Inf and NaN), l(-1;0;1) a table. 8 in 8:e4:b16 is s4: 8 bits, 4 of which make the scale.

    **SCALE**, what a block shares: e4 a power of two in 4 bits under one bias per tensor; e8m0 a power of two with its
    own bias (.ceil, .even, .rceil find it in other ways); f32, f16, bf16 or e4m3 a float (.up rounds it up), e4m3*f32
    with a second one per tensor.

    **GEOMETRY**, what shares a scale: b16 16 neighbours along the channels with the kernel window, v32 32 without it,
    b24p3 24 with a patch of 3 x 3, t24x24 a tile, channel, tensor.

    **ROUNDING**: nearest unless it says half_away, toward_zero or stochastic. An ELEMENT alone, such as bf16 or e5m2,
    is a plain float.

    Example: `bitq formats nvfp4`
    """
    if fmt is None:
        listed = {name: Explained(each) for name, each in PRESETS.items()}
        if as_json:
            print_json({"formats": [{"name": name, **_in_short(each)} for name, each in listed.items()]})
        else:
            print_text("".join(f"{line}\n" for line in listing(listed)))
        return
    found = Explained(parse_format(fmt))
    if as_json:
        print_json(_document(found))
    else:
        print_text("".join(f"{line}\n" for line in explanation(found)))


def listing(listed: dict[str, Explained]) -> Iterator[str]:
    """The lines of the list."""
    yield from _wrapped(
        "Bits per element of an activation with 64 channels (act.) and of a convolution's weight of 64x64x3x3 (3x3); "
        "the smallest positive and the largest number that a format holds under any scale."
    )
    for title, group in GROUPS.items():
        yield ""
        yield f"{title:43}{'act.':>7}{'3x3':>8}{'smallest':>11}{'largest':>10}"
        for name in group:
            each = listed[name]
            act, weight = (each.format.bits_per_element(*shape[1:]) for shape in (ACTIVATION, WEIGHT))
            numbers = f"{short_text(each.smallest):>11}{short_text(each.largest):>10}"
            yield f"  {name:15}{each.format.text:26}{act:7.4g}{weight:8.4g}{numbers}"
        yield from _sources(group)
    yield ""
    yield "bitq formats NAME explains one; bitq formats --help how to write any other."


def _sources(group: dict[str, Preset]) -> Iterator[str]:
    """Who defines the formats of a group, each source once."""
    names: dict[str, list[str]] = {}
    for name, preset in group.items():
        names.setdefault(preset.source, []).append(name)
    for source, those in names.items():
        yield from _wrapped(f"{'' if len(names) == 1 else f'{_range(those)}: '}{source}", "  ")


def _range(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{names[0]} to {names[-1]}"


def explanation(found: Explained) -> Iterator[str]:
    """The lines that explain a format."""
    fmt = found.format
    yield from _wrapped(" = ".join([*fmt.names, fmt.text]))
    yield from _topic("Element")
    for meaning, codes in zip(found.elements, found.codes, strict=True):
        half = len(codes) // 2
        yield from _wrapped(meaning, "  ")
        yield from _table(codes[:half] if found.mirrored else codes)
        if codes and found.mirrored:
            yield f"  code {half} and those that follow: the same, negative"
    if found.scale:
        yield from _topic("Scale", *found.scale)
    yield from _topic("Block", found.geometry)
    yield from _topic("Rounding", found.rounding)
    yield from _topic(
        "Numbers",
        f"from {_both(found.smallest)} to {_both(found.largest)} in magnitude, and 0",
        f"in one tensor the largest is at most about 2^{floor_log2(found.spread)} times the smallest",
    )
    yield from _topic("Bits per element")
    for shape, width in found.widths:
        yield f"  {width:10.4f}  {shape.name}, {'x'.join(map(str, shape.shape))}"
    yield from _topic(f"In memory, a {EXAMPLE.name} of {' x '.join(map(str, EXAMPLE.shape))}, lowest bits first")
    for field in found.layout:
        yield from _wrapped(
            f"bits {field.begin} .. {field.end - 1}: {field.numbers} of {field.bits} bits: {field.holds}", "  "
        )
    end = found.layout[-1].end
    yield from _wrapped(f"filled up to {-(-end // 8)} bytes; in the header {found.header or 'nothing more'}", "  ")
    for name, preset in found.presets.items():
        yield from _topic(f"Source of {name}", preset.source)
        if preset.deviates:
            yield from _wrapped(f"Others: {preset.deviates}", "  ")


def _both(value: Fraction) -> str:
    """Exactly, and as a decimal where that is something else."""
    exact, short = number_text(value), f"{float(value):.6g}"
    return exact if exact == short else f"{exact} (about {short})"


def _topic(heading: str, *sentences: str) -> Iterator[str]:
    yield ""
    yield from _wrapped(heading)
    for sentence in sentences:
        yield from _wrapped(sentence, "  ")


def _wrapped(text: str, indent: str = "") -> list[str]:
    return wrap(text, COLUMNS, initial_indent=indent, subsequent_indent=f"{indent}  ", break_on_hyphens=False)


def _table(codes: Sequence[Fraction | Special]) -> Iterator[str]:
    """Numbers by their codes: as many in a line as fit, at most 16, a power of two; that of the first in front."""
    if not codes:
        yield from _wrapped(f"elements of more than {MOST_LISTED} bits are not listed here", "  ")
        return
    cells = [number_text(code) if isinstance(code, Fraction) else code for code in codes]
    width = 1 + max(map(len, cells))
    each = 16
    while each > 1 and 7 + each * width > COLUMNS:
        each //= 2
    yield "  code: numbers of it and of those that follow"
    for begin in range(0, len(cells), each):
        yield f"  {begin:4}:{''.join(f'{cell:>{width}}' for cell in cells[begin : begin + each])}"


def _in_short(found: Explained) -> dict[str, Any]:
    fmt = found.format
    return {
        "format": fmt.text,
        "bits_per_element": {shape.name: width for shape, width in found.widths},
        "smallest": float(found.smallest),
        "largest": float(found.largest),
        "sources": {name: preset.source for name, preset in found.presets.items()},
    }


def _document(found: Explained) -> dict[str, Any]:
    fmt = found.format
    return {
        "names": fmt.names,
        **_in_short(found),
        "largest_in_a_tensor": float(found.spread),
        "elements": [
            {"meaning": meaning, "codes": [_json(code) for code in codes] or None}
            for meaning, codes in zip(found.elements, found.codes, strict=True)
        ],
        "scale": {"text": fmt.scale and fmt.scale.text, "bits_per_block": fmt.block_bits, "meaning": found.scale},
        "geometry": {"text": fmt.geometry and fmt.geometry.text, "meaning": found.geometry},
        "rounding": {"text": fmt.rounding, "meaning": found.rounding},
        "shapes": [{**shape._asdict(), "bits_per_element": width} for shape, width in found.widths],
        "layout": {
            "shape": EXAMPLE.shape,
            "fields": [{**field._asdict(), "end": field.end} for field in found.layout],
            "bytes": -(-found.layout[-1].end // 8),
            "header": found.header,
        },
        "deviates": {name: preset.deviates for name, preset in found.presets.items() if preset.deviates},
    }


def _json(code: Fraction | Special) -> float | str:
    return float(code) if isinstance(code, Fraction) else code
