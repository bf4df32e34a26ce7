"""A realistic run folder for the report: real layers, tilings and traffic; accuracies by formula."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch

from bitq.demo.resnet8 import resnet8
from bitq.devices import Device, load_device
from bitq.formats import TENSORS, BlockFormat, TensorFormats, effective_width, grid
from bitq.layers import Layer
from bitq.movement import Widths
from bitq.movement.levels import movement
from bitq.movement.sweep import sweep
from bitq.movement.tiled import LevelMovement
from bitq.placement import Buffer, place
from bitq.store import Store
from bitq.tracing import trace
from bitq.tracing.lifetimes import Activation
from bitq.tradeoff.outcome import device_facts
from bitq.tradeoff.plan import Plan, PlanFormat, PlanLayer, PlanLevel, PlanRam, Totals, TrafficBits
from bitq.tradeoff.records import (
    Ablation,
    Baseline,
    Cost,
    FloatAccuracy,
    Front,
    Measurement,
    Offer,
    Offers,
    Outcome,
    Predicted,
    Proposer,
    Record,
    References,
    Role,
    Row,
    Sensitivity,
    objective,
)

KEY, SETTINGS = "0123456789abcdef", "fedcba9876543210"


def demo_layers() -> tuple[Layer, ...]:
    """The ten layers of the demo network."""
    return trace(resnet8(), torch.zeros(1, 1, 28, 28))


def many_layers(count: int) -> tuple[Layer, ...]:
    """A deep network of a few different shapes."""
    shapes = ({"K": 64, "C": 64, "P": 28, "Q": 28, "R": 3, "S": 3}, {"K": 64, "C": 256, "P": 14, "Q": 14})
    names = (f"stage{i // 30 + 1}.block{i // 3 % 10}.conv{i % 3 + 1}" for i in range(count))
    return tuple(Layer(name, **shapes[i % 2], module=name) for i, name in enumerate(names))


def make_run(
    folder: Path,
    layers: Sequence[Layer],
    network: str = "demo",
    device: str | Device = "stm32h743",
    bits: int = 8,
    predicted: int = 300,
    only: Sequence[str] | None = None,
) -> Plan:
    """Fill `folder` as a search would, with these kinds of evaluations only (all by default)."""
    random_, target = random.Random(7), device if isinstance(device, Device) else load_device(device)
    device = target.name
    best_uniform = grid(bits)[12]
    narrower = [
        fmt for fmt in grid(bits) if fmt.mantissa_bits <= best_uniform.mantissa_bits and fmt.block_size > 4
    ]
    allocations = [{tensor: random_.choice(narrower) for tensor in TENSORS} for _ in range(12)]
    chosen = {layer.module: random_.choice(allocations) for layer in layers}
    entries = tuple(_plan_layer(layer, chosen[layer.module], target) for layer in layers)
    float_entries = tuple(_plan_layer(layer, dict.fromkeys(TENSORS), target) for layer in layers)
    uniform_entries = tuple(
        _plan_layer(layer, dict.fromkeys(TENSORS, best_uniform), target) for layer in layers
    )
    rows = [
        _row("float32", "float32", 0.9079, float_entries, layers, 32.0),
        _row(f"best uniform {best_uniform}", "uniform", 0.8993, uniform_entries, layers, 6.2),
        _row("plan", "plan", 0.9012, entries, layers, 5.4),
    ]
    most = 1.4 * rows[1].movement_bits
    rows = [
        row.model_copy(update={"objective": objective(row.accuracy, row.movement_bits, most, 0.2)}) for row in rows
    ]
    plain, _, best = rows
    plan = Plan(
        network=network,
        device=device,
        bits=bits,
        alpha=0.2,
        layers=entries,
        totals=Totals.of(best, plain, most),
        ram=_ram(layers),
        outcome=KEY,
    )
    plan.save(folder / "plan.json")
    with Store(folder / "results.sqlite") as store:
        store.bind(
            {
                "network": network,
                "device": device,
                "bits": bits,
                "seed": 0,
                "steps": 200,
                "fingerprint": "9f2c11d0",
            }
        )

        def put(config: Mapping[str, Any], record: Record) -> None:
            if only is None or record.kind in only:
                store.get_or_run(record.kind, config, record.model_dump)

        put({}, FloatAccuracy(validation=0.913, test=plain.accuracy))
        points = tuple(_predicted(random_.uniform(2.2, 8), random_, plain) for _ in range(predicted))
        put({"outcome": KEY}, Front(points=points))
        for name in ("without fine-tuning", "without movement", "without the trade-off"):
            row = Ablation(**{**dict(best), "name": name, "role": "ablation"})
            put({"settings": SETTINGS, "row": row.model_dump()}, row)
        for name in ("random, 5 plans", "greedy, 5 plans"):
            other = Baseline(**{**dict(best), "name": name, "role": "baseline"})
            put({"settings": SETTINGS, "row": other.model_dump()}, other)
        shares = {"int8": 0.25, "float16": 0.5, "float32": 1.0}
        put({}, References(costs={name: _part(plain, share) for name, share in shares.items()}))
        put({"outcome": KEY}, _offers(plain, best))
        put({"outcome": KEY}, Sensitivity(scores=_scores(layers, bits, random_)))
        for fmt in grid(bits)[4::6]:
            put(
                {"formats": str(fmt)},
                _tuned(f"uniform {fmt}", "uniform", fmt.mantissa_bits, random_, plain),
            )
        for index in range(3):
            put({"plan": index}, _tuned("plan", "plan", 3.9 + 0.4 * index, random_, plain, lift=0.012))
        if only is None or "sweep" in only:  # enough layers to draw
            swept = _sweep(layers[:10], target, best_uniform, chosen)
            store.get_or_run("sweep", {"outcome": KEY}, lambda: swept)
        put(
            {"outcome": KEY},
            Outcome(
                settings=SETTINGS,
                rows=tuple(rows),
                command=f"bitq search --network {network} --device {device} --run runs/{network}",
                versions={"bitq": "0.1.0", "torch": "2.13.0", "python": "3.11.2"},
                seconds=1873.0,
                device=device_facts(target),
            ),
        )
    return plan


def _ram(layers: Sequence[Layer]) -> PlanRam:
    """A chain, every activation in a byte an element."""
    names = [Activation(layer.name, (), place, place + 1) for place, layer in enumerate(layers)]
    sizes = [layer.N * layer.K * layer.P * layer.Q for layer in layers]
    buffers = [Buffer(size, each.first, each.last) for each, size in zip(names, sizes, strict=True)]
    return PlanRam.of(names, buffers, place(buffers))


def _part(plain: Row, share: float) -> Cost:
    return Cost(**{name: round(share * value) for name, value in plain.figures().items()})


def _offers(plain: Row, best: Row) -> Offers:
    """The plan loses a point, and nothing but float32 less."""
    least, near = (
        Offer(
            label=row.name,
            tuned=row is best,
            lost=lost,
            validation=0.913 - lost,
            test=row.accuracy,
            objective=row.objective or 0.0,
            **row.figures(),
        )
        for row, lost in ((best, 0.01), (plain, 0.0))
    )
    answers = [(near, 0.005), (least, 0.01), (least, 0.02)]
    found = (least, *(offer.model_copy(update={"within": within}) for offer, within in answers))
    return Offers(offers=found, within=(0.005, 0.01, 0.02))


def _sweep(
    layers: Sequence[Layer], device: Device, uniform: BlockFormat, chosen: Mapping[str, Mapping[str, BlockFormat]]
) -> dict[str, Any]:
    formats = {
        f"best uniform {uniform}": [TensorFormats(uniform, uniform, uniform)] * len(layers),
        "plan": [TensorFormats(**chosen[layer.module]) for layer in layers],
    }
    return asdict(sweep(layers, formats, device))


def _plan_layer(layer: Layer, formats: Mapping[str, BlockFormat | None], device: Device) -> PlanLayer:
    widths = [_width(fmt, layer.C if tensor != "output" else layer.K) for tensor, fmt in formats.items()]
    by_tensor = dict(zip(formats, widths, strict=True))
    anonymous = Layer(**{**vars(layer), "name": "any", "module": ""})
    return PlanLayer(
        name=layer.name,
        module=layer.module,
        loops={loop: layer.extent(loop) for loop in "NKCPQRS"},
        groups=layer.groups,
        ram_bytes=layer.N * layer.K * layer.P * layer.Q,
        **{
            tensor: fmt
            and PlanFormat(
                bits=fmt.bits, exponent_bits=fmt.exponent_bits, block_size=fmt.block_size, exponent_bias=-3
            )
            for tensor, fmt in formats.items()
        },
        levels=tuple(
            PlanLevel(
                memory=level.memory,
                source=level.source,
                permutation=level.tiling.permutation,
                tiles=dict(level.tiling.tiles),
                traffic_bits=TrafficBits(
                    input=by_tensor["input"] * level.traffic.input_reads,
                    weight=by_tensor["weight"] * level.traffic.weight_reads,
                    output_writes=by_tensor["output"] * level.traffic.output_writes,
                    output_reads=by_tensor["output"] * level.traffic.output_reads,
                ),
                energy_pj=level.energy_pj,
                lower_bound_bits=level.lower_bound_bits,
            )
            for level in _movement(anonymous, Widths(**by_tensor), device)
        ),
    )


@cache
def _movement(layer: Layer, widths: Widths, device: Device) -> tuple[LevelMovement, ...]:
    return movement(layer, widths, device)


def _width(fmt: BlockFormat | None, channels: int) -> float:
    return 32.0 if fmt is None else effective_width(fmt, channels)


def _row(
    name: str,
    role: Role,
    accuracy: float,
    entries: Sequence[PlanLayer],
    layers: Sequence[Layer],
    weight_bits: float,
) -> Row:
    movement_bits = sum(entry.movement_bits for entry in entries)
    dram = sum(entry.levels[0].traffic_bits.total for entry in entries)
    weights = sum(layer.K * layer.C * layer.R * layer.S for layer in layers)
    return Row(
        name=name,
        role=role,
        accuracy=accuracy,
        dram_bits=dram,
        on_chip_bits=movement_bits - dram,
        movement_bits=movement_bits,
        energy_pj=sum(entry.energy_pj for entry in entries),
        model_bytes=round(weights * weight_bits / 8),
        ram_bytes=round(1000 * weight_bits),
    )


def _predicted(width: float, random_: random.Random, plain: Row) -> Predicted:
    accuracy = max(
        0.1, 0.91 - 2.6 * 2 ** (-width * random_.uniform(0.75, 1.05)) - abs(random_.gauss(0, 0.01))
    )
    share = 0.5 * width / 32 * random_.uniform(0.95, 1.25)
    return Predicted(accuracy=accuracy, movement_bits=share * plain.movement_bits)


def _tuned(
    label: str, proposer: Proposer, width: float, random_: random.Random, plain: Row, lift: float = 0.0
) -> Measurement:
    accuracy = 0.909 + lift - 0.6 * 2 ** (-1.3 * width) - abs(random_.gauss(0, 0.002))
    share = 0.5 * width / 32 * random_.uniform(1.0, 1.12)
    costs = {name: share * value for name, value in plain.figures().items()}
    return Measurement(
        label=label,
        proposer=proposer,
        loss=0.3,
        validation=accuracy,
        test=accuracy - 0.004,
        **{**costs, **{name: round(costs[name]) for name in ("model_bytes", "ram_bytes")}},
    )


def _scores(layers: Sequence[Layer], bits: int, random_: random.Random) -> dict[str, Any]:
    """Coarser mantissas and larger blocks hurt; narrow exponents hurt where values spread far."""
    tensor_weights = {"input": 1.0, "weight": 0.4, "output": 0.8}
    return {
        layer.module: {
            tensor: {str(fmt): _drop(fmt, scale, random_) for fmt in grid(bits)}
            for tensor, scale in (
                (name, 3 * weight * random_.random() ** 3) for name, weight in tensor_weights.items()
            )
        }
        for layer in layers
    }


def _drop(fmt: BlockFormat, scale: float, random_: random.Random) -> float:
    coarse = 2.0 ** (-1.6 * fmt.mantissa_bits) * (1 + fmt.block_size / 24)
    narrow = 0.02 * 2.0 ** (-fmt.exponent_bits)
    return scale * (coarse + narrow) + random_.gauss(0, 2e-4)
