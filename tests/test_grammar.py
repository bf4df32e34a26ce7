"""The text of formats: what it stands for, what it refuses and in which words, and that formats are plain values."""

import copy
import pickle
import time
import warnings
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitq.errors import BitqError
from bitq.formats import PRESETS, ROUNDINGS, BlockFormat, Format, grid, parse_format
from bitq.formats.blocking import Along, Channel, Tile, Whole
from bitq.formats.elements import Float, Integer, Levels
from bitq.formats.grammar import LONGEST
from bitq.formats.scales import MODES, FloatScale, PowerOfTwo, ScaledExponent, SharedExponent

NVIDIA = FloatScale(Float(4, 3, "n"), second="f32")
PIECES = ("e", "s", "8", "i4", "u8", "l(0;1)", "e4m3", "f16", "bf16", "e8m0", "*f32", ".up", "b16", "v", "p3", "t2x2")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("8:e4:b16", (Integer("s", 4), SharedExponent(4), Along(16), "nearest")),
        ("6:e2*f32:b16", (Integer("s", 4), ScaledExponent(2), Along(16), "nearest")),
        ("n7:e4:v16", (Integer("n", 7), SharedExponent(4), Along(16, window=False), "nearest")),
        ("e2m1:e8m0:v32", (Float(2, 1, "f"), PowerOfTwo(8), Along(32, window=False), "nearest")),
        ("e4m3i:e5m0f.even:t24x8", (Float(4, 3, "i"), PowerOfTwo(5, "f", "even"), Tile(24, 8), "nearest")),
        ("e2m1:e4m3*f32:v16", (Float(2, 1, "f"), NVIDIA, Along(16, False), "nearest")),
        ("u4:bf16.up:channel", (Integer("u", 4), FloatScale(Float(8, 7, "i"), up=True), Channel(), "nearest")),
        ("i8:f32:tensor:stochastic", (Integer("i", 8), FloatScale(Float(8, 23, "i")), Whole(), "stochastic")),
        ("s4:e8m0:b24p3:toward_zero", (Integer("s", 4), PowerOfTwo(8), Along(24, True, 3), "toward_zero")),
        ("l(-1;0;0.5;1000):f16:b1", (Levels((-1, 0, 0.5, 1000)), FloatScale(Float(5, 10, "i")), Along(1), "nearest")),
        ("bf16", (Float(8, 7, "i"), None, None, "nearest")),
        ("e4m3:toward_zero", (Float(4, 3, "n"), None, None, "toward_zero")),
    ],
)
def test_a_text_stands_for_its_parts(text, parts):
    fmt = parse_format(text)
    assert (*fmt.elements, fmt.scale, fmt.geometry, fmt.rounding) == parts
    assert str(fmt) == text


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ("s4:e4:b16", "8:e4:b16"),
        ("s4:e04*F32:b16", "8:e4*f32:b16"),
        ("08:e04:b0016:nearest", "8:e4:b16"),
        (" E4M3N:E8M0n.floor:V32\n", "e4m3:e8m0:v32"),
        ("e4m3:e4m3*f32.up:v1", "e4m3:e4m3.up*f32:v1"),
        ("e5m10:nearest", "f16"),
        ("l(-1e3;-0;1.250;2E+1):f32:b4", "l(-1000;0;1.25;20):f32:b4"),
        ("MXFP4", "e2m1:e8m0:v32"),
    ],
)
def test_other_spellings_are_the_same_format(other, text):
    assert parse_format(other) == parse_format(text)
    assert str(parse_format(other)) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "number format '' is unknown"),
        ("mxint9", "'mxint9' is unknown; did you mean mxint8"),
        ("8", "'8' is unknown; write ELEMENT:SCALE:GEOMETRY"),
        ("s8", "s8: s8 needs a scale and a geometry"),
        ("e9m3", "e9m3: a float has 1..8 bits of exponent, not 9"),
        ("8:e4", "no geometry at character 5; it must be b16, "),
        ("8:", "no scale at character 3"),
        ("8::b16", "no scale at character 3; it must be eN"),
        (":e4:b16", "no element at character 1; it must be s8"),
        ("8:e4:b16:", "no rounding at character 10; it must be nearest, half_away"),
        ("8:e4:b16:nearest:", "the last colon is too much"),
        ("8:e4:b16:nearest:x:y", "'x:y' at character 18 is too much"),
        ("8:e4:b16:up", "rounding 'up' at character 10; it must be nearest"),
        ("x8:e4:b16", "element 'x8' at character 1; it must be s8"),
        ("i2+x:e3m3s*e8m0:v16", "element 'x' at character 4"),
        ("i2+:e3m3s*e8m0:v16", "no element at character 4"),
        ("8:x:b16", "scale 'x' at character 3; it must be eN"),
        ("8:e9:b16", "scale 'e9' at character 3: a shared exponent has 1..8 bits, not 9"),
        ("8:e7:b16", "element '8' at character 1: less 7 of exponent, a mantissa of 1 bits is left"),
        ("8:f32:b16", "element '8' at character 1; it must be s8 or another element: BITS alone goes with a scale eN"),
        ("8:e4:16", "geometry '16' at character 6; it must be b16"),
        ("8:e4:b0", "geometry 'b0' at character 6: a block has 1..999999999 elements along an axis, not 0"),
        ("8:e4:v8p3", "geometry 'v8p3' at character 6; it must be b16"),
        ("u8:e4:b16", "scale 'e4' at character 4: u8 has a zero point per block and needs one float"),
        ("i17:f32:b16", "element 'i17' at character 1: an integer under a float has at most 16 bits"),
        ("e6m3:e8m0:v1", "element 'e6m3' at character 1: under a scale a float has at most 5 bits of exponent"),
        ("e2m1:e4m3s:v16", "scale 'e4m3s' at character 6: the scale e4m3s is for summed elements"),
        ("i2+i9:f32:v16", "element 'i2+i9' at character 1: a sum is of two integers i2..i4"),
        ("i2+i2:f32:v16", "scale 'f32' at character 7: a sum has a signed float of at most 8 bits"),
        ("i2+i2:e3m3s*e8m0:v16:stochastic", "rounding 'stochastic' at character 22: a sum is rounded to nearest"),
        ("i8:e8m0.up:v16", "scale 'e8m0.up' at character 4"),
        ("e2m1:e4m3*f32*f32:v16", "scale 'e4m3*f32*f32' at character 6"),
        ("l(0):f32:b1", "a table of levels has 2..256 of them, not 1"),
        ("l(0;1;1):f32:b1", "levels stand in ascending order, each once"),
        ("l(0;1e300):f32:b1", "a level's magnitude lies in 2^-20..2^20, or is 0, unlike that of 1e+300"),
        ("l(0;1e999):f32:b1", "unlike that of inf"),
        ("l(0;1e-999;1):f32:b1", "levels stand in ascending order, each once"),
        ("l(1;2):f32:b1", "one of the levels has to be 0"),
        ("٨:e3:b16", "element '٨' at character 1"),
        ("flexbloc\u212a12", "is unknown; did you mean flexblock12"),  # the sign of Kelvin is a k in lower case
        ("\x1b[2J:e4:b16", r"element '\x1b[2j' at character 1"),
        ("8:e4:b16 b", "geometry 'b16 b' at character 6"),
    ],
)
def test_a_mistake_is_told_with_its_place(text, says):
    with warnings.catch_warnings(action="error"), pytest.raises(BitqError) as caught:
        parse_format(text)
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("given", [None, 8, b"8:e4:b16", BlockFormat(8, 4, 16), ["8:e4:b16"]])
def test_only_a_text_is_read(given):
    with pytest.raises(BitqError, match=r"read from a text such as 8:e4:b16, not from a \w+$"):
        parse_format(given)


