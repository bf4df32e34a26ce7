"""Checkpoints: what torch.save writes, as a zip and as before, their pickles, and safetensors."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from fuzzing import Change, Input, Kind, UnchangedError
from fuzzing.seeds import take
from fuzzing.values import TEXTS, change_bytes, change_tree, damage, json_text, special

FILES = {"c.pt": "net.pt", "c.bin": "legacy.pt", "c.safetensors": "net.safetensors"}
_SEARCH = ("search", "net:make", "--data", "none.npz", "--run", "run", "--steps", "1", "--checkpoint")


def make(rng: Random, seeds: Path, folder: Path) -> list[str]:
    """A search that stops for want of data once the checkpoint is read."""
    name, seed = rng.choice(tuple(FILES.items()))
    take(seeds, folder, "net.py", seed)
    (folder / seed).rename(folder / name)
    return [*_SEARCH, name]


def _file(given: Input) -> str:
    return given.words[given.words.index("--checkpoint") + 1]


def _of_file(change: Callable[[str], Change]) -> Change:
    return lambda rng, given: change(_file(given))(rng, given)


class _Call:
    """Pickled as a call, which nothing may make."""

    def __init__(self, function: Any, *words: Any) -> None:
        self.call = (function, words)

    def __reduce__(self) -> Any:
        return self.call


def _odd_state(rng: Random, state: dict[str, Any]) -> str:
    name = rng.choice(list(state)) if state else "0.weight"
    tensor = state.get(name) if isinstance(state.get(name), Tensor) else torch.ones(2, 3)
    assert isinstance(tensor, Tensor)
    odd: dict[str, Callable[[], Any]] = {
        "on no device": lambda: tensor.to("meta"),
        "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "jagged": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        "sparse": lambda: tensor.float().to_sparse(),
        "compressed": lambda: tensor.reshape(1, -1).float().to_sparse_csr(),
        "quantized": lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
        "complex": lambda: tensor.to(torch.complex64),
        "whole": lambda: tensor.to(torch.int64),
        "true": lambda: tensor.to(torch.bool),
        "of float8": lambda: tensor.to(torch.float8_e4m3fn),
        "of no strides": lambda: torch.ones(1).expand(tensor.shape),
        "huge by strides": lambda: torch.ones(1).expand(2**20, 2**30),
        "huge on no device": lambda: torch.empty(2**20, 2**20, device="meta"),
        "transposed": lambda: torch.ones(tensor.shape[::-1]).permute(*range(tensor.dim())[::-1]),
        "empty": lambda: torch.empty(0),
        "empty and huge": lambda: torch.empty(0, 2**40),
        "one number": lambda: torch.tensor(1.0),
        "not a number": lambda: torch.full(tensor.shape, float("nan")),
        "infinite": lambda: torch.full(tensor.shape, float("inf")),
        "of doubles too large": lambda: torch.full(tensor.shape, 1e300, dtype=torch.float64),
        "of 64 axes": lambda: torch.ones((1,) * 64),
        "a parameter": lambda: torch.nn.Parameter(tensor.float()),
        "a buffer": lambda: torch.nn.Buffer(tensor.float()),
        "uninitialized": torch.nn.UninitializedParameter,
        "conjugate": lambda: tensor.to(torch.complex64).conj(),
        "negated": lambda: torch._neg_view(tensor.float()),
        "a number": lambda: 1.5,
        "text": lambda: rng.choice(TEXTS),
        "nothing": lambda: None,
        "a list": lambda: [tensor],
        "a dictionary": lambda: {"a": tensor},
        "a call of os.system": lambda: _Call(os.system, "touch ../executed"),
        "a call of eval": lambda: _Call(eval, "open('../executed', 'w')"),
        "itself": lambda: state,
    }
    kind = rng.choice(tuple(odd))
    key: Any = rng.choice((name, name, name, name, rng.choice(TEXTS), 0, None, ("a",), "module." + name, 1.5))
    state[key] = odd[kind]()
    return f"{key!r:.40} is {kind}"


def _odd_tensor(rng: Random, given: Input) -> str:
    """An odd thing in a state, or around it."""
    name = _file(given)
    if name.endswith(".safetensors"):
        return _safetensors(rng, given)
    content = given.content(name)
    try:
        state = torch.load(io.BytesIO(content), weights_only=True)
        how = _odd_state(rng, state)
        wrapped: Any = rng.choice(
            (state, state, state, {"state_dict": state}, {"model": {"state_dict": state}}, [state])
        )
        torch.save(wrapped, given.path(name), _use_new_zipfile_serialization=name.endswith(".pt"))
        return how + (", within another" if wrapped is not state else "")
    except Exception as error:  # an earlier change may have left nothing that can be read or written
        return f"{damage(name)(rng, given)} ({type(error).__name__})"


def _safetensors(rng: Random, given: Input) -> str:
    """The header with one thing changed, its length told rightly or not."""
    path, content = given.path(_file(given)), given.content(_file(given))
    try:
        size = int.from_bytes(content[:8], "little")
        tree, how = change_tree(rng, json.loads(content[8 : 8 + size]))
    except (ValueError, RecursionError):
        return str(damage(path.name)(rng, given))
    header = json_text(tree)
    length = len(header) if rng.random() < 0.9 else rng.choice((0, 1, len(header) - 1, 2**27, 2**63, 2**64 - 1))
    path.write_bytes(struct.pack("<Q", length) + header + content[8 + size :])
    return f"header of {length} bytes: {how}"


def _opcodes(rng: Random, given: Input) -> str:
    """The pickle within the zip, changed or another."""
    path, content = given.path(_file(given)), given.content(_file(given))
    if not zipfile.is_zipfile(io.BytesIO(content)):
        path.write_bytes(_pickle(rng))
        return "a pickle alone"
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {entry: archive.read(entry) for entry in archive.infolist()}
    except Exception as error:  # an earlier change
        return f"{damage(path.name)(rng, given)} ({type(error).__name__})"
    chosen = rng.choice(list(entries))
    if rng.random() < 0.7:
        chosen = next((entry for entry in entries if entry.filename.endswith("data.pkl")), chosen)
    how = "a pickle of others"
    old, entries[chosen] = entries[chosen], _pickle(rng)
    if rng.random() < 0.7:
        entries[chosen], how = change_bytes(rng, old)
    if rng.random() < 0.1:
        del entries[chosen]
        how = "left out"
    kind = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(path, "w", kind) as archive:
        for entry, data in entries.items():
            archive.writestr(zipfile.ZipInfo(entry.filename), data, kind)  # no date of today
    return f"{chosen.filename}: {how}"


def _pickle(rng: Random) -> bytes:
    return rng.choice(
        (
            lambda: pickle.dumps(_Call(os.system, "touch ../executed")),
            lambda: b"\x80\x02" + b"(" * 100_000 + b".",
            lambda: b"\x80\x02" + b"]" + b"2" * 1000 + b"(" + b"t" * 1000 + b".",
            lambda: b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
            lambda: b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
            lambda: b"\x80\x02r\xff\xff\xff\x7f.",
            lambda: b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.",
            lambda: b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NK\x00K\x01\x85K\x01\x85\x89Nt\x52.",
            lambda: b"I" + b"9" * 100_000 + b"\n.",
            lambda: b"\x80\x02}X\x01\x00\x00\x00aJ\x00\x00\x00\x00s.",
            lambda: b"\x80\x02Q.",
            lambda: pickle.dumps({"\x1b[31mred": 1}),
            lambda: pickle.dumps(dict.fromkeys(TEXTS[:-1])),
            lambda: b"\x80\x02]" + b"]a" * 5000 + b".",
        )
    )()


def _zip(rng: Random, given: Input) -> str:
    """A field of the zip's own records changed: versions, sizes, offsets, names, methods."""
    path, content = given.path(_file(given)), bytearray(given.content(_file(given)))
    signature = rng.choice((b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"))
    places = [at for at in range(len(content)) if content.startswith(signature, at)]
    if not places:
        return str(damage(path.name)(rng, given))
    at, width = rng.choice(places) + rng.randrange(4, 60), rng.choice((1, 2, 4))
    content[at : at + width] = rng.choice((b"\xff" * width, b"\0" * width, rng.randbytes(width)))
    path.write_bytes(bytes(content))
    return f"zip: {width} bytes at {at}"


def _name(rng: Random, given: Input) -> str:
    """Another name of the file, of what may be in no name, or of no checkpoint."""
    names = (
        "c\x1b[31m.pt",
        "c.txt",
        "c",
        "ü.safetensors",
        "c\n.pt",
        "--c.pt",
        "/dev/zero",
        "/dev/full",
        "none.pt",
        ".",
        "",
    )
    old, new = _file(given), rng.choice((*names, "x" * 300, "C" * 250 + ".pt", rng.choice(TEXTS[:-1])))
    given.words[given.words.index("--checkpoint") + 1] = new
    with suppress(UnchangedError):
        given.path(old).rename(given.path(new))
    return f"named {new!r:.40}"


KIND = Kind(
    "checkpoint",
    make,
    (*[_odd_tensor] * 6, *[_opcodes] * 3, *[_zip] * 3, *[_of_file(damage)] * 4, _of_file(special), _name),
)
