"""By the door of safetensors files that are packed or are to be (`bitq quantize`)."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from attacks import attack

QUANTIZE = "quantize in.safetensors --format 8:e3:b16 out.safetensors"


def _header(folder: Path, header: bytes, length: int | None = None, data: bytes = b"") -> None:
    length = len(header) if length is None else length
    (folder / "in.safetensors").write_bytes(struct.pack("<Q", length) + header + data)


@attack(QUANTIZE, "in.safetensors is no regular file")
def pipe(folder: Path) -> None:
    """A pipe into which nobody writes."""
    os.mkfifo(folder / "in.safetensors")


@attack("quantize /dev/zero --format 8:e3:b16 out.safetensors", "/dev/zero is no regular file")
def endless(folder: Path) -> None:
    """A device that never ends."""


@attack(QUANTIZE, "its header would have 18446744073709551615 bytes")
def endless_header(folder: Path) -> None:
    """A header of 2^64 - 1 bytes."""
    _header(folder, b"{}", 2**64 - 1)


@attack(QUANTIZE, "is no safetensors file, or damaged")
def header_that_lies(folder: Path) -> None:
    """A tensor of 2^60 elements in 8 bytes."""
    entry = {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 8]}
    _header(folder, json.dumps({"0.weight": entry}).encode(), data=bytes(8))


@attack(QUANTIZE, r"'\\x1b\[31mred.*weight': cannot pack|NaN or infinite")
def name_that_colours(folder: Path) -> None:
    """A tensor with codes that colour the terminal in its name, and a number that cannot be packed."""
    save_file({"\x1b[31mred" + "x" * 5000 + ".weight": np.full((4, 4), np.nan, np.float32)}, folder / "in.safetensors")


@attack(f"quantize in.safetensors --format 8:e3:b{'9' * 5000} out.safetensors", "block")
def endless_format(folder: Path) -> None:
    """A block size of 5,000 digits."""
    save_file({"0.weight": np.zeros((4, 4), np.float32)}, folder / "in.safetensors")


@attack("quantize in.safetensors --format 8:e3:b16 pipe", "pipe")
def pipe_to_write(folder: Path) -> None:
    """An output that is a pipe which nobody reads."""
    save_file({"0.weight": np.zeros((4, 4), np.float32)}, folder / "in.safetensors")
    os.mkfifo(folder / "pipe")