@pytest.mark.parametrize(
    "text",
    [
        ":" * LONGEST,
        "+" * LONGEST,
        "i2+" * 2000 + "i2:e3m3s*e8m0:v16",
        "l(" + "0;" * 4000 + "0):f32:b1",
        "l(" + "9" * 8000 + "):f32:b1",
        "l(" + "1e" * 4000 + "):f32:b1",
        "8:e4:b" + "9" * 8000,
        "9" * 8000 + ":e4:b1",
        "8:" + "*f32" * 2000 + ":b1",
        "8:e4m3" + "*f32" * 2000 + ":b1",
        "8:e4:b16:" + "n" * 8000,
        " " * 10**6 + "x",
        "x" * 10**7,
        "\u0130" * 8000,
    ],
)
def test_a_hostile_text_is_refused_at_once(text):
    began = time.perf_counter()
    with pytest.raises(BitqError) as caught:
        parse_format(text)
    assert time.perf_counter() - began < 0.5
    assert len(str(caught.value)) < 400


def floats(exponent_bits, mantissa_bits):
    """Floats of these widths that there are."""

    def made(e, m, kind):
        try:
            return Float(e, m, kind)
        except BitqError:
            return None

    drawn = st.builds(made, st.sampled_from(exponent_bits), st.sampled_from(mantissa_bits), st.sampled_from("fni"))
    return drawn.filter(lambda each: each is not None)


