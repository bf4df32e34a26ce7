"""What a network reaches and costs in the formats that people would pick without a search."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain

from bitq.accuracy.quantized import apply
from bitq.formats import Choosable, TensorFormats, formats_of
from bitq.layers import Layer
from bitq.movement.widths import weight_size, widths
from bitq.tradeoff.activations import buffers, placed
from bitq.tradeoff.identity import formats_text
from bitq.tradeoff.measure import evaluate
from bitq.tradeoff.records import Alternative, Cost, Row
from bitq.tradeoff.references import moved_bits
from bitq.tradeoff.space import Space, energy_pj, formats_in
from bitq.tradeoff.study import Study

USUAL = ("float16", "int8", "int4", "mxint8", "mxfp4")
"""Formats that people know, each for all tensors."""


def alternatives(study: Study, names: Sequence[str] = USUAL) -> tuple[Row, ...]:
    """A row for each of these formats: measured on test data as it is, with the calibration and the movement of plans.

    What was measured before is not measured again.
    """
    candidates = {name: candidate for name in names for candidate in formats_of(name) if candidate is not None}
    costs = dict(zip(candidates, uniform_costs(study.space, tuple(candidates.values())), strict=True))
    found = []
    for done, (name, candidate) in enumerate(candidates.items()):
        study.ledger.listener.step("measuring formats that people know", done, len(candidates))
        found.append(_row(study, name, candidate, costs[name]))
    return tuple(found)


def uniform_costs(space: Space, candidates: tuple[Choosable, ...]) -> tuple[Cost, ...]:
    """What a network costs with each of some formats for all tensors, whether or not its space has them."""
    kinds = [formats_in((each,) * 3) for each in candidates]

    def each(layer: Layer) -> list[list[float]]:
        return [[own.input, own.weight, own.output] for own in (widths(layer, formats) for formats in kinds)]

    bits = space.fixed_bits + moved_bits(chain(*space.layers), space.device, each)
    return tuple(
        Cost.of_levels(row.tolist(), energy_pj(space.device, row), _stored(space, formats), _ram(space, formats))
        for row, formats in zip(bits, kinds, strict=True)
    )


def _row(study: Study, name: str, candidate: Choosable, cost: Cost) -> Row:
    ranges, modules = study.ranges, study.space.modules
    formats = {module: formats_in((candidate,) * 3, ranges[module]) for module in modules}

    def measure() -> Alternative:
        model = copy.deepcopy(study.subject.model).eval()
        apply(model, formats, study.ranges_for(formats), points=study.space.points)
        reached = evaluate(model, study.subject.data.test, study.subject.task).accuracy
        return Alternative(accuracy=reached, **cost.figures())

    config = {"formats": formats_text(formats), "ranges": study.settings.ranges, **study.stored}
    found = study.ledger.once(Alternative, config, measure)
    reached = study.objective(found.accuracy, found.movement_bits)
    return Row(name=name, role="alternative", accuracy=found.accuracy, objective=reached, **found.figures())


def _ram(space: Space, formats: TensorFormats) -> int | None:
    if space.activations is None:
        return None
    chosen = {layer.name for layers in space.layers for layer in layers}

    def bits(layer: Layer, tensor: str) -> float:
        own: float = getattr(widths(layer, formats if layer.name in chosen else TensorFormats()), tensor)
        return own

    return placed(buffers(space.activations, bits)).peak


def _stored(space: Space, formats: TensorFormats) -> int:
    return space.other_bytes + sum(weight_size(layers[0], formats.weight) for layers in space.layers)
