"""A plan that leaves bitq: the quantized network in forms that others run, one file or package here for each."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from torch import nn

from bitq.exporting.target import Handed, register, target_of

for _file in iter_modules(__path__):
    import_module(f"{__name__}.{_file.name}")  # each target registers itself

__all__ = ["Handed", "export", "register", "target_of"]


def export(
    model: nn.Module, example_input: Any, path: str | Path, to: str = "onnx", runtime: str | None = None
) -> Handed:
    """Write a quantized network so that something else than bitq runs it.

    Args:
        model: calibrated, as a search hands it over (`Result.model`) or `bitq.load_quantized` or `bitq.apply` makes it;
            is taken in evaluation mode.
        example_input: one batch that the network takes. Its first axis is the batch, of which what is written takes
            any size, one input after the other in C; its other axes are fixed.
        path: of the file to write, or of the folder for "c"; files are written atomically.
        to: a target: "onnx", "onnx-qdq", "amd", "tenstorrent" or "c".
        runtime: that has to take what is written: "qnn" of "onnx-qdq"; by default any.

    Returns:
        What was written, and what to know of it.

    Raises:
        BitqError: no such target; a package is missing; the network computes something that the target cannot express,
            or has a format that it cannot, which is named.
    """
    place, target = Path(path), target_of(to, runtime)
    target.check(place)
    return target.write(model, example_input, place)
