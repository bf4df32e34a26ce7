"""Device files: what comes with bitq is complete, what a user writes is checked."""

import math
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitq.devices import MAX_FILE_BYTES, Device, Memory, device_names, load_device
from bitq.errors import BitqError

GOOD = """\
schema_version = 1
name = "toy"
title = "A toy"

[[memories]]
name = "registers"
capacity_bytes = 64
source = "made up"

[[memories]]
name = "outside"
energy_pj_per_bit = 3
source = "made up"
"""


def load(tmp_path, text):
    path = tmp_path / "device.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_device(path)


def test_a_device_file_becomes_a_device(tmp_path):
    registers, outside = Memory("registers", 512, 0.0, "made up"), Memory("outside", math.inf, 3.0, "made up")
    device = load(tmp_path, GOOD)
    assert device == Device("toy", "A toy", "", (registers, outside))
    assert device.boundaries == ((registers, outside),)
    assert load(tmp_path, "partial_sum_bits = 24\n" + GOOD) == replace(device, partial_sum_bits=24.0)


@pytest.mark.parametrize("name", device_names())
def test_every_shipped_device_is_complete(name):
    device = load_device(name)
    assert device.name == name
    assert device.title
    assert device.description
    for memory, source in device.boundaries:
        assert memory.capacity_bits < source.capacity_bits
        assert source.energy_pj_per_bit > 0
    assert device.memories[0].energy_pj_per_bit == 0  # what happens inside of the registers is no movement
    assert all(memory.note for memory in device.memories)


def test_the_reference_device_is_the_papers():
    device = load_device("i7-10700f")
    sizes = {memory.name: memory.capacity_bits / 8 for memory in device.memories}
    assert sizes == {"registers": 128 * 4, "L1": 32 << 10, "L2": 256 << 10, "L3": 16 << 20, "DRAM": math.inf}
    assert [source.energy_pj_per_bit for _, source in device.boundaries] == [20.0, 0.16, 0.16, 0.16]
    assert [(memory.name, source.name) for memory, source in device.boundaries] == [
        ("L3", "DRAM"),
        ("L2", "L3"),
        ("L1", "L2"),
        ("registers", "L1"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("schema_version = 1", "schema_version = 2", "line 1: schema_version"),
        ("schema_version = 1\n", "", r"device.toml: schema_version is missing"),
        ("schema_version = 1", "schema_version = ", r"not TOML: .*line 1"),
        ("schema_version = 1", "schema_version = 1\ncolour = 3", "line 2: colour"),
        ("= 1", "= 1\npartial_sum_bits = 0", "line 2: partial_sum_bits must be a number above 0"),
        ("= 1", "= 1\npartial_sum_bits = 129", "line 2: partial_sum_bits must be a number of at most 128"),
        ("= 1", "= 1\npartial_sum_bits = nan", "line 2: partial_sum_bits"),
        ("= 1", '= 1\npartial_sum_bits = "8"', "line 2: partial_sum_bits"),
        ("= 1", "= 1\npartial_sum_bits = true", "line 2: partial_sum_bits"),
        ('"made up"', '"made up"\npartial_sum_bits = 8', "line 9: memories.0.partial_sum_bits is an entry"),
        ('"toy"', '"No Name"', "line 2: name"),
        ('"toy"', "3", "line 2: name"),
        ("64", "0", "line 7: memories.0.capacity_bytes"),
        ("64", "-1", "line 7: memories.0.capacity_bytes"),
        ("64", "nan", "line 7: memories.0.capacity_bytes"),
        ("64", "inf", "line 7: memories.0.capacity_bytes"),
        ("64", '"64"', "line 7: memories.0.capacity_bytes"),
        ("64", "true", "line 7: memories.0.capacity_bytes"),
        ("capacity_bytes = 64\n", "", "line 5: memory 'registers' needs capacity_bytes"),
        ("energy_pj_per_bit = 3", "energy_pj_per_bit = -3", "line 12: memories.1.energy_pj_per_bit"),
        ("energy_pj_per_bit = 3", "energy_pj_per_bit = inf", "line 12: memories.1.energy_pj_per_bit"),
        ("energy_pj_per_bit = 3", "capacity_bytes = 3", "line 12: last memory 'outside' holds all"),
        ('energy_pj_per_bit = 3\nsource = "made up"', "", "line 10: memories.1.source is missing"),
        ("outside", "registers", "line 11: two memories have the name 'registers'"),
        ("energy_pj_per_bit = 3", "energy_pj_per_bit = 1.1e9", "memories.1.energy_pj_per_bit must be .* 1000000000"),
        ("64", "0.5", "memories.0.capacity_bytes must be a number of at least 1"),
        ("64", "0x" + "f" * 5000, "memories.0.capacity_bytes"),
        ('"A toy"', '"A\\u001b[31m toy"', r"line 3: title: a control character \(\\x1b\)"),
        ('"A toy"', '"A\\ntoy"', r"line 3: title: a control character \(\\n\)"),
        ('"A toy"', '"A \\u202etoy"', r"line 3: title: a control character \(\\u202e\)"),
        ('"A toy"', '"A toy"\ndescription = "a\\u009bb"', r"line 4: description: a control character \(\\x9b\)"),
        ('"registers"', '"regis\\tters"', r"line 6: memories.0.name: a control character \(\\t\)"),
        ('"made up"', '"\\u0000"', r"line 8: memories.0.source: a control character \(\\x00\)"),
        ('"A toy"', f'"{"A" * 201}"', "line 3: title must be a text of at most 200 characters"),
        ('"A toy"', f'"A toy"\ndescription = "{"d" * 50_000}"', "line 4: description must be a text of at most 2000"),
        ('"made up"', f'"{"d" * 2001}"', "line 8: memories.0.source must be a text of at most 2000 characters"),
        (GOOD[GOOD.rindex("[[memories]]") :], "", r"device.toml: memories must have at least 2 entries"),
        (GOOD, "", "schema_version"),
        (GOOD, "memories = [{name = 1}, {name = 2}]", r"device.toml: schema_version"),
        (GOOD, GOOD.split("[[")[0] + "memories = [{name = 1}, {name = 2}]", r"device.toml: memories.0.name"),
    ],
)
def test_a_wrong_entry_is_named_with_its_line(tmp_path, old, new, reason):
    assert old in GOOD
    with pytest.raises(BitqError, match=reason) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "device.toml") in str(caught.value)


