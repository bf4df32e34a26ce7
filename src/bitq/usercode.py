"""Exceptions out of code that the user gave, told as the user's: which, and in which file and line."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

import torch
from torch import nn

from bitq.errors import BitqError, shortened
from bitq.memory import out_of_memory

MOST_REASON = 200
"""Characters of an exception's own words that are repeated."""

_ELSEWHERE = "Original Traceback (most recent call last):"
"""Stands in the message of an exception that PyTorch brings from a process of a DataLoader, or from another thread."""

_FRAME = re.compile(r'^ *File "(.+)", line (\d+)', re.MULTILINE)
_NOT_THEIRS = (Path(__file__).parent, Path(inspect.getfile(torch)).parent)
_STANDARD = Path(os.__file__).parent
_INSTALLED = {"site-packages", "dist-packages"}


class UserCodeError(BitqError):
    """An exception out of the user's own network, loss, metric or data, which is this one's `__cause__`.

    Out of a Ray worker, `__cause__` has its traceback as text.
    """


@contextmanager
def users_own(doing: Callable[[], str], model: nn.Module | None = None) -> Iterator[None]:
    """Inside, code of the user's runs, and an exception out of it is told as the user's.

    Memory that runs out and a device that fails are nobody's: they pass as they are, and so does what bitq tells.

    Args:
        doing: gives the begin of the sentence, such as "the metric failed".
        model: the network, where it may be at work.

    Raises:
        UserCodeError: from the exception.
    """
    try:
        yield
    except BitqError:
        raise
    except Exception as error:
        if out_of_memory(error) or _words(error).startswith("CUDA error"):
            raise
        raise UserCodeError(f"{doing()}: {reason(error, model)}") from error


def reason(error: BaseException, model: nn.Module | None = None) -> str:
    """An exception in a line: its class, its first words, and where it came from as far as that helps.

    That is the innermost line of the user's own code; else one of an installed package beside PyTorch; else the module
    of the network that was running.

    Args:
        error: as it was caught.
        model: the network, where it may have been at work.
    """
    frames = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    frames += [(file, int(line)) for file, line in _FRAME.findall(_words(error).partition(_ELSEWHERE)[2])]
    where = _place(frames) or (model is not None and _module(error, model))
    return summary(error) + (f" ({where})" if where else "")


def summary(error: BaseException) -> str:
    """An exception's class and its first words; those that it had where it was raised."""
    words = _words(error)
    told = words.rstrip().rpartition("\n")[2] if _ELSEWHERE in words else f"{type(error).__name__}: {words}"
    return shortened(told.partition("\n")[0].removesuffix(": "), MOST_REASON)


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a class of the user's own whose text fails
        return ""


def _place(frames: list[tuple[str, int]]) -> str:
    """The innermost frame of those that are the user's, or else an installed package's."""
    nearness = [_nearness(file) for file, _ in frames]
    if not any(nearness):
        return ""
    last = len(nearness) - 1 - nearness[::-1].index(max(nearness))
    file, line = frames[last]
    path, here = Path(file), Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}, line {line}"


def _nearness(file: str) -> int:
    """How likely the user looks after a file: 2 for one of the user's own, 1 for an installed package's, else 0."""
    path = Path(file)
    if file.startswith("<frozen ") or any(folder in path.parents for folder in _NOT_THEIRS):
        return 0
    if _INSTALLED & {*path.parts}:
        return 1
    return 0 if _STANDARD in path.parents else 2


def _module(error: BaseException, model: nn.Module) -> str:
    """The innermost module of a network that was running."""
    names = {id(module): name for name, module in model.named_modules()}
    for frame, _ in reversed(list(walk_tb(error.__traceback__))):
        name = names.get(id(frame.f_locals.get("self")))
        if name:
            return f"in module {name!r}"
    return ""
