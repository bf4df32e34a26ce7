"""From a quantized network to a graph with marks: exported by PyTorch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from bitq.batches import arguments, count_inputs
from bitq.errors import BitqError, shortened
from bitq.exporting.standard_onnx.marks import NETWORK, translated
from bitq.exporting.standard_onnx.rounding import OPSET
from bitq.nested import mapped, tensors


class _Called(nn.Module):
    """A network that takes all its tensors one after the other."""

    def __init__(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.network, self._called = network, (args, kwargs)

    def forward(self, *tensors: Tensor) -> Any:
        given = iter(tensors)
        args, kwargs = mapped(self._called, lambda _, held: next(given) if isinstance(held, Tensor) else held)
        return self.network(*args, **kwargs)


def exported(model: nn.Module, example_input: Any, fixed: bool = False) -> ir.Model:
    """The graph as PyTorch exports it, with a mark for each quantization.

    Args:
        model, example_input: as for `bitq.export`.
        fixed: let the batch have the size that the example has; any else.

    Raises:
        BitqError: PyTorch cannot follow the network, or has no ONNX for what it computes.
    """
    args, kwargs = arguments(model, example_input)
    count = count_inputs(example_input)
    batches = tensors((args, kwargs)) if fixed else [_at_least_two(each, count) for each in tensors((args, kwargs))]
    names = list(kwargs) if len(kwargs) == len(batches) else [f"input{number or ''}" for number in range(len(batches))]
    any_batch = tuple({0: torch.export.Dim.AUTO} if each.dim() and len(each) != 1 else {} for each in batches)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), _quietly():
            called = _Called(model, args, kwargs)
            shapes = None if fixed else (any_batch,)
            program = torch.export.export(called, tuple(batches), dynamic_shapes=shapes, strict=False)
            made = torch.onnx.export(
                program,
                custom_translation_table={torch.ops.bitq.quantize.default: translated},
                dynamo=True,
                opset_version=OPSET,
                optimize=True,
                verbose=False,
                input_names=names,
            )
    except BitqError:
        raise
    except Exception as error:  # whatever PyTorch's exporter ends in
        raise BitqError(f"PyTorch cannot export the network to ONNX: {_reason(error)}") from error
    finally:
        model.train(training)
    assert made is not None
    found: ir.Model = made.model
    for value in list(found.graph.initializers.values()):
        assert value.name is not None
        value.name = value.name.removeprefix(f"{NETWORK}.")
    return found


def _at_least_two(tensor: Tensor, count: int) -> Tensor:
    """A batch of one is taken for a constant."""
    return torch.cat([tensor, tensor]) if count == 1 and tensor.dim() and len(tensor) == 1 else tensor


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what PyTorch's exporter logs and warns of, which is of its own insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """The first cause, in its first line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return shortened(" ".join(str(error).split("\n\n")[0].split()) or type(error).__name__, 300)
