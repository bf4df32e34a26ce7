"""A table of numbers in a .csv file: features and a label in every line."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from bitq.errors import BitqError, shortened
from bitq.outside import opened_outside

LABEL = "label"
"""The column that holds the labels; without one of this name the last does."""

_MOST_BYTES, _MOST_CELLS = 4 * 2**30, 2**28  # of all
_LONGEST_LINE, _MOST_COLUMNS = 4 * 2**20, 2**16
_LARGEST, _LARGEST_LABEL = float(np.finfo(np.float32).max), 2**31 - 1


@dataclass(frozen=True)
class NumberTable:
    """Features float32 [n, columns], labels int64 [n], and the name of the labels' column."""

    features: Tensor
    labels: Tensor
    label: str


def read_table(path: Path) -> NumberTable:
    """All lines of a .csv file: names of columns first, then numbers, separated by commas.

    Labels are whole numbers from 0, in the column that is named `label` or else the last; all others are features, in
    order. Empty lines are left out.

    Raises:
        BitqError: a file that cannot be read, is no such table or too large; names line and column.
    """
    with opened_outside(path, _MOST_BYTES, "a .csv table") as file:
        rows = csv.reader(_lines(file, path), strict=True)
        header = _header(next(_rows(rows, path), []), path)
        at = header.index(LABEL) if LABEL in header else len(header) - 1
        features, labels = array("f"), array("q")
        for row in _rows(rows, path):
            values = _numbers(row, header, path, rows.line_num)
            labels.append(_label(values.pop(at), row[at], header[at], path, rows.line_num))
            features.extend(values)
            if len(features) > _MOST_CELLS:
                raise BitqError(f"{path} has over {_MOST_CELLS} numbers; give an .npz file")
    if not labels:
        raise BitqError(f"{path} names columns, but no line of numbers follows")
    cells = torch.from_numpy(np.frombuffer(features, np.float32).reshape(len(labels), len(header) - 1))
    return NumberTable(cells, torch.from_numpy(np.frombuffer(labels, np.int64)), header[at])


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


def _numbers(row: Sequence[str], header: Sequence[str], path: Path, line: int) -> list[float]:
    if len(row) != len(header):
        raise BitqError(f"{path}, line {line} has {len(row)} cells; it must have {len(header)}, as line 1 does")
    values = [_number(cell) for cell in row]
    for name, cell, value in zip(header, row, values, strict=True):
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


def _label(value: float, cell: str, name: str, path: Path, line: int) -> int:
    if not (value.is_integer() and 0 <= value <= _LARGEST_LABEL):
        where = f"{path}, line {line}, column {shortened(name)!r}"
        raise BitqError(f"{where} is {shortened(cell)!r}; labels count classes from 0, in column {LABEL!r} or the last")
    return int(value)
