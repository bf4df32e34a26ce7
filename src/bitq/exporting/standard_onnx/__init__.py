"""`onnx`: one file of standard ONNX operators, which gives the numbers that the quantized network gives here.

`onnx-qdq`: the same for runtimes that know activations by pairs of QuantizeLinear and DequantizeLinear alone; with the
runtime `qnn`, those that Qualcomm's QNN takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from bitq.errors import BitqError
from bitq.exporting.target import Handed, Target, register


def write(model: nn.Module, example_input: Any, path: Path) -> Handed:
    """Write the file with activations in functions.

    Raises:
        BitqError: as for `bitq.export`.
    """
    check_packages()
    from bitq.exporting.standard_onnx.program import put_into_operators, written
    from bitq.exporting.standard_onnx.pytorch import exported

    return written(exported(model, example_input), path, put_into_operators)


def write_pairs(model: nn.Module, example_input: Any, path: Path) -> Handed:
    """Write the file with activations in pairs.

    Raises:
        BitqError: as for `bitq.export`.
    """
    check_packages()
    from bitq.exporting.standard_onnx.pairs import put_into_pairs
    from bitq.exporting.standard_onnx.program import written
    from bitq.exporting.standard_onnx.pytorch import exported

    return written(exported(model, example_input), path, put_into_pairs)


def write_for_qnn(model: nn.Module, example_input: Any, path: Path) -> Handed:
    """Write the file with pairs as QNN takes them, and the batch of the input.

    Raises:
        BitqError: as for `bitq.export`.
    """
    check_packages()
    from bitq.exporting.standard_onnx.program import written
    from bitq.exporting.standard_onnx.pytorch import exported
    from bitq.exporting.standard_onnx.qnn import put_for_qnn

    return written(exported(model, example_input, fixed=True), path, put_for_qnn)


def check_packages() -> None:
    """Refuse what needs packages that are missing.

    Raises:
        BitqError: names the package.
    """
    try:
        import onnx_ir  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise BitqError(f"exporting to ONNX needs the package {error.name}; install 'bitq[onnx]'") from error


register("onnx", Target(write))
register("onnx-qdq", Target(write_pairs))
register("onnx-qdq", Target(write_for_qnn), "qnn")
