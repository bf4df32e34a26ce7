"""Files that torch.save wrote, read without running anything in them and without believing what they say of sizes.

torch.load makes what a pickle asks for before anyone sees it: a bytearray of any size, a tensor of 2^40 elements out of
one. Here the pickle gives descriptions only. A tensor is read once it is asked for, by who has compared its shape with
the wanted one. Both layouts are torch's: a zip with data.pkl and a file for every storage, and, before torch 1.6, four
pickles (magic number, version, system, content), the storages' keys, and each storage after its number of elements.
"""

from __future__ import annotations

import io
import os
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from bitq.errors import BitqError
from bitq.outside import opened_outside, unreadable
from bitq.private_torch import PICKLED_MODULES

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001  # of the older layout
_MOST_STEPS = 1 << 21  # of a pickle: about 40 a tensor, and 3 seconds in all
_MOST_PICKLE = 64 << 20
_MOST_DIRECTORY = 16 << 20  # bytes of a zip's list of files, which is read at once: about 100 a tensor
_CHUNK = 4 << 20

_TYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "QInt8Storage": torch.qint8,
    "QUInt8Storage": torch.quint8,
    "QInt32Storage": torch.qint32,
    "QUInt4x2Storage": torch.quint4x2,
    "QUInt2x4Storage": torch.quint2x4,
    "UntypedStorage": torch.uint8,
}
_KINDS = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_qtensor": "a quantized tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor without values",
    "_rebuild_wrapper_subclass": "a tensor of a class of its own",
}
# What stands in the pickles of tensors, and of what is saved beside them; no other name is read over.
_MODULES = {*PICKLED_MODULES, "collections", "_codecs"}
_BUILTINS = {f"{module} {name}" for module in ("builtins", "__builtin__") for name in ("set", "bytearray", "complex")}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file.

    Attributes:
        shape: as the file says.
        load: reads it, on the CPU. Takes no more memory than the shape and the file's size ask for.
    """

    shape: tuple[int, ...]
    load: Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class Other:
    """A value of a file that is no plain tensor, list, mapping, text or number.

    Attributes:
        kind: of tensor it is, in words; "" if it is none.
    """

    kind: str = ""


@dataclass(frozen=True, eq=False)
class _Name:
    name: str


@dataclass(frozen=True, eq=False)
class _Storage:
    """`size` bytes from `begin` of what is kept under a key."""

    key: str
    dtype: torch.dtype
    begin: int
    size: int


class _Foreign(Exception):  # noqa: N818 - it does not leave this module
    """A pickle holds what no tensor needs."""


@contextmanager
def opened_torch(path: Path, most_bytes: int, what: str) -> Iterator[Any]:
    """The content of a file that torch.save wrote, its tensors as `StoredTensor`, to be loaded while it is open.

    Mappings are dicts; their keys are texts, or `Other`.

    Args:
        path: of the file.
        most_bytes: that it may have, unpacked, too.
        what: it is to be, such as "a checkpoint", for messages.

    Raises:
        BitqError: what `opened_outside` refuses; a file that is damaged or holds more than tensors.
    """
    with opened_outside(path, most_bytes, what) as file, _telling(path, what):
        zipped = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        yield _zip_content(file, path, most_bytes, what) if zipped else _older_content(file)


@contextmanager
def _telling(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (BitqError, MemoryError):
        raise
    except OSError as error:
        raise unreadable(path, what, error) from error
    except _Foreign as error:
        raise BitqError(
            f"{path} is damaged, or holds more than tensors, which never runs; save model.state_dict() alone"
        ) from error
    except Exception as error:  # whatever a decoder of untrusted bytes runs into
        raise BitqError(
            f"{path} is damaged, or no checkpoint; give a file that torch.save or safetensors wrote"
        ) from error


class _Sparing:
    """A file that gives no more at once than a zip's directory, or a part of a pickle, may take."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > _MOST_DIRECTORY:
            raise ValueError("a directory or a text too large")
        return self._file.read(size if size >= 0 else _MOST_DIRECTORY)

    def readline(self) -> bytes:
        return self._file.readline(_MOST_DIRECTORY)


