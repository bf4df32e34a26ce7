"""From a network to its layers: one forward pass that computes nothing and writes down every product."""

from __future__ import annotations

import copy
import logging
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, count
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from bitq.errors import BitqError
from bitq.layers import Layer, Pair

# The two operands of every matrix product, by the names of its schema.
_PRODUCTS = {
    "aten::mm": ("self", "mat2"),
    "aten::addmm": ("mat1", "mat2"),
    "aten::_addmm_activation": ("mat1", "mat2"),
    "aten::bmm": ("self", "mat2"),
    "aten::baddbmm": ("batch1", "batch2"),
    "aten::addbmm": ("batch1", "batch2"),
    "aten::mv": ("self", "vec"),
    "aten::addmv": ("mat", "vec"),
    "aten::dot": ("self", "tensor"),
    "aten::vdot": ("self", "other"),
    "aten::_int_mm": ("self", "mat2"),
    "aten::_scaled_mm": ("self", "mat2"),
}
_CONVOLUTIONS = ("aten::convolution", "aten::_convolution", "aten::convolution_overrideable")
# Operators that a device computes on the way out, although PyTorch does not call them elementwise.
_FUSED = {
    f"aten::{name}"
    for name in (
        "batch_norm",
        "cudnn_batch_norm",
        "native_batch_norm",
        "_native_batch_norm_legit_no_training",
        "hardswish",
        "hardswish_",
        "_prelu_kernel",
    )
}
# Operators that multiply inside and stand in neither list: none of them may be missed in silence.
_UNKNOWN_PRODUCT = re.compile(
    r"(::|_)(mm|bmm|gemm|matmul|conv[123]?d?|convolution|linear|trilinear|rnn|attention|transformer)(_|$)"
)


def trace(model: nn.Module, example_input: Any) -> tuple[Layer, ...]:
    """Every convolution and matrix product that `model` computes for `example_input`, in order of execution.

    The network runs once, as for inference (`eval()`), as a copy whose tensors have shapes but no data:
    nothing is computed, a network larger than memory can be traced, and neither the model nor any random
    state changes.

    A convolution's input is the tensor that its operator receives: what PyTorch pads beforehand (an uneven
    `padding="same"`, `padding_mode="circular"`) is stored with its padding. A 1-D convolution has its axis in
    Q and S. A transposed convolution is the convolution of stride 1 over its spread input (see `Layer`); the
    leading inputs that no output depends on are left out of `input_size`. The rows of a matrix product are N,
    its columns K, and each product of a batch is one group, unless all share one weight: then N counts the
    rows of all. Attention is two products, QKᵀ and PV; recurrent networks are the products of every step.

    Args:
        model: the network; on the meta device or made of fake tensors it works just as well.
        example_input: a tensor, a tuple of positional or a mapping of keyword arguments. Only shapes and
            types matter; meta and fake tensors are welcome.

    Returns:
        The layers. `module` is the path of the innermost module whose forward was running. `name` is that
        path for a convolution or linear module, path.conv or path.matmul for any other; "#2", "#3", … tell
        further calls apart. `weight_is_parameter` is False where the weight depends on the input.

    Raises:
        BitqError: the network cannot run on the input, decides by values, or holds a product that is not
            modelled (3-D convolutions, quantized or otherwise fused operators).
    """
    return tuple(_recorded(model, example_input).layers)


