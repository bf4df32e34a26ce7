"""By the door of files that are to be packed, or are packed already."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from attacks import attack

PACK = "quantize in.safetensors out.safetensors --format 8:e4:b16"
DAMAGED = "in.safetensors is damaged, or no safetensors file"


def written(folder: Path, header: Mapping[str, Any], data: bytes = b"") -> None:
    text = json.dumps(header).encode()
    (folder / "in.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def tensor(dtype: str, shape: list[int], size: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}


@attack("quantize pipe out.safetensors --format 8:e4:b16", "pipe is no regular file")
@attack("quantize /dev/zero out.safetensors --format 8:e4:b16", "/dev/zero is no regular file")
@attack("quantize . out.safetensors --format 8:e4:b16", "is a folder; give a safetensors file")
@attack("quantize pipe pipe --format 8:e4:b16", "pipe is no regular file")
def no_file(folder: Path) -> None:
    """Wait for a writer, or read without an end."""
    os.mkfifo(folder / "pipe")


@attack(PACK, DAMAGED)
def a_header_of_a_hundred_megabytes(folder: Path) -> None:
    """A header that the library would read, and that takes ten times its size."""
    names = ",".join(f'"{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(1_600_000))
    text = f"{{{names}}}".encode()[: 95 << 20]
    (folder / "in.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)


@attack(PACK, DAMAGED)
def a_header_longer_than_the_file(folder: Path) -> None:
    """A header of 2^63 bytes."""
    (folder / "in.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"{}")


@attack(PACK, DAMAGED)
def a_shape_beyond_the_data(folder: Path) -> None:
    """A tensor of 2^60 elements in four bytes."""
    written(folder, {"0.weight": tensor("F32", [1 << 30, 1 << 30], 4)}, bytes(4))


@attack(PACK, DAMAGED)
def a_type_that_is_none(folder: Path) -> None:
    """A type with a terminal's code in its name."""
    written(folder, {"0.weight": tensor("\x1b[31mred", [1, 1], 4)}, bytes(4))


@attack(PACK, DAMAGED)
def a_deep_header(folder: Path) -> None:
    """A hundred thousand brackets."""
    text = b'{"a":' + b"[" * 100_000
    (folder / "in.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)


@attack(PACK, r"in.safetensors: '\\x1b\[2Jx+…x+.weight': cannot pack a tensor of shape \(4, 8\)")
def a_name_that_is_long_and_steers(folder: Path) -> None:
    """Clear and fill the terminal by a tensor's name."""
    save_file({"\x1b[2J" + "x" * 5000 + ".weight": torch.full((4, 8), torch.nan)}, folder / "in.safetensors")


@attack(
    "quantize in.safetensors out.safetensors --format 8:e3:b" + "9" * 5000,
    "geometry \'b9{30,50}…9{10,20}\' at character 6; it must be b16",
)
def a_long_format(folder: Path) -> None:
    """A format of 5,000 digits."""
    save_file({"0.weight": torch.ones(4, 8)}, folder / "in.safetensors")


@attack(
    "quantize in.safetensors out.safetensors --format l(" + "0;" * 2000 + "1):f32:tensor",
    "a table of levels has 2..256 of them, not 2001",
)
@attack("quantize in.safetensors out.safetensors --format i8:f32:t9x" + "9" * 30, "geometry 't9x9{20,40}'")
@attack("quantize in.safetensors out.safetensors --format s2:e8m0:b9p999999999", "NaN or infinite")
def a_wide_format(folder: Path) -> None:
    """A table of 2,001 levels, and blocks with more elements than there are numbers."""
    save_file({"0.weight": torch.full((4, 8, 3, 3), torch.nan)}, folder / "in.safetensors")


@attack(PACK, "in.safetensors has no weight to pack")
def a_shape_of_many_axes(folder: Path) -> None:
    """A tensor of a hundred thousand axes, more than torch counts."""
    written(folder, {"0.weight": tensor("F32", [1] * 100_000, 4)}, bytes(4))


@attack(PACK, "holds packed weights already")
def a_packed_file(folder: Path) -> None:
    """A file that says it is packed, and its entry is nothing."""
    header = {"__metadata__": {"bitq": "[" * 100_000, "bitq_sha256": hashlib.sha256().hexdigest()}}
    written(folder, header | {"0.weight": tensor("F32", [1, 1], 4)}, bytes(4))


@attack("quantize in.safetensors pipe --format 8:e4:b16", "pipe")
def a_pipe_to_write(folder: Path) -> None:
    """An output that is a pipe which nobody reads."""
    save_file({"0.weight": torch.ones(4, 4)}, folder / "in.safetensors")
    os.mkfifo(folder / "pipe")
