"""`bitq devices`: what is known of a device, and from where."""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Any

import typer
from rich.table import Table

from bitq.cli.output import Json, bytes_text, print_json, show
from bitq.devices import Device, Memory, device_names, load_device


def devices(
    device: Annotated[
        str | None,
        typer.Argument(metavar="[NAME_OR_FILE]", help="One of the list, or a device file (TOML)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the devices, or explain one: its memories, and where every figure comes from.

    Memories are listed from the compute units outward. The energy of a memory is that of one bit that moves
    between it and the next inner one, in pJ.

    Example: `bitq devices stm32h743`
    """
    if device is None:
        known = [load_device(name) for name in device_names()]
        if as_json:
            print_json({"devices": [_document(entry) for entry in known]})
        else:
            show(_list(known))
    else:
        entry = load_device(device)
        if as_json:
            print_json(_document(entry))
        else:
            show(f"{entry.name}: {entry.title}", entry.description, _explanation(entry), _partial_sums(entry))


def _list(known: list[Device]) -> Table:
    table = Table("name", "memories, innermost first", "title")
    for device in known:
        memories = ", ".join(f"{memory.name} {_capacity(memory)}".rstrip() for memory in device.memories)
        table.add_row(device.name, memories, device.title)
    return table


def _explanation(device: Device) -> Table:
    table = Table()
    table.add_column("memory", no_wrap=True)
    table.add_column("capacity", justify="right", no_wrap=True)
    table.add_column("pJ/bit", justify="right", no_wrap=True)
    table.add_column("source")
    for memory in device.memories:
        table.add_row(memory.name, _capacity(memory) or "all", f"{memory.energy_pj_per_bit:g}", memory.note)
    return table


def _partial_sums(device: Device) -> str:
    wider = f"{device.partial_sum_bits:g} bits or more" if device.partial_sum_bits else "as many bits as outputs"
    return f"Partial sums take {wider} per element."


def _capacity(memory: Memory) -> str:
    return bytes_text(memory.capacity_bits / 8) if isfinite(memory.capacity_bits) else ""


def _document(device: Device) -> dict[str, Any]:
    return {
        "name": device.name,
        "title": device.title,
        "description": device.description,
        "partial_sum_bits": device.partial_sum_bits or None,
        "memories": [
            {
                "name": memory.name,
                "capacity_bits": memory.capacity_bits if isfinite(memory.capacity_bits) else None,
                "energy_pj_per_bit": memory.energy_pj_per_bit,
                "source": memory.note,
            }
            for memory in device.memories
        ],
    }
