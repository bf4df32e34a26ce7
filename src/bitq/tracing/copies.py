"""Copies of a network to run: without data, whose operators only work out shapes, or with them.

A network that decides by values, as a detector does by what it has found, runs on the data of an example.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bitq.errors import BitqError
from bitq.private_torch import FAKE_TENSOR_LOGGER, FakeTensorMode, has_data, is_lazy
from bitq.randomness import random_states_kept
from bitq.running import uncompiled
from bitq.tracing.watch import ValueNeededError, tensors
from bitq.usercode import UserCodeError, reason

Shown = TypeVar("Shown")


def shown(model: nn.Module, inputs: Any, run: Callable[[Callable[[], Copies]], Shown]) -> Shown:
    """What `run` makes of copies, which it gets whenever it asks: without data, if the network does without.

    Some of PyTorch's operators, too, compute only where there are data.

    Raises:
        BitqError: as `Copies` does; a network that decides by values, where it or its inputs have none.
    """
    try:
        return run(lambda: Copies.hollow_of(model, inputs))
    except (ValueNeededError, UserCodeError):
        if not all(map(has_data, [*_members(model), *tensors(inputs)])):
            raise
    return run(lambda: Copies.whole_of(model, inputs))


@dataclass(frozen=True)
class Copies:
    """Copies of a network, which is in evaluation mode, and its inputs, and the mode of their tensors.

    Attributes:
        network, inputs: the copies.
        mode: to run them in.
        whole: whether they hold data.
    """

    network: nn.Module
    inputs: Any
    mode: AbstractContextManager[Any]
    whole: bool

    @classmethod
    def whole_of(cls, model: nn.Module, inputs: Any) -> Copies:
        """Copies with their data; parameters are the network's own."""
        own = {id(parameter): parameter for parameter in model.parameters()}
        network, inputs = _copied((model, inputs), own)
        return cls(network.eval(), inputs, nullcontext(), whole=True)

    @classmethod
    def hollow_of(cls, model: nn.Module, inputs: Any) -> Copies:
        """Copies whose tensors have shapes but no data; meta tensors come to the device of the others.

        Buffers of one element and single numbers among the inputs keep their value: networks decide by them (whether a
        codebook was initialized, how many tokens came before).

        Raises:
            BitqError: tensors without a shape or not strided, or anything that cannot be copied.
        """
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        try:
            members, given = _members(model), list(tensors(inputs))
            devices = (t.device for t in members + given if t.device.type != "meta")
            device = next(devices, torch.device("cpu"))
            with mode:
                hollow = {id(t): _hollow(t, device) for t in members + given}
                flags = (*members, *(t for t in given if not t.dim()))
                hollow |= {id(t): torch.tensor(t.tolist(), dtype=t.dtype) for t in flags if _is_flag(t)}
        except BitqError:
            raise
        except Exception as error:
            raise _uncopied(error) from error
        network, inputs = _copied((model, inputs), hollow)
        return cls(network.eval(), inputs, mode, whole=False)

    def run(self, watch: AbstractContextManager[Any]) -> Any:
        """What the network returns, run once under a watch; random states stay as they were.

        Raises:
            BitqError: the network cannot run on its inputs, or what the watch raises.
        """
        args, kwargs = _arguments(self.inputs)
        try:
            with (
                random_states_kept(devices=[]), uncompiled(), _products_unfused(), _quiet(),
                torch.no_grad(), self.mode, watch,
            ):
                return self.network(*args, **kwargs)
        except BitqError:
            raise
        except Exception as error:
            shapes = ", ".join(f"{tuple(t.shape)} {str(t.dtype)[6:]}" for t in tensors(self.inputs)) or "no tensor"
            told = reason(error, self.network)
            raise UserCodeError(f"the network cannot run on an input of {shapes}: {told}") from error


def _members(model: nn.Module) -> list[Tensor]:
    return [t for module in model.modules() for t in tensors(vars(module))]


def _copied(both: tuple[nn.Module, Any], known: dict[int, Any]) -> tuple[nn.Module, Any]:
    try:
        return copy.deepcopy(both, known)
    except Exception as error:
        raise _uncopied(error) from error


def _uncopied(error: Exception) -> BitqError:
    return BitqError(f"the network cannot be copied for tracing: {_first_line(error)}")


def _hollow(tensor: Tensor, meta_device: torch.device) -> Tensor:
    if is_lazy(tensor):
        raise BitqError("the network has lazy parameters without a shape yet; run it once before tracing")
    if tensor.layout != torch.strided:
        raise BitqError(f"a tensor of the network or its input is {tensor.layout}; it must be dense (torch.strided)")
    device = meta_device if tensor.device.type == "meta" else tensor.device
    hollow = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    return nn.Parameter(hollow, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else hollow


def _is_flag(tensor: Tensor) -> bool:
    return type(tensor) is Tensor and tensor.device.type == "cpu" and tensor.numel() == 1


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


@contextmanager
def _products_unfused() -> Iterator[None]:
    """Keep PyTorch's attention and recurrent modules from their single fused operators."""
    attention = torch.backends.mha
    recurrent: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn)
    before = attention.get_fastpath_enabled(), [backend.enabled for backend in recurrent]
    try:
        attention.set_fastpath_enabled(False)
        for backend in recurrent:
            backend.enabled = False
        yield
    finally:
        attention.set_fastpath_enabled(before[0])
        for backend, enabled in zip(recurrent, before[1], strict=True):
            backend.enabled = enabled


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep PyTorch from logging the traceback of a failure that trace tells in one sentence."""
    logger = logging.getLogger(FAKE_TENSOR_LOGGER)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