def stored_tensors(model: nn.Module, example_input: Any) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Which layers write and read the same stored tensor.

    A layer's result and what elementwise operators (activations, batch norms in evaluation, sums) make of it in its
    shape is one stored tensor: a device computes them on the way out. A sum of two tensors is stored in place of the
    one that was computed last. All else (pooling, padding, reshaping, concatenation) makes a new tensor, which no
    layer writes: in doubt, tensors are taken for two.

    Args:
        model, example_input: as for `trace`.

    Returns:
        For every stored tensor that meets two layers or more the pairs (module path, "output" or "input"), in order of
        execution; a module that is called several times joins the tensors of all its calls.

    Raises:
        BitqError: as `trace` does.
    """
    groups: list[dict[tuple[str, str], None]] = []
    for flow in _recorded(model, example_input).stored.values():
        joined = {end: None for group in groups if group.keys() & flow.keys() for end in group}
        groups = [group for group in groups if not group.keys() & flow.keys()] + [joined | flow]
    return tuple(tuple(group) for group in groups if len(group) > 1)


def _recorded(model: nn.Module, example_input: Any) -> _Recorder:
    if not isinstance(model, nn.Module):
        raise BitqError(f"the network to trace is a {type(model).__name__}; it must be a torch.nn.Module")
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise BitqError(
            "the network is TorchScript, which hides its modules; give the torch.nn.Module it was made from"
        )
    fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
    network, inputs = _hollow_copy(model, example_input, fake_mode)
    recorder = _Recorder(network.eval(), inputs)
    args, kwargs = _arguments(inputs)
    try:
        with _random_states_kept(), _products_unfused(), _quiet(), torch.no_grad(), fake_mode, recorder:
            network(*args, **kwargs)
    except BitqError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{tuple(t.shape)} {str(t.dtype)[6:]}" for t in _tensors(inputs)) or "no tensor"
        raise BitqError(f"the network cannot run on an input of {shapes}: {_first_line(error)}") from error
    return recorder


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator of a running network and writes down its products as layers."""

    supports_higher_order_operators = True

    def __init__(self, network: nn.Module, inputs: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: list[Layer] = []
        # Ends (module, "input" or "output") of every stored tensor, by its number; and the numbers by storage.
        self.stored: dict[int, dict[tuple[str, str], None]] = {}
        self._numbers: dict[int, int] = {}
        self._made: list[Tensor] = []
        self._names: set[str] = set()
        self._running: list[tuple[str, nn.Module]] = [("", network)]
        # Storages (which views share) whose values depend on the input; held, so that no identity returns.
        self._activations = {_storage(t): t for t in _tensors(inputs)}
        for path, module in network.named_modules():
            entry = (path.replace("_orig_mod.", ""), module)  # torch.compile's wrapper
            module.register_forward_pre_hook(lambda *_, e=entry: self._running.append(e), prepend=True)
            module.register_forward_hook(self._leave, always_call=True)

    def _leave(self, *_: object) -> None:
        self._running.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            raise BitqError(f"{self._place} computes {func}, which bitq does not model")
        if torch.is_inference_mode_enabled() and func is not torch.ops.prim.device.default:
            with self:  # operators made of others arrive whole under torch.inference_mode
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        try:
            result = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise BitqError(
                f"{self._place} depends on the values of a tensor ({func}), which tracing does not compute;"
                " let its control flow and its shapes follow from shapes alone"
            ) from error
        named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        self._record(func._schema.name, named, result)
        operands = [t for t in _tensors((args, kwargs)) if self._is_activation(t)]
        if operands:
            self._activations |= {_storage(t): t for t in _tensors(result)}
            self._store(func, operands, result)
        return result

    def _store(self, func: Any, operands: Sequence[Tensor], result: Any) -> None:
        """Number the stored tensor that a result lies in, and note which layer reads and writes it."""
        results = list(_tensors(result))
        if not results:
            return
        name, path = func._schema.name, self._running[-1][0]
        if name in _CONVOLUTIONS or name in _PRODUCTS:
            self.stored.setdefault(self._number(operands[0]), {})[path, "input"] = None
            self.stored[self._renumbered(results[0])] = {(path, "output"): None}
        elif torch.Tag.pointwise in func.tags or name in _FUSED:
            known = [self._number(t) for t in operands if t.shape == results[0].shape]
            if known:
                self._numbers[_storage(results[0])] = max(known)
            else:
                self._renumbered(results[0])
        else:
            for each in results:
                if _storage(each) not in self._numbers or each.shape != operands[0].shape:
                    self._renumbered(each)

    def _number(self, tensor: Tensor) -> int:
        number = self._numbers.get(_storage(tensor))
        return self._renumbered(tensor) if number is None else number

    def _renumbered(self, tensor: Tensor) -> int:
        """A number of its own for a tensor that was just made."""
        number = len(self._made)
        self._made.append(tensor)
        self._numbers[_storage(tensor)] = number
        return number

    def _record(self, operator: str, args: dict[str, Any], result: Any) -> None:
        if operator in _CONVOLUTIONS:
            if args["input"].dim() > 4:
                raise BitqError(f"{self._place} computes a 3-D convolution, which bitq does not model")
            self._add("conv", args["weight"], **_convolution_loops(args, result))
        elif operator in _PRODUCTS:
            first, second = (args[name] for name in _PRODUCTS[operator])
            rows, cols = prod(first.shape[-2:-1]), prod(second.shape[1:][-1:])  # 1 for a vector
            inner, batch = first.shape[-1], prod(first.shape[:-2])
            if operator == "aten::addbmm":  # adds up its batch
                inner, batch = inner * batch, 1
            self._add_product(first, second, (rows, inner, cols), batch)
        elif operator.startswith("aten::_scaled_dot_product_"):
            query, key, value = args["query"], args["key"], args["value"]
            scores = query if self._is_activation(query) else key
            rows, keys, batch = query.shape[-2], key.shape[-2], prod(query.shape[:-2])
            self._add_product(query, key, (rows, query.shape[-1], keys), batch)
            self._add_product(scores, value, (rows, keys, value.shape[-1]), batch)
        elif _UNKNOWN_PRODUCT.search(operator):
            raise BitqError(f"{self._place} computes {operator}, which bitq does not model")

    def _add_product(self, first: Tensor, second: Tensor, extents: tuple[int, int, int], batch: int) -> None:
        """Write down `batch` products of a (rows, inner) matrix of `first` and (inner, cols) of `second`."""
        rows, inner, cols = extents
        weight = second
        if self._is_activation(second) and not self._is_activation(first):
            weight, rows, cols = first, cols, rows  # the transposed product has its weight second
        if weight.dim() == 3 and weight.stride(0) == 0:
            rows, batch = rows * batch, 1  # one weight, expanded over the batch
        self._add("matmul", weight, N=rows, K=cols * batch, C=inner, groups=batch)

    def _add(self, kind: str, weight: Tensor, **loops: Any) -> None:
        path, module = self._running[-1]
        alone = path and isinstance(module, _ConvNd | nn.Linear)
        base = path if alone else f"{path}.{kind}".lstrip(".")
        names = chain([base], (f"{base}#{call}" for call in count(2)))
        name = next(name for name in names if name not in self._names)
        layer = Layer(name=name, module=path, weight_is_parameter=not self._is_activation(weight), **loops)
        self._names.add(name)
        self.layers.append(layer)

    @property
    def _place(self) -> str:
        path = self._running[-1][0]
        return f"module {path!r}" if path else "the network"

    def _is_activation(self, tensor: Tensor) -> bool:
        return _storage(tensor) in self._activations


def _convolution_loops(args: dict[str, Any], output: Tensor) -> dict[str, Any]:
    """Loops and geometry of one convolution operator from its arguments and its result."""
    images, weight, groups = args["input"], args["weight"], args["groups"]
    dim = images.dim() - 2
    stride, dilation = _plane(args["stride"], dim), _plane(args["dilation"], dim)
    padding = _plane(args["padding"], dim, missing=0)
    size, kernel, outputs = (_plane(t.shape[2:], dim) for t in (images, weight, output))
    loops = {
        "N": images.shape[0],
        "K": output.shape[1],
        "C": images.shape[1] // groups,
        **dict(zip("PQRS", outputs + kernel, strict=True)),
        "dilation": dilation,
        "groups": groups,
    }
    if not args["transposed"]:
        return loops | {"stride": stride, "padding": padding, "input_size": size}
    before, stored = zip(*map(_spread_axis, size, kernel, stride, dilation, padding), strict=True)
    return loops | {"padding": before, "input_size": stored, "input_dilation": stride}


def _spread_axis(size: int, taps: int, stride: int, dilation: int, padding: int) -> Pair:
    """Padding and stored inputs of one axis of a transposed convolution, seen as a convolution of stride 1.

    Where its own padding crops more than the kernel reaches, the first inputs meet no output and are dropped.
    """
    before = dilation * (taps - 1) - padding
    unused = max(0, -(before // stride))
    return before + unused * stride, size - unused


def _plane(values: Sequence[int], dim: int, missing: int = 1) -> Pair:
    """Values per axis as (height, width): 1-D has a `missing` height, a single value holds for both axes."""
    first, last = values[0], values[-1]
    return (first if dim == 2 else missing), last


def _hollow_copy(model: nn.Module, inputs: Any, fake_mode: FakeTensorMode) -> tuple[nn.Module, Any]:
    """Copies of both whose tensors have shapes but no data; meta tensors come to the device of the others.

    Buffers of one element keep their value: networks decide by them (whether a codebook was initialized).
    """
    try:
        members = [t for module in model.modules() for t in _tensors(vars(module))]
        given = list(_tensors(inputs))
        devices = (t.device for t in members + given if t.device.type != "meta")
        device = next(devices, torch.device("cpu"))
        with fake_mode:
            hollow = {id(t): _hollow(t, device) for t in members + given}
            hollow |= {id(t): torch.tensor(t.tolist(), dtype=t.dtype) for t in members if _is_flag(t)}
        return copy.deepcopy((model, inputs), hollow)
    except BitqError:
        raise
    except Exception as error:
        raise BitqError(f"the network cannot be copied for tracing: {_first_line(error)}") from error


def _hollow(tensor: Tensor, meta_device: torch.device) -> Tensor:
    if is_lazy(tensor):
        raise BitqError("the network has lazy parameters without a shape yet; run it once before tracing")
    if tensor.layout != torch.strided:
        raise BitqError(f"a tensor of the network or its input is {tensor.layout}; it must be torch.strided")
    device = meta_device if tensor.device.type == "meta" else tensor.device
    hollow = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    return nn.Parameter(hollow, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else hollow


def _is_flag(tensor: Tensor) -> bool:
    return type(tensor) is Tensor and tensor.device.type == "cpu" and tensor.numel() == 1


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in `value` and the containers within it."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


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
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def _random_states_kept() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