@st.composite
def formats(draw):
    """Of every kind."""
    geometry = draw(
        st.one_of(
            st.builds(Along, st.integers(1, 10**9 - 1), st.booleans()),
            st.builds(Along, st.integers(1, 99), st.just(True), st.integers(1, 5)),
            st.builds(Tile, st.integers(1, 99), st.integers(1, 99)),
            st.sampled_from([Channel(), Whole()]),
        )
    )
    kind = draw(st.sampled_from(["lone", "sum", "u", "other", "other", "other"]))
    rounding = draw(st.sampled_from(ROUNDINGS))
    number = draw(floats(range(1, 9), range(1, 24)))
    if kind == "lone":
        return Format((draw(floats(range(1, 9), range(24))),), rounding=rounding)
    if kind == "sum":
        elements = tuple(Integer("i", draw(st.integers(2, 4))) for _ in range(2))
        small = draw(floats(range(1, 4), range(1, 5)))
        return Format(elements, FloatScale(small, draw(st.booleans()), True, "e8m0"), geometry)
    if kind == "u":
        return Format((Integer("u", draw(st.integers(1, 16))),), FloatScale(number), geometry, rounding)
    power = st.builds(PowerOfTwo, st.integers(2, 8), st.sampled_from("fni"), st.sampled_from(MODES))
    scale = draw(
        st.one_of(
            st.builds(SharedExponent, st.integers(1, 8)),
            power.filter(lambda each: each.bits > 2 or each.kind != "i"),
            st.builds(FloatScale, st.just(number), st.booleans(), st.just(False), st.sampled_from([None, "f32"])),
        )
    )
    level = st.floats(2.0**-20, 2.0**20, width=32)
    tables = st.sets(st.one_of(level, level.map(lambda each: -each)), min_size=1, max_size=255)
    element = draw(
        st.one_of(
            st.builds(Integer, st.sampled_from("si"), st.integers(2, 16)),
            st.builds(Integer, st.just("n"), st.integers(1, 16)),
            floats(range(1, 6), range(11)),
            tables.map(lambda each: Levels(tuple(sorted({0.0, *each})))),
        )
    )
    return Format((element,), scale, geometry, rounding)


def test_the_longest_table_can_be_read_back():
    table = -np.float32(2.0**-20) * (1 + np.arange(255, dtype=np.float32)[::-1] * np.float32(2.0**-23))
    fmt = Format((Levels((*map(float, table), 0.0)),), FloatScale(Float(8, 23, "i"), True, False, "f32"), Whole())
    assert 4096 < len(str(fmt)) <= LONGEST
    assert parse_format(str(fmt)) == fmt


@given(formats(), formats())
def test_every_format_is_a_value_with_one_text(fmt, other):
    again = parse_format(str(fmt))
    assert again == fmt
    assert hash(again) == hash(fmt)
    assert str(again) == str(fmt)
    assert (str(fmt) == str(other)) == (fmt == other)
    assert eval(repr(again), {"parse_format": parse_format, "BlockFormat": BlockFormat}) == fmt
    for copied in (pickle.loads(pickle.dumps(again)), copy.copy(again), copy.deepcopy(again)):
        assert type(copied) is type(again)
        assert copied == fmt
        assert hash(copied) == hash(fmt)
        assert str(copied) == str(fmt)
    assert sum([fmt < other, fmt == other, fmt > other]) == 1
    assert sorted([fmt, other]) == sorted([other, fmt])
    assert fmt.names == tuple(name for name, each in PRESETS.items() if each == fmt)


