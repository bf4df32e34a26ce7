"""Memory that a training step frees is what the next one needs: told to the C library's allocator."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # mallopt(3)
KEEPING = {M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 << 20, M_MMAP_THRESHOLD: 2**31 - 1}
USUAL = {M_TRIM_THRESHOLD: 64 << 20, M_TOP_PAD: 128 << 10, M_MMAP_THRESHOLD: 32 << 20}
"""What glibc itself comes to after it has seen large tensors."""


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Inside, freed memory stays with the process, and goes back to the system at the end; glibc only, else nothing.

    glibc returns large tensors to the system as soon as they are freed, and every step of a training meets the same
    pages again one page fault at a time: a quarter of the time of a CIFAR ResNet-20 (`benchmarks/qat.py`).
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "gnu_get_libc_version"):
        yield
        return
    try:
        for option, most in KEEPING.items():
            library.mallopt(option, most)
        yield
    finally:
        for option, usual in USUAL.items():
            library.mallopt(option, usual)
        library.malloc_trim(0)
