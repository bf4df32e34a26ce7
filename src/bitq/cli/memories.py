"""The options by which a command that counts movement is told how memories are planned."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from bitq.planning import Minimize, Planning

if TYPE_CHECKING:
    from bitq.devices import Device

PlannedHow = Annotated[
    Planning,
    typer.Option(help="Plan all memories together, or one by one, each for its least traffic from DRAM inward."),
]
MinimizeWhat = Annotated[
    Minimize,
    typer.Option("--minimize", help="What plans of the memories minimize: bits moved between them, or energy."),
]


def planned_device(device: str, levels: Planning, minimize: Minimize) -> Device:
    """The device of these options.

    Raises:
        BitqError: as `bitq.devices.load_device` does.
    """
    from bitq.devices import load_device

    return replace(load_device(device), planned=levels, minimize=minimize)
