"""`bitq formats`: the list, and what it tells of every format."""

import json
import os
import re
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from math import ceil, inf, prod
from pathlib import Path

import pytest
import torch
from hypothesis import given

from bitq.cli.formats import COLUMNS, explanation
from bitq.formats import PRESETS, parse_format
from bitq.formats.elements import Float, Integer, values
from bitq.formats.explained import EXAMPLE, MOST_LISTED, SHAPES, Explained, floor_log2, number_text
from bitq.formats.presets import GROUPS, TABLE
from bitq.formats.scales import FloatScale
from test_grammar import formats

DOCS = Path(__file__).parents[1] / "docs" / "formats.md"


def exact(text):
    """The number that a text of `number_text` stands for."""
    found = re.fullmatch(r"(-?)(?:(\d+)·)?2\^(-?\d+)", text)
    if found is None:
        return Fraction(text)
    return int(found[2] or 1) * Fraction(2) ** int(found[3]) * (-1 if found[1] else 1)


def lines(out):
    assert out.endswith("\n")
    found = out[:-1].split("\n")
    assert all(len(line) <= COLUMNS == 80 and line == line.rstrip() for line in found)
    return found


def tables(told):
    """Numbers by code, as an explanation shows them for each kind of elements."""
    found = []
    for row in filter(None, (re.fullmatch(r" {2,}(\d+):((?: +\S+)+)", line) for line in told)):
        if row[1] == "0":
            found.append([])
        assert int(row[1]) == len(found[-1])
        found[-1] += [exact(cell) if re.search(r"\d", cell) else cell for cell in row[2].split()]
    return found


def test_the_list_has_every_preset_under_its_maker(bitq):
    code, out, err = bitq("formats")
    assert (code, err) == (0, "")
    cells = [line.split() for line in lines(out) if re.fullmatch(r"  [\w-]+ +\S+(?: +[\d.e-]+){4}", line)]
    rows = {row[0]: row for row in cells}
    assert [*rows] == [*PRESETS] == [*TABLE] == [name for group in GROUPS.values() for name in group]
    for name, (_, text, act, weight, smallest, largest) in rows.items():
        fmt, found = PRESETS[name], Explained(PRESETS[name])
        assert parse_format(text) == fmt
        assert float(act) == pytest.approx(fmt.bits_per_element((1, 64, 56, 56)), rel=1e-3)
        assert float(weight) == pytest.approx(fmt.bits_per_element((64, 64, 3, 3), 1, (2, 3)), rel=1e-3)
        assert float(smallest) == pytest.approx(float(found.smallest), rel=5e-3)
        assert float(largest) == pytest.approx(float(found.largest), rel=5e-3)
    told = " ".join(out.split())
    assert all(preset.source in told for preset in TABLE.values())


def test_the_list_as_json(bitq):
    code, out, _ = bitq("formats", "--json")
    document = json.loads(out)["formats"]
    assert code == 0
    assert {each["name"]: parse_format(each["format"]) for each in document} == PRESETS
    assert all(each["sources"][each["name"]] == TABLE[each["name"]].source for each in document)


def test_the_documents_list_is_that_of_the_command(bitq):
    out = bitq("formats")[1]
    assert f"```\n$ bitq formats\n{out}```\n" in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_explained(bitq, name):
    code, out, err = bitq("formats", name)
    assert (code, err) == (0, "")
    told, fmt = " ".join(out.split()), PRESETS[name]
    assert lines(out)[0] == " = ".join([*fmt.names, str(fmt)])
    assert TABLE[name].source in told
    assert TABLE[name].deviates in told
    for shape in SHAPES:
        width = f"{fmt.bits_per_element(*shape[1:]):.4f} {shape.name}"
        assert width in told
    assert bitq("formats", f" {str(fmt).upper()} ")[1] == out
    document = json.loads(bitq("formats", name, "--json")[1])
    assert document["format"] == str(fmt)
    assert document["names"] == [*fmt.names]
    assert [each["bits_per_element"] for each in document["shapes"]] == [
        fmt.bits_per_element(*shape[1:]) for shape in SHAPES
    ]