def _zip_content(file: IO[bytes], path: Path, most_bytes: int, what: str) -> Any:
    archive = zipfile.ZipFile(_Sparing(file))
    unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > most_bytes:  # as torch packs nothing, but others may
        raise BitqError(f"{path} has {unpacked} bytes unpacked, but {what} has at most {most_bytes}")
    root = archive.namelist()[0].partition("/")[0]

    def record(name: str, most: int) -> Tensor:
        entry = archive.getinfo(f"{root}/{name}")
        if entry.file_size > most or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("a record too large, or packed otherwise")
        with archive.open(entry) as inside:
            return _bytes(inside, entry.file_size)

    swapped = f"{root}/byteorder" in archive.NameToInfo and bytes(record("byteorder", 6).numpy()) == b"big"

    @cache
    def load(key: str, size: int, width: int) -> Tensor:
        data = record(f"data/{key}", size)
        if data.numel() != size:
            raise ValueError("a record of another size than its storage")
        return data.view(-1, width).flip(1).reshape(-1) if swapped else data

    def storage(dtype: torch.dtype, key: str, count: int, view: None = None) -> _Storage:
        return _Storage(key, dtype, 0, count * dtype.itemsize)

    pickled = record("data.pkl", _MOST_PICKLE).numpy().tobytes()
    return _Machine(storage, load).run(io.BytesIO(pickled))


def _older_content(file: IO[bytes]) -> Any:
    storages: dict[str, _Storage] = {}
    places: dict[str, int] = {}

    def storage(dtype: torch.dtype, key: str, count: int, view: tuple[str, int, int] | None) -> _Storage:
        whole = storages.setdefault(key, _Storage(key, dtype, 0, count * dtype.itemsize))
        if view is None:
            return whole
        begin, size = (_whole(number) * dtype.itemsize for number in view[1:])
        if begin + size > whole.size:
            raise ValueError("a view beyond its storage")
        return _Storage(key, dtype, begin, size)

    @cache
    def load(key: str, size: int, width: int) -> Tensor:
        file.seek(places[key])
        return _bytes(file, storages[key].size)

    machine = _Machine(storage, load)
    if (machine.run(file), machine.run(file)) != (_MAGIC, _VERSION):
        raise ValueError("another file")
    machine.run(file)  # tells the system
    content = machine.run(file)
    size = os.fstat(file.fileno()).st_size
    for key in machine.run(file):
        whole = storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        places[key] = file.tell()
        if count * whole.dtype.itemsize != whole.size or file.seek(whole.size, os.SEEK_CUR) > size:
            raise ValueError("a storage of another size, or cut short")
    return content


def _bytes(file: IO[bytes], size: int) -> Tensor:
    """The next bytes of a file."""
    data = torch.empty(size, dtype=torch.uint8)
    view, done = memoryview(data.numpy().data), 0
    while done < size:
        count = file.readinto(view[done : done + _CHUNK])  # type: ignore[attr-defined]  # as binary files have it
        if not count:
            raise EOFError("cut short")
        done += count
    return data


