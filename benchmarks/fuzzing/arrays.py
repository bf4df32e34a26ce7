"""Images and labels as arrays (.npz)."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from random import Random

import numpy as np

from fuzzing import Input, Kind, UnchangedError
from fuzzing.runs import EVALUATED
from fuzzing.seeds import FEW, SEARCH, take
from fuzzing.values import INTEGERS, TEXTS, change_bytes, change_word, damage, special

FILE = "data.npz"
NAMES = tuple(f"{kind}_{split}" for split in ("train", "val", "test") for kind in "xy")


def make(rng: Random, seeds: Path, folder: Path) -> list[str]:
    """A command that reads arrays: mostly one that measures with them, now and then one that trains, too."""
    take(seeds, folder, FILE, "net.py", "run", "net.safetensors", "d.toml")
    if rng.random() < 0.1:
        return [*SEARCH[:4], "--run", "new", *SEARCH[6:], "--data", FILE, *FEW, "--json"]
    return list(EVALUATED)


def _arrays(rng: Random, given: Input) -> str:
    """One array of another type, shape or content."""
    try:
        with np.load(io.BytesIO(given.content(FILE)), allow_pickle=False) as archive:
            arrays = {
                name: archive[name] for name in archive.files if archive.zip.getinfo(f"{name}.npy").file_size < 2**20
            }
    except UnchangedError:
        raise
    except Exception:  # whatever an earlier change has damaged
        return str(damage(FILE)(rng, given))
    name = rng.choice(list(arrays) or NAMES)
    old = arrays.get(name, np.zeros(3))
    with np.errstate(all="ignore"):
        match rng.randrange(7):
            case 0:
                kinds = ("f2", "f8", "u1", "i1", "i8", "u8", "?", "c8", "S3", "U3", "M8[s]", "V4", ">f4", ">i8", "f16")
                arrays[name] = old.astype(kind) if (kind := rng.choice(kinds)) != "V4" else np.zeros(len(old), "V4")
                how = f"of type {kind}"
            case 1:
                shape = rng.choice(
                    ((), (0,), (1,), (0, 1, 8, 8), (1, 0, 0), (3, 8, 8), (2**10, 0, 2**30), (24, 8, 8, 1), (1,) * 30)
                )
                arrays[name] = np.zeros(shape, old.dtype)
                how = f"of shape {shape}"
            case 2:
                flat = old.reshape(-1).copy()
                odd = rng.choice((*INTEGERS[:14], float("nan"), float("inf"), -1.0, 1e30, 0.5))
                if flat.size and flat.dtype.kind in "fiu":
                    kind = np.float64 if isinstance(odd, float) else flat.dtype
                    flat = flat.astype(kind)
                    limits = np.iinfo(kind) if np.dtype(kind).kind in "iu" else None
                    flat[rng.randrange(flat.size)] = odd if limits is None else min(max(odd, limits.min), limits.max)
                arrays[name] = flat.reshape(old.shape)
                how = f"holds {odd}"
            case 3:
                del arrays[name]
                how = "is left out"
            case 4:
                arrays[rng.choice(TEXTS[:-1]).replace("\0", "") or "x"] = old
                how = "under another name, too"
            case 5:
                arrays[name] = np.array([{}, None], dtype=object)
                how = "of objects"
            case _:
                arrays[name] = np.repeat(old, rng.choice((2, 100)), axis=0) if old.ndim else old
                how = "longer"
    buffer = io.BytesIO()
    rng.choice((np.savez, np.savez_compressed))(buffer, **arrays)
    given.path(FILE).write_bytes(buffer.getvalue())
    return f"{name} {how}"


def _header(rng: Random, given: Input) -> str:
    """The text before an array's data, or the bytes of an array within the zip."""
    content = given.content(FILE)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # whatever an earlier change has damaged
        return str(damage(FILE)(rng, given))
    name = rng.choice(list(entries) or ["x_test.npy"])
    content = entries.get(name, b"")
    end = content.find(b"\n") + 1
    if rng.random() < 0.7:
        shape = rng.choice(
            ("(2147483648,)", "(1099511627776, 0)", "(-1,)", "(1.5,)", "()", "(65536, 65536, 65536, 65536)", "'a'")
        )
        kind = rng.choice(("<f4", "|u1", "<i8", "|O", "<f4,<f4", "|S1000000000", "x", "<m8[s]", "|V0", "<U0"))
        text = f"{{'descr': {kind!r}, 'fortran_order': {rng.choice((True, False, 3))}, 'shape': {shape}, }}"
        if rng.random() < 0.15:
            text = rng.choice(
                ("(" * 5000, "{" * 100, "9" * 60_000, "{'descr': [" + "('a', '<f4')," * 3000 + "]}", "\0" * 100)
            )
        header = text.encode() + b" " * 10 + b"\n"
        entries[name] = b"\x93NUMPY\x01\0" + (len(header) & 0xFFFF).to_bytes(2, "little") + header + content[end:]
        how = text[:60]
    else:
        entries[name], how = change_bytes(rng, content)
    if rng.random() < 0.1:
        entries[name] = b"\0" * (64 << 20)
        how = "64 MiB of zeros"
    with zipfile.ZipFile(given.path(FILE), "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for each, data in entries.items():
            archive.writestr(zipfile.ZipInfo(each), data, archive.compression)  # no date of today
    return f"{name}: {how}"


KIND = Kind("arrays", make, (*[_arrays] * 6, *[_header] * 4, *[damage(FILE)] * 3, special(FILE), change_word))
