"""Packed tensors on disk, with all others as they are, in one safetensors file.

Layout (our choice). A packed tensor is stored under its name as the uint8 tensor of its payload (see `Packed`), every
other tensor as it is. The header's metadata has two entries of ours:

- "bitq": a JSON object with `schema_version` and, under `packed`, an object for each packed tensor: `format` such as
  "8:e3:b16" or "e2m1:e8m0:v32", the tensor's `dtype` and `shape`, the `blocked_shape` it has where blocks run through
  it (left out if that is its shape; a transposed convolution's weight has its groups set apart in front), `dim` and
  `inner_dims` of the blocks in that shape, and the `exponent_bias` of a format `eN`;
- "bitq_sha256": the SHA-256, in hexadecimal, of the data section followed by the first 8 bytes and the header of the
  file, the 64 digits themselves counted as zeros. It tells damage, it is no signature.

Any safetensors reader opens the file. The header is filled up with spaces to a multiple of 8 bytes.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from bitq.errors import BitqError, shortened
from bitq.files import replacing
from bitq.formats import Format, parse_format
from bitq.formats.grammar import LONGEST
from bitq.formats.scales import SharedExponent
from bitq.numerics.packing import Packed, WeightBlocks, pack
from bitq.outside import opened_outside
from bitq.validation import parsed, shown, told

ENTRY, DIGEST = "bitq", "bitq_sha256"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The types of a safetensors file that torch knows, by the names they have there."""

PACKABLE = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Those that can be packed, with the names they have in the header's entry."""

_NO_DIGEST = "0" * 64
_NO_BIAS = -1000  # no bias takes more digits
_CHUNK = 1 << 22  # bytes hashed at a time
_MOST_HEADER = 32 << 20  # bytes; that of 100,000 packed tensors has 25 MiB
_MOST_VALUES = 1 << 21  # in what it says of them
MOST_BYTES = 1 << 42
"""Of a file; it is memory mapped and read tensor by tensor."""

_MOST_AXES, _MOST_ELEMENTS = 8, 1 << 40

Axis = Annotated[int, Field(ge=0, lt=_MOST_AXES)]
Shape = Annotated[tuple[Annotated[int, Field(ge=0, le=_MOST_ELEMENTS)], ...], Field(max_length=_MOST_AXES)]


