"""From a network to its layers: one forward pass that computes nothing and writes down every layer.

`copies.py` makes the copy that runs without data, or with them where it decides by values, `watch.py` sees its
operators, `written.py` writes down layers as `bitq.accuracy.kinds` read them, `flow.py` follows which layers meet the
same stored tensor, `lifetimes.py` how long it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from bitq.calls import Call
from bitq.errors import BitqError
from bitq.layers import Layer
from bitq.multiplying import Computed, install
from bitq.running import calls_of
from bitq.tracing.copies import Copies, shown
from bitq.tracing.flow import End, Flow
from bitq.tracing.found import FoundProducts
from bitq.tracing.lifetimes import Activation
from bitq.tracing.watch import Watch, tensors
from bitq.tracing.written import Products


@dataclass(frozen=True)
class Traced:
    """What one run of a network shows.

    Attributes:
        layers: as `trace` returns them.
        stored: the stored tensors that meet two layers or more. For each the ends (module path, "output" or "input")
            that write and read it, in order of execution; a module that is called several times joins the tensors of
            all its calls.
        products: by path of a child that a module would be given for a product, what it computes; see
            `bitq.multiplying`. Such a product is a layer of this module.
        points: by path of a module whose results all go through elementwise operators that alone read them: the calls,
            one for each call of the module, that return what is stored in the end.
        by_values: whether the network decides by values, so that all this is of one example's.
        activations: the stored tensors and how long each lives; see `bitq.tracing.lifetimes`.
        steps: for each layer the step of these lifetimes that computes it.

    A layer's result and what elementwise operators (activations, batch norms in evaluation, sums) make of it in its
    shape is one stored tensor: a device computes them on the way out. A sum of two tensors is stored in place of the
    one that was computed last. All else (pooling, padding, concatenation, reshaping that changes the last axis) makes a
    new tensor, which no layer writes: in doubt, tensors are taken for two. Of a stored tensor that is read at several
    moments, as a sum is by the next sum and, through a norm and an activation function, by the next layer, the last one
    is stored that all of them follow from.
    """

    layers: tuple[Layer, ...]
    stored: tuple[tuple[End, ...], ...]
    points: Mapping[str, tuple[Call, ...]]
    products: Mapping[str, Computed] = field(default_factory=dict)
    by_values: bool = False
    activations: tuple[Activation, ...] = ()
    steps: tuple[int, ...] = ()


def trace(model: nn.Module, example_input: Any) -> tuple[Layer, ...]:
    """Every convolution, matrix product and lookup that `model` computes for `example_input`, in order of execution.

    The network runs once, as for inference (`eval()`), as a copy whose tensors have shapes but no data:
    nothing is computed, a network larger than memory can be traced, and neither the model nor any random
    state changes. Only a network that decides by values, as a detector does by what it has found, runs on the
    example's data, and has the layers that it computes for these.

    A convolution's input is the tensor that its operator receives: what PyTorch pads beforehand (an uneven
    `padding="same"`, `padding_mode="circular"`) is stored with its padding. A 1-D convolution has its axis in
    Q and S. A transposed convolution is the convolution of stride 1 over its spread input (see `Layer`); the
    leading inputs that no output depends on are left out of `input_size`. The rows of a matrix product are N,
    its columns K, and each product of a batch is one group, unless all share one weight: then N counts the
    rows of all. Attention is two products, QKᵀ and PV; recurrent networks are the products of every step. An
    embedding is a lookup (see `Layer`).

    Args:
        model: the network; on the meta device or made of fake tensors it works just as well.
        example_input: a tensor, a tuple of positional or a mapping of keyword arguments. Only shapes and
            types matter, unless the network decides by values; meta and fake tensors are welcome.

    Returns:
        The layers. `module` is the path of the innermost module whose forward was running. `name` is that
        path for a module of a kind that takes formats, path.conv, path.matmul or path.embedding for any
        other; "#2", "#3", … tell further calls apart. `weight_is_parameter` is False where the weight depends
        on the input.

    Raises:
        BitqError: the network cannot run on the input, decides by values that it or the example has not, or
            holds a product that is not modelled (transposed 3-D convolutions, quantized or otherwise fused operators).
    """

    def run(copies_of: Callable[[], Copies]) -> tuple[Layer, ...]:
        copies = copies_of()
        return _run(copies, FoundProducts(copies.network)).layers

    _check(model)
    return shown(model, example_input, run)


def record(model: nn.Module, example_input: Any) -> Traced:
    """The layers of a network as formats are given to them, and which of them write and read the same stored tensor.

    A product of two activations, of those that `bitq.multiplying` can tell, is a module of its own here, and so are the
    linear layers inside torch's attention and recurrent modules. A network with such products runs a second time, with
    these modules.

    Args:
        model, example_input: as for `trace`.

    Raises:
        BitqError: as `trace` does.
    """

    def run(copies_of: Callable[[], Copies]) -> Traced:
        copies = copies_of()
        found = FoundProducts(copies.network)
        traced = _run(copies, found)
        if not found.computed:
            return traced
        again = copies_of()
        install(again.network, found.computed)
        return replace(_run(again), products=found.computed)

    _check(model)
    return shown(model, example_input, run)


def _check(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise BitqError(f"the network to trace is a {type(model).__name__}; it must be a torch.nn.Module")
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise BitqError(
            "the network is TorchScript, which hides its modules; give the torch.nn.Module it was made from"
        )
    try:
        list(model.named_modules(remove_duplicate=False))
    except RecursionError:
        raise BitqError(
            "a module of the network is among its own children, so that torch cannot walk them; keep what a module "
            "only refers to in a list or a tuple"
        ) from None


def _run(copies: Copies, found: FoundProducts | None = None) -> Traced:
    """What one run of a network shows; `found` gets its products."""
    products = Products()
    flow = Flow(products.layers)
    watch = Watch(copies.network, copies.inputs, (products.note, flow.note))

    def before(call: Call, function: Any, args: Any, kwargs: Any) -> None:
        assert found is not None
        found.before(watch, len(products.layers), call, function, args, kwargs)

    def after(call: Call, result: Any) -> Any:
        if found is not None:
            found.after(call, products.layers)
        return flow.returned(call, result)

    with calls_of(copies.network, after, None if found is None else before):
        returned = copies.run(watch)
    return Traced(
        tuple(products.layers),
        flow.groups(),
        flow.points(),
        by_values=copies.whole,
        activations=flow.activations(tensors(returned)),
        steps=tuple(flow.steps),
    )