@given(
    st.text("0123456789efmnisublvptx+:;()*._-#", max_size=30)
    | st.lists(st.sampled_from([*PIECES, ":", ":", ":", "+"]), max_size=9).map("".join)
)
def test_any_text_is_a_format_or_a_mistake(text):
    with suppress(BitqError):
        fmt = parse_format(text)
        assert parse_format(str(fmt)) == fmt


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_told_by_name_and_by_text(name):
    fmt = PRESETS[name]
    assert parse_format(name) is fmt
    assert name in parse_format(str(fmt)).names
    assert parse_format(f" {name.upper()}\n") == fmt


def test_texts_of_block_formats_are_block_formats():
    for fmt in (*grid(8), *grid(16), BlockFormat(32, 8, 1000)):
        assert type(parse_format(str(fmt))) is BlockFormat
        assert Format(fmt.elements, fmt.scale, fmt.geometry) == fmt
    for text in ("8:e4:v16", "8:e4:b16p3", "i4:e4:b16", "8:e4:b16:stochastic", "s4:e4m0:b16"):
        assert type(parse_format(text)) is Format


def test_a_block_format_is_replaced_by_its_widths():
    assert replace(BlockFormat(8, 3, 16), block_size=32) == BlockFormat(8, 3, 32)
    assert replace(parse_format("mxfp4"), rounding="stochastic") == parse_format("e2m1:e8m0:v32:stochastic")


@pytest.mark.parametrize("other", [None, 3, "8:e4:b16"])
def test_a_format_is_compared_with_formats_alone(other):
    fmt = parse_format("8:e4:b16")
    assert fmt != other
    with pytest.raises(TypeError):
        sorted([fmt, other])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Integer("s", 8.0), "an element s has 2..24 bits, not 8.0"),
        (lambda: Integer("n", "8"), "an element n has 1..23 bits, not '8'"),
        (lambda: Integer("x", 8), "kind s, i, n or u, not 'x'"),
        (lambda: Integer("s", 10**5000), "not a number of many digits"),
        (lambda: Float(4, True, "n"), "a float has 0..23 bits of mantissa, not True"),
        (lambda: Float(10**5000, 3, "n"), "not a number of many digits"),
        (lambda: Float(8, 3, "n"), "e8m3n reaches beyond float32"),
        (lambda: SharedExponent(None), "a shared exponent has 1..8 bits, not None"),
        (lambda: ScaledExponent(6), "an exponent under a float has 1..5 bits, not 6"),
        (lambda: PowerOfTwo(2.5), "a scale eXm0 has 1..8 bits, not 2.5"),
        (lambda: Along(10**5000), "not a number of many digits"),
        (lambda: Tile(2, 0), "not 0"),
        (lambda: Levels((0, "a")), "a level is a number, not 'a'"),
        (lambda: Levels((0, 10**400)), "unlike that of inf"),
        (lambda: Levels((float("nan"), 0.0)), "unlike that of nan"),
        (lambda: Format((Integer("s", 8),), SharedExponent(3)), "a scale and a geometry are given both or none"),
        (lambda: Format((), SharedExponent(3), Whole()), "it has no element"),
        (lambda: Format((Float(4, 3, "n"),), rounding="up"), "rounding 'up' is unknown"),
    ],
)
def test_impossible_parts_say_why(make, says):
    with pytest.raises(BitqError) as caught:
        make()
    assert says in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_parts_take_whole_numbers_of_others():
    parts = Integer("s", np.int64(4)), PowerOfTwo(torch.tensor(8)), Along(np.uint8(16))
    fmt = Format([parts[0]], *parts[1:])
    assert fmt == parse_format("s4:e8m0:b16")
    assert hash(fmt) == hash(parse_format("s4:e8m0:b16"))
    assert str(fmt) == "s4:e8m0:b16"