def check_numbers(fmt):
    """The exact table of a format's elements, in the explanation's codes and in its lines."""
    found = Explained(fmt)
    shown = tables(lines("".join(f"{line}\n" for line in explanation(found))))
    for element, codes in zip(dict.fromkeys(fmt.elements), found.codes, strict=True):
        if element.bits > MOST_LISTED:
            assert codes == ()
            continue
        numbers = [code for code in codes if isinstance(code, Fraction)]
        known = set(values(element, fmt.power_of_two))
        if len(fmt.elements) > 1:
            known.add(-element.most - Fraction(1))
        assert set(numbers) == known
        assert len(codes) == (len(known) if not isinstance(element, Float | Integer) else 1 << element.bits)
        signs = isinstance(element, Float) or (isinstance(element, Integer) and element.kind == "s")
        assert len(numbers) - len(known) in ([1] if signs else [0])  # +0 and -0
        assert shown.pop(0) == [*codes[: len(codes) // 2 if signs else None]]
        if signs:
            half = len(codes) // 2
            assert [code if isinstance(code, str) else -code for code in codes[:half]] == [
                "Inf" if code == "-Inf" else code for code in codes[half:]
            ]
    assert not shown
    return found


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_numbers_are_exact(name):
    check_numbers(PRESETS[name])


def exact_reach(scale, smallest):
    """`FloatScale.reach` in rationals."""
    number, least = scale.number, Fraction(2) ** -126 / smallest
    unit = Fraction(2) ** (max(floor_log2(least), number.least_exponent) - number.mantissa_bits)
    return max(number.smallest(), ceil(least / unit) * unit), number.largest()


@given(formats())
def test_every_format_is_explained_exactly(fmt):
    found = check_numbers(fmt)
    assert 0 < found.smallest <= found.largest
    assert 1 <= found.spread <= found.largest / found.smallest
    places = [(field.begin, field.end) for field in found.layout]
    assert places[0][0] == 0
    assert all(end == begin for (_, end), (begin, _) in pairwise(places))
    assert places[-1][1] == fmt.num_bits(*EXAMPLE[1:])
    assert found.layout[0].numbers == prod(EXAMPLE.shape)
    if isinstance(fmt.scale, FloatScale):
        assert fmt.scale.reach(fmt.smallest) == exact_reach(fmt.scale, Fraction(fmt.smallest))
    json.dumps(found.widths)


@pytest.mark.parametrize(
    ("text", "code", "number"),
    [
        ("e4m3:e8m0:v32", 0x7E, 448),
        ("e4m3:e8m0:v32", 0x7F, "NaN"),
        ("e4m3:e8m0:v32", 0x81, Fraction(-1, 512)),
        ("e5m2:f32:tensor", 0x7B, 57344),
        ("e5m2:f32:tensor", 0x7C, "Inf"),
        ("e5m2:f32:tensor", 0xFC, "-Inf"),
        ("e5m2:f32:tensor", 0xFD, "NaN"),
        ("s4:e8m0:v16", 0b0111, Fraction(7, 4)),
        ("s4:e8m0:v16", 0b1001, Fraction(-1, 4)),
        ("s4:f32:v16", 0b1001, -1),
        ("i4:f32:v16", 0b1111, -1),
        ("i4:f32:v16", 0b1000, "unused"),
        ("i2+i2:e3m3s*e8m0:v16", 0b10, -2),
        ("n4:e4:b16", 0b1111, Fraction(15, 8)),
        ("u4:f32:tensor", 0b1111, 15),
        ("l(-1;0;0.5):f32:b1", 2, Fraction(1, 2)),
    ],
)
def test_codes_stand_for_numbers(text, code, number):
    assert Explained(parse_format(text)).codes[0][code] == number


@pytest.mark.parametrize(
    ("text", "smallest", "largest", "spread"),
    [
        ("f16", 2.0**-24, 65504, 65504 * 2**24),
        ("e4m3", 2.0**-9, 448, 448 * 512),
        ("f32", 2.0**-149, torch.finfo(torch.float32).max, None),
        ("mxfp4", 2.0**-126, torch.finfo(torch.float32).max, None),
        ("s2:e8m0:v16", 2.0**-126, 2.0**127, 2**253),
        ("tt-bfp4a", 2.0**-15 / 4, 2.0**16 * 7 / 4, None),
        ("altera-fp11", 2.0**-14 / 32, 2.0**15 * 63 / 32, None),
        ("i8:f16:v16", 2.0**-24, 65504.0 * 127, None),
        ("8:e4:b16", 2.0**-126, 2.0**127 * 7 / 4, 7 * 2**15),
        ("int8-tensor", 2.0**-126, torch.finfo(torch.float32).max, 127),
        ("nvfp4", 2.0**-126, torch.finfo(torch.float32).max, 12 * 448 * 512),
    ],
)
def test_numbers_reach(text, smallest, largest, spread):
    found = Explained(parse_format(text))
    assert (found.smallest, found.largest) == (smallest, largest)
    assert found.spread == (found.largest / found.smallest if spread is None else spread)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("8:e4:b16", [(0, 80, 4), (320, 6, 4)]),
        ("nvfp4", [(0, 80, 4), (320, 6, 8), (368, 1, 32)]),
        ("u4:f16:channel", [(0, 80, 4), (320, 2, 20)]),
        ("bsfp", [(0, 80, 4), (320, 6, 14), (404, 1, 8)]),
        ("bf16", [(0, 80, 16)]),
    ],
)
def test_bits_of_an_example_are_placed(text, fields):
    assert [tuple(field[:3]) for field in Explained(parse_format(text)).layout] == fields


