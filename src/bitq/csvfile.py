"""Tables in .csv files: features and a label in every line, or files and their labels."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from bitq.errors import BitqError, shortened
from bitq.outside import opened_outside

LABEL, FILE = "label", "file"
"""The columns of labels, which without one of this name the last holds, and of the files that have them."""

_MOST_BYTES, _MOST_CELLS = 4 * 2**30, 2**28  # of all
_LONGEST_LINE, _MOST_COLUMNS = 4 * 2**20, 2**16
_MOST_FILES, _MOST_CLASSES = 10**7, 2**16
_LARGEST, _LARGEST_LABEL = float(np.finfo(np.float32).max), 2**31 - 1


@dataclass(frozen=True)
class NumberTable:
    """Features float32 [n, columns], labels int64 [n], the name of their column, and the classes if it names them."""

    features: Tensor
    labels: Tensor
    label: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class FileTable:
    """Files as they are named, the line of each, labels int64 [n], and the classes if labels are their names."""

    files: tuple[str, ...]
    lines: tuple[int, ...]
    labels: Tensor
    classes: tuple[str, ...]


def read_table(path: Path) -> NumberTable:
    """All lines of a .csv file: names of columns first, then numbers, separated by commas.

    Labels stand in the column that is named `label` or else the last; all others are features, in order. Labels are
    whole numbers from 0, or names of classes, which are numbered in sorted order. Empty lines are left out.

    Raises:
        BitqError: a file that cannot be read, is no such table or too large; names line and column.
    """
    with opened_outside(path, _MOST_BYTES, "a .csv table") as file:
        rows = csv.reader(_lines(file, path), strict=True)
        header = _header(next(_rows(rows, path), []), path)
        at = header.index(LABEL) if LABEL in header else len(header) - 1
        names = [name for place, name in enumerate(header) if place != at]
        features, labels = array("f"), _Labels(path, header[at])
        for row in _rows(rows, path):
            _check_length(row, header, path, rows.line_num)
            labels.add(row.pop(at), rows.line_num)
            features.extend(_numbers(row, names, path, rows.line_num))
            if len(features) > _MOST_CELLS:
                raise BitqError(f"{path} has over {_MOST_CELLS} numbers; give an .npz file")
    if not labels:
        raise BitqError(f"{path} names columns, but no line of numbers follows")
    cells = torch.from_numpy(np.frombuffer(features, np.float32).reshape(len(labels), len(names)))
    return NumberTable(cells, labels.numbers(), header[at], labels.classes)


def read_files(path: Path) -> FileTable:
    """All lines of a .csv file with the columns `file` and `label`, the labels as in `read_table`.

    Raises:
        BitqError: a file that cannot be read, is no such table or too large; names the line.
    """
    with opened_outside(path, _MOST_BYTES, "a .csv table of files and labels") as file:
        rows = csv.reader(_lines(file, path), strict=True)
        header = _header(next(_rows(rows, path), []), path)
        if sorted(header) != sorted((FILE, LABEL)):
            given = shortened(", ".join(header))
            raise BitqError(f"{path}, line 1 must name the columns {FILE} and {LABEL}, not {given}")
        files, lines, labels = list[str](), list[int](), _Labels(path, LABEL)
        for row in _rows(rows, path):
            _check_length(row, header, path, rows.line_num)
            files.append(row[header.index(FILE)].strip())
            lines.append(rows.line_num)
            labels.add(row[header.index(LABEL)], rows.line_num)
            if len(files) > _MOST_FILES:
                raise BitqError(f"{path} names over {_MOST_FILES} files; give an .npz file")
    if not labels:
        raise BitqError(f"{path} names columns, but no line with a file follows")
    return FileTable(tuple(files), tuple(lines), labels.numbers(), labels.classes)


@dataclass
class _Labels:
    """The labels of a column as they come: whole numbers, or names by the number of their first line."""

    path: Path
    column: str
    _found: array[int] = field(default_factory=lambda: array("q"))
    _names: dict[str, int] = field(default_factory=dict)
    _first_line: int = 0

    def __len__(self) -> int:
        return len(self._found)

    def add(self, cell: str, line: int) -> None:
        """Take one more; a BitqError if it is none, or not of the kind of the first."""
        text = cell.strip()
        named = not _reads_as_number(text)
        where = f"{self.path}, line {line}, column {shortened(self.column)!r}"
        if not text:
            raise BitqError(f"{where} is empty; it must be a label")
        if self._found and named != bool(self._names):
            other = "the name of a class" if self._names else "a number"
            raise BitqError(
                f"{where} is {shortened(cell)!r}, but line {self._first_line} has {other}; labels must all be whole "
                "numbers from 0, or all be names"
            )
        self._first_line = self._first_line or line
        self._found.append(self._names.setdefault(text, len(self._names)) if named else _label(cell, where))
        if len(self._names) > _MOST_CLASSES:
            raise BitqError(f"{where} names over {_MOST_CLASSES} classes; labels must be names of fewer, or numbers")

    @property
    def classes(self) -> tuple[str, ...]:
        """The names, sorted; none of numbers."""
        return tuple(sorted(self._names))

    def numbers(self) -> Tensor:
        """Labels int64 [n]."""
        found = np.frombuffer(self._found, np.int64)
        if self._names:
            numbers = {name: number for number, name in enumerate(self.classes)}
            found = np.array([numbers[name] for name in self._names], np.int64)[found]
        return torch.from_numpy(found)


def _lines(file: IO[bytes], path: Path) -> Iterator[str]:
    number = 0
    while line := file.readline(_LONGEST_LINE + 1):
        number += 1
        if len(line) > _LONGEST_LINE:
            raise BitqError(f"{path}, line {number} has over {_LONGEST_LINE} bytes; it is no table of numbers")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise BitqError(f"{path}, line {number} is not text in UTF-8; save the table as such") from None


def _rows(rows: Iterator[list[str]], path: Path) -> Iterator[list[str]]:
    """The lines that hold something, as cells."""
    try:
        for row in rows:
            if row:
                yield row
    except csv.Error as error:
        line = getattr(rows, "line_num", 0)
        raise BitqError(f"{path}, line {line} cannot be read as cells that commas separate; mend its quotes") from error


def _header(names: Sequence[str], path: Path) -> list[str]:
    header = [name.strip() for name in names]
    if len(header) > _MOST_COLUMNS:
        raise BitqError(f"{path} has {len(header)} columns; it must have at most {_MOST_COLUMNS}")
    if len(header) < 2:
        raise BitqError(f"{path}, line 1 must name two columns or more, separated by commas, the labels' among them")
    if all(_number(name) is not None for name in header):
        raise BitqError(f"{path}, line 1 must name the columns, but holds numbers; put a line of names before it")
    seen: set[str] = set()
    for number, name in enumerate(header, 1):
        if not name:
            raise BitqError(f"{path}, line 1 has no name for column {number}; name it, or save without an index")
        if name in seen:
            raise BitqError(f"{path}, line 1 names column {shortened(name)!r} twice; give each a name of its own")
        seen.add(name)
    return header


def _check_length(row: Sequence[str], header: Sequence[str], path: Path, line: int) -> None:
    if len(row) != len(header):
        raise BitqError(f"{path}, line {line} has {len(row)} cells; it must have {len(header)}, as line 1 does")


def _numbers(row: Sequence[str], names: Sequence[str], path: Path, line: int) -> list[float]:
    values = [_number(cell) for cell in row]
    for name, cell, value in zip(names, row, values, strict=True):
        if value is None:
            where = f"{path}, line {line}, column {shortened(name)!r}"
            raise BitqError(f"{where} is {shortened(cell)!r}; it must be a finite number")
    return [value for value in values if value is not None]


def _number(cell: str) -> float | None:
    """What a cell says, None if that is no finite number."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if -_LARGEST <= value <= _LARGEST and cell.isascii() and "_" not in cell else None


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _label(cell: str, where: str) -> int:
    value = _number(cell)
    if value is None or not (value.is_integer() and 0 <= value <= _LARGEST_LABEL):
        raise BitqError(f"{where} is {shortened(cell)!r}; labels count classes from 0, or are their names")
    return int(value)
