"""The layers of a run's plan, as the commands that make and read runs show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from bitq.cli.layers import (
    SHAPES,
    Line,
    alike,
    float_table,
    format_columns,
    kind,
    kind_column,
    macs_column,
    name_column,
    shape_column,
    weights_column,
)
from bitq.cli.output import bits_text, energy_text, ram_text
from bitq.cli.tables import FirstThatFits, TextColumn

if TYPE_CHECKING:
    from bitq.report.evidence import Evidence
    from bitq.tradeoff.plan import PlanLayer


def plan_tables(run: Evidence) -> list[RenderableType]:
    """Every layer of the plan, and what stays float."""
    from bitq.report.resources import flash

    plan = run.plan
    known = list(zip(plan.layers, flash(plan), _scores(run), strict=True))
    rows = alike(known, lambda row: (row[0].layer, row[0].formats))
    lines = [Line(layer.layer, layer.formats, size, count) for (layer, size, _), count in rows]
    name, kinds, shapes, macs = (make(lines) for make in (name_column, kind_column, shape_column, macs_column))
    formats, weights = format_columns(lines), weights_column(lines)
    bits = TextColumn.of("bits moved", [count * layer.movement_bits for (layer, _, _), count in rows], bits_text)
    energy = TextColumn.of("energy", [count * layer.energy_pj for (layer, _, _), count in rows], energy_text)
    known_ram = [layer.ram_bytes for (layer, _, _), _ in rows]
    told = any(each is not None for each in known_ram)
    whole = ram_text(None if plan.ram is None else plan.ram.bytes)
    ram = [TextColumn("RAM", [ram_text(each) for each in known_ram], whole)] if told else []
    score = [TextColumn.of("score", [each for (_, _, each), _ in rows], _points)] if run.sensitivity else []
    ways = (
        [[each] for each in (name, kinds, shapes, macs, *formats, bits, energy, weights, *ram, *score)],
        [[name, shapes], [kinds, macs], formats, [bits], [energy], [weights, *ram], score],
        [[name, shapes], [kinds, macs], formats, [bits, energy], [weights, *ram, *score]],
    )
    explained = "; ".join(
        [
            SHAPES,
            *(["RAM: activations that live while the layer runs, in all the memory that holds them"] if ram else []),
            *([f"score: estimated loss of {run.measure}, in points"] if score else []),
        ]
    )
    shown: list[RenderableType] = [FirstThatFits(ways), explained]
    if plan.stays_float:
        shown.append(float_table(plan.stays_float))
    elif plan.untold:
        shown.append("The plan is of an earlier version, which did not tell why layers stay float")
    return shown


def plan_document(run: Evidence) -> dict[str, Any]:
    """The same for JSON."""
    from bitq.report.resources import flash

    parts = run.plan.stays_float
    return {
        "layers": [
            {
                "name": layer.name,
                "module": layer.module,
                "kind": kind(layer.layer),
                "loops": layer.loops,
                "groups": layer.groups,
                "macs": layer.layer.macs,
                "formats": {tensor: fmt and str(fmt) for tensor, fmt in vars(layer.formats).items()},
                "movement_bits": layer.movement_bits,
                "energy_pj": layer.energy_pj,
                "weight_bytes": size,
                "ram_bytes": layer.ram_bytes,
                "score": score,
            }
            for layer, size, score in zip(run.plan.layers, flash(run.plan), _scores(run), strict=True)
        ],
        "ram": None if run.plan.ram is None else run.plan.ram.model_dump(),
        "stays_float": None if parts is None else [part.model_dump() for part in parts],
    }


def _points(accuracy: float) -> str:
    return f"{100 * accuracy:.3f}"


def _scores(run: Evidence) -> list[float | None]:
    """What the formats of each layer are estimated to cost, that of a module at its first call."""
    firsts: dict[str, PlanLayer] = {}
    for layer in run.plan.layers:
        firsts.setdefault(layer.module, layer)
    return [run.score(layer) if firsts[layer.module] is layer else None for layer in run.plan.layers]
