"""Inputs of a network that are not one image: the option --input of commands that need its layers only."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from random import Random
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitq.cli.inputs import DATA_OPTIONS
from bitq.errors import BitqError, shortened

if TYPE_CHECKING:
    from torch import nn

MOST_ELEMENTS, MOST_AXES, MOST_INPUTS = 10**12, 16, 64
EXAMPLE = "ids:int64[1,128]"
_INTEGERS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
DTYPES = ("float32", "float64", "float16", "bfloat16", "bool", "uint8", *_INTEGERS)
_INPUT = re.compile(r"(?:(?P<name>.+):)?(?P<dtype>\w+)\[(?P<shape>[^][]*)\](?::(?P<least>.+)\.\.(?P<most>.+))?")

Shape = tuple[int, ...]
METAVAR = "[NAME:]DTYPE[SHAPE]"
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar=METAVAR,
        help="An input of a network that takes several, or other than floating-point numbers: its name, type and shape "
        f"in elements, such as {EXAMPLE.replace('[', chr(92) + '[')}; give it once for each. Without names they are "
        "taken in order. Types: " + ", ".join(DTYPES) + ". Values may be said to lie in a range, as in "
        "start:int64\\[]:0..9: only a single number, of shape \\[], is looked at (drawn by seed 0), all else moves "
        "the same bits whatever it holds.",
    ),
]
TracedOn = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar=METAVAR,
        help="What movement is counted for, where it is not the first input of the validation data, such as sequences "
        f"of another length: {EXAMPLE.replace('[', chr(92) + '[')}; once for each input, as for `bitq movement`.",
        rich_help_panel=DATA_OPTIONS,
    ),
]


@dataclass(frozen=True)
class Input:
    """One of a network's inputs, as it was given.

    Attributes:
        name: of the network's parameter, None if the place tells.
        dtype: one of `DTYPES`.
        shape: in elements.
        span: least and largest value.
    """

    name: str | None
    dtype: str
    shape: Shape
    span: tuple[float, float]

    def __str__(self) -> str:
        name = f"{self.name}:" if self.name else ""
        return f"{name}{self.dtype}[{','.join(map(str, self.shape))}]"

    def example(self) -> Any:
        """A tensor without data, or a single number drawn by seed 0 from the span."""
        import torch

        dtype = getattr(torch, self.dtype)
        if self.shape:
            return torch.empty(self.shape, dtype=dtype, device="meta")
        least, most = self.span
        drawn = Random(0)
        whole = isinstance(least, int) and isinstance(most, int)
        number = drawn.randint(int(least), int(most)) if whole else drawn.uniform(least, most)
        return torch.tensor(number, dtype=dtype)


def read_inputs(texts: Sequence[str]) -> tuple[Input, ...]:
    """What the texts of --input say.

    Raises:
        BitqError: one of them is not written as it must be, is too large, or has the name of another.
    """
    if len(texts) > MOST_INPUTS:
        raise BitqError(f"--input is given {len(texts)} times; networks have at most {MOST_INPUTS} inputs")
    found: list[Input] = []
    for text in texts:
        each = _read(text)
        if each.name is not None and each.name in [other.name for other in found]:
            raise BitqError(f"--input is given twice for {shortened(each.name)!r}; give it once")
        found.append(each)
    return tuple(found)


def example_of(texts: Sequence[str] | None, model: nn.Module, network: str) -> Any:
    """What `bound` makes of the inputs in the texts of --input; None without any.

    Raises:
        BitqError: as `read_inputs` and `bound`.
    """
    return bound(read_inputs(texts), model, network) if texts else None


def bound(inputs: Sequence[Input], model: nn.Module, network: str) -> Any:
    """Examples of the inputs as a network is called with them: by place, or by name if one has a name.

    Raises:
        BitqError: an input that the network does not take, or one that it needs and is not given.
    """
    from bitq.batches import parameters

    takes = parameters(model)
    nameless = [each for each in inputs if each.name is None]
    free = [name for name in takes.names if name not in {each.name for each in inputs}]
    known = ", ".join(takes.names) or "none"
    if not takes.any_names and (wrong := [each.name for each in inputs if each.name and each.name not in takes.names]):
        raise BitqError(f"network {shortened(network)!r} has no input {shortened(wrong[0])!r}; its inputs are {known}")
    if not takes.any_number and len(nameless) > len(free):
        raise BitqError(f"network {shortened(network)!r} has {len(takes.names)} inputs ({known}), not {len(inputs)}")
    by_place = dict(zip(free, nameless, strict=False))
    given = {each.name for each in inputs} | by_place.keys()
    if lacking := [name for name in takes.needed if name not in given]:
        advice = f'--input "{lacking[0]}:float32[1,3]"'
        raise BitqError(f"network {shortened(network)!r} needs input {lacking[0]!r}, too; give it, such as {advice}")
    if len(nameless) == len(inputs):
        return tuple(each.example() for each in inputs)
    named = {each.name: each for each in inputs if each.name is not None}
    return {name: each.example() for name, each in (by_place | named).items()}


def shape_of(text: str, given: str, needed: str) -> Shape:
    """The extents in `text`, separated by commas.

    Args:
        text: of them.
        given: what it stands in, for messages.
        needed: what would be right.

    Raises:
        BitqError: no whole numbers above 0, or more of them or of elements than any tensor has.
    """
    try:
        shape = tuple(int(extent) for extent in text.split(",")) if text.isascii() and "_" not in text else (0,)
    except ValueError:
        shape = (0,)
    if min(shape) < 1:
        raise BitqError(f"{given} must be whole numbers above 0, such as {needed}")
    if len(shape) > MOST_AXES:
        raise BitqError(f"{given} has {len(shape)} axes; it must have at most {MOST_AXES}")
    if prod(shape) > MOST_ELEMENTS:
        raise BitqError(f"{given} has over {MOST_ELEMENTS} elements; it must have fewer")
    return shape


def _read(text: str) -> Input:
    given = f"--input {shortened(text)!r}"
    match = _INPUT.fullmatch(text)
    if match is None:
        raise BitqError(f"{given} must read [NAME:]DTYPE[SHAPE], such as {EXAMPLE}")
    name, dtype, shape, least, most = match.groups()
    if dtype not in DTYPES:
        raise BitqError(f"{given} has the type {shortened(dtype)!r}; it must be one of {', '.join(DTYPES)}")
    extents = shape_of(shape, f"the shape of {given}", EXAMPLE) if shape.strip() else ()
    return Input(name, dtype, extents, _span(dtype, least, most, given))


def _span(dtype: str, least: str | None, most: str | None, given: str) -> tuple[float, float]:
    """The range of an input's values: as it is given, else 0 and 1."""
    if least is None or most is None:
        return (0, 1) if _limits(dtype) else (0.0, 1.0)
    limits = _limits(dtype)
    number: Callable[[str], float] = int if limits else float
    try:
        span = number(least), number(most)
    except ValueError:
        span = (1, 0)
    largest = 65504.0 if dtype == "float16" else 3e38
    low, high = limits or (-largest, largest)
    if not low <= span[0] <= span[1] <= high:
        kind = f"whole numbers from {low} to {high}" if limits else f"numbers from {low:g} to {high:g}"
        raise BitqError(f"{given} must end in a range LEAST..MOST of {kind}, such as {'0..1' if high < 9 else '0..9'}")
    return span


def _limits(dtype: str) -> tuple[int, int] | None:
    """Of whole numbers; None for floating-point types."""
    whole: Mapping[str, tuple[int, int]] = {"bool": (0, 1), "uint8": (0, 255)}
    if dtype in _INTEGERS:
        return -(2 ** (_INTEGERS[dtype] - 1)), 2 ** (_INTEGERS[dtype] - 1) - 1
    return whole.get(dtype)
