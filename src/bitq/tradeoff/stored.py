"""Tensors that one layer writes and others read: tied to one format, or what re-encoding them would move."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from math import prod
from typing import Literal

from bitq.calls import Points
from bitq.movement.widths import widths
from bitq.tracing import Traced
from bitq.tradeoff.groups import Group, joined
from bitq.tradeoff.space import Choice, Space, formats_in

Ends = Sequence[Sequence[tuple[str, str]]]
"""Stored tensors as `bitq.tracing.Traced.stored` has them: (module, "input" or "output") of all that meet it."""

Ties = tuple[Group, ...]
"""The same by index: (module, 0 for input, 2 for output)."""


Stored = Literal["after-activation", "paper"]
"""What is stored: the output of a layer after the elementwise functions and sums that alone read it, in one format that
its readers read; or, as in the paper, the layer's own result, each tensor of each layer in a format of its own."""


def stored_as(space: Space, traced: Traced, stored: Stored) -> Space:
    """A space of plans that store tensors so, of a network as it was traced."""
    space = space.with_activations(traced.activations)
    if stored == "paper":
        return space
    points = points_of(traced, stored, space.modules)
    return replace(tied(space, (*space.ties, *ties(space, traced.stored))), points=points)


def points_of(traced: Traced, stored: Stored, modules: Collection[str]) -> Points:
    """Where what these modules store comes out of a network; nowhere but as their own results, as in the paper."""
    return {name: calls for name, calls in traced.points.items() if name in modules and stored == "after-activation"}


def ties(space: Space, stored: Ends) -> Ties:
    """The stored tensors that two or more of a space's modules meet."""
    index = {module: number for number, module in enumerate(space.modules)}
    groups = (
        tuple((index[module], 0 if end == "input" else 2) for module, end in group if module in index)
        for group in stored
    )
    return tuple(group for group in groups if len(group) > 1)


def tied(space: Space, shared: Ties) -> Space:
    """A space in which each of these groups has one format; where outputs have those of inputs, groups that meet in a
    module are one."""
    if not space.offered.output_as_input:
        return replace(space, ties=shared)
    return replace(space, ties=joined((*shared, *(((module, 0), (module, 2)) for module in range(len(space.modules))))))


def reencoding(space: Space, stored: Ties, choices: Sequence[Choice]) -> tuple[int, int, float]:
    """What it would move to store every tensor once, in its writer's format, and re-encode it for its readers.

    For each other format that readers take, the tensor is read once in the stored format and written once in theirs,
    over the outermost boundary (our choice). A tensor without a writer is stored as its first reader takes it.

    Returns:
        Stored tensors that several layers meet; those among them with several formats; bits.
    """
    unlike, bits = 0, 0.0
    for group in stored:
        writer_first = sorted(group, key=lambda end: -end[1])
        taken = {choices[module][end]: (module, end) for module, end in reversed(writer_first)}
        module, end = writer_first[0]
        own = choices[module][end]
        unlike += len(taken) > 1
        others = [(reader, fmt) for fmt, reader in taken.items() if fmt != own]
        bits += sum(_bits(space, *reader, own) + _bits(space, *reader, fmt) for reader, fmt in others)
    return len(stored), unlike, bits


def _bits(space: Space, module: int, end: int, index: int) -> float:
    """Size of a module's input (0) or output (2) in a format."""
    fmt, layer = space.formats[index], space.layers[module][0]
    found = widths(layer, formats_in((fmt, fmt, fmt)))
    return prod(layer.input_shape) * found.input if end == 0 else prod(layer.output_shape) * found.output
