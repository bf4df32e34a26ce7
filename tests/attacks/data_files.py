"""By the door of data: arrays in an .npz file, and folders of images."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from attacks import attack

NETWORK = """
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))

class Hungry(nn.Module):
    def forward(self, x):
        return x + torch.empty(2**50)

def hungry():
    return Hungry()
"""
SEARCH = "search nets:make --steps 1 --rounds 1 --plans 1 --uniforms 1 --run run"
ESCAPE = "\x1b]0;owned\x07"


def _arrays(folder: Path, **changes: np.ndarray) -> None:
    """A network and data.npz with these arrays in place of good ones."""
    (folder / "nets.py").write_text(NETWORK)
    images, labels = np.ones((20, 6, 6), np.uint8), np.arange(20) % 4
    good = {"x_train": images, "y_train": labels, "x_val": images, "y_val": labels, "x_test": images, "y_test": labels}
    np.savez(folder / "data.npz", **good | changes)


def _images(folder: Path) -> Path:
    """A network and images/train, images/test; gives a further image's path."""
    (folder / "nets.py").write_text(NETWORK)
    for split in ("train", "test"):
        for label in "ab":
            (folder / "images" / split / label).mkdir(parents=True)
            for number in range(4):
                Image.new("L", (6, 6)).save(folder / "images" / split / label / f"{number}.png")
    return folder / "images" / "test" / "b" / "x.png"


