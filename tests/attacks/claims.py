"""By the door of safetensors files: tensors that claim what they are not."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from attacks import attack

QUANTIZE = "quantize in.safetensors --format 8:e3:b16 out.safetensors"


def _with(folder: Path, name: str, shape: list[int]) -> None:
    """A file with a weight, and an empty tensor of this name and shape."""
    entries = {
        "0.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        name: {"dtype": "F32", "shape": shape, "data_offsets": [16, 16]},
    }
    header = json.dumps(entries).encode()
    (folder / "in.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))


@attack(QUANTIZE, "in.safetensors is damaged: the axes of '1.weight' that are not empty multiply to more than 2.40")
def empty_weight(folder: Path) -> None:
    """A weight without elements, one of whose axes is longer than a packed tensor's may be."""
    _with(folder, "1.weight", [0, 2**40 + 1])


@attack(QUANTIZE, "in.safetensors is damaged: the axes of 'b' that are not empty multiply to more than 2.40")
def empty_tensor(folder: Path) -> None:
    """A tensor without elements, one of whose axes no 64-bit number counts."""
    _with(folder, "b", [0, 2**64 - 1])


@attack(QUANTIZE, "in.safetensors is damaged: the axes of '1.weight' that are not empty multiply to more than 2.40")
def empty_strides(folder: Path) -> None:
    """A tensor without elements, whose axes together no 64-bit number counts."""
    _with(folder, "1.weight", [0, 2**40, 2**40])
