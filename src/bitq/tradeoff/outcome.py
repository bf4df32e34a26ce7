"""What a finished search hands over: plan.json, the packed weights, and the table of what was compared."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from math import isfinite

from torch import nn

from bitq.accuracy.kinds import kind_of, staying_float
from bitq.accuracy.quantized import UNKNOWN, Shared, calibration
from bitq.calls import Call
from bitq.devices import Device
from bitq.formats import TENSORS, Format, Ranges, Span, TensorFormats
from bitq.formats.scales import SharedExponent
from bitq.layers import GEOMETRY, LOOPS, Layer
from bitq.movement import Widths
from bitq.movement.network import traffic_bits
from bitq.movement.sweep import by_module, sweep
from bitq.movement.tiled import LevelMovement
from bitq.movement.widths import taken, widths
from bitq.multiplying import Computed, products_of
from bitq.pictures import has_pictures, pictures
from bitq.placement import alive
from bitq.store import versions
from bitq.tracing import Traced
from bitq.tradeoff.activations import placed
from bitq.tradeoff.allocate import allocate, predicted_loss
from bitq.tradeoff.alternatives import alternatives
from bitq.tradeoff.answers import offers
from bitq.tradeoff.identity import digest, formats_text
from bitq.tradeoff.measure import seeded, with_own_parameters
from bitq.tradeoff.plan import (
    Plan,
    PlanCall,
    PlanFormat,
    PlanLayer,
    PlanLevel,
    PlanRam,
    Totals,
    TrafficBits,
    float_parts,
)
from bitq.tradeoff.records import (
    SWEEP,
    Ablation,
    Baseline,
    Cost,
    DeviceFacts,
    Front,
    Measurement,
    MemoryFacts,
    Offers,
    Outcome,
    Pictures,
    Predicted,
    R,
    Reencoding,
    References,
    Role,
    Row,
    Sensitivity,
)
from bitq.tradeoff.references import reference_costs
from bitq.tradeoff.search import MIN_SLOPE, Found
from bitq.tradeoff.space import Choice, Choices, Space
from bitq.tradeoff.stored import Ties, reencoding, tied, ties
from bitq.tradeoff.study import Study
from bitq.tradeoff.uniforms import format_of
from bitq.tradeoff.weights import checksum, save_weights

PICTURES = 4
"""Test images that are drawn with what is found in them."""

WITHOUT = {"qat": "without fine-tuning", "movement": "without movement", "tradeoff": "without the trade-off"}
"""The ablations as tables name them."""


@dataclass(frozen=True)
class HandedOver:
    """What a search leaves.

    Attributes:
        plan: as in plan.json.
        rows: float32, the best uniform format (if any was measured), the plan.
        alternatives: formats that people know, as they are.
        offers: what was measured that answers what people ask.
        references: what the network costs in plain formats, by their names.
    """

    plan: Plan
    rows: tuple[Row, ...]
    alternatives: tuple[Row, ...]
    offers: Offers
    references: Mapping[str, Cost]


def hand_over(study: Study, found: Found, traced: Traced, command: str) -> HandedOver:
    """Write plan.json and weights.safetensors of the best contender and keep the outcome in the store.

    The two name each other: where a kill leaves one of them of another plan, that is told, and doing it again mends it.

    Args:
        study: that was searched.
        found: by its search.
        traced: the network.
        command: that anyone can run to get this.
    """
    best, uniform, ledger, layers = found.best, found.best_uniform, study.ledger, traced.layers
    formats = study.tensor_formats(best.plan.choices)
    rows, swept = [float_row(study)], {}
    if uniform is not None:
        name = f"best uniform {format_of(study, uniform.plan.choices)}"
        rows.append(row_of(study, name, "uniform", uniform.measured))
        swept[rows[-1].name] = by_module(layers, study.tensor_formats(uniform.plan.choices))
    name = "plan" if best is not uniform else f"plan ({best.plan.label})"
    rows.append(row_of(study, name, "plan", best.measured))
    swept[rows[-1].name] = by_module(layers, formats)

    key = outcome_key(study, formats)
    config = {"outcome": key}
    tell = ledger.listener.step
    ledger.store.get_or_run(SWEEP, config, lambda: asdict(sweep(layers, swept, study.space.device, progress=tell)))
    ledger.once(Sensitivity, config, lambda: _sensitivity(study, found))
    ledger.once(Front, config, lambda: _front(study, found))
    if study.settings.stored == "paper":
        ledger.once(Reencoding, config, lambda: _reencoding(study, found, ties(study.space, traced.stored)))
    offered = ledger.once(Offers, config, lambda: offers(study, found))
    references = ledger.once(References, {}, lambda: References(costs=dict(reference_costs(study.space))))
    usual = alternatives(study)
    ledger.once(
        Outcome,
        config,
        lambda: Outcome(
            settings=study.key,
            rows=tuple(rows),
            alternatives=usual,
            command=command,
            versions=versions(),
            seconds=sum(evaluation.seconds for evaluation in ledger.store.evaluations()),
            device=device_facts(study.space.device),
        ),
    )

    model = study.load_finetuned(best.plan)
    if has_pictures(study.subject.task.metric):
        ledger.once(Pictures, config, lambda: _pictures(study, model))
    biases = save_weights(ledger.folder.weights, model, formats, key)
    ranges = as_stored(study.space, study.ranges, calibration(model))
    computed = products_of(study.subject.model)
    planned = tuple(
        _layer(study, layer, own, best.plan.choices, computed.get(layer.module), biases, ranges)
        for layer, own in zip(layers, by_module(layers, formats), strict=True)
    )
    moved = {layer.name: (layer.movement_bits, layer.energy_pj) for layer in planned}
    ram = None
    if (arena := study.space.arena) is not None:
        own = arena.buffers(best.plan.choices)
        ram, lives = PlanRam.of(arena.activations, own, placed(own)), alive(own)
        planned = tuple(
            each.model_copy(update={"ram_bytes": lives[step]}) for each, step in zip(planned, traced.steps, strict=True)
        )
    plan = Plan(
        network=study.subject.name,
        device=study.space.device.name,
        bits=study.space.offered.grid_bits,
        alpha=study.settings.alpha,
        metric=study.measure,
        layers=planned,
        totals=Totals.of(rows[-1], rows[0], study.space.movement_max),
        ram=ram,
        stays_float=float_parts(staying_float(study.subject.model, layers), moved),
        outcome=key,
        weights=checksum(ledger.folder.weights),
    )
    plan.save(ledger.folder.plan)
    return HandedOver(plan, tuple(rows), usual, offered, references.costs)


def _pictures(study: Study, model: nn.Module) -> Pictures:
    """What the float network and the plan's network find in the first test images."""
    subject = study.subject

    def of(network: nn.Module) -> tuple[str, ...]:
        with seeded():
            found = pictures(with_own_parameters(network).eval(), subject.data.test, subject.task.metric, PICTURES)
        return tuple(base64.b64encode(each).decode() for each in found)

    return Pictures(float32=of(subject.model), plan=of(model))


