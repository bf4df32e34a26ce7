"""`c`: a folder with the network as C99 for a microcontroller, which computes on packed numbers with integers alone.

A network goes from PyTorch's graph (`lowering`) to steps (`steps`), of which `wires` chooses the units; `writing` and
`source` make C of them, and `integers` computes the same in NumPy. What steps compute is of many kinds, one file in
`kinds` for each. For a device, layers are walked in tiles that lie in its outermost memory on the chip.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from bitq.devices import device_names, load_device
from bitq.exporting.target import Handed, Target, register


def write(model: nn.Module, example_input: Any, path: Path, device: str | None = None) -> Handed:
    """Write the folder; for a device, with tiles.

    Raises:
        BitqError: as for `bitq.export`; a memory too small for any tiles.
    """
    from bitq.exporting.c99.compiled import ran
    from bitq.exporting.c99.folder import check_own_files, replace_files
    from bitq.exporting.c99.kinds.in_tiles import but, in_tiles
    from bitq.exporting.c99.lowering import lowered
    from bitq.exporting.c99.source import FILES, identifier, written

    check_own_files(path, FILES)
    network = lowered(model, example_input)
    notes: tuple[str, ...] = ()
    if device is not None:
        memory, _ = load_device(device).boundaries[0]
        network = in_tiles(network, memory.capacity_bits)
        notes = (
            f"all but activation_bytes of ram_bytes belongs in the {memory.name} of {device}, for which layers have "
            f"tiles{but(network)}",
        )
    found = written(network, identifier(path.name))
    replace_files(path, found.files)
    figures = {
        "weight_bytes": found.weight_bytes,
        "constant_bytes": found.constant_bytes,
        "activation_bytes": found.activation_bytes,
        "ram_bytes": found.ram_bytes,
    }
    notes = (
        *notes,
        "weight_bytes and constant_bytes lie in flash beside the code; ram_bytes are static, without the stack: "
        "activation_bytes and what a step works on",
    )
    return Handed(path, notes, figures, partial(ran, path, network))


register("c", Target(write, folder=True))
for _device in device_names():
    register("c", Target(partial(write, device=_device), folder=True), runtime=_device)
