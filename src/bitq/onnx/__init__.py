"""Layers of a network that is an ONNX file, whatever framework wrote it. Needs the package `onnx` (`bitq[onnx]`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitq.errors import BitqError
from bitq.floating import StaysFloat
from bitq.layers import Layer

LEAST_SECONDS, NODES_PER_SECOND = 10, 2500
MEMORY_BYTES = 1 << 30
"""What inferring shapes may take."""

ASSUMED = (
    "an ONNX file does not tell which modules compute its products: each convolution, Gemm and MatMul, and an Einsum "
    "of two activations, is taken for a layer with formats, which a search may have to leave float"
)
"""What is taken for granted where formats are given to an ONNX file."""


@dataclass(frozen=True)
class OnnxNetwork:
    """What `load_onnx` finds.

    Attributes:
        input_shape: of the first input, in elements.
        layers: in order of execution.
        stays_float: those that take no formats. A file tells no modules; its kinds of products decide, see `ASSUMED`.
    """

    input_shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    stays_float: tuple[StaysFloat, ...]


def load_onnx(
    path: Path,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | Mapping[str | int, Sequence[int]] | None = None,
    input_types: Mapping[str | int, str] | None = None,
) -> OnnxNetwork:
    """Every convolution and matrix product of an ONNX file, as `bitq.trace` finds them in a PyTorch network.

    Nothing is executed and no weights are read: only shapes matter, and those that the file leaves out are inferred.
    Convolutions (also transposed and quantized ones), Gemm, MatMul and Einsum become layers named like their
    nodes; uneven padding is not stored, unlike in PyTorch, which pads beforehand.

    Args:
        path: the file; tensors that it keeps in other files are not loaded.
        input_shape: shape of the first input where the file leaves it open, or a mapping from names of inputs to their
            shapes ("" is the first, a number its place from 0). What it says of named sizes holds for the other inputs
            too. By default an open first axis, the batch, is 1, and no other axis is because of it; a batch that the
            file fixes gives way to another. "?" and other placeholders are no names.
        input_types: types that inputs must have in the file, such as "int64", by the same names.

    Raises:
        BitqError: the package onnx is missing; a file that cannot be read, is over 2 GiB, damaged or contradicts
            itself; an input that is no tensor, whose shape stays open, or whose shape or type is another; a product of
            unknown shape, within control flow, or not modelled (transposed 3-D convolutions, recurrent and fused
            operators).
    """
    try:
        import onnx  # noqa: F401
    except ModuleNotFoundError as error:
        raise BitqError(f"reading {path} needs the package {error.name}; install 'bitq[onnx]'") from error
    from bitq.onnx.apart import Died, apart
    from bitq.onnx.graph import graph_of, read_model
    from bitq.onnx.products import layers

    model = read_model(path)

    def network() -> OnnxNetwork:
        graph = graph_of(model, path, input_shape, input_types or {})
        return OnnxNetwork(graph.input_shape, *layers(graph))

    seconds = LEAST_SECONDS + len(model.graph.node) // NODES_PER_SECOND
    try:
        return apart(network, seconds, MEMORY_BYTES)
    except Died as error:
        raise BitqError(
            f"{path}: inferring the shapes of its tensors ends in a crash of ONNX's own code, or would take over "
            f"{seconds} s or {MEMORY_BYTES >> 30} GiB; look at it with onnx.checker"
        ) from error
