"""Devices as data: memories from the compute units outward, from TOML files like those beside this module."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from bitq.errors import BitqError, shortened
from bitq.outside import read_outside
from bitq.planning import Minimize, Planning
from bitq.validation import mistake, told

MAX_FILE_BYTES = 1 << 16
MOST_PJ_PER_BIT = 1e9
"""A millijoule for a bit: more than the most wasteful radio takes."""

LEAST_CAPACITY_BYTES, MOST_CAPACITY_BYTES = 1, 1e18
LONGEST_LINE, LONGEST_TEXT = 200, 2000
"""Characters of a title, and of what may take several lines."""

# A key of many parts takes tomllib time that grows with the square of their number; a device file's have two at most.
_DEEP_KEY = re.compile(
    r"""(?:^|[\[{,])[ \t]*(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){8}""", re.MULTILINE | re.ASCII
)


@dataclass(frozen=True)
class Memory:
    """One memory.

    Attributes:
        name: as the device's documentation calls it.
        capacity_bits: what the tiles in use may take of it, half of it if it is double buffered; infinite for the last
            one (DRAM).
        energy_pj_per_bit: energy of one bit that moves between it and the next inner memory, in pJ.
        note: where the figures come from.
    """

    name: str
    capacity_bits: float
    energy_pj_per_bit: float
    note: str


@dataclass(frozen=True)
class Device:
    """Memories from the compute units outward, the last one DRAM (or whatever holds the whole network).

    Attributes:
        name: by which the device is asked for.
        title, description: for readers.
        memories: at least two.
        partial_sum_bits: width of an output that is still accumulated, in every memory and whenever it is spilled; an
            output's own width if that is larger, as it always is with 0.
        minimize: what plans of its memories minimize.
        planned: how they are made.
    """

    name: str
    title: str
    description: str
    memories: tuple[Memory, ...]
    partial_sum_bits: float = 0.0
    minimize: Minimize = Minimize.movement
    planned: Planning = Planning.together

    @property
    def prices(self) -> tuple[float, ...]:
        """What a bit over each of the boundaries counts in the sum that is minimized: 1, or its energy in pJ.

        Where no bit takes energy, 1 as well.
        """
        energies = tuple(source.energy_pj_per_bit for _, source in self.boundaries)
        return energies if self.minimize is Minimize.energy and any(energies) else (1.0,) * len(energies)

    @property
    def boundaries(self) -> tuple[tuple[Memory, Memory], ...]:
        """(memory, next outer memory) from DRAM inward."""
        return tuple(zip(self.memories[-2::-1], self.memories[:0:-1], strict=True))


def _one_line(text: str) -> str:
    """Refuses what a terminal might obey: all but letters, signs and spaces."""
    for character in text:
        if not (character.isprintable() or unicodedata.category(character) == "Zs"):
            raise ValueError(f"a control character ({character.encode('unicode_escape').decode()}) must not be in it")
    return text


def _lines(text: str) -> str:
    """Refuses control characters but ends of lines and tabs."""
    for line in text.expandtabs().split("\n"):
        _one_line(line)
    return text


_Line = Annotated[str, Field(max_length=LONGEST_LINE), AfterValidator(_one_line)]
_Text = Annotated[str, Field(max_length=LONGEST_TEXT), AfterValidator(_lines)]


class _MemoryFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: Annotated[_Line, Field(min_length=1, max_length=40)]
    capacity_bytes: Annotated[float, Field(ge=LEAST_CAPACITY_BYTES, le=MOST_CAPACITY_BYTES)] | None = None
    double_buffered: bool = False
    energy_pj_per_bit: Annotated[float, Field(ge=0, le=MOST_PJ_PER_BIT)] = 0.0
    source: Annotated[_Text, Field(min_length=1)]


class _DeviceFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    schema_version: Annotated[int, Field(ge=1, le=1)]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=40)]
    title: _Line
    description: _Text = ""
    partial_sum_bits: Annotated[float, Field(gt=0, le=128)] | None = None
    memories: Annotated[list[_MemoryFile], Field(min_length=2, max_length=8)]


_KEYS = (*_DeviceFile.model_fields, *_MemoryFile.model_fields)


def device_names() -> tuple[str, ...]:
    """Names of the devices that come with bitq, sorted."""
    shipped = (Path(entry.name) for entry in files(__name__).iterdir())
    return tuple(sorted(path.stem for path in shipped if path.suffix == ".toml"))


def load_device(name_or_path: str | Path) -> Device:
    """A device by its name, or from a TOML file of the user's own.

    Raises:
        BitqError: no such device or file, or a file that does not describe a device (says which entry).
    """
    if str(name_or_path) in device_names():
        return _parse(files(__name__).joinpath(f"{name_or_path}.toml").read_bytes(), str(name_or_path))
    path, there = Path(name_or_path), False
    with suppress(OSError):  # no file has so long a name
        there = path.exists() and not path.is_dir()
    if not there:
        known, given = ", ".join(device_names()), shortened(str(name_or_path))
        raise BitqError(f"no device {given!r}: give {known}, or the path of a device file (TOML)")
    return _parse(read_outside(path, MAX_FILE_BYTES, "a device file (TOML)"), str(path))


def _parse(content: bytes, where: str) -> Device:
    try:
        text = content.decode("utf-8")
        entry = _DeviceFile.model_validate(_document(text))
    except UnicodeDecodeError as error:
        raise BitqError(f"device file {where} is not TOML: its byte {error.start + 1} is no UTF-8 text") from None
    except RecursionError:
        raise BitqError(f"device file {where} nests brackets too deep; memories and their entries need few") from None
    except ValidationError as error:
        raise BitqError(f"device file {where}{_line(text, mistake(error)['loc'])}: {told(error, _KEYS)}") from None
    except ValueError as error:  # tomllib's own, or Python's of a number of thousands of digits
        reason = shortened(str(error), 120) if isinstance(error, tomllib.TOMLDecodeError) else "a number is too long"
        raise BitqError(f"device file {where} is not TOML: {reason}") from None
    wrong = _contradiction(entry.memories)
    if wrong is not None:
        at, what = wrong
        raise BitqError(f"device file {where}{_line(text, ('memories', *at))}: {what}")
    return Device(
        name=entry.name,
        title=entry.title,
        description=entry.description.strip(),
        memories=tuple(map(_memory, entry.memories)),
        partial_sum_bits=entry.partial_sum_bits or 0.0,
    )


def _document(text: str) -> dict[str, object]:
    """What the TOML says, in time that grows with its length alone."""
    if deep := _DEEP_KEY.search(text):
        line = text.count("\n", 0, deep.end()) + 1
        raise tomllib.TOMLDecodeError(f"a key has too many parts (at line {line})")
    return tomllib.loads(text)


def _contradiction(memories: list[_MemoryFile]) -> tuple[tuple[int, str], str] | None:
    """Where memories that are well formed each do not make a device, and why."""
    last = len(memories) - 1
    names = [memory.name for memory in memories]
    for index, memory in enumerate(memories):
        if index < last and memory.capacity_bytes is None:
            return (index, "capacity_bytes"), f"memory {memory.name!r} needs capacity_bytes"
        if index == last and memory.capacity_bytes is not None:
            return (index, "capacity_bytes"), f"last memory {memory.name!r} holds all: no capacity_bytes"
        if index == last and memory.double_buffered:
            return (index, "double_buffered"), f"last memory {memory.name!r} holds all: no double_buffered"
        if memory.name in names[:index]:
            return (index, "name"), f"two memories have the name {memory.name!r}; each needs its own"
    return None


def _memory(entry: _MemoryFile) -> Memory:
    bits = float("inf") if entry.capacity_bytes is None else 8 * entry.capacity_bytes
    if entry.double_buffered:  # the other half is filled with the next tiles meanwhile
        bits /= 2
    return Memory(entry.name, bits, entry.energy_pj_per_bit, entry.source)


def _line(text: str, place: tuple[int | str, ...]) -> str:
    """The line (", line 7") of the entry that `place` names or of the memory that lacks it, "" if unclear."""
    lines = text.split("\n")
    start, end = 0, len(lines)
    if place[:1] == ("memories",) and len(place) > 1:
        starts = [number for number, line in enumerate(lines) if line.lstrip().startswith("[[memories]]")]
        ordinal = int(place[1])
        if ordinal >= len(starts):
            return ""
        start, end = [*starts, end][ordinal : ordinal + 2]
    found = [n for n in range(start, end) if lines[n].partition("=")[0].strip() == place[-1]]
    return f", line {found[0] + 1}" if found else f", line {start + 1}" if start else ""
