"""What an ONNX file says, without the values of its weights.

Files are untrusted, and decoding one takes many times the memory of what is in it. An ONNX file is a protocol buffer
(protobuf.dev/programming-guides/encoding): a message is a row of fields, each a tag, a length where the value needs
one, and the value, which may be a message in turn. They are walked here one by one, as they lie on the disk. Values of
large tensors and what is written for people are skipped; what stays is counted before anything is made of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from bitq.errors import BitqError
from bitq.outside import opened_outside

MOST_BYTES = 2**31 - 1  # of a protocol buffer
MOST_FIELDS = 1_500_000
MOST_KEPT_BYTES = 1 << 26
MOST_DEPTH = 60
LONGEST_TEXT = 4096
"""Bytes of a name."""

LARGE_BYTES = 1 << 14
"""Values of a tensor that take more are weights, not what shapes follow from."""

DATA_FIELDS = (
    *("raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data"),
    *("external_data", "data_location"),
)
_UNREAD = {"doc_string", "metadata_props", "training_info", "quantization_annotation"}
_VARINT, _EIGHT, _SIZED, _FOUR = 0, 1, 2, 5  # how a value is written
_LONGEST_HEAD = 20  # bytes of a tag and a length

Read = Callable[[int, int], bytes]
"""Gives the bytes from a place up to another."""


class _DamagedError(ValueError):
    """Bytes that are no message."""


class _Field(NamedTuple):
    """What a field holds: messages of a kind, text, values of a tensor, or (none of them) anything else."""

    message: Any
    text: bool
    data: bool


def skeleton(path: Path) -> bytes:
    """An encoded `onnx.ModelProto` that is the file's, without texts for people and without values of large tensors.

    Raises:
        BitqError: no regular file, or one over 2 GiB, damaged, or with more in it than any network has.
    """
    with opened_outside(path, MOST_BYTES, "an ONNX file") as file:

        def read(start: int, end: int) -> bytes:
            file.seek(start)
            return file.read(end - start)

        try:
            return b"".join(_Walk(path).kept(onnx.ModelProto.DESCRIPTOR, read, 0, file.seek(0, 2), 0))
        except UnicodeDecodeError as error:
            raise BitqError(f"{path} is damaged: it has a name that is no UTF-8") from error
        except _DamagedError as error:
            raise BitqError(f"{path} is damaged, or no ONNX file") from error


class _Walk:
    """Through one file; counts what is kept of it."""

    def __init__(self, path: Path) -> None:
        self._path, self._fields, self._bytes = path, 0, 0

    def kept(self, message: Any, source: bytes | Read, at: int, end: int, depth: int) -> list[bytes]:
        """What is kept of a message that lies between two places, encoded."""
        if depth > MOST_DEPTH:
            raise BitqError(f"{self._path} nests graphs too deep; control flow of a network is flatter")
        fields = _fields(message)
        parts: list[bytes] = []
        while at < end:
            head, first = (source, at) if isinstance(source, bytes) else (source(at, min(at + _LONGEST_HEAD, end)), 0)
            tag, begin = _varint(head, first)
            wire, after_tag, size = tag & 7, begin, 0
            if wire == _SIZED:
                size, begin = _varint(head, begin)
            elif wire == _VARINT:
                size = _varint(head, begin)[1] - begin
            elif wire in (_EIGHT, _FOUR):
                size = 8 if wire == _EIGHT else 4
            else:
                raise _DamagedError
            start = at + begin - first
            at = start + size
            if at > end:
                raise _DamagedError
            self._fields += 1
            if self._fields > MOST_FIELDS:
                raise BitqError(f"{self._path} has over {MOST_FIELDS} entries; the file of a network has fewer")
            field = fields.get(tag >> 3)
            if field is None or (field.data and size > LARGE_BYTES):
                continue
            if field.message is None:
                parts += (head[first:begin], self._value(field, source, start, at))
            elif wire == _SIZED:
                if not isinstance(source, bytes) and size <= LARGE_BYTES:
                    inner = b"".join(self.kept(field.message, source(start, at), 0, size, depth + 1))
                else:
                    inner = b"".join(self.kept(field.message, source, start, at, depth + 1))
                parts += (head[first:after_tag], _encoded(len(inner)), inner)
        return parts

    def _value(self, field: _Field, source: bytes | Read, start: int, end: int) -> bytes:
        size = end - start
        if field.text and size > LONGEST_TEXT:
            raise BitqError(f"{self._path} has a name of {size} bytes; it must have at most {LONGEST_TEXT}")
        self._bytes += size
        if self._bytes > MOST_KEPT_BYTES:
            raise BitqError(f"{self._path} has over {MOST_KEPT_BYTES} bytes beside weights; a network's file has fewer")
        value = source[start:end] if isinstance(source, bytes) else source(start, end)
        if field.text and not value.isascii():
            value.decode()
        return value


@cache
def _fields(message: Any) -> dict[int, _Field]:
    """The fields of a message that are not left out, by their numbers."""
    tensor = message.name == "TensorProto"
    return {
        field.number: _Field(field.message_type, field.type == field.TYPE_STRING, tensor and field.name in DATA_FIELDS)
        for field in message.fields
        if field.name not in _UNREAD
    }


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, seven bits in each byte, the lowest first; and where it ends."""
    if at < len(data) and data[at] < 128:  # most have one byte
        return data[at], at + 1
    number = 0
    for shift, byte in zip(range(0, 70, 7), data[at : at + 10], strict=False):
        if byte < 128:
            return number | byte << shift, at + shift // 7 + 1
        number |= (byte & 127) << shift
    raise _DamagedError


def _encoded(number: int) -> bytes:
    if number < 128:
        return bytes((number,))
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
