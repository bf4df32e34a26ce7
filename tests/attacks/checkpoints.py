"""By the door of checkpoints (--checkpoint, and what `bitq quantize` reads)."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from pathlib import Path

import torch

from attacks import attack

NETWORK = """
from torch import nn
def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
"""
SEARCH = "search net:make --checkpoint {} --data none.npz --run run"
STATE = {"1.weight": torch.zeros(2, 4), "1.bias": torch.zeros(2)}


def _saved(folder: Path, changed: dict[str, object], name: str = "c.pt", legacy: bool = False) -> Path:
    (folder / "net.py").write_text(NETWORK)
    torch.save({**STATE, **changed}, folder / name, _use_new_zipfile_serialization=not legacy)
    return folder / name


@attack(SEARCH.format("c.pt"), "more than tensors, which never runs")
def code(folder: Path) -> None:
    """A pickle that makes a folder."""

    class Made:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(folder / "ran"),)

    _saved(folder, {"1.bias": Made()})


@attack(SEARCH.format("c.pt"), "c.pt is damaged, or no checkpoint")
def zip_of_the_future(folder: Path) -> None:
    """A zip that needs version 9.9 of its readers."""
    path = _saved(folder, {})
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    content[at + 6] = 99
    path.write_bytes(content)


@attack(SEARCH.format("c.pt"), "c.pt is damaged, or no checkpoint")
def name_that_is_no_text(folder: Path) -> None:
    """An entry of a zip that says its name is UTF-8, which it is not."""
    path = _saved(folder, {})
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    content[at + 9] |= 8
    content[at + 46] = 0xFF
    path.write_bytes(content)


@attack(SEARCH.format("c.pt"), "unpacks to more than")
def bomb(folder: Path) -> None:
    """100 MB of zeros in 100 KB."""
    (folder / "net.py").write_text(NETWORK)
    with zipfile.ZipFile(folder / "c.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**8))


@attack(SEARCH.format("c.pt"), "'1.weight' has no plain numbers in memory")
def tensor_that_is_nowhere(folder: Path) -> None:
    """A tensor without memory (meta)."""
    _saved(folder, {"1.weight": torch.empty(2, 4, device="meta")})


@attack(SEARCH.format("c.pt"), "'1.weight' has no plain numbers in memory")
def tensor_of_tensors(folder: Path) -> None:
    """A nested tensor."""
    _saved(folder, {"1.weight": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])})


@attack(SEARCH.format("c.pt"), "'1.weight' has shape .*, but")
def tensor_that_repeats_itself(folder: Path) -> None:
    """One number that claims to be 2^50."""
    _saved(folder, {"1.weight": torch.zeros(1).expand(1 << 50)}, legacy=True)


@attack(SEARCH.format("c.pt"), "c.pt is damaged, or no checkpoint|more than tensors")
def deep_pickle(folder: Path) -> None:
    """A million lists in each other."""
    (folder / "net.py").write_text(NETWORK)
    (folder / "c.pt").write_bytes(b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b".")


@attack(SEARCH.format("c.safetensors"), "c.safetensors is damaged, or no checkpoint")
def type_that_colours(folder: Path) -> None:
    """A dtype with codes that colour the terminal."""
    (folder / "net.py").write_text(NETWORK)
    header = json.dumps({"1.bias": {"dtype": "\x1b[31mred", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "c.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))


@attack(SEARCH.format("'c\x1b[31m.pt'"), "there is no file c")
def name_that_colours(folder: Path) -> None:
    """A path with codes that colour the terminal."""
    (folder / "net.py").write_text(NETWORK)


@attack(SEARCH.format("/dev/zero"), "/dev/zero is no regular file")
def endless(folder: Path) -> None:
    """A device that never ends."""
    (folder / "net.py").write_text(NETWORK)


@attack(SEARCH.format("pipe.pt"), "pipe.pt is no regular file")
def pipe(folder: Path) -> None:
    """A pipe into which nobody writes."""
    (folder / "net.py").write_text(NETWORK)
    os.mkfifo(folder / "pipe.pt")
