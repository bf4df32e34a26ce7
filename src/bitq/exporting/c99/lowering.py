"""From a quantized network to steps: exported by PyTorch, its operators read one after the other."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from math import ldexp, prod
from pkgutil import iter_modules
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from bitq.accuracy.quantized import calibration
from bitq.batches import arguments
from bitq.errors import BitqError, shortened
from bitq.exporting.c99 import kinds
from bitq.exporting.c99.kinds.entering import INPUT_LIFT, FromInput
from bitq.exporting.c99.kinds.joining import read
from bitq.exporting.c99.numbers import NotIntegersError, Numbers, numbers_of
from bitq.exporting.c99.steps import Resident, Schedule, StepOfC, multiplier
from bitq.exporting.c99.wires import Wire
from bitq.formats import Ranges, parse_format
from bitq.nested import tensors
from bitq.numerics.recipe import Axes, Recipe, magnitude
from bitq.private_torch import named_arguments

Content = Wire | Resident | None


@dataclass(frozen=True, eq=False)
class Flowing:
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
class Constant:
    """A tensor that does not depend on the input; with the recipe and the float tensor that it was quantized from."""

    value: Tensor
    recipe: Recipe | None = None
    raw: Tensor | None = None


class UnknownError(Exception):
    """An operator or a form of it that there are no steps for; with the reason."""


def lowered(model: nn.Module, example_input: Any) -> Schedule:
    """The steps of a quantized network.

    Raises:
        BitqError: PyTorch cannot follow the network, or it computes something that there are no steps for.
    """
    for file in iter_modules(kinds.__path__):
        import_module(f"{kinds.__name__}.{file.name}")  # each registers what it computes
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
    return Lowering(program, calibration(model)).steps()


class Lowering:
    """Reads a graph."""

    def __init__(self, program: torch.export.ExportedProgram, ranges: dict[str, Ranges]) -> None:
        self._program, self._ranges = program, ranges
        self._found: list[StepOfC] = []
        self.layers = [""]
        self._env: dict[fx.Node, Any] = {}
        self.node: fx.Node

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
            self.node = node
            if node.op == "placeholder" and node.name in names:
                self._env[node] = Constant(held[names[node.name]].detach())
            elif node.op == "placeholder":
                shape = tuple(node.meta["val"].shape[1:])
                self._env[node] = Flowing(shape, None, None)
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
        if not isinstance(flow, Flowing) or flow.content is None:
            raise BitqError("the network computes nothing of its input that has a format")
        stored = self.stored(flow)
        channel, position = strides((stored.channels, stored.positions), flow)
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
            elif not any(isinstance(each, Flowing) for each in _flat(given)):
                self._env[node] = self._constant(node, given)
            else:
                own = _OPERATORS.get(name.removesuffix("_"))
                if own is None:
                    raise UnknownError("there is no code for it")
                result = own(self, given)
                shared = isinstance(result, Flowing) and len(node.users) > 1
                self._env[node] = self._kept(result) if shared else result  # type: ignore[arg-type]
                if name.endswith("_"):  # what reads its input later sees what was written
                    self._env[node.args[0]] = self._env[node]  # type: ignore[index]
        except UnknownError as error:
            raise BitqError(f"{self.place()} computes {name}, which exported C cannot: {error}") from error
        except NotIntegersError as error:
            raise BitqError(f"{self.place()}: {error}") from error

    def _constant(self, node: fx.Node, given: dict[str, Any]) -> Any:
        def value(each: Any) -> Any:
            return each.value if isinstance(each, Constant) else each

        assert callable(node.target)
        found = node.target(**{name: _mapped(each, value) for name, each in given.items()})
        if not isinstance(found, Tensor):
            return found
        first = next(each for each in given.values() if isinstance(each, Constant)) if given else None
        kept = first is not None and first.recipe is not None and found.numel() == first.value.numel()
        return replace(first, value=found) if kept and first is not None else Constant(found)

    def _quantized(self, given: dict[str, Any]) -> Any:
        x, low_high = given["x"], given.get("tensor_range")
        recipe = Recipe(
            parse_format(given["format"]),
            Axes(given["dim"], tuple(given["inner_dims"])),
            given.get("exponent_bias"),
            given["rounding"],
            None if low_high is None else (low_high[0], low_high[1]),
        )
        if isinstance(x, Constant):
            return Constant(x.value, recipe, x.value)
        if x.recipe is not None and (x.recipe.format, x.recipe.axes) == (recipe.format, recipe.axes):
            return x
        axis = recipe.axes.dim - 1
        flow = self.along(x, axis)
        module, channels = self.module(), flow.shape[axis]
        numbers = self._numbers(recipe, channels, module, flow.layer)
        if flow.content is None:
            height, width = extents(flow.shape, axis)
            target = Resident(self.name(), height, width, channels, numbers, numbers.bound())
            own = strides((channels, height * width), flow)
            gain, shift = multiplier(ldexp(1 / numbers.scale, -INPUT_LIFT)) if numbers.scale != 1 else (0, 0)
            step = StepOfC(module, FromInput(*own), (), 0, target, numbers, gain, shift)
        else:
            step = self.wire(flow).into(self.name(), numbers, module)
        self._found.append(step)
        return Flowing(flow.shape, axis, step.target, False, recipe)

    def _numbers(self, recipe: Recipe, channels: int, module: str, layer: str) -> Numbers:
        of_input = module in self._ranges and module != layer
        known = self._ranges.get(module if of_input else layer, Ranges())
        span = known.input if of_input else known.output
        largest = None if span is None else magnitude(span, recipe.format)
        try:
            return numbers_of(recipe, channels, largest)
        except NotIntegersError as error:
            raise BitqError(
                f"an activation of {self.place()} has the format {recipe.format.text}, {error}"
            ) from error

    # What flows

    def along(self, flow: Flowing, axis: int) -> Flowing:
        """A tensor whose channels are known to run along an axis."""
        if flow.axis == axis:
            return flow
        if flow.axis is None:
            return replace(flow, axis=axis)
        if prod(flow.shape) in (flow.shape[axis], flow.shape[flow.axis]):  # nothing but channels
            return replace(flow, axis=axis) if flow.shape[axis] == prod(flow.shape) else flow
        if len(flow.shape) == 2 and flow.content is not None and not flow.flat:
            return replace(flow, axis=axis, content=read((self.stored(flow),), "turned"), recipe=None)
        raise UnknownError("its channels lie along another axis than those of what it reads")

    def wire(self, flow: Any) -> Wire:
        """Numbers to compute with."""
        if not isinstance(flow, Flowing):
            raise UnknownError("it takes a constant there")
        if flow.content is None:
            reason = "it reads the network's input before that has a format; give its layer a format of inputs"
            raise UnknownError(reason)
        if flow.flat:
            return read((self.stored(replace(flow, flat=False)),), "flat")
        return flow.content if isinstance(flow.content, Wire) else read((flow.content,))

    def stored(self, flow: Flowing) -> Resident:
        """The same in memory."""
        if isinstance(flow.content, Resident) and not flow.flat:
            return flow.content
        step = self.wire(flow).as_they_are(self.name(), self.module())
        self._found.append(step)
        return step.target

    def put(self, flow: Flowing, numbers: Numbers) -> Flowing:
        """The same in memory, as some numbers."""
        step = self.wire(flow).into(self.name(), numbers, self.module())
        self._found.append(step)
        return replace(flow, content=step.target)

    def _kept(self, flow: Flowing) -> Flowing:
        """What several read, in memory."""
        return flow if flow.flat or not isinstance(flow.content, Wire) else replace(flow, content=self.stored(flow))

    def name(self) -> str:
        """Of the tensor that the next step stores."""
        return f"t{len(self._found)}"

    def shape(self) -> tuple[int, ...]:
        """Of what the operator gives, without the batch."""
        return tuple(self.node.meta["val"].shape[1:])

    def module(self) -> str:
        """Path of the module that the operator is of."""
        stack = self.node.meta.get("nn_module_stack")
        return str(list(stack.values())[-1][0]) if stack else ""

    def place(self) -> str:
        """The same for a message."""
        module = self.module()
        return f"module {shortened(repr(module))}" if module else "the network"


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [each for one in value.values() for each in _flat(one)]
    return [each for one in value for each in _flat(one)] if isinstance(value, list | tuple) else [value]


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    return [_mapped(each, change) for each in value] if isinstance(value, list | tuple) else change(value)


def extents(shape: tuple[int, ...], axis: int) -> tuple[int, int]:
    """Height and width of a tensor whose channels lie along an axis."""
    rest = [extent for place, extent in enumerate(shape) if place != axis]
    if len(rest) > 2:
        raise UnknownError("it has more than two axes beside its channels")
    height, width = [1] * (2 - len(rest)) + rest
    return height, width


def strides(extents: tuple[int, int], flow: Flowing) -> tuple[int, int]:
    """From channel to channel and from position to position in the network's own order."""
    channels, positions = extents
    if flow.axis == 0:
        return positions, 1
    if flow.axis == len(flow.shape) - 1:
        return 1, channels
    raise UnknownError("its channels lie between other axes")


def values(given: Any, channels: int) -> np.ndarray:
    """A constant of each channel."""
    if not isinstance(given, Constant) or given.value.numel() not in (1, channels):
        raise UnknownError("it takes a tensor that is no constant of each channel")
    return np.broadcast_to(given.value.double().reshape(-1).numpy(), channels)


_OPERATORS: dict[str, Callable[[Lowering, dict[str, Any]], Flowing | list[Flowing]]] = {}


def computes(*names: str) -> Callable[[Any], Any]:
    """Make the function that lowers operators of ATen known by their names."""

    def known(own: Any) -> Any:
        _OPERATORS.update(dict.fromkeys((f"aten.{name}" for name in names), own))
        return own

    return known
