"""By the door of device files (TOML)."""

from __future__ import annotations

import os
from pathlib import Path

from attacks import attack

REST = """
[[memories]]
name = "registers"
capacity_bytes = 128
source = "s"
[[memories]]
name = "DRAM"
energy_pj_per_bit = 20
source = "s"
"""
HEAD = 'schema_version = 1\nname = "own"\n'
GOOD = HEAD + 'title = "t"\n' + REST


def _write(folder: Path, text: str) -> None:
    (folder / "d.toml").write_text(text)


@attack("devices d.toml", "d.toml is not TOML: its byte 10 is no UTF-8 text")
def no_text(folder: Path) -> None:
    """Bytes that are no UTF-8."""
    (folder / "d.toml").write_bytes(b'title = "\xff\xfe"')


@attack("devices d.toml", "d.toml nests brackets too deep")
def brackets(folder: Path) -> None:
    """5,000 brackets: a parser that calls itself for each of them."""
    _write(folder, "x = " + "[" * 5000 + "]" * 5000)


@attack("devices d.toml", "d.toml is not TOML: a key has too many parts \\(at line 2\\)")
def dotted_key(folder: Path) -> None:
    """A key of 30,000 parts, over which the parser sits for a minute."""
    _write(folder, "\n" + ".".join("a" * 30_000) + " = 1")


@attack("devices d.toml", "d.toml has 800008 bytes, but a device file .* has at most 65536")
def long_file(folder: Path) -> None:
    """800 KB where some KB are enough."""
    _write(folder, "a" * 800_004 + " = 1")


@attack("movement demo --device d.toml --json", "d.toml is not TOML: a number is too long")
def digits(folder: Path) -> None:
    """5,000 digits, which Python makes no number of."""
    _write(folder, GOOD.replace("128", "1" * 5000))


@attack("movement demo --device d.toml --json", "line 8: memories.0.capacity_bytes must be .*, not a number of")
def hexadecimal_digits(folder: Path) -> None:
    """5,000 hexadecimal digits, which Python makes a number of that it does not write down."""
    _write(folder, GOOD.replace("128", "0x" + "f" * 5000).replace("title", "\ntitle"))


@attack("movement demo --device d.toml --json", "energy_pj_per_bit must be a number of at most 1000000000")
def infinite_energy(folder: Path) -> None:
    """An energy of a bit, finite itself, of which bits take an infinite one."""
    _write(folder, GOOD.replace("= 20", "= 1e308"))


@attack("devices d.toml", "line 3: title: a control character .* must not be in it")
def escape_codes(folder: Path) -> None:
    """A title that turns the terminal red."""
    _write(folder, HEAD + 'title = "\\u001b[31mred"\n' + REST)


@attack("devices d.toml", "memories.1.name: a control character .* must not be in it")
def escape_codes_of_a_memory(folder: Path) -> None:
    """A memory's name that would be written backwards."""
    _write(folder, GOOD.replace('"DRAM"', '"\\u202eMARD"'))


@attack("devices d.toml", "an entry that is not known")
def escape_codes_of_a_key(folder: Path) -> None:
    """A key that clears the screen when it is told of."""
    _write(folder, GOOD + '"\\u001b[2J' + "k" * 5000 + '" = 1')


@attack("devices d.toml", "line 4: description must be a text of at most 2000 characters")
def long_text(folder: Path) -> None:
    """Pages of a description."""
    _write(folder, HEAD + 'title = "t"\ndescription = "' + "long " * 10_000 + '"\n' + REST)


@attack("devices d.toml", "memories.0 must be named entries, not 1")
def other_memories(folder: Path) -> None:
    """Numbers where memories should stand."""
    _write(folder, HEAD + 'title = "t"\nmemories = [1, 2]')


@attack("devices d.toml", "d.toml is no regular file")
def pipe(folder: Path) -> None:
    """A pipe that nobody writes into."""
    os.mkfifo(folder / "d.toml")


@attack("devices " + "d" * 5000, "no device .*: give eyeriss")
def long_name(folder: Path) -> None:
    """A name that is longer than any file's."""
