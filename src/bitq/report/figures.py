"""From a run to its charts: which numbers each one shows, in the units that it shows them in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from math import isfinite

from bitq.formats import EXPONENT_BITS, BlockFormat, Format, grid, parse_format
from bitq.movement.widths import widths
from bitq.report import charts, text
from bitq.report.evidence import Evidence
from bitq.report.sweep import sweep_figures
from bitq.tradeoff.plan import Plan, PlanLevel, PlanRam
from bitq.tradeoff.records import Measurement

_MOST_FORMATS = 80
"""That a chart shows side by side."""


def figures(run: Evidence) -> dict[str, charts.Spec]:
    """The charts that the run has data for, by the id of the page's element for them."""
    plan = run.plan
    layers = [_label(layer.name) for layer in plan.layers]
    levels = list(dict.fromkeys(_level_name(level) for layer in plan.layers for level in layer.levels))
    specs = {"allocation": charts.allocation(_cells(plan), layers, _mantissas(plan))}
    for name, quantity, unit, value in (
        ("movement", "data moved", "Mbit", lambda level: level.traffic_bits.total / text.BITS_PER_MBIT),
        ("energy", "energy", "µJ", lambda level: level.energy_pj / text.PJ_PER_UJ),
    ):
        specs[name] = charts.per_layer(_bars(plan, levels, value), layers, levels, quantity, unit)
    dots = _over_bound(plan)
    if plan.ram is not None and plan.ram.bytes:
        specs["ram"] = charts.arena(_buffers(plan.ram))
    if dots:
        specs["over-bound"] = charts.over_bound(dots, layers, levels)
    points, tuned = _points(run)
    if points:
        reference = None if run.float32 is None else 100 * run.float32.validation
        best = front(tuned)
        specs["landscape"] = charts.landscape(points, best, reference, run.measure)
        if tuned:
            specs["closer"] = charts.landscape(_around(tuned, points), best, reference, run.measure, closer=True)
    if run.course:
        specs["course"] = _course(run)
    if run.sensitivity:
        specs["sensitivity"] = _sensitivity(run)
    if run.sweep:
        specs |= sweep_figures(run.sweep)
    return specs


def _course(run: Evidence) -> charts.Spec:
    least = accumulate((each.objective for each in run.course), min)
    best = [{"seconds": each.seconds, "objective": so_far} for each, so_far in zip(run.course, least, strict=True)]
    return charts.course([vars(each) for each in run.course], best)


def _label(name: str) -> str:
    """A name that is no property of JavaScript's objects, in which Vega groups rows: "constructor" is one."""
    return f"{name}\u200b"


def _cells(plan: Plan) -> list[charts.Datum]:
    cells: list[charts.Datum] = []
    for layer in plan.layers:
        entries = (layer.input, layer.weight, layer.output)
        q = widths(layer.layer, layer.formats)
        for tensor, entry, width in zip(charts.TENSORS, entries, (q.input, q.weight, q.output), strict=True):
            fmt = entry.format if entry else None
            block = fmt if isinstance(fmt, BlockFormat) else None
            cells.append(
                {
                    "layer": _label(layer.name),
                    "tensor": tensor,
                    "format": text.short(fmt),
                    "mantissa": fmt.element_bits if fmt else None,
                    "width": width,
                    "exponent_bits": block.exponent_bits if block else None,
                    "block_size": block.block_size if block else None,
                    "bias": entry.exponent_bias if entry else None,
                }
            )
    return cells


def _mantissas(plan: Plan) -> list[int]:
    """Widths of elements without what they share that the plan could have chosen, and those it did."""
    possible = {fmt.element_bits for fmt in grid(plan.bits)} if plan.bits in EXPONENT_BITS else set()
    entries = (entry for layer in plan.layers for entry in (layer.input, layer.weight, layer.output) if entry)
    return sorted(possible | {entry.format.element_bits for entry in entries})


def _bars(plan: Plan, levels: Sequence[str], value: Callable[[PlanLevel], float]) -> list[charts.Datum]:
    return [
        {
            "layer": _label(layer.name),
            "level": _level_name(level),
            "order": levels.index(_level_name(level)),
            "value": value(level),
            "parts": _parts_text(level),
        }
        for layer in plan.layers
        for level in layer.levels
    ]


def _buffers(ram: PlanRam) -> list[charts.Datum]:
    return [
        {
            "name": _label(each.name),
            "begin": each.first,
            "end": each.last + 1,
            "low": each.offset / 1024,
            "high": (each.offset + each.bytes) / 1024,
            "size": text.amount_bytes(each.bytes),
        }
        for each in ram.activations
    ]


