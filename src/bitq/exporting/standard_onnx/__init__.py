"""`onnx`: one file of standard ONNX operators, which gives the numbers that the quantized network gives here.

`onnx-qdq`: the same for runtimes that know activations by pairs of QuantizeLinear and DequantizeLinear alone.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from bitq.errors import BitqError
from bitq.exporting.target import Handed, register


def write(model: nn.Module, example_input: Any, path: Path, pairs: bool = False) -> Handed:
    """Write the file, with activations in functions or in pairs.

    Raises:
        BitqError: as for `bitq.export`.
    """
    try:
        import onnx_ir  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise BitqError(f"exporting to ONNX needs the package {error.name}; install 'bitq[onnx]'") from error
    from bitq.exporting.standard_onnx.program import written

    return written(model, example_input, path, pairs)


register("onnx", write)
register("onnx-qdq", partial(write, pairs=True))
