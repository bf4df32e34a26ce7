"""`bitq buffer`: what a network moves against the size of a memory, in several formats."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitq.cli.chosen import HELP, NAMES, Planned, Uniform, read_formats
from bitq.cli.given import Inputs
from bitq.cli.memories import MinimizeWhat, PlannedHow, planned_device
from bitq.cli.output import Json, bits_text, bytes_text, csv_text, energy_text, print_json, ratio_text, show
from bitq.cli.shapes import InputShape, Network, input_and_layers
from bitq.cli.tables import FirstThatFits, TextColumn
from bitq.errors import BitqError, shortened
from bitq.files import check_replaceable, write_atomically
from bitq.floating import but_floating, sentence
from bitq.planning import Minimize, Planning

if TYPE_CHECKING:
    from bitq.movement.sweep import Sweep

DEFAULT_FORMAT = "8:e3:b16"
KINDS = (".png", ".svg", ".csv")
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?(|B|KiB|MiB|GiB)", re.ASCII)
_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def buffer(
    network: Network,
    device: Annotated[
        str, typer.Option(help="A name that `bitq devices` lists, or a device file (TOML).")
    ] = "stm32f103c8",
    memory: Annotated[
        str | None,
        typer.Option(help="The memory whose size varies; the others stay.", show_default="the outermost on the chip"),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            *NAMES,
            metavar="FORMAT|PLAN",
            help=f"{HELP} May be given several times.",
            show_default=DEFAULT_FORMAT,
        ),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="The smallest size.", show_default="1KiB, or what the next inner memory holds"),
    ] = None,
    to: Annotated[
        str | None, typer.Option(help="The largest size.", show_default="4MiB, or less if the next outer memory does")
    ] = None,
    input_shape: InputShape = None,
    inputs: Inputs = None,
    levels: PlannedHow = Planning.together,
    minimize: MinimizeWhat = Minimize.movement,
    out: Annotated[Path | None, typer.Option(help="Write the curves: a .png or .svg picture, or a .csv.")] = None,
    as_json: Json = False,
) -> None:
    """Tell how much memory a format saves: traffic and energy against the size of one memory.

    At every size, each layer is tiled so that the traffic into that memory is the least possible over all loop
    orders and tile sizes. Sizes are the powers of two and the halves between them, and the device's own.
    The energy is that of all memories of the device.

    Example: `bitq buffer demo --formats 8:e3:b16 --formats 16:e5:b16 --out buffer.png`
    """
    from bitq.movement.sweep import sweep
    from bitq.progress import Terminal

    if out is not None and out.suffix.lower() not in KINDS:
        raise BitqError(f"--out {shortened(str(out))} must end in {', '.join(KINDS)}")
    if out is not None:
        check_replaceable(out)
    target = planned_device(device, levels, minimize)
    least = None if from_ is None else _bytes("--from", from_)
    most = None if to is None else _bytes("--to", to)
    chosen = [read_formats(text) for text in formats or [DEFAULT_FORMAT]]
    source = input_and_layers(network, input_shape, inputs)
    shape, layers = source.shape, source.layers
    with Terminal() as terminal:
        found = sweep(
            layers,
            {name: but_floating(layers, each.of(layers), source.stays_float) for name, each in _named(chosen).items()},
            target,
            memory=memory,
            least_bytes=least,
            most_bytes=most,
            progress=terminal.step,
        )
    if out is not None:
        _write(out, found, f"{network} on {target.title}")
    if as_json:
        print_json({"network": network, "input_shape": shape, **asdict(found)})
    else:
        from bitq.report.sweep import verdicts

        shown = " x ".join(map(str, shape))
        floating = [sentence(part) for part in source.stays_float if part.layers]
        show(f"{network} on {target.title}, input {shown}", _table(found), _explained(found))
        show(*verdicts(found), *floating)
        if source.assumed:
            show(f"Assumed: {source.assumed}")
        if out is not None:
            show(f"Written: {out}")


def _bytes(option: str, text: str) -> float:
    match = _SIZE.fullmatch(text.strip())
    size = float(match[1]) * _UNITS[match[2]] if match else 0
    if size < 1:
        given = shortened(text)
        raise BitqError(f"{option} {given!r} must be a size of at least a byte, such as 512B, 20KiB or 4MiB")
    return size


def _named(chosen: Sequence[Uniform | Planned]) -> dict[str, Uniform | Planned]:
    """By the names of their curves; a plan that is the only one needs no path."""
    plans = {each.path for each in chosen if isinstance(each, Planned)}
    return {"plan" if plans == {getattr(each, "path", None)} else str(each): each for each in chosen}


def _write(path: Path, found: Sweep, title: str) -> None:
    from bitq.report.sweep import picture

    kind = path.suffix.lower()
    write_atomically(path, csv_text(_records(found)).encode() if kind == ".csv" else picture(found, title, kind[1:]))


def _records(found: Sweep) -> list[dict[str, Any]]:
    return [
        {
            "formats": series.name,
            "memory": found.memory,
            "memory_bytes": size,
            "traffic_bits": bits,
            "traffic_bits_floor": series.floor_bits,
            "energy_pj": energy,
        }
        for series in found.series
        for size, bits, energy in zip(found.sizes_bytes, series.traffic_bits, series.energy_pj, strict=True)
    ]


def _table(found: Sweep) -> FirstThatFits:
    at, original, all_ = found.reference, found.series[0], found.series
    formats = TextColumn("formats", [each.name for each in all_], left=True)
    traffic = TextColumn(f"{found.source} ↔ {found.memory}", [bits_text(each.traffic_bits[at]) for each in all_])
    of_float = [ratio_text(each.traffic_bits[at], original.traffic_bits[at]) for each in all_]
    energy = TextColumn("energy", [energy_text(each.energy_pj[at]) for each in all_])
    energy_of_float = [ratio_text(each.energy_pj[at], original.energy_pj[at]) for each in all_]
    least = TextColumn("least", [bits_text(each.floor_bits) for each in all_])
    sizes = (
        TextColumn(f"{found.memory} for it", [_size(each.floor_bytes) for each in all_]),
        TextColumn(f"{found.memory} as float", [_size(each.float_bytes) for each in all_]),
    )
    shares = (TextColumn("of float", of_float), TextColumn("of float", energy_of_float))
    return FirstThatFits(
        (
            [[formats], [traffic], [shares[0]], [energy], [shares[1]], [least], *([each] for each in sizes)],
            [[formats], [traffic, shares[0]], [energy, shares[1]], [least], sizes],
        )
    )


def _explained(found: Sweep) -> str:
    size = bytes_text(found.reference_bytes)
    return (
        f"with {found.memory} of {size}; least: the least there is to move, and the {found.memory} that moves only it; "
        f"as float: the {found.memory} that moves no more than float32 does at {size}"
    )


def _size(size: float | None) -> str:
    return "-" if size is None else bytes_text(size)
