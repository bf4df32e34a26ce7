"""What a finished search hands over: plan.json, the packed weights, and the table of what was compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import prod

from torch import nn

from bitq.accuracy.kinds import kind_of
from bitq.accuracy.quantized import UNKNOWN
from bitq.accuracy.sensitivity import TENSORS
from bitq.formats import BlockFormat, TensorFormats
from bitq.layers import LOOPS, Layer
from bitq.movement import Widths
from bitq.movement.levels import LevelMovement, movement
from bitq.movement.network import traffic_bits
from bitq.movement.sweep import by_module, sweep
from bitq.movement.widths import taken, widths
from bitq.numerics import exponent_bias_for
from bitq.store import Json, versions
from bitq.tradeoff.allocate import allocate, predicted_loss
from bitq.tradeoff.plan import Plan, PlanFormat, PlanLayer, PlanLevel, Totals, TrafficBits
from bitq.tradeoff.run import Run
from bitq.tradeoff.search import MIN_SLOPE, Contender, Found
from bitq.tradeoff.space import Choice
from bitq.tradeoff.stored import Ties, reencoding
from bitq.tradeoff.weights import PLAN, WEIGHTS, save_weights

WITHOUT = {"qat": "without fine-tuning", "movement": "without movement", "tradeoff": "without the trade-off"}
"""The ablations as tables name them."""


@dataclass(frozen=True)
class Row:
    """One line of the table: what a network in these formats costs and how good it is on the test data."""

    name: str
    accuracy: float
    dram_bits: float
    on_chip_bits: float
    movement_bits: float
    energy_pj: float
    model_bytes: int
    objective: float


def hand_over(
    run: Run, found: Found, layers: Sequence[Layer], shared: Ties, command: str
) -> tuple[Plan, tuple[Row, ...]]:
    """Write plan.json and weights.safetensors of the best contender and note the outcome in the store.

    Args:
        run: the finished run.
        found: by its search.
        layers: the traced network.
        shared: its tensors that several layers meet.
        command: that anyone can run to get this.

    Returns:
        The plan, and the rows float32, best uniform format (if any was measured), plan.
    """
    best = found.contenders[0]
    model = run.load_finetuned(best.choices)
    formats = run.space.tensor_formats(best.choices)
    biases = save_weights(run.folder / WEIGHTS, model, formats)
    plan = _plan(run, best, layers, formats, biases)
    plan.save(run.folder / PLAN)

    uniform = next((contender for contender in found.contenders if contender.is_uniform), None)
    rows, swept = [_float_row(run)], {}
    if uniform is not None:
        rows.append(_row(run, f"best uniform {uniform.label.removeprefix('uniform ')}", uniform.result))
        swept[rows[-1].name] = by_module(layers, run.space.tensor_formats(uniform.choices))
    rows.append(_row(run, "plan" if best is not uniform else f"plan ({best.label})", best.result))
    swept[rows[-1].name] = by_module(layers, formats)

    config = {
        "alpha": run.settings.alpha,
        "plan": [list(choice) for choice in best.choices],
        "without": run.settings.without,
        "tied": run.settings.tied,
    }
    run.store.get_or_run("sweep", config, lambda: asdict(sweep(layers, swept, run.space.device)))
    run.store.get_or_run("sensitivity", config, lambda: {"scores": _sensitivity(run, found, best)})
    run.store.get_or_run("front", config, lambda: _front(found))
    run.store.get_or_run("stored", config, lambda: _stored(run, found, best, shared))
    outcome = {
        "rows": [asdict(row) for row in rows],
        "command": command,
        "versions": versions(),
        "seconds": sum(evaluation.seconds for evaluation in run.store.evaluations()),
    }
    run.store.get_or_run("outcome", config, lambda: outcome)
    return plan, tuple(rows)


def note_ablation(run: Run, found: Found) -> Row:
    """The row of a search that went without something, kept for the report; plan.json stays as it is."""
    return _noted(run, "ablation", _row(run, WITHOUT[run.settings.without or ""], found.contenders[0].result))


def note_baseline(run: Run, name: str, result: Json) -> Row:
    """The row of a measured plan that another rule chose, kept for the report; plan.json stays as it is."""
    return _noted(run, "baseline", _row(run, name, result))


def _noted(run: Run, kind: str, row: Row) -> Row:
    config = {"alpha": run.settings.alpha, "without": run.settings.without, "row": asdict(row)}
    run.store.get_or_run(kind, config, lambda: asdict(row))
    return row


def _front(found: Found) -> Json:
    """What is predicted for the best plans."""
    points = [
        {
            "accuracy": found.accuracy_float - found.curve.lost(candidate.score),
            "movement_bits": candidate.cost.movement_bits,
        }
        for candidate in found.candidates
    ]
    return {"points": points}


def _stored(run: Run, found: Found, best: Contender, shared: Ties) -> Json:
    """What re-encoding shared tensors would move, and what is predicted to change if they have one format each.

    `independent` and `tied` are the least predicted O of either kind of plan.
    """
    scores, curve, space = run.scores(), found.curve, replace(run.space, ties=())
    weight = run.settings.alpha / max(curve.slope(predicted_loss(scores, best.choices)), MIN_SLOPE)

    def least(choices: Sequence[Choice]) -> float:
        accuracy = found.accuracy_float - curve.lost(predicted_loss(scores, choices))
        return run.objective(accuracy, space.cost(choices).movement_bits)

    tied = allocate(replace(space, ties=shared), scores, weight) if shared else allocate(space, scores, weight)
    return {
        **reencoding(space, shared, best.choices),
        "independent": least(allocate(space, scores, weight)),
        "tied": least(tied),
    }


def _sensitivity(run: Run, found: Found, best: Contender) -> Json:
    """By module, tensor and format, the accuracy that the format costs there after fine-tuning, near the plan."""
    scores = run.scores()
    slope = found.curve.slope(predicted_loss(scores, best.choices))
    return {
        module: {
            tensor: {str(fmt): slope * float(value) for fmt, value in zip(run.space.formats, row, strict=True)}
            for tensor, row in zip(TENSORS, table, strict=True)
        }
        for module, table in zip(run.space.modules, scores, strict=True)
    }


def _plan(
    run: Run,
    best: Contender,
    layers: Sequence[Layer],
    formats: dict[str, TensorFormats],
    biases: dict[str, int],
) -> Plan:
    space, rows = run.space, (_float_row(run), _row(run, "plan", best.result))
    totals = Totals(
        accuracy=rows[1].accuracy,
        accuracy_float=rows[0].accuracy,
        movement_bits=rows[1].movement_bits,
        movement_bits_float=rows[0].movement_bits,
        movement_bits_max=space.movement_max,
        dram_bits=rows[1].dram_bits,
        dram_bits_float=rows[0].dram_bits,
        energy_pj=rows[1].energy_pj,
        energy_pj_float=rows[0].energy_pj,
        model_bytes=rows[1].model_bytes,
        model_bytes_float=rows[0].model_bytes,
        objective=rows[1].objective,
    )
    return Plan(
        network=run.name,
        device=space.device.name,
        bits=space.formats[0].bits,
        alpha=run.settings.alpha,
        layers=tuple(_layer(run, layer, formats.get(layer.module, TensorFormats()), biases) for layer in layers),
        totals=totals,
    )


def _layer(run: Run, layer: Layer, formats: TensorFormats, biases: dict[str, int]) -> PlanLayer:
    formats = taken(layer, formats)
    kind = kind_of(run.model.get_submodule(layer.module)) if formats.weight else None
    q = widths(layer, formats, run.space.device.partial_sum_bits)
    seen = run.max_abs.get(layer.module, UNKNOWN)
    return PlanLayer(
        name=layer.name,
        module=layer.module,
        loops={loop: getattr(layer, loop) for loop in LOOPS},
        groups=layer.groups,
        transposed=kind is not None and kind.transposed,
        input=_activation(formats.input, seen.input),
        weight=_entry(formats.weight, biases[layer.module]) if formats.weight else None,
        output=_activation(formats.output, seen.output),
        levels=tuple(_level(level, q) for level in movement(layer, q, run.space.device)),
    )


def _activation(fmt: BlockFormat | None, max_abs: float | None) -> PlanFormat | None:
    return _entry(fmt, exponent_bias_for(max_abs or 0.0, fmt)) if fmt else None


def _entry(fmt: BlockFormat, bias: int) -> PlanFormat:
    return PlanFormat(bits=fmt.bits, exponent_bits=fmt.exponent_bits, block_size=fmt.block_size, exponent_bias=bias)


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


def _float_row(run: Run) -> Row:
    cost, accuracy = run.space.float_cost, run.float_accuracy()["test"]
    return Row(
        "float32",
        accuracy,
        cost.dram_bits,
        cost.on_chip_bits,
        cost.movement_bits,
        cost.energy_pj,
        cost.model_bytes,
        run.objective(accuracy, cost.movement_bits),
    )


def _row(run: Run, name: str, result: Json) -> Row:
    return Row(
        name,
        result["test"],
        result["dram_bits"],
        result["on_chip_bits"],
        result["movement_bits"],
        result["energy_pj"],
        result["model_bytes"],
        run.objective(result["test"], result["movement_bits"]),
    )


def stored_bytes(model: nn.Module) -> int:
    """What a network stores today: all parameters and buffers as they are, in bytes."""
    return sum(prod(tensor.shape) * tensor.element_size() for tensor in model.state_dict().values())