def _over_bound(plan: Plan) -> list[charts.Datum]:
    return [
        {
            "layer": _label(layer.name),
            "level": _level_name(level),
            "ratio": level.over_bound,
            "moved": text.amount_bits(level.traffic_bits.total),
            "bound": text.amount_bits(level.lower_bound_bits),
        }
        for layer in plan.layers
        for level in layer.levels
        if level.lower_bound_bits is not None
    ]


def _level_name(level: PlanLevel) -> str:
    return f"{level.source} ↔ {level.memory}"


def _parts_text(level: PlanLevel) -> str:
    moved = level.traffic_bits
    parts = (
        ("input", moved.input),
        ("weight", moved.weight),
        ("output written", moved.output_writes),
        ("output read back", moved.output_reads),
    )
    return " · ".join(f"{name} {text.amount_bits(bits)}" for name, bits in parts)


def _points(run: Evidence) -> tuple[list[charts.Datum], list[charts.Datum]]:
    """All predicted and measured plans whose accuracy is a number, and the measured ones among them."""
    predicted: list[charts.Datum] = [
        {
            "kind": "predicted",
            "movement": float(f"{point.movement_bits / text.BITS_PER_MBIT:.5g}"),
            "accuracy": round(100 * point.accuracy, 3),
        }
        for point in (run.front.points if run.front else ())
        if _drawable(point.movement_bits, point.accuracy)
    ]
    tuned = [_tuned(each) for each in run.measured if _drawable(each.movement_bits, each.validation)]
    return predicted + tuned, tuned


def _around(tuned: Sequence[charts.Datum], points: Sequence[charts.Datum]) -> list[charts.Datum]:
    """The fine-tuned points and those about as accurate: others would lie outside the picture."""
    least = min(point["accuracy"] for point in tuned)
    return [point for point in points if point["accuracy"] >= least]


def _tuned(each: Measurement) -> charts.Datum:
    return {
        "kind": each.proposer,
        "label": each.label,
        "movement": each.movement_bits / text.BITS_PER_MBIT,
        "accuracy": 100 * each.validation,
        "test": 100 * each.test if isfinite(each.test) else None,
        "energy": each.energy_pj / text.PJ_PER_UJ if isfinite(each.energy_pj) else None,
    }


def _drawable(*values: float) -> bool:
    return all(map(isfinite, values))


def front(points: Iterable[charts.Datum]) -> list[charts.Datum]:
    """Points that no other beats in both accuracy and movement, from the least movement on."""
    found: list[charts.Datum] = []
    for point in sorted(points, key=lambda point: (point["movement"], -point["accuracy"])):
        if not found or point["accuracy"] > found[-1]["accuracy"]:
            found.append({"movement": point["movement"], "accuracy": point["accuracy"]})
    return found


def all_shown(run: Evidence) -> bool:
    """Whether the chart of sensitivity has room for all formats; if they are many, it shows those of the plan."""
    return len(_scored(run)) <= _MOST_FORMATS


def _scored(run: Evidence) -> set[str]:
    return {name for each in run.sensitivity.values() for drops in each.values() for name in drops}


def _shown(run: Evidence) -> set[Format]:
    if all_shown(run):
        return set(map(parse_format, _scored(run)))
    return {fmt for own in run.plan.formats().values() for fmt in vars(own).values() if fmt is not None}


def _sensitivity(run: Evidence) -> charts.Spec:
    plan_order = [layer.module for layer in run.plan.layers]
    modules = [
        module for module in dict.fromkeys((*plan_order, *run.sensitivity)) if module in run.sensitivity
    ]
    chosen = run.plan.formats()
    shown = _shown(run)
    formats: set[Format] = set()
    rows: list[charts.Datum] = []
    for module in modules:
        for tensor, drops in run.sensitivity[module].items():
            known = {parse_format(name): drop for name, drop in drops.items() if isfinite(100 * drop)}
            parsed = {fmt: drop for fmt, drop in known.items() if fmt in shown}
            formats |= set(parsed)
            rows.append(
                {
                    "module": _label(module),
                    "tensor": tensor,
                    "chosen": text.short(getattr(chosen.get(module), tensor, None)),
                    "format": [text.short(fmt) for fmt in parsed],
                    "drop": [round(100 * drop, 3) for drop in parsed.values()],
                }
            )
    return charts.sensitivity(
        rows, [_label(module) for module in modules], [text.short(fmt) for fmt in sorted(formats)], run.measure
    )