class _PackedTensor(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Annotated[str, Field(max_length=LONGEST)]
    dtype: Literal["float32", "float16", "bfloat16"]
    shape: Shape
    blocked_shape: Shape | None = None
    dim: Axis
    inner_dims: Annotated[tuple[Axis, ...], Field(max_length=_MOST_AXES)]
    exponent_bias: Annotated[int, Field(ge=-(1 << 20), le=1 << 20)] | None = None


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    schema_version: Literal[2, 3] = 3  # in 2 every format is BITS:eN:bSIZE
    packed: dict[str, Any]  # each a `_PackedTensor`


@dataclass(frozen=True)
class FileTensor:
    """One tensor of a file: what it is, and how it is packed, if it is.

    Attributes:
        name: unique in the file.
        dtype: a key of `DTYPES`.
        shape: of the tensor.
        format, blocks: of a packed one.

    Raises:
        BitqError: more elements than any tensor has, or axes that claim so many in one without elements.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    format: Format | None = None
    blocks: WeightBlocks | None = None

    def __post_init__(self) -> None:
        if prod(length or 1 for length in self.shape) > _MOST_ELEMENTS:
            raise BitqError(f"the axes of {self.name!r} that are not empty multiply to more than 2^40 elements")

    @property
    def plain_size(self) -> int:
        """Bytes it takes unpacked."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize

    @property
    def size(self) -> int:
        """Bytes it takes in the file."""
        if self.format is None or self.blocks is None:
            return self.plain_size
        return -(-self.format.num_bits(*self.blocks) // 8)

    @property
    def alignment(self) -> int:
        """Bytes at whose multiples it has to begin."""
        return 1 if self.format else DTYPES[self.dtype].itemsize


def write_packed(
    path: Path,
    tensors: Sequence[FileTensor],
    load: Callable[[str], Tensor],
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Write a file, atomically, one tensor in memory at a time.

    Args:
        path: of the file.
        tensors: what to write, in any order.
        load: the tensor of a name, float or whatever its `FileTensor` says.
        metadata: other entries for the header.
        progress: called with (bytes of tensors read, all bytes of them).

    Returns:
        The exponent bias of every packed tensor that has one, as its format is an `eN`.

    Raises:
        BitqError: a tensor that cannot be packed, such as one with NaN (names it).
    """
    ordered = sorted(tensors, key=lambda entry: (-entry.alignment, entry.name))
    biases = {
        entry.name: _NO_BIAS for entry in ordered if entry.format and isinstance(entry.format.scale, SharedExponent)
    }
    start = len(_header(ordered, biases, metadata or {}, _NO_DIGEST, 0))
    start += -start % 8
    digest = hashlib.sha256()
    done, total = 0, sum(entry.plain_size for entry in ordered)
    with replacing(path) as file:
        file.seek(start)
        for entry in ordered:
            progress(done, total)
            tensor = load(entry.name)
            content, bias = _content(tensor, entry)
            if bias is not None:
                biases[entry.name] = bias
            digest.update(content.data)
            file.write(content.data)
            done += tensor.nbytes
        digest.update(_header(ordered, biases, metadata or {}, _NO_DIGEST, start))
        file.seek(0)
        file.write(_header(ordered, biases, metadata or {}, digest.hexdigest(), start))
        progress(total, total)
    return biases


def read_packed(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a file that `write_packed` wrote, packed ones bit-identical to the quantized ones.

    Raises:
        BitqError: no such file, one that is damaged, or another kind of file.
    """
    path = Path(path)
    with opened(path) as file:
        metadata = file.metadata() or {}
        if ENTRY not in metadata:
            raise BitqError(f"{path} has no packed tensors: its header has no entry {ENTRY!r}")
        packed = _told(metadata[ENTRY], path)
        _check_digest(path, metadata.get(DIGEST, ""))
        names = set(file.keys())
        for name in packed:
            if name not in names:
                raise BitqError(f"{path}: its header names {shown(name)}, which the file has not; write it anew")
        tensors = {}
        for name in sorted(names):
            stored = read_tensor(path, file, name)
            try:
                tensors[name] = _unpacked(stored, packed[name]) if name in packed else stored
            except BitqError as error:
                raise BitqError(f"{path}: {shown(name)}: {error}") from None
    return tensors


def _told(entry: str, path: Path) -> dict[str, _PackedTensor]:
    """What a header says of the packed tensors; a wrong one ends it, before a million others are looked at."""
    place = ""
    try:
        header, found = _Header.model_validate(parsed(entry.encode(), _MOST_VALUES)), {}
        for name, each in header.packed.items():
            place = f"packed tensor {shortened(name)!r}: "
            found[name] = _PackedTensor.model_validate(each)
        return found
    except ValidationError as error:
        reason = place + told(error)
    except BitqError as error:
        reason = f"entry {ENTRY!r} {error}"
    raise BitqError(f"{path} was not written by this version of bitq: in its header, {reason}")


@contextmanager
def opened(path: Path, most_bytes: int = MOST_BYTES, what: str = "a safetensors file") -> Iterator[Any]:
    """A safetensors file, memory mapped, as `safetensors.safe_open` gives it.

    Args:
        path: of the file.
        most_bytes: that it may have.
        what: it is to be, for messages.

    Raises:
        BitqError: what `opened_outside` refuses, or another kind of file.
    """
    with opened_outside(path, most_bytes, what) as file:
        begin = file.read(8)
    if int.from_bytes(begin, "little") > _MOST_HEADER:  # the library would take it all in
        raise _damaged(path)
    try:
        mapped = safetensors.safe_open(path, framework="pt")
    except (OSError, safetensors.SafetensorError):
        raise _damaged(path) from None
    with mapped as inside:
        yield inside


def read_tensor(path: Path, file: Any, name: str) -> Tensor:
    """A tensor as a file stores it.

    Args:
        path: of the file, for messages.
        file: that `opened` gave.
        name: of a tensor that it has.

    Raises:
        BitqError: a type or a shape that torch does not know.
    """
    try:
        tensor: Tensor = file.get_tensor(name)
    except Exception:  # of many kinds
        view = file.get_slice(name)
        raise BitqError(
            f"{path}: {shown(name)} is of type {view.get_dtype()} and shape "
            f"{shortened(str(tuple(view.get_shape())))}, which torch does not know; save it otherwise"
        ) from None
    return tensor


def _damaged(path: Path) -> BitqError:
    return BitqError(f"{path} is damaged, or no safetensors file; write it anew or give another")


def _content(tensor: Tensor, entry: FileTensor) -> tuple[NDArray[np.uint8], int | None]:
    """A tensor's bytes as they are stored, and its exponent bias if it has one."""
    if entry.format is None or entry.blocks is None:
        return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy(), None
    shape, dim, inner = entry.blocks
    try:
        packed = pack(tensor.reshape(shape), entry.format, dim, inner)
    except BitqError as error:
        raise BitqError(f"{shown(entry.name)}: {error}") from None
    return packed.payload.numpy(), packed.exponent_bias


def _header(
    tensors: Iterable[FileTensor], biases: Mapping[str, int], metadata: Mapping[str, str], digest: str, length: int
) -> bytes:
    """The first bytes of a file, filled up with spaces to `length` bytes."""
    packed, listed, offset = {}, {}, 0
    for each in tensors:
        dtype, shape = each.dtype, each.shape
        if each.format is not None and each.blocks is not None:
            dtype, shape = "U8", (each.size,)
            packed[each.name] = _PackedTensor(
                format=str(each.format),
                dtype=PACKABLE[each.dtype],  # type: ignore[arg-type]
                shape=each.shape,
                blocked_shape=None if each.blocks.shape == each.shape else each.blocks.shape,
                dim=each.blocks.dim,
                inner_dims=each.blocks.inner_dims,
                exponent_bias=biases.get(each.name),
            )
        listed[each.name] = {"dtype": dtype, "shape": shape, "data_offsets": (offset, offset + each.size)}
        offset += each.size
    entry = _Header(packed=packed).model_dump_json(exclude_none=True)
    text = json.dumps({"__metadata__": {**metadata, DIGEST: digest, ENTRY: entry}, **listed}, separators=(",", ":"))
    content = text.encode().ljust(length - 8)
    return struct.pack("<Q", len(content)) + content


def _check_digest(path: Path, digits: str) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        begin = file.read(8)
        header = file.read(struct.unpack("<Q", begin)[0])
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    digest.update(begin + header.replace(digits.encode(), _NO_DIGEST.encode(), 1 if digits else 0))
    if digest.hexdigest() != digits:
        raise BitqError(f"{path} is damaged: its content does not give the checksum in its header; write it anew")


def _unpacked(payload: Tensor, entry: _PackedTensor) -> Tensor:
    shape = entry.shape if entry.blocked_shape is None else entry.blocked_shape
    if prod(shape) != prod(entry.shape):
        raise BitqError(f"a tensor of shape {entry.shape} cannot be blocked as {shape}")
    # Every element takes bits of the payload, and torch counts to 2^63 even where there are no elements.
    if prod(shape) > 8 * payload.numel() or prod(max(length, 1) for length in shape) >= 1 << 60:
        raise BitqError(f"a packed tensor of shape {entry.shape} has more than {payload.numel()} bytes; write it anew")
    fmt, dtype = parse_format(entry.format), getattr(torch, entry.dtype)
    packed = Packed(payload, fmt, shape, dtype, entry.dim, entry.inner_dims, entry.exponent_bias)
    return packed.unpack().reshape(entry.shape)
