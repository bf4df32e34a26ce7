"""Memory that runs out, told as what it is, wherever networks are run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bitq.errors import BitqError

_SIGNS = ("DefaultCPUAllocator", "can't allocate memory", "out of memory", "ALLOC_FAILED")
"""In messages of PyTorch's that have no class of their own: its allocator on the CPU, other accelerators, cuBLAS."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@contextmanager
def memory_told(doing: str) -> Iterator[None]:
    """Inside, memory that runs out is told in one sentence.

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
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise BitqError(
            f"memory ran out while {doing} ({reason}); give smaller batches (--batch-size) or a smaller network"
        ) from error
