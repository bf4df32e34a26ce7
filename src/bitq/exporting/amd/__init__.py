"""`amd`: one ONNX file with the operators by which AMD Quark tells the Vitis AI compiler of block floating point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from bitq.exporting.standard_onnx import check_packages
from bitq.exporting.target import Handed, Target, register


def write(model: nn.Module, example_input: Any, path: Path) -> Handed:
    """Write the file.

    Raises:
        BitqError: as for `bitq.export`.
    """
    check_packages()
    from bitq.exporting.amd.quark import put_into_quark, ran_as_defined
    from bitq.exporting.standard_onnx.program import written
    from bitq.exporting.standard_onnx.pytorch import exported

    return written(exported(model, example_input), path, put_into_quark, ran_as_defined)


register("amd", Target(write))