def test_texts_may_have_lines_and_any_letters(tmp_path):
    text = 'description = """Zwei Zeilen,\n\tétroites: 480\\u00a0MHz"""\n'
    assert load(tmp_path, text + GOOD).description == "Zwei Zeilen,\n\tétroites: 480\u00a0MHz"


KEY = ".".join("a" * 30_000)
SLOW = {
    "a dotted key": KEY + "=1",
    "quoted parts": '."b c" . '.join("a" * 5000) + "=1",
    "several dotted keys": "\n".join(f"a{i}.{KEY[:6000]} = 1" for i in range(10)),
    "a heading": f"[{KEY}]",
    "a heading of an array": f"[[ {KEY}]]",
    "an inline table": "x = {" + KEY + "= 1}",
    "a second entry of an inline table": "x = {b = 1, " + KEY + "= 1}",
    "brackets": "x = " + "[" * 5000 + "]" * 5000,
    "open brackets": "x = " + "[" * 60_000,
    "braces": "x = " + "{a=" * 5000 + "1" + "}" * 5000,
    "digits": "x = " + "1" * 5000,
    "keys of few parts": "".join(f"a.b.c.d{i} = 1\n" for i in range(4000)),
    "quotes": ',"' * 30_000,
}


@pytest.mark.parametrize("text", SLOW.values(), ids=SLOW)
def test_no_file_takes_long(tmp_path, text):
    start = time.process_time()
    with pytest.raises(BitqError, match=r"device.toml") as caught:
        load(tmp_path, text)
    assert time.process_time() - start < 0.8
    assert len(str(caught.value)) < 500


def test_what_is_no_file_of_bounded_size_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(BitqError, match="no regular file"):
            load_device(path)
    for name in ("a" * 5000, "a\0b", "/" * 5000 + "b"):
        with pytest.raises(BitqError, match="no device") as caught:
            load_device(name)
        assert len(str(caught.value)) < 250


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_other_file_is_refused(tmp_path_factory, content):
    with pytest.raises(BitqError):
        load(tmp_path_factory.mktemp("any"), content)


@given(st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, data):
    """Cut out, repeat or replace anything: a device or one sentence, nothing else."""
    start = data.draw(st.integers(0, len(GOOD)))
    end = data.draw(st.integers(start, len(GOOD)))
    piece = data.draw(
        st.sampled_from(["", "[", "[[memories]]\n", "=", '"', "\n", "-", "1e999", "memories", GOOD])
    )
    try:
        device = load(tmp_path_factory.mktemp("damaged"), GOOD[:start] + piece + GOOD[end:])
    except BitqError:
        return
    assert len(device.boundaries) >= 1


def test_a_name_that_is_none_lists_those_that_are(tmp_path):
    for name in ("i7", str(tmp_path), "", "eyeriss.toml"):
        with pytest.raises(BitqError, match="eyeriss, i7-10700f, stm32f103c8, stm32h743"):
            load_device(name)


def test_a_file_too_large_is_not_read(tmp_path):
    with pytest.raises(BitqError, match="at most"):
        load(tmp_path, GOOD + "#" * MAX_FILE_BYTES)


def test_the_documentation_names_every_device_and_shows_one(tmp_path):
    text = (Path(__file__).parent.parent / "docs" / "devices.md").read_text()
    assert all(f"`{name}`" in text for name in device_names())
    example = text.partition("```toml\n")[2].partition("```")[0]
    assert [memory.name for memory in load(tmp_path, example).memories] == ["registers", "SRAM", "DRAM"]


@pytest.mark.parametrize(
    ("right", "misspelt", "line"),
    [("capacity_bytes", "capasity_bytes", 8), ("energy_pj_per_bit", "energy_pj_bit", 14), ("title", "titel", 3)],
)
def test_a_misspelt_entry_is_told_with_its_line_and_the_right_name(tmp_path, right, misspelt, line):
    content = (Path(load_device.__code__.co_filename).parent / "stm32h743.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(re.sub(rf"^{right}", misspelt, content, count=1, flags=re.MULTILINE))
    with pytest.raises(BitqError, match=rf", line {line}: .*{misspelt} is an entry .* did you mean {right}\?"):
        load_device(path)