def _members(folder: Path, name: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    """The good data.npz with one member written anew."""
    _arrays(folder)
    with zipfile.ZipFile(folder / "data.npz") as good:
        members = {each: good.read(each) for each in good.namelist()} | {f"{name}.npy": content}
    with zipfile.ZipFile(folder / "data.npz", "w", compression) as out:
        for each, text in members.items():
            out.writestr(each, text)


def _array_file(header: str, content: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


@attack(f"{SEARCH} --data data.npz", "label 134217728 in y_val, but the network has 4 outputs")
def one_large_label(folder: Path) -> None:
    """Have a name, a count or an output made for every class up to one label of 2^27."""
    labels = np.arange(20) % 4
    labels[3] = 2**27
    _arrays(folder, y_val=labels)


@attack(f"{SEARCH} --data data.npz", "y_test goes from -9223372036854775808 to 3")
def a_label_below_all(folder: Path) -> None:
    """Wrap around at the least whole number."""
    _arrays(folder, y_test=np.where(np.arange(20) == 3, -(2**63), np.arange(20) % 4))


@attack(f"{SEARCH} --data data.npz", "data.npz: y_test is of type object; it must be plain numbers")
def objects(folder: Path) -> None:
    """Run a pickle out of an array."""
    _arrays(folder, y_test=np.array([{}] * 20))


@attack(f"{SEARCH} --data data.npz", "data.npz: x_test is of type .*; it must be plain numbers")
def fields_that_steer(folder: Path) -> None:
    """Bring escape codes and a long line to the terminal by the names of an array's fields."""
    _arrays(folder, x_test=np.zeros(20, [(ESCAPE + "x" * 5000, "i4")]))


@attack(f"{SEARCH} --data data.npz --std 1e-6", r"x_train goes from -3e\+38 to 1; every pixel must be a finite")
def pixels_that_overflow(folder: Path) -> None:
    """Make a loss infinite by pixels that are finite until they are scaled."""
    images = np.ones((20, 6, 6), np.float32)
    images[3] = -3e38
    _arrays(folder, x_train=images)


@attack(f"{SEARCH} --data data.npz", "data.npz has .* bytes and says that its arrays have .*; save them with numpy.sav")
def a_bomb_of_zeros(folder: Path) -> None:
    """Unpack a file of half a megabyte to half a gigabyte."""
    _members(folder, "x_train", _array_file(_header("|u1", (8, 2**13, 2**13)), bytes(2**29)), zipfile.ZIP_DEFLATED)


@attack(f"{SEARCH} --data data.npz", "y_test is compressed as NumPy does not; save it with numpy.savez")
def a_bomb_of_another_kind(folder: Path) -> None:
    """Unpack without end by a compression that expands a block far more."""
    _members(folder, "y_test", bytes(2**20), zipfile.ZIP_BZIP2)
    with zipfile.ZipFile(folder / "data.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / "data.npz", "w") as out:
        for name, content in members.items():
            out.writestr(name, content, zipfile.ZIP_BZIP2 if name == "y_test.npy" else zipfile.ZIP_STORED)


def _header(kind: str, shape: tuple[int, ...]) -> str:
    return repr({"descr": kind, "fortran_order": False, "shape": shape})


@attack(f"{SEARCH} --data data.npz", r"data.npz is damaged: x_test says that it has shape \(1099511627776,\) of f")
def an_array_that_is_not_there(folder: Path) -> None:
    """Have room made for eight terabytes by a header of a hundred bytes."""
    _members(folder, "x_test", _array_file(_header("<f8", (2**40,))))


@attack(f"{SEARCH} --data data.npz", "data.npz is damaged")
def a_header_that_nests(folder: Path) -> None:
    """Nest the expression of an array's header deeper than Python's parser goes."""
    _members(folder, "x_test", _array_file("-" * 9000 + "1"))


@attack(f"{SEARCH} --data data.npz", "data.npz has .* bytes and says that its arrays have 42949")
def a_size_that_lies(folder: Path) -> None:
    """Say in the table of contents that a member has four gigabytes."""
    _arrays(folder)
    content = bytearray((folder / "data.npz").read_bytes())
    place = content.rindex(b"PK\x01\x02")
    content[place + 20 : place + 28] = struct.pack("<II", 2**32 - 2, 2**32 - 2)
    (folder / "data.npz").write_bytes(content)


@attack(f"{SEARCH} --data data.npz", "data.npz is damaged, or no .npz file")
def a_table_of_contents_without_end(folder: Path) -> None:
    """Have three gigabytes of a file that takes no room read as its table of contents."""
    _arrays(folder)
    size = 3 * 2**30
    with (folder / "data.npz").open("wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, size, 0, 0))


@attack(f"{SEARCH} --data data.npz", "data.npz is damaged, or no .npz file")
def one_array_by_the_name_of_many(folder: Path) -> None:
    """Have a single array of four gigabytes, which takes no room, read whole."""
    _arrays(folder)
    header = _array_file(_header("<f8", (2**29,)))
    with (folder / "data.npz").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 2**32)


def _table(folder: Path, content: bytes) -> Path:
    """A network and table.csv."""
    (folder / "nets.py").write_text(NETWORK)
    (folder / "table.csv").write_bytes(content)
    return folder / "table.csv"


@attack(f"{SEARCH} --data table.csv", "table.csv, line 2 has over 4194304 bytes; it is no table")
def a_line_without_end(folder: Path) -> None:
    """Have two gigabytes, which take no room, read as one line."""
    with _table(folder, b"a,b\n1,0").open("ab") as file:
        file.truncate(2**31)


@attack(f"{SEARCH} --data table.csv", "table.csv has 4294967297 bytes, but a .csv table has at most")
def a_table_too_large(folder: Path) -> None:
    """Read more than any table has."""
    with _table(folder, b"a,b\n").open("ab") as file:
        file.truncate(2**32 + 1)


@attack(f"{SEARCH} --data table.csv", "table.csv, line .* cannot be read as cells that commas separate")
def a_cell_over_many_lines(folder: Path) -> None:
    """Gather a whole file in one cell by a quote that is never closed."""
    _table(folder, b'a,b\n1,"' + b"1\n" * 2**20)


@attack(f"{SEARCH} --data table.csv", "table.csv has 2000000 columns; it must have at most 65536")
def a_table_of_columns(folder: Path) -> None:
    """Have a name made for each of millions of columns."""
    _table(folder, b"a" + b"," * (2 * 10**6 - 1))


@attack(f"{SEARCH} --data table.csv", r"line 2, column '\\x1b.*' is '\\x1b.*'; it must be a finite number")
def cells_that_steer(folder: Path) -> None:
    """Bring escape codes and a long line to the terminal by a cell and the name of its column."""
    text = (ESCAPE + "x" * 5000).encode()
    _table(folder, text + b",b\n" + text + b",0\n")


@attack(f"{SEARCH} --data table.csv", "table.csv, line 2, column 'a' is '9+.*'; it must be a finite number")
def digits_without_end(folder: Path) -> None:
    """Spend long on a number of many digits."""
    _table(folder, b"a,b\n" + b"9" * 10**5 + b",0\n")


@attack(f"{SEARCH} --data table.csv", "table.csv is no regular file")
def a_table_that_never_comes(folder: Path) -> None:
    """Wait for a pipe that nobody writes to."""
    (folder / "nets.py").write_text(NETWORK)
    os.mkfifo(folder / "table.csv")


@attack(f"{SEARCH} --data data.npz", "data.npz: images of x_val have shape .*, but .* in x_train")
def an_input_by_another_rank(folder: Path) -> None:
    """Give images to train on and others to choose by."""
    _arrays(folder, x_val=np.ones((20, 7, 7), np.uint8))


@attack(f"{SEARCH} --data data.npz", "data.npz is no regular file")
@attack(f"{SEARCH} --data pipe", "pipe is no data; give a folder of images, an .npz file or a")
@attack(f"{SEARCH} --data /dev/zero", "/dev/zero is no data; give a folder of images, an .npz file or a")
@attack(f"{SEARCH} --data zero.npz", "zero.npz is no regular file")
def data_that_never_come(folder: Path) -> None:
    """Wait for a pipe that nobody writes to, and read a device without end."""
    (folder / "nets.py").write_text(NETWORK)
    os.mkfifo(folder / "data.npz")
    os.mkfifo(folder / "pipe")
    (folder / "zero.npz").symlink_to("/dev/zero")


@attack(f"{SEARCH} --data images --channels 1", "x.png is no regular file")
@attack(f"{SEARCH} --data images --channels 1 --image-size 6", "x.png is no regular file")
def an_image_that_never_comes(folder: Path) -> None:
    """Wait for a pipe among the images."""
    os.mkfifo(_images(folder))


@attack(f"{SEARCH} --data images --channels 1", "x.png is no regular file")
def an_image_without_end(folder: Path) -> None:
    """Read a device as an image."""
    _images(folder).symlink_to("/dev/zero")


@attack(f"{SEARCH} --data images --channels 1", r"\\x1b\]0;owned.*\.png cannot be read as a PNG or JPEG image")
def an_image_whose_name_steers(folder: Path) -> None:
    """Bring escape codes to the terminal by an image's name."""
    _images(folder).with_name(f"{ESCAPE}.png").write_text("none")


@attack(f"{SEARCH} --data images --channels 1", "x.png has 9000 x 9000 pixels; images have at most")
@attack(f"{SEARCH} --data more --channels 1", "x.png cannot be read as a PNG or JPEG image")
def an_image_that_explodes(folder: Path) -> None:
    """Decode a file of a few kilobytes to hundreds of megabytes, or to gigabytes."""
    path = _images(folder)
    shutil.copytree(folder / "images", folder / "more")
    path.write_bytes(_png(9_000, 9_000))
    (folder / "more" / path.relative_to(folder / "images")).write_bytes(_png(30_000, 30_000))


@attack(f"{SEARCH} --data images --channels 1", "x.png cannot be read as a PNG or JPEG image")
def an_image_of_tiny_chunks(folder: Path) -> None:
    """Spend hours on the millions of empty chunks of an image."""
    chunk = _chunk(b"teSt", b"")
    content = _png(6, 6)
    _images(folder).write_bytes(content[:33] + chunk * (2**26 // len(chunk)) + content[33:])


@attack(f"{SEARCH} --data images --channels 1", "x.png cannot be read as a PNG or JPEG image")
def an_image_that_never_begins(folder: Path) -> None:
    """Have half a gigabyte, which takes no room, searched byte by byte for the beginning of an image."""
    with _images(folder).open("wb") as file:
        file.write(b"\xff\xd8\xff")
        file.truncate(2**29)


@attack(f"{SEARCH} --data images --channels 1", "x.png has .* bytes, but a PNG or JPEG image has at most")
def an_image_file_too_large(folder: Path) -> None:
    """Read a terabyte that takes no room."""
    with _images(folder).open("wb") as file:
        file.truncate(2**40)


@attack(f"{SEARCH} --data images --channels 1 --image-size 512", "x.png has 1 x 1000000 pixels, too long a strip")
def a_strip(folder: Path) -> None:
    """Resize the shorter side of an image so that the longer one fills the memory."""
    _images(folder).write_bytes(_png(1, 1_000_000))


@attack(
    "search nets:hungry --data data.npz", "memory ran out while running .* when 4 PiB more were wanted; .*--image-size"
)
def a_network_without_measure(folder: Path) -> None:
    """Ask for more memory than any machine has."""
    _arrays(folder)


def _png(width: int, height: int) -> bytes:
    """A black image of one bit a pixel."""
    rows = zlib.compressobj(9)
    packed = io.BytesIO()
    for _ in range(height):
        packed.write(rows.compress(bytes(1 + -(-width // 8))))
    packed.write(rows.flush())
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", packed.getvalue()) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
