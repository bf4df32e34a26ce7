"""Every name of PyTorch that its documentation does not promise, in one place: what a new version may take away.

`tests/test_private_torch.py` says which of them a version lacks; `make test-torch TORCH=2.10.0` asks any version.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator as HigherOrderOperator  # operators that take functions: flex_attention, cond
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensor
from torch._subclasses.fake_tensor import FakeTensorMode as FakeTensorMode  # tensors with shapes but no data
from torch.autograd import forward_ad
from torch.nn.parameter import is_lazy as is_lazy  # whether a parameter awaits its shape
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode  # sees every operator

VALUE_NEEDED = (DataDependentOutputException, DynamicOutputShapeException)
"""What an operator raises on tensors without data when its result or its shape depends on their values."""

PICKLED_MODULES = (
    *("torch", "torch._utils", "torch._tensor", "torch.storage", "torch.nn.parameter", "torch.serialization"),
    *("torch.cuda", "torch.sparse"),
)
"""Modules whose functions and types stand in what torch.save writes of tensors; files keep the names for ever."""

COMPILER = "torch._dynamo"
"""The module that `torch.compile` imports when it is first called."""

FAKE_TENSOR_LOGGER = "torch._subclasses.fake_tensor"
"""The logger on which these failures are told with their traceback."""


def operator_name(operator: Any) -> str:
    """Name of an operator without its overload, such as "aten::mm"."""
    return str(operator._schema.name)


def named_arguments(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by the names of the operator's schema; those left to their defaults are missing."""
    return dict(zip((argument.name for argument in operator._schema.arguments), args, strict=False)) | dict(kwargs)


def decomposed(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The result by way of the operators that this one is made of, or NotImplemented if it is made of none."""
    if operator is torch.ops.prim.device.default:  # asked of every tensor; its decomposition asks again, endlessly
        return NotImplemented
    return operator.decompose(*args, **kwargs)


def storage_of(tensor: Tensor) -> int:
    """The identity of a tensor's memory, which its views share; of fake tensors too, whose memory has no address."""
    return int(tensor.untyped_storage()._cdata)


def has_hooks(module: nn.Module) -> bool:
    """Whether anything of its own runs before or after the module's forward or backward."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def with_its_calls_seen(function: Any) -> Any:
    """A function of torch's own, written in Python, that no mode of torch functions gets whole, but its calls."""
    known = {**function.__globals__, "has_torch_function": lambda _: False}
    found = FunctionType(function.__code__, known, function.__name__, function.__defaults__, function.__closure__)
    found.__kwdefaults__ = function.__kwdefaults__
    return found


def uncompiled_path(path: str) -> str:
    """A module's path without the wrappers that `torch.compile` puts into it."""
    return ".".join(part for part in path.split(".") if part != "_orig_mod")


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is such a wrapper."""
    return any(name == "_orig_mod" for name, _ in module.named_children())


def but_for(module: nn.Module, hidden: Collection[str], cls: type[nn.Module]) -> nn.Module:
    """A module of a class with another one's contents, but for children of these names."""
    found = cls.__new__(cls)
    kept = {name: child for name, child in module._modules.items() if name not in hidden}
    vars(found).update(vars(module), _modules=kept)
    return found


def transforming() -> bool:
    """Whether a transformation of `torch.func`, such as `vmap` or `grad`, is at work."""
    return torch._C._are_functorch_transforms_active()


def differentiating_forward() -> bool:
    """Whether some `torch.autograd.forward_ad.dual_level` is entered."""
    return forward_ad._current_level >= 0


def in_backward() -> bool:
    """Whether the running thread is inside a backward pass of autograd."""
    return torch._C._current_graph_task_id() != -1


def dispatching() -> bool:
    """Whether a `TorchDispatchMode` sees every operation."""
    return torch._C._len_torch_dispatch_stack() > 0


def jit_tracing() -> bool:
    """Whether `torch.jit.trace` records every operation."""
    return torch._C._get_tracing_state() is not None


def has_data(x: Tensor) -> bool:
    """Whether a tensor has values, not only a shape."""
    return not (is_lazy(x) or isinstance(x, FakeTensor) or x.device.type == "meta")


def version(x: Tensor) -> int:
    """How often x's memory was written to in place, as autograd counts it; 0 where it does not, in inference mode."""
    return 0 if x.is_inference() else x._version


def is_view(x: Tensor) -> bool:
    """Whether x is a view of another tensor in autograd's eyes."""
    return x._is_view()


def saved_tensors_are_free() -> bool:
    """Whether saved tensors may be given hooks: these are not disabled, and nobody has set any."""
    hooks = torch._C._autograd
    return hooks._saved_tensors_hooks_is_enabled() and hooks._top_saved_tensors_default_hooks(True) is None  # type: ignore[attr-defined]


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """A module's parameters by name, whatever an attribute of that name reads as."""
    return module._parameters


def forward_pre_hooks(module: nn.Module) -> dict[int, Any]:
    """What runs before a module's forward, by the number it was registered with."""
    return module._forward_pre_hooks


CONVOLVE = "_conv_forward"
"""The method of a convolution that pads as the layer does and convolves."""


def convolve(layer: Any, input: Tensor, weight: Tensor) -> Tensor:
    """What a convolution computes with another weight."""
    y: Tensor = layer._conv_forward(input, weight, layer.bias)
    return y


OUTPUT_PADDING = "_output_padding"
"""The method of a transposed convolution that finds what to add to the size of its result."""


def output_padding(layer: Any, input: Tensor, output_size: list[int] | None) -> list[int]:
    """What a transposed convolution adds to the size of its result, by axis."""
    spatial = len(layer.kernel_size)
    added: list[int] = layer._output_padding(
        input, output_size, layer.stride, layer.padding, layer.kernel_size, spatial, layer.dilation
    )
    return added
