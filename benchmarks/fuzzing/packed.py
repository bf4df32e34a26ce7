"""Packed weights, and checkpoints to pack: safetensors files with bitq's header, whose checksum is made right again."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from random import Random
from typing import Any

import safetensors.torch
import torch

from fuzzing import Input, Kind, UnchangedError
from fuzzing.runs import EVALUATED
from fuzzing.seeds import take
from fuzzing.values import TEXTS, change_tree, change_word, damage, json_text, special

DIGEST = "bitq_sha256"
FORMATS = ("8:e4:b16", "16:e5:b1", "msfp12", "mxint8", "3:e1:b1", "8:e3:b999999")


def make(rng: Random, seeds: Path, folder: Path) -> list[str]:
    """A command that reads packed weights or packs others."""
    take(seeds, folder, "run", "net.py", "net.safetensors", "data.npz")
    source = rng.choice(("net.safetensors", "net.safetensors", "run/weights.safetensors"))
    how = rng.choice((("--plan", "run"), ("--format", rng.choice(FORMATS))))
    return list(rng.choice((EVALUATED, ("quantize", source, "out.safetensors", *how))))


def _file(given: Input) -> str:
    return "run/weights.safetensors" if given.words[0] == "evaluate" else given.words[1]


def _parts(given: Input) -> tuple[dict[str, Any], bytes]:
    content = given.content(_file(given))
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    if not isinstance(header, dict):
        raise ValueError
    return header, content[8 + size :]


def _write(given: Input, header: Any, data: bytes) -> None:
    """Write a file, its checksum over what it says now if it had one."""
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if isinstance(metadata, dict) and DIGEST in metadata:
        metadata[DIGEST] = "0" * 64
    text = json_text(header)
    text += b" " * (-len(text) % 8)
    text = struct.pack("<Q", len(text)) + text
    digest = hashlib.sha256(data)
    digest.update(text)
    given.path(_file(given)).write_bytes(text.replace(b"0" * 64, digest.hexdigest().encode(), 1) + data)


def _header(rng: Random, given: Input) -> str:
    """One thing in the header, or in what bitq says in it."""
    try:
        header, data = _parts(given)
        metadata = header.get("__metadata__", {})
        if "bitq" in metadata and rng.random() < 0.6:
            inner, how = change_tree(rng, json.loads(metadata["bitq"]))
            metadata["bitq"] = json_text(inner).decode()
        else:
            header, how = change_tree(rng, header)
    except (ValueError, RecursionError, TypeError, AttributeError):
        return str(damage(_file(given))(rng, given))
    _write(given, header, data)
    return f"header: {how}"


def _data(rng: Random, given: Input) -> str:
    """Bytes of the tensors, with the right checksum."""
    try:
        header, data = _parts(given)
    except (ValueError, RecursionError):
        return str(damage(_file(given))(rng, given))
    if not data:
        return str(damage(_file(given))(rng, given))
    at, span = rng.randrange(len(data)), rng.choice((1, 8, 64))
    new = rng.choice(
        (b"\xff" * span, b"\0" * span, rng.randbytes(span), b"\x00\x00\xc0\x7f" * span, b"\x80\x7f" * span)
    )
    _write(given, header, (data[:at] + new + data[at + len(new) :])[: len(data)])
    return f"data: {new[:8]!r} at {at}"


def _tensors(rng: Random, given: Input) -> str:
    """Another checkpoint: odd names, types and shapes."""
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.bool)
    kinds += (torch.int64, torch.float8_e4m3fn, torch.complex64, torch.uint16)
    shapes = (
        (),
        (0,),
        (1,),
        (0, 3),
        (4, 3),
        (4, 3, 3),
        (4, 3, 3, 3),
        (1,) * 5,
        (2,) * 6,
        (300, 7),
        (1, 2**12),
        (2**12, 1),
    )
    tensors = {}
    for _ in range(rng.randint(1, 4)):
        name = rng.choice(("0.weight", "a.weight", "weight", "7.bias", *TEXTS[:-1])) + rng.choice(("", ".weight"))
        tensor = torch.zeros(rng.choice(shapes)) + rng.choice((0.0, 1.0, 1e-40, 3e38, float("nan"), float("inf")))
        tensors[name] = tensor.to(rng.choice(kinds))
    given.path(_file(given)).write_bytes(safetensors.torch.save(tensors))
    return "tensors " + ", ".join(f"{name!r:.30} {tuple(t.shape)} {t.dtype}" for name, t in tensors.items())


def _damage(rng: Random, given: Input) -> str:
    return str(rng.choice((damage, damage, damage, special))(_file(given))(rng, given))


def _out(rng: Random, given: Input) -> str:
    """Another place to write to."""
    if given.words[0] == "evaluate":
        raise UnchangedError
    given.words[2] = rng.choice(
        ("net.safetensors", "run", "net.py/out", "out", "none/out.safetensors", "o\x1b[31m", "x" * 300)
    )
    return f"to {given.words[2]!r:.40}"


KIND = Kind("packed", make, (*[_header] * 6, *[_data] * 3, *[_tensors] * 3, *[_damage] * 3, _out, change_word))
