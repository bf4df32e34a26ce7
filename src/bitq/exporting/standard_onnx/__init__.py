"""`onnx`: one file of standard ONNX operators, which gives the numbers that the quantized network gives here.

`onnx-qdq`: the same for runtimes that know activations by pairs of QuantizeLinear and DequantizeLinear alone; with the
runtime `qnn`, those that Qualcomm's QNN takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from bitq.errors import BitqError
from bitq.exporting.target import Handed, Target, register
from bitq.tradeoff.plan import Plan

if TYPE_CHECKING:
    import onnx_ir as ir

    from bitq.exporting.standard_onnx.program import Put

OPERATORS, PAIRS, QNN = "onnx", "onnx-qdq", "qnn"
"""Forms: activations in functions of operators, in pairs, in pairs as QNN takes them."""


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


def write(form: str, model: nn.Module, example_input: Any, path: Path) -> Handed:
    """Write the file of a network in PyTorch: for QNN with the batch of the input, else of any batch.

    Raises:
        BitqError: as for `bitq.export`.
    """
    check_packages()
    from bitq.exporting.standard_onnx.program import written
    from bitq.exporting.standard_onnx.pytorch import exported

    return written(exported(model, example_input, fixed=form == QNN), path, _put(form))


def rewrite(form: str, plan: Plan, source: Path, path: Path, input_shape: Sequence[int] | None) -> Handed:
    """Write the file of a network that is an ONNX file.

    Raises:
        BitqError: as for `bitq.export`, or a file of another network than the plan's.
    """
    check_packages()
    from bitq.exporting.standard_onnx.planned_file import rewritten

    return rewritten(plan, source, path, _put(form), input_shape)


def _put(form: str) -> Callable[[ir.Model], Put]:
    """What a form puts in the place of quantizations."""
    from bitq.exporting.standard_onnx.pairs import put_into_pairs
    from bitq.exporting.standard_onnx.program import put_into_operators
    from bitq.exporting.standard_onnx.qnn import put_for_qnn

    return {OPERATORS: put_into_operators, PAIRS: put_into_pairs, QNN: put_for_qnn}[form]


for _form, _to, _runtime in ((OPERATORS, OPERATORS, None), (PAIRS, PAIRS, None), (QNN, PAIRS, QNN)):
    register(_to, Target(partial(write, _form), rewrite=partial(rewrite, _form)), _runtime)
