"""Random states that stay as they are, whoever draws from them meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch

DEEPEST = 3
"""Attributes of attributes of a data loader that are looked through for generators: its sampler's sampler's."""


@contextmanager
def random_states_kept(*holders: object, devices: Sequence[torch.device] | None = None) -> Iterator[None]:
    """Inside, whatever draws random numbers leaves no trace.

    Kept are the global generators of Python, NumPy and PyTorch, and those in attributes of the holders.

    Args:
        holders: data loaders, with their samplers and data sets.
        devices: whose generators PyTorch keeps beside the CPU's; by default those of all of them.
    """
    own = [putting_back for holder in holders for putting_back in _own(holder, DEEPEST)]
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for put_back in own:
            put_back()


def _own(holder: object, depth: int) -> Iterator[Callable[[], Any]]:
    """What puts the states of a holder's generators back."""
    match holder:
        case torch.Generator():
            yield partial(holder.set_state, holder.get_state())
        case random.Random():
            yield partial(holder.setstate, holder.getstate())
        case np.random.RandomState():
            yield partial(holder.set_state, holder.get_state())
        case np.random.Generator():
            yield partial(setattr, holder.bit_generator, "state", holder.bit_generator.state)
        case _ if depth and not isinstance(holder, torch.Tensor | torch.nn.Module | ModuleType | type):
            for value in list(getattr(holder, "__dict__", {}).values()):
                yield from _own(value, depth - 1)
