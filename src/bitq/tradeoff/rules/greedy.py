"""Tensors lowered one after the other, in the order of what each alone loses.

Accuracy is measured with one tensor at a time in each of a few formats; tensors are then lowered in that order until
the limit of movement is met, as AIMET's automatic mixed precision does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bitq.formats import TENSORS, BlockFormat, TensorFormats, grid
from bitq.tradeoff.measure import first_inputs
from bitq.tradeoff.records import Proposal
from bitq.tradeoff.rules.limits import grid_bits, limits
from bitq.tradeoff.rules.untuned import Untuned
from bitq.tradeoff.space import Choices
from bitq.tradeoff.study import Study

BLOCK = 16
"""Block size of the formats that are chosen from, one for every mantissa width."""


def greedy(study: Study, count: int) -> Proposal:
    """A plan for each of some limits of movement.

    Raises:
        BitqError: formats other than the grid.
    """
    space, bits = study.space, grid_bits(study)
    formats = grid(bits)
    coarser = sorted({fmt.mantissa_bits for fmt in formats}, reverse=True)
    column = {m: formats.index(BlockFormat(bits, bits - m, BLOCK)) for m in coarser}
    batches = first_inputs(study.subject.model, study.subject.data.validation, study.settings.scored_inputs)
    untuned, moves = Untuned(study), []
    for module, name in enumerate(space.modules):
        study.ledger.listener.step("measuring tensors alone", module, len(space.modules))
        for number, tensor in enumerate(TENSORS):
            for step, m in enumerate(coarser[1:], 1):
                alone = replace(TensorFormats(), **{tensor: formats[column[m]]})
                moves.append((-untuned.accuracy({name: alone}, batches), step, module, number))
    plans = []
    for limit in limits(study, count):
        steps = [[0] * 3 for _ in space.modules]
        for _, step, module, number in sorted(moves):
            if space.cost(_choices(steps, coarser, column)).movement_bits <= limit:
                break
            steps[module][number] = max(steps[module][number], step)
        plans.append(_choices(steps, coarser, column))
    return Proposal(plans=tuple(plans), passes=len(moves))


def _choices(steps: Sequence[Sequence[int]], coarser: Sequence[int], column: dict[int, int]) -> Choices:
    """The plan whose tensors were lowered by so many steps."""
    return tuple((column[coarser[i]], column[coarser[w]], column[coarser[o]]) for i, w, o in steps)
