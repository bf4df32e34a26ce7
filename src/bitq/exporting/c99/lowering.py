"""From a quantized network to steps: exported by PyTorch, its operators read one after the other."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ldexp, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from bitq.accuracy.quantized import calibration
from bitq.batches import arguments
from bitq.errors import BitqError, shortened
from bitq.exporting.c99.filters import filters_of
from bitq.exporting.c99.numbers import NotIntegersError, Numbers, numbers_of
from bitq.exporting.c99.steps import INPUT_LIFT, FromInput, Resident, Schedule, StepOfC, Walk, multiplier
from bitq.exporting.c99.wires import Wire, convolved, pooled, read
from bitq.formats import Ranges, parse_format
from bitq.nested import tensors
from bitq.numerics.recipe import Axes, Recipe, magnitude
from bitq.private_torch import named_arguments

Content = Wire | Resident | None


@dataclass(frozen=True, eq=False)
class _Flow:
    """A tensor that depends on the input.

    Attributes:
        shape: without the batch.
        axis: of the channels in it; None, if it is not known.
        content: the numbers; None: the network's input.
        flat: whether the content's positions are channels here, each channel's together.
        recipe: how it was quantized, if it was.
        layer: path of the last module whose result it is made of by elementwise functions; "" if there is none.
    """

    shape: tuple[int, ...]
    axis: int | None
    content: Content
    flat: bool = False
    recipe: Recipe | None = None
    layer: str = ""


@dataclass(frozen=True, eq=False)
class _Constant:
    """A tensor that does not depend on the input; with the recipe and the float tensor that it was quantized from."""

    value: Tensor
    recipe: Recipe | None = None
    raw: Tensor | None = None


class _Unknown(Exception):  # noqa: N818 - what is said of it is made where it is caught
    """An operator or a form of it that there are no steps for; with the reason."""


def lowered(model: nn.Module, example_input: Any) -> Schedule:
    """The steps of a quantized network.

    Raises:
        BitqError: PyTorch cannot follow the network, or it computes something that there are no steps for.
    """
    args, kwargs = arguments(model, example_input)
    given = tensors((args, kwargs))
    if len(given) != 1 or kwargs or len(args) != 1:
        raise BitqError(f"exported C takes one tensor; the network takes {len(given)}")
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, (given[0][:1],), strict=False)
    except BitqError:
        raise
    except Exception as error:
        while error.__cause__ is not None:
            error = error.__cause__  # type: ignore[assignment]
        reason = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
        raise BitqError(f"PyTorch cannot export the network: {shortened(reason, 300)}") from error
    finally:
        model.train(training)
    return _Lowering(program, calibration(model)).steps()


class _Lowering:
    """Reads a graph."""

    def __init__(self, program: torch.export.ExportedProgram, ranges: dict[str, Ranges]) -> None:
        self._program, self._ranges = program, ranges
        self._found: list[StepOfC] = []
        self._layers = [""]
        self._env: dict[fx.Node, Any] = {}
        self._node: fx.Node

    def steps(self) -> Schedule:
        """All of it."""
        shape: tuple[int, ...] = ()
        held = {**self._program.state_dict, **self._program.constants}
        signature = self._program.graph_signature
        names = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        for node in self._program.graph.nodes:
            self._node = node
            if node.op == "placeholder" and node.name in names:
                self._env[node] = _Constant(held[names[node.name]].detach())
            elif node.op == "placeholder":
                shape = tuple(node.meta["val"].shape[1:])
                self._env[node] = _Flow(shape, None, None)
            elif node.op == "call_function":
                self._call(node)
            else:
                break
        outputs = tensors(fx.node.map_arg(node.args[0], lambda each: each.meta["val"]))
        if len(outputs) != 1:
            raise BitqError(f"exported C gives one tensor; the network gives {len(outputs)}")
        (last,) = node.args[0]
        return self._finished(self._env[last], shape)

    def _finished(self, flow: Any, shape: tuple[int, ...]) -> Schedule:
        if not isinstance(flow, _Flow) or flow.content is None:
            raise BitqError("the network computes nothing of its input that has a format")
        stored = self._stored(flow)
        channel, position = _strides((stored.channels, stored.positions), flow)
        return Schedule(tuple(self._found), shape, flow.shape, stored, channel, position)

    # Nodes

    def _call(self, node: fx.Node) -> None:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda each: self._env[each])
        if node.target is operator.getitem:
            many: Any = args[0]
            self._env[node] = many[args[1]]
            return
        given = named_arguments(node.target, args, kwargs)
        name = str(node.target).rpartition(".")[0]
        try:
            if name == "bitq.quantize":
                self._env[node] = (self._quantized(given), None)
            elif not any(isinstance(each, _Flow) for each in _flat(given)):
                self._env[node] = self._constant(node, given)
            else:
                own = _OPERATORS.get(name.removesuffix("_"))
                if own is None:
                    raise _Unknown("there is no code for it")
                result = own(self, given)
                self._env[node] = self._kept(result) if len(node.users) > 1 else result
                if name.endswith("_"):  # what reads its input later sees what was written
                    self._env[node.args[0]] = self._env[node]  # type: ignore[index]
        except _Unknown as error:
            raise BitqError(f"{self._place()} computes {name}, which exported C cannot: {error}") from error
        except NotIntegersError as error:
            raise BitqError(f"{self._place()}: {error}") from error

    def _constant(self, node: fx.Node, given: dict[str, Any]) -> Any:
        def value(each: Any) -> Any:
            return each.value if isinstance(each, _Constant) else each

        assert callable(node.target)
        found = node.target(**{name: _mapped(each, value) for name, each in given.items()})
        if not isinstance(found, Tensor):
            return found
        first = next(each for each in given.values() if isinstance(each, _Constant)) if given else None
        kept = first is not None and first.recipe is not None and found.numel() == first.value.numel()
        return replace(first, value=found) if kept and first is not None else _Constant(found)

    def _quantized(self, given: dict[str, Any]) -> Any:
        x, low_high = given["x"], given.get("tensor_range")
        recipe = Recipe(
            parse_format(given["format"]),
            Axes(given["dim"], tuple(given["inner_dims"])),
            given.get("exponent_bias"),
            given["rounding"],
            None if low_high is None else (low_high[0], low_high[1]),
        )
        if isinstance(x, _Constant):
            return _Constant(x.value, recipe, x.value)
        if x.recipe is not None and (x.recipe.format, x.recipe.axes) == (recipe.format, recipe.axes):
            return x
        axis = recipe.axes.dim - 1
        flow = self._along(x, axis)
        module, channels = self._module(), flow.shape[axis]
        numbers = self._numbers(recipe, channels, module, flow.layer)
        if flow.content is None:
            height, width = _extents(flow.shape, axis)
            target = Resident(self._name(), height, width, channels, numbers, numbers.bound())
            strides = _strides((channels, height * width), flow)
            gain, shift = multiplier(ldexp(1 / numbers.scale, -INPUT_LIFT)) if numbers.scale != 1 else (0, 0)
            step = StepOfC(module, FromInput(*strides), (), 0, target, gain, shift)
        else:
            step = self._wire(flow).into(self._name(), numbers, module)
        self._found.append(step)
        return _Flow(flow.shape, axis, step.target, False, recipe)

    def _numbers(self, recipe: Recipe, channels: int, module: str, layer: str) -> Numbers:
        of_input = module in self._ranges and module != layer
        known = self._ranges.get(module if of_input else layer, Ranges())
        span = known.input if of_input else known.output
        largest = None if span is None else magnitude(span, recipe.format)
        try:
            return numbers_of(recipe, channels, largest)
        except NotIntegersError as error:
            raise BitqError(
                f"an activation of {self._place()} has the format {recipe.format.text}, {error}"
            ) from error

    # What flows

    def _along(self, flow: _Flow, axis: int) -> _Flow:
        """A tensor whose channels are known to run along an axis."""
        if flow.axis == axis:
            return flow
        if flow.axis is None:
            return replace(flow, axis=axis)
        if prod(flow.shape) in (flow.shape[axis], flow.shape[flow.axis]):  # nothing but channels
            return replace(flow, axis=axis) if flow.shape[axis] == prod(flow.shape) else flow
        if len(flow.shape) == 2 and flow.content is not None and not flow.flat:
            return replace(flow, axis=axis, content=read((self._stored(flow),), "turned"), recipe=None)
        raise _Unknown("its channels lie along another axis than those of what it reads")

    def _wire(self, flow: Any) -> Wire:
        """Numbers to compute with."""
        if not isinstance(flow, _Flow):
            raise _Unknown("it takes a constant there")
        if flow.content is None:
            raise _Unknown("it reads the network's input before that has a format; give its layer a format of inputs")
        if flow.flat:
            return read((self._stored(replace(flow, flat=False)),), "flat")
        return flow.content if isinstance(flow.content, Wire) else read((flow.content,))

    def _stored(self, flow: _Flow) -> Resident:
        """The same in memory."""
        if isinstance(flow.content, Resident) and not flow.flat:
            return flow.content
        step = self._wire(flow).as_they_are(self._name(), self._module())
        self._found.append(step)
        return step.target

    def _kept(self, flow: _Flow) -> _Flow:
        """What several read, in memory."""
        return replace(flow, content=self._stored(flow)) if isinstance(flow.content, Wire) and not flow.flat else flow

    def _name(self) -> str:
        """Of the tensor that the next step stores."""
        return f"t{len(self._found)}"

    def _module(self) -> str:
        stack = self._node.meta.get("nn_module_stack")
        return str(list(stack.values())[-1][0]) if stack else ""

    def _place(self) -> str:
        module = self._module()
        return f"module {shortened(repr(module))}" if module else "the network"

    # Operators

    def layer(self, given: dict[str, Any], order: Callable[[int], tuple[int, ...]], walk: Walk, groups: int) -> _Flow:
        """A convolution or a linear layer."""
        shape = tuple(self._node.meta["val"].shape[1:])
        weight, axis = given["weight"], 0 if len(shape) > 1 and "stride" in given else len(shape) - 1
        if not isinstance(weight, _Constant) or weight.recipe is None or weight.raw is None:
            raise _Unknown("its weight has no format, or is an activation")
        if not isinstance(given["input"], _Flow) or given["input"].recipe is None:
            raise _Unknown("its input has no format")
        flow = self._along(given["input"], axis)
        axes = order(weight.raw.dim())
        outputs, taps = shape[axis], walk.kernel[0] * walk.kernel[1]
        try:
            filters = filters_of(weight.raw, weight.recipe, axes, outputs, taps)
        except NotIntegersError as error:
            raise BitqError(
                f"the weight of {self._place()} has the format {weight.recipe.format.text}, {error}"
            ) from error
        made = convolved(self._stored(flow), filters, walk, groups, _extents(shape, axis))
        bias = given.get("bias")
        if bias is not None:
            made = made.scaled(1.0, _values(bias, outputs))
        self._layers.append(self._module())
        return _Flow(shape, axis, made, layer=self._module())

    def pool(self, given: dict[str, Any], walk: Walk, largest: bool, count: int) -> _Flow:
        """A pooling."""
        shape = tuple(self._node.meta["val"].shape[1:])
        flow = self._along(next(iter(given.values())), 0)
        if flow.content is None or flow.flat:
            raise _Unknown("it reads what has no format")
        height, width = _extents(shape, 0)
        made = pooled(self._stored(flow), walk, largest, height, width)
        return _Flow(shape, 0, made if largest else made.divided(count))


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [each for one in value.values() for each in _flat(one)]
    return [each for one in value for each in _flat(one)] if isinstance(value, list | tuple) else [value]


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    return [_mapped(each, change) for each in value] if isinstance(value, list | tuple) else change(value)


def _extents(shape: tuple[int, ...], axis: int) -> tuple[int, int]:
    rest = [extent for place, extent in enumerate(shape) if place != axis]
    if len(rest) > 2:
        raise _Unknown("it has more than two axes beside its channels")
    height, width = [1] * (2 - len(rest)) + rest
    return height, width


def _strides(extents: tuple[int, int], flow: _Flow) -> tuple[int, int]:
    """From channel to channel and from position to position in the network's own order."""
    channels, positions = extents
    if flow.axis == 0:
        return positions, 1
    if flow.axis == len(flow.shape) - 1:
        return 1, channels
    raise _Unknown("its channels lie between other axes")