@pytest.mark.parametrize("size", [1, 3, 5, 100, 127, 255, 2**24 - 1])
def test_numbers_are_written_exactly(size):
    for power in range(-150, 105):
        value = size * Fraction(2) ** power
        for each in (value, -value):
            assert exact(number_text(each)) == each
            assert len(number_text(each)) <= 16
        assert Fraction(2) ** floor_log2(value) <= value < Fraction(2) ** (floor_log2(value) + 1)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (448, "448"), (-1.75, "-1.75"), (2**-9, "1/512"), (2.0**-126, "2^-126"), (-3.0 * 2**30, "-3·2^30")],
)
def test_numbers_are_written_for_readers(value, text):
    assert number_text(Fraction(value)) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mxfp5", "Error: number format 'mxfp5' is unknown; did you mean mxfp4?"),
        ("8:e9:b16", "Error: 8:e9:b16: scale 'e9' at character 3: a shared exponent has 1..8 bits, not 9"),
        ("i8:f32", "Error: i8:f32: no geometry at character 7; it must be b16"),
        ("", "Error: number format '' is unknown"),
        ("x" * 9000, "Error: a number format has at most 8192 characters, not 9000"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_mistake_is_told(mistake, text, says, options):
    assert mistake("formats", text, *options).startswith(says)


def test_help_teaches_the_grammar(bitq):
    told = " ".join(bitq("formats", "--help")[1].split())
    assert all(word in told for word in ("ELEMENT", "SCALE", "GEOMETRY", "ROUNDING", "u8", "e4m3", "l(-1;0;1)", "e8m0"))
    written = re.findall(r"[a-z0-9]+:[a-z0-9]+:[a-z0-9]+", told)
    assert len(written) == 2
    assert all(map(parse_format, written))


def test_nothing_of_torch_is_loaded():
    run = "try: main(['formats', 'mxfp4'])\nfinally: assert 'torch' not in sys.modules"
    code = f"import sys; from bitq.cli import main\n{run}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("mxfp4 = ")


def test_no_number_is_infinite():
    for fmt in PRESETS.values():
        document = [Explained(fmt).smallest, Explained(fmt).largest]
        assert all(0 < float(number) < inf for number in document)
