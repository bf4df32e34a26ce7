"""`bitq movement`: what a network moves on a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitq.cli.chosen import HELP, NAMES, read_formats
from bitq.cli.given import Inputs
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
from bitq.cli.memories import MinimizeWhat, PlannedHow, planned_device
from bitq.cli.output import (
    Json,
    bits_text,
    csv_text,
    energy_text,
    print_json,
    print_text,
    ratio_text,
    show,
    times_text,
)
from bitq.cli.shapes import InputShape, Network, input_and_layers
from bitq.cli.tables import FirstThatFits, TextColumn
from bitq.errors import BitqError
from bitq.floating import but_floating
from bitq.formats import TensorFormats
from bitq.layers import LOOPS, Layer
from bitq.planning import Minimize, Planning

if TYPE_CHECKING:
    from bitq.devices import Device
    from bitq.floating import StaysFloat
    from bitq.movement.network import LayerMovement
    from bitq.tradeoff.plan import FloatPart

FLOAT = TensorFormats()
BOUND = (
    "×: times the lower bound, below which no tiling, loop order or other schedule comes; of int8: bits moved beside "
    "those of 8-bit integers; of float: energy beside that of 32-bit float"
)


def movement(
    network: Network,
    device: Annotated[str, typer.Option(help="A name that `bitq devices` lists, or a device file (TOML).")],
    formats: Annotated[
        str | None, typer.Option(*NAMES, metavar="FORMAT|PLAN", help=HELP, show_default="32-bit float")
    ] = None,
    input_shape: InputShape = None,
    inputs: Inputs = None,
    levels: PlannedHow = Planning.together,
    minimize: MinimizeWhat = Minimize.movement,
    as_json: Json = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV on stdout: per layer, pair of memories, tensor and direction.")
    ] = False,
) -> None:
    """Count the bits that one inference moves between the memories of a device, and the energy it takes.

    Every layer is tiled so that the traffic is the least possible over all loop orders and tile sizes; behind it
    stands how many times a lower bound that is, which no other way to compute the layer with such a memory comes
    below (near 1, nothing is left to win). "Of int8" compares the bits moved with the same network in plain 8-bit
    integers, "of float" the energy with 32-bit float, each tiled as well as that can be; "moves most" names the tensor
    that takes most of the energy. What takes no format, such as an LSTM,
    is counted in 32-bit float and told with its share, as `bitq search` does. Only shapes matter: nothing is computed
    or trained.

    Example: `bitq movement demo --device stm32f103c8 --formats 8:e3:b16`
    """
    if as_json and as_csv:
        raise BitqError("--json and --csv exclude each other; give one of them")
    target = planned_device(device, levels, minimize)
    chosen = read_formats(formats)
    found = input_and_layers(network, input_shape, inputs)
    shape, layers = found.shape, found.layers
    wanted = but_floating(layers, chosen.of(layers), found.stays_float)
    moved, original = _movements(layers, wanted, target)
    int8 = _int8_bits(layers, target)
    parts = _float_parts(found.stays_float, moved)
    if as_json:
        planning = {"minimize": target.minimize, "levels": target.planned}
        about = {"network": network, "device": target.name, **planning, "input_shape": shape}
        told = {"stays_float": [part.model_dump() for part in parts], "assumed": found.assumed}
        print_json({**about, **_document(moved, original, int8, found.stays_float), **told})
    elif as_csv:
        print_text(csv_text(list(_records(moved, original))))
    else:
        shown = ", ".join(inputs or ()) or " x ".join(map(str, shape))
        sums = f", partial sums of {target.partial_sum_bits:g} bits or more" if target.partial_sum_bits else ""
        title = f"{network} on {target.title}, input {shown}, {chosen}{sums}, {_how_planned(moved, target)}"
        show(title, _table(moved, original, int8, found.stays_float), BOUND, SHAPES)
        if formats is not None and parts:
            show(float_table(parts))
        if formats is not None and found.assumed:
            show(f"Assumed: {found.assumed}")


def _how_planned(moved: Sequence[LayerMovement], device: Device) -> str:
    price, least = (sum(getattr(layer.planned, name) for layer in moved) for name in ("price", "lower_bound"))
    above = f"at most {ratio_text(price - least, least)} above " if least < price else ""
    return f"memories planned {device.planned}: {above}the least {device.minimize}"


def _movements(
    layers: Sequence[Layer], formats: Sequence[TensorFormats], device: Device
) -> tuple[Sequence[LayerMovement], Sequence[LayerMovement]]:
    """What the layers move in these formats and, layer by layer, in 32-bit float."""
    from bitq.movement.network import network_movement
    from bitq.progress import Terminal

    with Terminal() as terminal:
        both = network_movement(
            (*layers, *layers),
            (*formats, *[FLOAT] * len(layers)),
            device,
            lambda done, total: terminal.step("finding the best tilings", done, total),
        )
    return both[: len(layers)], both[len(layers) :]


def _int8_bits(layers: Sequence[Layer], device: Device) -> Sequence[float]:
    """What each layer moves in plain 8-bit integers, in bits."""
    from bitq.tradeoff.references import plain_bits
    from bitq.tradeoff.shares import REFERENCES

    return [float(plain_bits([layer], device, [REFERENCES["int8"]]).sum()) for layer in layers]


def _float_parts(parts: Sequence[StaysFloat], moved: Sequence[LayerMovement]) -> tuple[FloatPart, ...]:
    from bitq.tradeoff.plan import float_parts

    return float_parts(parts, {layer.layer.name: (layer.bits, layer.energy_pj) for layer in moved})


def _table(
    moved: Sequence[LayerMovement],
    original: Sequence[LayerMovement],
    int8: Sequence[float],
    parts: Sequence[StaysFloat],
) -> FirstThatFits:
    from bitq.movement.network import level_totals

    known = list(zip(moved, original, _weight_bytes(moved, parts), int8, strict=True))
    rows = alike(known, lambda row: (row[0].layer, row[0].formats))
    lines = [Line(layer.layer, layer.formats, size, count) for (layer, _, size, _), count in rows]
    name, kinds, shapes, macs = (make(lines) for make in (name_column, kind_column, shape_column, macs_column))
    formats, weights = format_columns(lines), weights_column(lines)
    counted = [(layer.levels, count) for (layer, *_), count in rows]
    levels = [
        TextColumn(
            f"{total.source} ↔ {total.memory}",
            [_with_bound(count * own[place].bits, own[place].over_bound) for own, count in counted],
            _with_bound(total.bits, total.over_bound),
        )
        for place, total in enumerate(level_totals(moved))
    ]
    energy = TextColumn.of("energy", [count * layer.energy_pj for (layer, *_), count in rows], energy_text)
    before = sum(layer.energy_pj for layer in original)
    ratio = TextColumn(
        "of float",
        [ratio_text(layer.energy_pj, other.energy_pj) for (layer, other, *_), _ in rows],
        ratio_text(sum(layer.energy_pj for layer in moved), before),
    )
    of_int8 = TextColumn(
        "of int8",
        [ratio_text(layer.bits, plain) for (layer, *_, plain), _ in rows],
        ratio_text(sum(layer.bits for layer in moved), sum(int8)),
    )
    most = TextColumn("moves most", [_most(layer) for (layer, *_), _ in rows])
    ways = (
        [[each] for each in (name, kinds, shapes, macs, *formats, *levels, of_int8, energy, ratio, most, weights)],
        [[name, shapes], [kinds, macs, weights], formats, [*levels, of_int8], [energy, ratio, most]],
    )
    return FirstThatFits(ways)


def _weight_bytes(moved: Sequence[LayerMovement], parts: Sequence[StaysFloat]) -> Sequence[int | None]:
    from bitq.movement.widths import weight_sizes

    floating = {name for part in parts for name in part.layers}
    return weight_sizes([layer.layer for layer in moved], [layer.formats for layer in moved], floating)


def _most(layer: LayerMovement) -> str:
    """The tensor that takes most of the energy, and its share."""
    tensor, energy = max(layer.energy_by_tensor.items(), key=lambda item: item[1])
    return f"{tensor} {ratio_text(energy, layer.energy_pj)}"


def _with_bound(bits: float, over_bound: float) -> str:
    """Traffic, and how many times its lower bound that is."""
    return f"{bits_text(bits)} {times_text(over_bound):>6}"


def _records(moved: Sequence[LayerMovement], original: Sequence[LayerMovement]) -> Iterator[dict[str, Any]]:
    """One record per layer, pair of memories, tensor and direction; together they are all traffic."""
    from bitq.movement.network import traffic_bits

    for layer, before in zip(moved, original, strict=True):
        for level, level_before in zip(layer.levels, before.levels, strict=True):
            bits_float = traffic_bits(level_before.traffic, before.widths)
            for part, bits in traffic_bits(level.traffic, layer.widths).items():
                tensor = part.partition("_")[0]
                yield {
                    "layer": layer.layer.name,
                    "module": layer.layer.module,
                    "source": level.source,
                    "memory": level.memory,
                    "tensor": tensor,
                    "direction": "written" if part == "output_writes" else "read",
                    "format": getattr(layer.formats, tensor) or "float32",
                    "width_bits": getattr(layer.widths, tensor),
                    "traffic_bits": bits,
                    "traffic_bits_float": bits_float[part],
                    "partial_sum_width_bits": layer.widths.partial_sum if tensor == "output" else None,
                    "energy_pj": level.energy_pj * bits / level.bits,
                    "energy_pj_float": level_before.energy_pj * bits_float[part] / level_before.bits,
                    "level_over_lower_bound": level.over_bound,
                }


def _document(
    moved: Sequence[LayerMovement],
    original: Sequence[LayerMovement],
    int8: Sequence[float],
    parts: Sequence[StaysFloat],
) -> dict[str, Any]:
    from bitq.movement.network import level_totals

    energy, energy_float = (sum(layer.energy_pj for layer in layers) for layers in (moved, original))
    return {
        "layers": [
            {**_layer_document(after, before), "movement_bits_int8": plain, "weight_bytes": size}
            for after, before, plain, size in zip(moved, original, int8, _weight_bytes(moved, parts), strict=True)
        ],
        "totals": {
            "macs": sum(layer.layer.macs for layer in moved),
            "movement_bits": sum(layer.bits for layer in moved),
            "movement_bits_float": sum(layer.bits for layer in original),
            "movement_bits_int8": sum(int8),
            "energy_pj": energy,
            "energy_pj_float": energy_float,
            "normalized_energy": energy / energy_float if energy_float else None,
            "lower_bound": sum(layer.planned.lower_bound for layer in moved),
            "levels": [
                {
                    **asdict(after),
                    "over_lower_bound": after.over_bound,
                    "bits_float": before.bits,
                    "energy_pj_float": before.energy_pj,
                }
                for after, before in zip(level_totals(moved), level_totals(original), strict=True)
            ],
        },
    }


def _layer_document(moved: LayerMovement, original: LayerMovement) -> dict[str, Any]:
    from bitq.movement.network import traffic_bits

    layer, formats = moved.layer, moved.formats
    return {
        "name": layer.name,
        "module": layer.module,
        "kind": kind(layer),
        "loops": {loop: getattr(layer, loop) for loop in LOOPS},
        "groups": layer.groups,
        "weight_is_parameter": layer.weight_is_parameter,
        "macs": layer.macs,
        "formats": {name: fmt and str(fmt) for name, fmt in vars(formats).items()},
        "width_bits": asdict(moved.widths),
        "levels": [
            {
                "memory": level.memory,
                "source": level.source,
                "permutation": level.tiling.permutation,
                "tiles": dict(level.tiling.tiles),
                "traffic_bits": traffic_bits(level.traffic, moved.widths),
                "lower_bound_bits": level.lower_bound_bits,
                "over_lower_bound": level.over_bound,
                "energy_pj": level.energy_pj,
            }
            for level in moved.levels
        ],
        "movement_bits": moved.bits,
        "movement_bits_float": original.bits,
        "energy_pj": moved.energy_pj,
        "lower_bound": moved.planned.lower_bound,
        "gap": moved.planned.gap,
        "energy_pj_float": original.energy_pj,
    }
