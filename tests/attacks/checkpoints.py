"""By the door of checkpoints."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from attacks import attack

NETWORK = "import torch\ndef make(): return torch.nn.Sequential(torch.nn.Linear(8, 4))\n"
LOAD = "search own_net:make --data none.npz --run run --checkpoint "
DAMAGED = "is damaged, or no checkpoint; give a file that torch.save or safetensors wrote"
MORE = "more than tensors, which never runs"


class Called:
    """What its pickle says to call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def state(**others: Any) -> dict[str, Any]:
    return {"0.weight": torch.ones(4, 8), "0.bias": torch.ones(4), **others}


def made(folder: Path, content: Any, legacy: bool = False) -> Path:
    """The network's code and a checkpoint."""
    (folder / "own_net.py").write_text(NETWORK)
    torch.save(content, folder / "c.pt", _use_new_zipfile_serialization=not legacy)
    return folder / "c.pt"


def pickled(folder: Path, content: bytes) -> None:
    """A checkpoint whose pickle is this."""
    path = made(folder, state())
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, content if name.endswith("data.pkl") else part)


@attack(LOAD + "pipe.pt", "pipe.pt is no regular file")
@attack(LOAD + "pipe.safetensors", "pipe.safetensors is no regular file")
@attack(LOAD + "folder.safetensors", "folder.safetensors is a folder")
@attack(LOAD + "/dev/zero", "/dev/zero is no regular file")
@attack(LOAD + "none.pt", "there is no file none.pt")
@attack(LOAD + "large.pt", "has 1099511627776 bytes, but a checkpoint of this network has at most")
@attack(LOAD + "large.safetensors", "has 1099511627776 bytes, but a checkpoint of this network has at most")
def no_file_of_bounded_size(folder: Path) -> None:
    """Wait for a writer, or read without an end."""
    made(folder, state())
    for name in ("pipe.pt", "pipe.safetensors"):
        os.mkfifo(folder / name)
    (folder / "folder.safetensors").mkdir()
    for name in ("large.pt", "large.safetensors"):
        with (folder / name).open("wb") as file:
            file.truncate(2**40)


@attack(LOAD + "c.pt", DAMAGED)
def a_zip_of_another_version(folder: Path) -> None:
    """Version 9.9 of zip."""
    path = made(folder, state())
    content = path.read_bytes()
    at = content.index(b"PK\x01\x02")
    path.write_bytes(content[: at + 6] + bytes([99]) + content[at + 7 :])


@attack(LOAD + "c.pt", DAMAGED)
def names_that_are_no_text(folder: Path) -> None:
    """Bytes that are no UTF-8 as a name in a zip that promises UTF-8."""
    path = made(folder, state())
    content = bytearray(path.read_bytes())
    at = -1
    while (at := content.find(b"PK\x01\x02", at + 1)) >= 0:
        content[at + 8 : at + 10] = struct.pack("<H", 0x800)
        content[at + 46] = 0xFF
    path.write_bytes(content)


@attack(LOAD + "c.pt", "bytes unpacked, but a checkpoint of this network has at most")
def a_zip_bomb(folder: Path) -> None:
    """A gigabyte of zeros packed into one megabyte."""
    path = made(folder, state())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("c/data/9", "w") as file:
        for _ in range(1 << 10):
            file.write(bytes(1 << 20))


