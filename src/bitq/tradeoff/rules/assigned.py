"""A plan from what each layer reads and what its weight has: a layer's output has what its readers take.

Rivals convert the operands of convolutions and linear layers. What is stored between two layers they leave open; that
it is stored as its readers take it is ours, as is all of this.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import nn

from bitq.formats import parse_format
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.rules.rule import Brought
from bitq.tradeoff.space import Choices
from bitq.tradeoff.study import Study

FLOAT32 = parse_format("f32")
"""What the tensors of a layer have that stays float: 32 bits are counted."""


def assigned(study: Study, inputs: Sequence[int], weights: Sequence[int]) -> Choices:
    """The plan of these formats of inputs and weights, by module.

    A tensor that several layers read has the finest that they take; layers that stay float read it in that, too. An
    output that no layer reads has the format of its own layer's input.
    """
    formats = study.space.formats
    plain = formats.index(FLOAT32) if FLOAT32 in formats else -1
    taken = {(module, 0): index for module, index in enumerate(inputs)}
    taken |= {(module, 2): index for module, index in enumerate(inputs)}
    for group in study.space.ties:
        readers = [taken[end] for end in group if end[1] == 0] or [taken[end] for end in group]
        stored = min((index for index in readers if index != plain), default=plain)
        taken |= dict.fromkeys(group, stored)
    return tuple((taken[module, 0], weight, taken[module, 2]) for module, weight in enumerate(weights))


def chosen(study: Study, inputs: Sequence[int], weights: Sequence[int], floating: Collection[int]) -> Choices:
    """The same where some modules stay float: float32 comes first of the formats of the study."""
    own = [0 if module in floating else index for module, index in enumerate(inputs)]
    return assigned(study, own, [0 if module in floating else index for module, index in enumerate(weights)])


def first_convolution(study: Study) -> set[int]:
    """The first module, if it is a convolution."""
    return set() if _is_linear(study, 0) else {0}


def last_linear(study: Study) -> set[int]:
    """The last module, if it is linear."""
    last = len(study.space.modules) - 1
    return {last} if _is_linear(study, last) else set()


def shortcuts(study: Study) -> set[int]:
    """Convolutions of a 1x1 window that leave positions out, which on no other path of a network would make sense."""
    return {
        module
        for module, layers in enumerate(study.space.layers)
        if (layers[0].R, layers[0].S) == (1, 1) and max(layers[0].stride) > 1
    }


def distinct(plans: Sequence[Choices], count: int) -> tuple[Choices, ...]:
    """The first plans, each once."""
    return tuple(dict.fromkeys(plans))[:count]


def _is_linear(study: Study, module: int) -> bool:
    return isinstance(study.subject.model.get_submodule(study.space.modules[module]), nn.Linear)


def finest_first(*texts: str, counted: Sequence[str] = ()) -> Brought:
    """What a rule brings, from texts of formats for all tensors."""
    return Brought(FormatSet(tuple(map(parse_format, texts))), tuple(map(parse_format, counted)))