def _values(given: Any, channels: int) -> np.ndarray:
    """A constant of each channel."""
    if not isinstance(given, _Constant) or given.value.numel() not in (1, channels):
        raise _Unknown("it takes a tensor that is no constant of each channel")
    return np.broadcast_to(given.value.double().reshape(-1).numpy(), channels)


_OPERATORS: dict[str, Callable[[_Lowering, dict[str, Any]], _Flow]] = {}


def _operator(*names: str) -> Callable[[Any], Any]:
    def known(own: Any) -> Any:
        _OPERATORS.update(dict.fromkeys((f"aten.{name}" for name in names), own))
        return own

    return known


def _pair(value: Any, length: int, default: int = 0) -> tuple[int, int]:
    """Of height and width, from what an operator of one or two axes takes."""
    held: list[int] = [value] if isinstance(value, int) else list(value)
    held = held * length if len(held) == 1 else held
    height, width = [default] * (2 - len(held)) + held
    return height, width


@_operator("conv1d", "conv2d")
def _convolution(own: _Lowering, given: dict[str, Any]) -> _Flow:
    given = {"stride": 1, **given}
    kernel = tuple(given["weight"].value.shape[2:])
    dilation, padding = _pair(given.get("dilation", 1), len(kernel), 1), given.get("padding", 0)
    if isinstance(padding, str):
        spans = [d * (k - 1) for d, k in zip(dilation[-len(kernel) :], kernel, strict=True)]
        wanted = spans if padding == "same" else [0] * len(spans)
        if any(each % 2 for each in wanted):
            raise _Unknown("it pads one side more than the other")
        padding = [each // 2 for each in wanted]
    size = len(kernel)
    walk = Walk(_pair(kernel, size, 1), _pair(given["stride"], size, 1), _pair(padding, size), dilation)
    return own.layer(given, lambda axes: (0, *range(2, axes), 1), walk, given.get("groups", 1))


@_operator("conv_transpose1d", "conv_transpose2d")
def _transposed(own: _Lowering, given: dict[str, Any]) -> _Flow:
    given = {"stride": 1, **given}
    kernel = tuple(given["weight"].value.shape[2:])
    size = len(kernel)
    walk = Walk(
        _pair(kernel, size, 1),
        _pair(given["stride"], size, 1),
        _pair(given.get("padding", 0), size),
        _pair(given.get("dilation", 1), size, 1),
        True,
    )
    return own.layer(given, lambda axes: (0, 2, *range(3, axes), 1), walk, given.get("groups", 1))


@_operator("linear")
def _linear(own: _Lowering, given: dict[str, Any]) -> _Flow:
    return own.layer(given, lambda axes: (0, 1), Walk((1, 1), (1, 1), (0, 0)), 1)


@_operator("batch_norm")
def _norm(own: _Lowering, given: dict[str, Any]) -> _Flow:
    if given.get("training"):
        raise _Unknown("it is in training mode")
    flow = own._along(given["input"], 0)
    wire = own._wire(flow)
    count = wire.channels
    variance, mean = _values(given["running_var"], count), _values(given["running_mean"], count)
    gain = 1 / np.sqrt(variance + given["eps"])
    if given.get("weight") is not None:
        gain = gain * _values(given["weight"], count)
    bias = _values(given["bias"], count) if given.get("bias") is not None else 0.0
    return replace(flow, content=wire.scaled(gain, bias - mean * gain), flat=False, recipe=None)


@_operator("relu")
def _relu(own: _Lowering, given: dict[str, Any]) -> _Flow:
    return _held(own, given["self"], 0.0, None)


@_operator("relu6")
def _relu6(own: _Lowering, given: dict[str, Any]) -> _Flow:
    return _held(own, given["self"], 0.0, 6.0)


@_operator("hardtanh")
def _hardtanh(own: _Lowering, given: dict[str, Any]) -> _Flow:
    return _held(own, given["self"], float(given.get("min_val", -1.0)), float(given.get("max_val", 1.0)))


@_operator("clamp", "clamp_min", "clamp_max")
def _clamp(own: _Lowering, given: dict[str, Any]) -> _Flow:
    low, high = given.get("min"), given.get("max")
    return _held(own, given["self"], None if low is None else float(low), None if high is None else float(high))


def _held(own: _Lowering, flow: _Flow, low: float | None, high: float | None) -> _Flow:
    return replace(flow, content=own._wire(flow).held(low, high), flat=False, recipe=None)


@_operator("leaky_relu")
def _leaky_relu(own: _Lowering, given: dict[str, Any]) -> _Flow:
    slope = float(given.get("negative_slope", 0.01))
    if not 0 <= slope < 1:
        raise _Unknown("its slope is not within 0..1")
    flow = given["self"]
    return replace(flow, content=own._wire(flow).leaking(slope), flat=False, recipe=None)  # type: ignore[no-any-return]


@_operator("add")
def _add(own: _Lowering, given: dict[str, Any]) -> _Flow:
    one, other = given["self"], given["other"]
    if given.get("alpha", 1) != 1:
        raise _Unknown("it multiplies what it adds")
    if not isinstance(one, _Flow):
        one, other = other, one
    if not isinstance(other, _Flow):
        return _affine(own, one, 1.0, other)
    if one.shape != other.shape or one.flat or other.flat:
        raise _Unknown("it adds tensors of unlike shapes")
    if isinstance(other.content, Wire) and isinstance(one.content, Resident):
        one, other = other, one
    other = own._along(other, one.axis if one.axis is not None else 0)
    if other.content is None or one.content is None:
        raise _Unknown("it adds the network's input, which has no format there")
    layer = max(one.layer, other.layer, key=own._layers.index)
    return replace(one, content=own._wire(one).plus(own._stored(other)), recipe=None, layer=layer)  # type: ignore[no-any-return]


@_operator("mul", "div", "sub")
def _scaled(own: _Lowering, given: dict[str, Any]) -> _Flow:
    one, other = given["self"], given["other"]
    if not isinstance(one, _Flow) or isinstance(other, _Flow):
        raise _Unknown("both may not depend on the input, and what does comes first")
    name = str(own._node.target).split(".")[1].removesuffix("_")
    if name == "sub":
        return _affine(own, one, 1.0, other, negative=True)
    return _affine(own, one, other, 0.0, inverse=name == "div")


def _affine(
    own: _Lowering, flow: _Flow, gain: Any, offset: Any, negative: bool = False, inverse: bool = False
) -> _Flow:
    wire = own._wire(flow)

    def each(given: Any) -> Any:
        if isinstance(given, int | float):
            return float(given)
        if given.value.numel() != 1 and (
            flow.axis is None or given.value.dim() + flow.axis - len(flow.shape) < 0
            or given.value.shape[given.value.dim() + flow.axis - len(flow.shape)] != wire.channels
        ):
            raise _Unknown("it takes a constant that is not one of each channel")
        return _values(given, wire.channels)

    gains, offsets = each(gain), each(offset)
    made = wire.scaled(1 / gains if inverse else gains, -offsets if negative else offsets)
    return replace(flow, content=made, flat=False, recipe=None)


@_operator("max_pool1d", "max_pool2d")
def _max_pool(own: _Lowering, given: dict[str, Any]) -> _Flow:
    size = len(given["self"].shape) - 1
    kernel = _pair(given["kernel_size"], size, 1)
    stride = _pair(given.get("stride") or given["kernel_size"], size, 1)
    walk = Walk(kernel, stride, _pair(given.get("padding", 0), size), _pair(given.get("dilation", 1), size, 1))
    return own.pool(given, walk, True, 1)


@_operator("avg_pool1d", "avg_pool2d")
def _avg_pool(own: _Lowering, given: dict[str, Any]) -> _Flow:
    shape = given["self"].shape[1:]
    kernel = _pair(given["kernel_size"], len(shape), 1)
    stride = _pair(given.get("stride") or given["kernel_size"], len(shape), 1)
    padding = _pair(given.get("padding", 0), len(shape))
    if any(padding) and not given.get("count_include_pad", True):
        raise _Unknown("it counts what lies in its padding apart")
    extents = (*(1,) * (2 - len(shape)), *shape)
    out = _extents(tuple(own._node.meta["val"].shape[1:]), 0)
    if any((o - 1) * s + k > n + 2 * p for o, s, k, n, p in zip(out, stride, kernel, extents, padding, strict=True)):
        raise _Unknown("its last windows are cut (ceil_mode)")
    count = given.get("divisor_override") or kernel[0] * kernel[1]
    return own.pool(given, Walk(kernel, stride, padding), False, count)


@_operator("adaptive_avg_pool1d", "adaptive_avg_pool2d")
def _adaptive(own: _Lowering, given: dict[str, Any]) -> _Flow:
    out = _extents(tuple(own._node.meta["val"].shape[1:]), 0)
    extents = _extents(given["self"].shape, 0)
    if any(n % o for n, o in zip(extents, out, strict=True)):
        raise _Unknown("its windows are of unlike sizes")
    kernel = (extents[0] // out[0], extents[1] // out[1])
    return own.pool(given, Walk(kernel, kernel, (0, 0)), False, kernel[0] * kernel[1])


@_operator("mean")
def _mean(own: _Lowering, given: dict[str, Any]) -> _Flow:
    flow = given["self"]
    axes = sorted(axis % (len(flow.shape) + 1) - 1 for axis in given.get("dim") or ())
    if flow.axis not in (0, None) or axes != list(range(1, len(flow.shape))):
        raise _Unknown("it takes the mean of other axes than all but the channels")
    kernel = _extents(flow.shape, 0)
    found = own.pool({"self": flow}, Walk(kernel, kernel, (0, 0)), False, kernel[0] * kernel[1])
    return replace(found, content=replace(found.content, height=1, width=1))  # type: ignore[type-var]


@_operator("cat")
def _cat(own: _Lowering, given: dict[str, Any]) -> _Flow:
    flows, axis = list(given["tensors"]), given.get("dim", 0)
    first = flows[0]
    if not all(isinstance(flow, _Flow) and flow.content is not None and not flow.flat for flow in flows):
        raise _Unknown("it takes a tensor that has no format")
    axis = axis % (len(first.shape) + 1) - 1
    if any(flow.axis != axis for flow in flows):
        raise _Unknown("it joins tensors along another axis than that of their channels")
    shape = tuple(own._node.meta["val"].shape[1:])
    return _Flow(shape, axis, read(tuple(own._stored(flow) for flow in flows)))


@_operator("flatten", "view", "reshape", "_unsafe_view", "squeeze", "unsqueeze")
def _view(own: _Lowering, given: dict[str, Any]) -> _Flow:
    flow = given["self"]
    shape = tuple(own._node.meta["val"].shape[1:])
    if shape == flow.shape:
        return flow  # type: ignore[no-any-return]
    if flow.axis is None and flow.content is None:
        return replace(flow, shape=shape)  # type: ignore[no-any-return]
    count = prod(shape)
    if flow.axis is not None and flow.shape[flow.axis] == count and count in shape:  # nothing but channels
        return replace(flow, shape=shape, axis=shape.index(count), recipe=None)  # type: ignore[no-any-return]
    if len(shape) == 1 and flow.axis == 0:
        return replace(flow, shape=shape, axis=0, flat=True, recipe=None)  # type: ignore[no-any-return]
    raise _Unknown("it lays the tensor out in another way than one after the other")


@_operator("dropout", "feature_dropout", "clone", "contiguous", "detach", "alias", "identity")
def _same(own: _Lowering, given: dict[str, Any]) -> _Flow:
    if given.get("train"):
        raise _Unknown("it is in training mode")
    return next(iter(given.values()))  # type: ignore[no-any-return]
