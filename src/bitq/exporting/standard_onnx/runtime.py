"""The file beside the network: what ONNX Runtime computes, and what the network does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitq.batches import arguments
from bitq.nested import tensors

OPTIMIZATIONS = "ORT_ENABLE_BASIC"
"""What ONNX Runtime may change in a graph: nothing that sums or scales in another order."""


def outputs(path: Path, inputs: list[Tensor]) -> list[Tensor]:
    """What ONNX Runtime computes of the file, on one thread.

    Raises:
        ModuleNotFoundError: the package onnxruntime is missing.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, OPTIMIZATIONS)
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    found = session.run(None, {name: np.asarray(each) for name, each in zip(names, inputs, strict=True)})
    return [torch.from_numpy(np.asarray(each)) for each in found]


def ran(path: Path, model: nn.Module, example_input: Any) -> str:
    """How far the file and the network agree on an input, in a sentence."""
    args, kwargs = arguments(model, example_input)
    try:
        found = outputs(path, tensors((args, kwargs)))
    except ModuleNotFoundError as error:
        return f"It was not run: that needs the package {error.name}"
    with torch.inference_mode():
        expected = tensors(model(*args, **kwargs))
    total = sum(each.numel() for each in expected)
    pairs = list(zip(found, expected, strict=True))
    same = sum(int((one == other).sum()) for one, other in pairs)
    farthest = max((float((one - other).abs().max()) for one, other in pairs if other.numel()), default=0.0)
    largest = max((float(each.abs().max()) for each in expected if each.numel()), default=0.0)
    if same == total:
        return f"ONNX Runtime gives the same {total} numbers on a random input"
    return (
        f"ONNX Runtime gives {same} of {total} numbers alike on a random input; the others differ by {farthest:.2g} at "
        f"most, where the largest is {largest:.2g}: it sums in another order"
    )