def as_stored(space: Space, met: Mapping[str, Ranges], ranges: Mapping[str, Ranges]) -> dict[str, Ranges]:
    """The ranges of a plan, in which what reads a stored tensor has the range that it was written with.

    Args:
        space: with the tensors that are stored once.
        met: calibration. An input that met what another layer's output met is that tensor.
        ranges: of each end by itself; only that of the layer that writes is computed with.
    """
    found = dict(ranges)
    for group in space.ties if space.points else ():
        writers = [space.modules[module] for module, end in group if end == 2]
        readers = [space.modules[module] for module, end in group if end == 0]
        for writer, reader in product(writers, readers):
            if met[reader].input == met[writer].output:
                found[reader] = found[reader]._replace(input=ranges[writer].output)
    return found


def outcome_key(study: Study, formats: dict[str, TensorFormats]) -> str:
    """By which a plan finds what led to it: a digest of all settings and of the plan's formats."""
    return digest((study.key, formats_text(formats)))


def note_ablation(study: Study, other: Study, found: Found) -> Ablation:
    """The row of a search that went without something, kept for the report of `study`; plan.json stays as it is."""
    name = WITHOUT[other.settings.without or ""]
    return _noted(study, Ablation(**dict(row_of(other, name, "ablation", found.best.measured))))


def note_baseline(study: Study, name: str, measured: Measurement) -> Baseline:
    """The row of a measured plan that another rule chose, kept for the report of `study`; plan.json stays as it is."""
    return _noted(study, Baseline(**dict(row_of(study, name, "baseline", measured))))


def _noted(study: Study, row: R) -> R:
    return study.ledger.once(type(row), {"settings": study.key, "row": row.model_dump()}, lambda: row)


def row_of(study: Study, name: str, role: Role, measured: Measurement) -> Row:
    """A measured plan as a row of a table."""
    reached = study.objective(measured.test, measured.movement_bits)
    return Row(name=name, role=role, accuracy=measured.test, objective=reached, **measured.figures())


def float_row(study: Study) -> Row:
    """The network as it came, as a row of a table."""
    cost, accuracy = study.space.float_cost, study.float_accuracy.test
    reached = study.objective(accuracy, cost.movement_bits)
    return Row(name="float32", role="float32", accuracy=accuracy, objective=reached, **cost.figures())


