"""Folders of images: odd and damaged PNG and JPEG files, odd names, folders, pipes and links."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zlib
from functools import cache
from pathlib import Path
from random import Random

from PIL import Image

from fuzzing import Input, Kind, UnchangedError
from fuzzing.runs import NAMED
from fuzzing.seeds import SIDE, take
from fuzzing.values import TEXTS, change_word, damage, special

ROOT = "pictures"


def make(rng: Random, seeds: Path, folder: Path) -> list[str]:
    """A measurement on the images of a folder."""
    take(seeds, folder, ROOT, "net.py", "run")
    sized = rng.choice(((), ("--image-size", str(SIDE))))
    return ["evaluate", "run", "--data", ROOT, *NAMED, "--channels", "1", *sized]


def _one(rng: Random, given: Input) -> str:
    files = sorted(path for path in given.path(ROOT).rglob("*") if path.is_file() and len(path.name) < 60)
    if not files:
        raise UnchangedError
    return str(rng.choice(files).relative_to(given.folder))


def _folder(rng: Random, given: Input) -> Path:
    folders = sorted(path for path in given.path(ROOT).rglob("*") if path.is_dir() and not path.is_symlink())
    if not folders:
        raise UnchangedError
    return rng.choice(folders)


def _damage(rng: Random, given: Input) -> str:
    return str(damage(_one(rng, given))(rng, given))


def _special(rng: Random, given: Input) -> str:
    return str(special(_one(rng, given))(rng, given))


def _picture(rng: Random, given: Input) -> str:
    """An image of another mode, size or format under a name of an image."""
    name = _one(rng, given)
    mode = rng.choice(("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "LA", "YCbCr"))
    size = rng.choice(((1, 1), (1, 3000), (3000, 1), (SIDE, SIDE), (7, 9), (2000, 2000)))
    kind = rng.choice(("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO"))
    buffer = io.BytesIO()
    try:
        Image.new(mode, size).save(buffer, kind, **({"save_all": True} if kind in ("GIF", "TIFF") else {}))
    except (OSError, ValueError, KeyError) as error:
        raise UnchangedError from error
    given.path(name).write_bytes(buffer.getvalue())
    return f"{name}: {kind} {mode} of {size}"


def _chunks(rng: Random, given: Input) -> str:
    """A PNG that says another size than it has, bombs, or odd chunks."""
    name = _one(rng, given)
    width, height = rng.choice(
        ((SIDE, SIDE), (2**31 - 1, 1), (1, 2**31 - 1), (50_000, 50_000), (0, 0), (30_000, 30_000))
    )
    depth, color = rng.choice(((8, 0), (16, 0), (1, 3), (8, 6), (3, 9), (8, 3)))
    size = rng.choice((0, 100, 8 << 20))
    odd = rng.choice((b"tEXt", b"zTXt", b"iCCP", b"iTXt", b"PLTE", b"acTL", b"eXIf", b"IHDR", b"IEND"))
    filling = rng.choice((b"", b"a\0\0" + _squeezed(64 << 20), b"\xff" * 1000, b"\0\0\0\0"))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)),
        (odd, filling),
        (b"IDAT", _squeezed(size)),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    given.path(name).write_bytes(content)
    return f"{name}: PNG of {width} x {height}, {size} bytes, {odd!r} of {len(filling)}"


@cache
def _squeezed(size: int) -> bytes:
    return zlib.compress(b"\0" * size)


def _name(rng: Random, given: Input) -> str:
    """A file or folder under another name."""
    old = rng.choice((given.path(_one(rng, given)), _folder(rng, given)))
    name = rng.choice(
        (*TEXTS[1:-1], "\x1b[31m.png", "a.PNG", ".png", "x" * 200 + ".jpg", ".hidden", "a\n.png", "-.png")
    )
    name = name.replace("/", "_").replace("\0", "_")[:200]
    if name.strip(".") == "" or len(name.encode()) > 250 or (old.parent / name).exists():
        raise UnchangedError
    old.rename(old.parent / name)
    return f"{old.name} is {name!r:.40}"


def _files(rng: Random, given: Input) -> str:
    """Folders without images, files in place of folders, links to folders, names that are no UTF-8, a class more."""
    folder = _folder(rng, given)
    match rng.randrange(8):
        case 0:
            shutil.rmtree(folder)
            return f"{folder.name} left out"
        case 1:
            shutil.rmtree(folder)
            folder.touch()
            return f"{folder.name} is a file"
        case 2:
            (folder / "loop").symlink_to(".." if rng.random() < 0.5 else "/proc")
            return f"{folder.name} holds a link"
        case 3:
            (folder / "class9").mkdir()
            return f"{folder.name} holds an empty folder"
        case 4:
            (folder / "a.png").touch()
            return f"{folder.name} holds an empty image"
        case 5:
            handle = os.open(os.fsencode(folder) + b"/\xff\xfe.png", os.O_CREAT | os.O_WRONLY)
            os.close(handle)
            return f"{folder.name} holds a name that is no UTF-8"
        case 6:
            os.mkfifo(folder / f"p{rng.randrange(1000)}.png")
            return f"{folder.name} holds a pipe"
    source = rng.choice(sorted(given.path(ROOT).glob("*")))
    if not source.is_dir() or source.is_symlink() or folder.is_relative_to(source):
        raise UnchangedError
    shutil.copytree(
        source, folder / f"copy{rng.randrange(1000)}", symlinks=True, ignore=shutil.ignore_patterns("p*.png")
    )
    return f"{folder.name} holds {source.name} again"


KIND = Kind(
    "pictures",
    make,
    (*[_damage] * 5, *[_picture] * 3, *[_chunks] * 3, *[_name] * 3, *[_files] * 3, _special, change_word),
)