@attack(LOAD + "c.pt", DAMAGED)
def a_zip_of_a_million_files(folder: Path) -> None:
    """A list of files that takes far more memory than the zip."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    directory = entry * (1 << 20)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(directory), 4, 0)
    made(folder, state()).write_bytes(b"PK\x03\x04" + directory + end)


@attack(LOAD + "c.pt", "'0.bias' is a tensor without values")
def a_tensor_without_values(folder: Path) -> None:
    """A tensor on the meta device."""
    made(folder, state(**{"0.bias": torch.ones(4, device="meta")}))


@attack(LOAD + "c.pt", "'0.bias' is a nested tensor")
def a_nested_tensor(folder: Path) -> None:
    """A tensor whose size is no size."""
    made(folder, state(**{"0.bias": torch.nested.nested_tensor([torch.ones(2), torch.ones(2)])}))


@attack(LOAD + "c.pt", "'0.bias' is a sparse tensor")
def a_sparse_tensor(folder: Path) -> None:
    """One number that becomes 2^40 where it is made dense."""
    made(folder, state(**{"0.bias": torch.sparse_coo_tensor([[0]], [1.0], (1 << 40,))}))


@attack(LOAD + "c.pt", "'0.bias' is complex, but real in the network")
def complex_numbers(folder: Path) -> None:
    """Numbers that lose a part in the network."""
    made(folder, state(**{"0.bias": torch.ones(4, dtype=torch.complex64)}))


@attack(LOAD + "c.pt", r"'0.bias' has shape \(1099511627776,\), but \(4,\)")
def one_number_for_all(folder: Path) -> None:
    """A tensor of 2^40 elements out of a file with one."""
    made(folder, state(**{"0.bias": torch.ones(1).expand(1 << 40)}))


@attack(LOAD + "c.pt", DAMAGED)
def a_tensor_beyond_its_storage(folder: Path) -> None:
    """Strides that lead out of the file's bytes into the program's memory."""
    beyond = torch.ones(4).storage(), 1 << 30, (4,), (1,), False, OrderedDict()
    strided = Called(torch._utils._rebuild_tensor_v2, *beyond)
    made(folder, state(**{"0.bias": strided}))


@attack(LOAD + "c.pt", "holds no state of a network")
def much_memory_by_a_call(folder: Path) -> None:
    """A bytearray of 8 GiB, which torch.load makes."""
    made(folder, state(other=Called(bytearray, 8 << 30)))


@attack(LOAD + "c.pt", "has no '0.weight'")
def much_memory_beside_the_state(folder: Path) -> None:
    """A bytearray of 8 GiB beside a state that is none."""
    made(folder, {"state_dict": {"x": torch.ones(1)}, "other": Called(bytearray, 8 << 30)})


@attack(LOAD + "c.pt", MORE)
def code(folder: Path) -> None:
    """Make a folder as it is loaded."""
    made(folder, state(other=Called(os.mkdir, "ran")))


@attack(LOAD + "c.pt", "holds no state of a network")
def names_that_are_numbers(folder: Path) -> None:
    """Names that are no texts."""
    made(folder, {0: torch.ones(4, 8), (1, 2): torch.ones(4)})


@attack(LOAD + "c.pt", "holds no state of a network")
def names_that_take_for_ever(folder: Path) -> None:
    """A key of 2^64 parts, each a pair of the one before, whose hash takes for ever."""
    pickled(folder, pickle.PROTO + b"\x02}K\x00" + b"q\x00h\x00\x86" * 64 + b"K\x01s.")


@attack(LOAD + "c.pt", "holds no state of a network")
def a_deep_pickle(folder: Path) -> None:
    """A million lists in one another."""
    pickled(folder, pickle.PROTO + b"\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b".")


@attack(LOAD + "c.pt", MORE)
def a_long_pickle(folder: Path) -> None:
    """A pickle of sixty million steps."""
    pickled(folder, pickle.PROTO + b"\x02" + b"N" * 60_000_000 + b".")


@attack(LOAD + "c.pt", DAMAGED)
def a_text_longer_than_the_file(folder: Path) -> None:
    """A text of 4 GiB that is not there."""
    pickled(folder, pickle.PROTO + b"\x02X\xff\xff\xff\xff.")


@attack(LOAD + "c.pt", DAMAGED)
def an_older_file_with_other_sizes(folder: Path) -> None:
    """The layout before torch 1.6, a storage of 2^60 elements."""
    path = made(folder, state(), legacy=True)
    content = path.read_bytes()
    at = content.rindex(struct.pack("<q", 4))
    path.write_bytes(content[:at] + struct.pack("<q", 1 << 60) + content[at + 8 :])


@attack(LOAD + "c.pt", "has 'x{40,}…x+', which the network lacks")
def a_name_of_a_million_characters(folder: Path) -> None:
    """Fill the terminal."""
    made(folder, state(**{"x" * 1_000_000: torch.ones(1)}))


@attack(LOAD + "c.safetensors", "c.safetensors is damaged, or no safetensors file")
def a_header_longer_than_the_file(folder: Path) -> None:
    """A header of 2^62 bytes."""
    made(folder, state())
    (folder / "c.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")


@attack(LOAD + "c.safetensors", r"c.safetensors has '\\x1b\[2J', which the network lacks")
def names_that_steer(folder: Path) -> None:
    """Clear the terminal by a tensor's name."""
    made(folder, state())
    save_file(state(**{"\x1b[2J": torch.ones(1)}), folder / "c.safetensors")


@attack(LOAD + "'c\x1b[31m.pt'", "there is no file c")
def a_path_that_steers(folder: Path) -> None:
    """A path with codes that colour the terminal."""
    made(folder, state())


@attack(LOAD + "c.pt", DAMAGED)
def an_older_file_with_an_endless_text(folder: Path) -> None:
    """The layout before torch 1.6, and a text of 2^60 bytes that is not there."""
    made(folder, state())
    (folder / "c.pt").write_bytes(pickle.PROTO + b"\x02" + pickle.BINUNICODE8 + struct.pack("<Q", 1 << 60))