class _Machine:
    """Pickles of tensors, step by step: the steps that torch.load allows, on values that do nothing."""

    def __init__(self, storage: Callable[..., _Storage], load: Callable[[str, int, int], Tensor]) -> None:
        self._storage, self._load = storage, load
        self._steps = 0

    def run(self, file: IO[bytes]) -> Any:
        """The value of the next pickle in a file."""
        stack: list[Any] = []
        outer: list[list[Any]] = []
        memo: dict[Any, Any] = {}
        argument: Any
        for step, argument, _ in pickletools.genops(_Sparing(file)):  # type: ignore[arg-type]  # it reads alone
            self._steps += 1
            if self._steps > _MOST_STEPS:
                raise _Foreign
            match step.name:
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINSTRING":
                    stack.append(argument)
                case "NONE" | "NEWTRUE" | "NEWFALSE":
                    stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[step.name])
                case "EMPTY_TUPLE":
                    stack.append(())
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_DICT":
                    stack.append({})
                case "EMPTY_SET":
                    stack.append(Other())
                case "MARK":
                    outer.append(stack)
                    stack = []
                case "TUPLE" | "APPENDS" | "SETITEMS":
                    items, stack = stack, outer.pop()
                    if step.name == "TUPLE":
                        stack.append(tuple(items))
                    elif step.name == "APPENDS":
                        _append(stack[-1], items)
                    else:
                        _set(stack[-1], items)
                case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                    count = int(name[-1])
                    stack[-count:] = [tuple(_last(stack, count))]
                case "APPEND":
                    item = stack.pop()
                    _append(stack[-1], [item])
                case "SETITEM":
                    item, key = stack.pop(), stack.pop()
                    _set(stack[-1], [key, item])
                case "GLOBAL":
                    stack.append(_named(argument))
                case "BINPERSID":
                    stack.append(self._kept(stack.pop()))
                case "REDUCE" | "NEWOBJ":
                    arguments, called = stack.pop(), stack.pop()
                    stack.append(self._made(called, arguments))
                case "BUILD":  # attributes of an OrderedDict or a parameter, which no network needs
                    stack.pop()
                case "STOP":
                    return stack.pop()
                case "PROTO":
                    pass
                case _:
                    raise _Foreign
        raise EOFError("a pickle without an end")

    def _kept(self, identity: Any) -> _Storage:
        word, kind, key, _location, count, *view = identity
        if word != "storage":
            raise _Foreign
        return self._storage(_STORAGES[kind.name], _text(key), _whole(count), *view)

    def _made(self, called: Any, arguments: Any) -> Any:
        if not isinstance(called, _Name) or not isinstance(arguments, tuple):
            raise _Foreign
        match called.name:
            case "OrderedDict":
                made: dict[Any, Any] = {}
                _set(made, [part for pair in (arguments[0] if arguments else ()) for part in _last(pair, 2)])
                return made
            case "_rebuild_parameter" | "_rebuild_parameter_with_state" | "Parameter":
                return arguments[0]
            case "_rebuild_device_tensor_from_cpu_tensor":
                return arguments[0]
            case "_rebuild_from_type_v2":  # a tensor with attributes
                return self._made(arguments[0], arguments[2])
            case "_rebuild_tensor" | "_rebuild_tensor_v2":
                storage, begin, shape, strides, *others = arguments
                return self._tensor(storage, storage.dtype, begin, shape, strides, others[2:])
            case "_rebuild_tensor_v3":
                storage, begin, shape, strides, _gradient, _hooks, dtype, *others = arguments
                return self._tensor(storage, _TYPES[dtype.name], begin, shape, strides, others)
        return Other(_KINDS.get(called.name, ""))

    def _tensor(
        self, storage: _Storage, dtype: torch.dtype, begin: int, shape: Any, strides: Any, flags: list[Any]
    ) -> StoredTensor | Other:
        if any(flags):
            return Other("a conjugated or negated view")
        shape, strides = (tuple(map(_whole, numbers)) for numbers in (shape, strides))
        used = 1 + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
        if 0 not in shape and (_whole(begin) + used) * dtype.itemsize > storage.size:
            raise ValueError("a tensor beyond its storage")

        def load() -> Tensor:
            if 0 in shape:
                return torch.empty(shape, dtype=dtype)
            data = self._load(storage.key, storage.size, dtype.itemsize)[storage.begin : storage.begin + storage.size]
            return data.view(dtype).as_strided(shape, strides, data.storage_offset() // dtype.itemsize + begin)

        return StoredTensor(shape, load)


def _append(to: Any, items: list[Any]) -> None:
    if type(to) is not list:
        raise _Foreign
    to.extend(items)


def _set(to: Any, items: list[Any]) -> None:
    """Keys and values in turn. Keys that are no texts become `Other`: their hashes may cost, or be made to collide."""
    if isinstance(to, Other):  # a mapping of another class
        return
    if type(to) is not dict:
        raise _Foreign
    keys = (key if type(key) is str else Other() for key in items[::2])
    to.update(zip(keys, items[1::2], strict=True))


def _last(items: Any, count: int) -> Any:
    if len(items) < count:
        raise ValueError("too few values")
    return items[len(items) - count :]


def _named(argument: str) -> _Name:
    module, _, name = argument.partition(" ")
    if module not in _MODULES and argument not in _BUILTINS:
        raise _Foreign
    return _Name(name)


def _text(key: Any) -> str:
    if type(key) is not str:
        raise ValueError("a key that is no text")
    return key


def _whole(number: Any) -> int:
    if type(number) is not int or not 0 <= number < 1 << 62:
        raise ValueError("no number of elements")
    return number