def device_facts(device: Device) -> DeviceFacts:
    """What a report needs to know of a device."""
    memories = (
        MemoryFacts(
            name=memory.name,
            capacity_bits=memory.capacity_bits if isfinite(memory.capacity_bits) else None,
            energy_pj_per_bit=memory.energy_pj_per_bit,
            note=memory.note,
        )
        for memory in device.memories
    )
    return DeviceFacts(
        name=device.name,
        title=device.title,
        memories=tuple(memories),
        partial_sum_bits=device.partial_sum_bits,
    )


def _front(study: Study, found: Found) -> Front:
    """What is predicted for the best plans."""
    float32 = study.float_accuracy.validation
    return Front(
        points=tuple(
            Predicted(accuracy=float32 - found.curve.lost(each.score), movement_bits=each.cost.movement_bits)
            for each in found.candidates
        )
    )


def _reencoding(study: Study, found: Found, shared: Ties) -> Reencoding:
    """What re-encoding shared tensors would move, and what is predicted to change if they have one format each."""
    scores, curve, space, best = study.scores, found.curve, study.space, found.best.plan.choices
    weight = study.settings.alpha / max(curve.slope(predicted_loss(scores, best)), MIN_SLOPE)

    def least(choices: Sequence[Choice]) -> float:
        accuracy = study.float_accuracy.validation - curve.lost(predicted_loss(scores, choices))
        return study.objective(accuracy, space.cost(choices, placed=False).movement_bits)

    independent = least(allocate(space, scores, weight))
    together = least(allocate(tied(space, shared), scores, weight)) if shared else independent
    tensors, unlike, bits = reencoding(space, shared, best)
    return Reencoding(tensors=tensors, unlike=unlike, bits=bits, independent=independent, tied=together)


def _sensitivity(study: Study, found: Found) -> Sensitivity:
    """By module, tensor and format, the accuracy that the format costs there after fine-tuning, near the plan."""
    scores = study.scores
    slope = found.curve.slope(predicted_loss(scores, found.best.plan.choices))
    return Sensitivity(
        scores={
            module: {
                tensor: {
                    str(fmt): slope * float(value)
                    for fmt, value in zip(study.formats(module, tensor), row, strict=True)
                    if isfinite(value)
                }
                for tensor, row in zip(TENSORS, table, strict=True)
            }
            for module, table in zip(study.space.modules, scores, strict=True)
        }
    )


def _layer(
    study: Study,
    layer: Layer,
    formats: TensorFormats,
    choices: Choices,
    computed: Computed | None,
    biases: Mapping[str, int],
    ranges: Mapping[str, Ranges],
) -> PlanLayer:
    formats = taken(layer, formats)
    module = study.subject.model.get_submodule(layer.module) if formats.weight else None
    kind = None if module is None else kind_of(module)
    q = widths(layer, formats, study.space.device.partial_sum_bits)
    seen = ranges.get(layer.module, UNKNOWN)
    return PlanLayer(
        name=layer.name,
        module=layer.module,
        loops={loop: getattr(layer, loop) for loop in LOOPS},
        groups=layer.groups,
        **{name: getattr(layer, name) for name in GEOMETRY},
        transposed=kind is not None and kind.transposed,
        table=layer.table,
        depth=layer.depth,
        weight_is_parameter=layer.weight_is_parameter,
        input=_activation(formats.input, seen.input),
        parameter=computed if isinstance(computed, str) else None,
        computed_by=PlanCall.of(computed) if isinstance(computed, Call) else None,
        weight=(
            _weight(formats.weight, biases.get(layer.module))
            if layer.weight_is_parameter
            else _activation(formats.weight, seen.weight)
        ),
        output=_activation(formats.output, seen.output),
        stored_at=tuple(map(PlanCall.of, study.space.points.get(layer.module, ()))),
        levels=tuple(_level(level, q) for level in study.space.levels(layer, q, choices)),
    )


def _weight(fmt: Format | None, bias: int | None) -> PlanFormat | None:
    if fmt is None:
        return None
    return PlanFormat.of(fmt, bias if isinstance(fmt.scale, SharedExponent) else None)


def _activation(fmt: Format | None, own: Span | None) -> PlanFormat | None:
    if fmt is None:
        return None
    shared = Shared.of(fmt, own or (0.0, 0.0))
    return PlanFormat.of(fmt, shared.exponent_bias, shared.tensor_range)


def _level(level: LevelMovement, q: Widths) -> PlanLevel:
    return PlanLevel(
        memory=level.memory,
        source=level.source,
        permutation=level.tiling.permutation,
        tiles=dict(level.tiling.tiles),
        traffic_bits=TrafficBits(**traffic_bits(level.traffic, q)),
        energy_pj=level.energy_pj,
        lower_bound_bits=level.lower_bound_bits,
    )
