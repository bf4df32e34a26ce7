"""Memory that is too little, told before work starts where that is known, and else as what it is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path

import torch

from bitq.errors import BitqError

_SIGNS = ("DefaultCPUAllocator", "can't allocate memory", "out of memory", "ALLOC_FAILED")
"""In messages of PyTorch's that have no class of their own: its allocator on the CPU, other accelerators, cuBLAS."""

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_WANTED = re.compile(rf"allocate (\d+\.?\d*) ({'|'.join(_UNITS)}|[KMGTPE]B)")
_LOWER = "lower the size of images (--image-size), of batches (--batch-size) or their number (--limit)"
_CONTAINERS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux tells how much memory a container may have, in its newer and its older way."""


def size_text(size: float) -> str:
    """Bytes for a reader, such as "139.7 GiB"."""
    power = 0
    while size >= 1024 and power < len(_UNITS) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.4g} {_UNITS[power]}"


def machine_bytes() -> float:
    """Bytes of memory that all processes of this machine, or of this container, can have; inf if nobody tells."""
    found = [inf]
    with suppress(AttributeError, ValueError, OSError):  # no such question on this system
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _CONTAINERS:
        try:
            text = Path(path).read_text().strip()
        except (OSError, ValueError):
            continue
        found += [int(text)] if text.isdecimal() else []
    return min(found)


def check_fits(wanted: float, what: str, instead: str = _LOWER) -> None:
    """Refuse what can never fit.

    Args:
        wanted: bytes that are held at once.
        what: they are, such as "the arrays of data.npz".
        instead: what the user can do.

    Raises:
        BitqError: this machine has less memory.
    """
    if wanted > (most := machine_bytes()):
        raise BitqError(f"{what} take {size_text(wanted)} of memory and this machine has {size_text(most)}; {instead}")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@contextmanager
def memory_told(doing: str) -> Iterator[None]:
    """Inside, memory that runs out is told in one sentence, with how much was wanted where that is known.

    Args:
        doing: what needs the memory, such as "fine-tuning".

    Raises:
        BitqError: there was not enough memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        wanted = _wanted(str(error))
        more = "" if wanted is None else f" when {size_text(wanted)} more were wanted"
        raise BitqError(f"memory ran out while {doing}{more}; {_LOWER}, or take a smaller network") from error


def _wanted(message: str) -> float | None:
    """Bytes that could not be had, from the message of PyTorch or NumPy."""
    found = _WANTED.search(message)
    if found is None:
        return None
    power = 0 if found[2] == _UNITS[0] else "KMGTPE".index(found[2][0]) + 1
    return float(found[1]) * 1024.0**power
