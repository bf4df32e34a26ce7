"""From an ONNX file and a plan of the same network to a graph with marks, whatever the file calls its layers.

Layers are matched by what they compute: those with the same loops, groups, strides and dilations in order of execution,
if there are as many of them in the file as in the plan.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.inliner
import onnx.numpy_helper
import onnx.version_converter
import onnx_ir as ir
import torch

from bitq.accuracy.quantized import Shared
from bitq.errors import MOST_NAMED, BitqError, shortened, some_of
from bitq.exporting.standard_onnx.marks import LAYER, MARK, attributes_of, constant_of
from bitq.exporting.standard_onnx.program import Put, written
from bitq.exporting.standard_onnx.rounding import DOMAIN, OPSET
from bitq.exporting.standard_onnx.runtime import outputs
from bitq.exporting.target import Handed
from bitq.formats import Format, Span
from bitq.formats.blocking import Tile
from bitq.layers import LOOPS, Layer
from bitq.numerics.packing import weight_blocks
from bitq.numerics.recipe import Axes, Recipe
from bitq.onnx import load_onnx
from bitq.onnx.apart import Died, apart
from bitq.onnx.checks import messages_within, shown
from bitq.onnx.products import node_names
from bitq.tradeoff.plan import Plan, PlanLayer

_AFTER: Mapping[str, tuple[str, ...]] = {
    "add": ("Add",),
    "batch_norm": ("BatchNormalization",),
    "relu": ("Relu",),
    "relu6": ("Clip",),
    "hardtanh": ("Clip",),
    "clamp": ("Clip",),
    "clip": ("Clip",),
    "mul": ("Mul",),
    "sub": ("Sub",),
    "div": ("Div",),
    "sigmoid": ("Sigmoid",),
    "tanh": ("Tanh",),
    "hardswish": ("HardSwish",),
    "hardsigmoid": ("HardSigmoid",),
    "leaky_relu": ("LeakyRelu",),
    "prelu": ("PRelu",),
    "elu": ("Elu",),
    "gelu": ("Gelu",),
    "softplus": ("Softplus",),
}
"""By the name of torch's function whose result is stored, the operators that compute it."""

SECONDS, MEMORY_BYTES = 600, 16 << 30
"""That ONNX Runtime may take for a file of others."""

_ELEMENTWISE = {kind for kinds in _AFTER.values() for kind in kinds} | {"Identity"}


def rewritten(
    plan: Plan, source: Path, path: Path, put: Callable[[ir.Model], Put], input_shape: Sequence[int] | None
) -> Handed:
    """Write the file of a network that is an ONNX file, in the formats of a plan.

    Args:
        plan: of the same network.
        source: the file, with float32 weights in it.
        path: of the file to write.
        put: as of `written`.
        input_shape: that the plan was made for, where the file leaves it open.

    Raises:
        BitqError: layers with formats that are not in the file, or are there more or less often; a file that holds its
            weights elsewhere, or no float32 ones; what `load_onnx` and the target refuse.
    """
    network = load_onnx(source, input_shape)
    of_layer = _matched(plan, network.layers, source)
    proto = onnx.load(source, load_external_data=False)
    _check_values(proto, source)
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    named = node_names(proto.graph.node, [each.name for each in network.layers])
    proto = _current(proto, source)
    model = ir.from_proto(proto)
    nodes = {node.outputs[0].name: node for node in model.graph if node.outputs}
    order = {node: place for place, node in enumerate(model.graph)}
    calls: Counter[str] = Counter()
    marks = _Marks(model.graph, order, source)
    for name, entry in of_layer.items():
        node = nodes[named[name]]
        call, calls[entry.module] = calls[entry.module], calls[entry.module] + 1
        marks.output(node, entry, call)
    for name, entry in of_layer.items():
        marks.operands(nodes[named[name]], entry)
    model.opset_imports[DOMAIN] = 1
    lookups = [each.name for each in plan.layers if each.table is not None and each.formats.weight is not None]
    handed = written(model, path, put, partial(_ran, source, input_shape))
    notes = [f"{len(of_layer)} layers of {source} are those of the plan, by what they compute and their order"]
    if lookups:
        notes.append(f"the tables of {', '.join(lookups[:MOST_NAMED])} stay float: the file does not tell lookups")
    return handed._replace(notes=(*notes, *handed.notes))


def _check_values(proto: onnx.ModelProto, source: Path) -> None:
    """Refuse tensors whose values are in other files, wherever they are in this one, or are not as many as they say."""
    for tensor in messages_within(proto):
        if not isinstance(tensor, onnx.TensorProto):
            continue
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise BitqError(f"{source} holds its weights in other files; save them in one file with it")
        try:
            onnx.numpy_helper.to_array(tensor)
        except Exception as error:  # whatever a decoder of untrusted bytes runs into
            raise BitqError(f"{source} is damaged: the values of tensor {shown(tensor.name)} do not fit it") from error


def _key(layer: Layer) -> Hashable:
    """What layers have in common that compute alike."""
    loops = tuple(getattr(layer, loop) for loop in LOOPS)
    return loops, layer.groups, layer.depth, layer.stride, layer.dilation, layer.weight_is_parameter


def _matched(plan: Plan, layers: Iterable[Layer], source: Path) -> dict[str, PlanLayer]:
    """By name of the file's layers, those of the plan that have formats."""
    planned: dict[Hashable, list[PlanLayer]] = defaultdict(list)
    found: dict[Hashable, list[Layer]] = defaultdict(list)
    for entry in plan.layers:
        if entry.table is None:
            planned[_key(entry.layer)].append(entry)
    for layer in layers:
        found[_key(layer)].append(layer)
    wanted = {key: own for key, own in planned.items() if any(each.formats != type(each.formats)() for each in own)}
    missing = {key: own for key, own in wanted.items() if len(found[key]) != len(own)}
    if missing:
        told = [
            f"{', '.join(repr(each.name) for each in own[:MOST_NAMED])} ({_loops(own[0])}), of which the file has "
            f"{len(found[key])} like {'it' if len(own) == 1 else 'these ' + str(len(own))}"
            for key, own in missing.items()
        ]
        lacking = some_of(told, "; ", "; and {} more kinds")
        raise BitqError(
            f"{source} is not the plan's network on its input: it lacks {lacking}; give "
            "the file of that network, and --input-shape as it was planned for"
        )
    pairs = [pair for key, own in wanted.items() for pair in zip(found[key], own, strict=True)]
    return {layer.name: entry for layer, entry in pairs if entry.formats != type(entry.formats)()}


def _loops(entry: PlanLayer) -> str:
    return " ".join(f"{loop}={entry.loops[loop]}" for loop in LOOPS) + f", {entry.groups} groups"


def _current(proto: onnx.ModelProto, source: Path) -> onnx.ModelProto:
    """The file in a version of ONNX's operators that has blocked DequantizeLinear, with the shapes of its tensors."""
    version = max((each.version for each in proto.opset_import if each.domain in ("", "ai.onnx")), default=0)
    try:
        if version < OPSET:
            proto = onnx.version_converter.convert_version(proto, OPSET)
        return onnx.shape_inference.infer_shapes(proto)
    except Exception as error:  # whatever the converter of untrusted graphs runs into
        raise BitqError(
            f"{source} has operators of version {version}, which cannot be turned into those of {OPSET}: "
            f"{shortened(str(error), 200)}"
        ) from error


class _Side(NamedTuple):
    """An operand of a product: which input of its node, and the axis along which it is summed up."""

    place: int
    dim: int


class _Marks:
    """Puts marks into a graph."""

    def __init__(self, graph: ir.Graph, order: Mapping[ir.Node, int], source: Path) -> None:
        self._graph, self._order, self._source = graph, order, source
        self._stored: dict[ir.Value, str] = {}

    def operands(self, node: ir.Node, entry: PlanLayer) -> None:
        """Mark the input and the weight of a layer."""
        first, second = self._operands(node, entry)
        if entry.input is not None:
            self._operand(node, first.place, _recipe(entry.input.format, entry.input.span, first.dim), entry)
        if entry.weight is None:
            return
        fmt, value = entry.weight.format, node.inputs[second.place]
        if entry.weight_is_parameter is False:
            if isinstance(fmt.geometry, Tile):
                raise BitqError(f"the second operand of {entry.name!r} has blocks on two axes; give it some on one")
            self._operand(node, second.place, _recipe(fmt, entry.weight.span, second.dim), entry)
            return
        weight = constant_of(value)
        if weight is None or weight.dtype != torch.float32:
            raise BitqError(f"{self._source} has no float32 weight for the plan's layer {entry.name!r}")
        if node.op_type in ("Conv", "ConvTranspose"):
            transposed = node.op_type == "ConvTranspose"
            shape, dim, inner = weight_blocks(tuple(weight.shape), transposed, entry.groups if transposed else 1)
        else:
            shape, dim, inner = tuple(weight.shape), second.dim, ()
        held = self._constant(f"{entry.module}.weight", weight.reshape(shape).numpy())
        y = self._mark(held, Recipe(fmt, Axes(dim, inner), None, fmt.rounding), entry, node)
        if shape != tuple(weight.shape):
            target = self._constant(f"{entry.module}.weight.shape", np.asarray(weight.shape, np.int64))
            back = ir.Node("", "Reshape", [y, target])
            back.outputs[0].type, back.outputs[0].shape = y.type, ir.Shape(weight.shape)
            self._graph.insert_before(node, back)
            y = back.outputs[0]
        node.replace_input_with(second.place, y)

    def output(self, node: ir.Node, entry: PlanLayer, call: int) -> None:
        """Mark what a layer stores."""
        if entry.output is None:
            return
        value = self._stored_value(node, entry, call)
        if value in self._stored:
            raise BitqError(f"{self._stored[value]!r} and {entry.name!r} store the same tensor of {self._source}")
        self._stored[value] = entry.name
        axis = 1 if "Conv" in node.op_type else len(value.shape or node.outputs[0].shape or (0, 0)) - 1
        producer = value.producer()
        assert producer is not None
        users = list(value.uses())
        y = self._mark(value, _recipe(entry.output.format, entry.output.span, axis), entry, producer, after=True)
        for use in users:
            use.node.replace_input_with(use.idx, y)
        for place, each in enumerate(self._graph.outputs):
            if each is value:
                y.name, value.name = value.name, f"{value.name}_float"
                self._graph.outputs[place] = y

    def _operands(self, node: ir.Node, entry: PlanLayer) -> tuple[_Side, _Side]:
        if node.op_type in ("Conv", "ConvTranspose"):
            return _Side(0, 1), _Side(1, 1)
        if node.op_type not in ("Gemm", "MatMul"):
            raise BitqError(f"{self._source} computes {entry.name!r} by {node.op_type}, which takes no formats here")
        ranks = [len(each.shape) if each is not None and each.shape is not None else 2 for each in node.inputs[:2]]
        turned = [name in node.attributes and bool(node.attributes[name].value) for name in ("transA", "transB")]
        first = _Side(0, ranks[0] - 2 if turned[0] else ranks[0] - 1)
        second = _Side(1, ranks[1] - 1 if turned[1] else max(ranks[1] - 2, 0))
        if entry.weight_is_parameter is not False and constant_of(node.inputs[0]) is not None:
            raise BitqError(f"{self._source} multiplies {entry.name!r} with its weight first, which takes no formats")
        return first, second

    def _stored_value(self, node: ir.Node, entry: PlanLayer, call: int) -> ir.Value:
        """What a layer stores: its result with its bias, or what the plan's function makes of that."""
        value = node.outputs[0]
        if node.op_type == "MatMul" and len(users := list(value.uses())) == 1 and users[0].node.op_type == "Add":
            bias = constant_of(users[0].node.inputs[1 - users[0].idx])
            value = users[0].node.outputs[0] if bias is not None and bias.dim() <= 1 else value
        if not entry.stored_at:
            return value
        function = entry.stored_at[min(call, len(entry.stored_at) - 1)].function.strip("_")
        function = function.removeprefix("i") if function in ("iadd", "imul", "isub") else function
        kinds, found, origin = _AFTER.get(function.removesuffix("_"), ()), None, self._order[node]
        last = value
        while len(users := list(last.uses())) == 1 and users[0].node.op_type in _ELEMENTWISE:
            after = users[0].node
            others = [each for each in after.inputs if each is not None and each is not last]
            if any(self._origin(each) > origin for each in others):
                break
            last = after.outputs[0]
            found = last if after.op_type in kinds else found
        if found is None and function != "batch_norm":
            raise BitqError(
                f"{self._source} does not compute {function} behind {entry.name!r}, whose result the plan has it store"
            )
        return value if found is None else found

    def _origin(self, value: ir.Value) -> int:
        """Place of the last operator that is not elementwise of what a tensor is made of; -1 for constants."""
        node = value.producer()
        if node is None:
            return -1
        if node.op_type not in _ELEMENTWISE:
            return self._order[node] if node in self._order and constant_of(value) is None else -1
        return max((self._origin(each) for each in node.inputs if each is not None), default=-1)

    def _operand(self, node: ir.Node, place: int, recipe: Recipe, entry: PlanLayer) -> None:
        value = node.inputs[place]
        assert value is not None
        node.replace_input_with(place, self._mark(value, recipe, entry, node))

    def _mark(
        self, value: ir.Value, recipe: Recipe, entry: PlanLayer, beside: ir.Node, after: bool = False
    ) -> ir.Value:
        if value.dtype not in (None, ir.DataType.FLOAT):
            raise BitqError(f"{self._source} computes {entry.name!r} in {value.dtype}; give a file in float32")
        attributes = ir.convenience.convert_attributes(attributes_of(recipe))
        mark = ir.Node(DOMAIN, MARK, [value], attributes)
        mark.metadata_props[LAYER] = entry.module
        mark.outputs[0].type, mark.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), value.shape
        (self._graph.insert_after if after else self._graph.insert_before)(beside, mark)
        return mark.outputs[0]

    def _constant(self, name: str, values: np.ndarray) -> ir.Value:
        tensor = ir.Tensor(np.ascontiguousarray(values), name=name)
        unique = name
        while unique in self._graph.initializers:
            unique += "_"
        value = ir.Value(name=unique, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
        self._graph.register_initializer(value)
        return value


def _recipe(fmt: Format, span: Span | None, dim: int) -> Recipe:
    """That of an activation, with what its plan has the tensor share."""
    shared = Shared.of(fmt, span)
    return Recipe(fmt, Axes(dim), shared.exponent_bias, fmt.rounding, shared.tensor_range)


def _ran(source: Path, input_shape: Sequence[int] | None, path: Path, model: Any, example_input: Any) -> str:
    """How far the file is from the float one on random numbers, in a sentence."""
    graph = onnx.load(path, load_external_data=False).graph
    weights = {each.name for each in graph.initializer}
    inputs = []
    for number, value in enumerate(each for each in graph.input if each.name not in weights):
        kind = value.type.tensor_type
        sizes = [size.dim_value or 1 for size in kind.shape.dim]
        shape = list(input_shape) if number == 0 and input_shape is not None else sizes
        if kind.elem_type != onnx.TensorProto.FLOAT:
            return "It was not run: it has inputs of other types than float32"
        inputs.append(torch.randn(shape, generator=torch.Generator().manual_seed(0)))

    def both() -> tuple[list[Any], list[Any]]:
        try:
            return [each.numpy() for each in outputs(path, inputs)], [each.numpy() for each in outputs(source, inputs)]
        except ModuleNotFoundError as error:
            raise BitqError(f"that needs the package {error.name}") from error
        except Exception as error:  # whatever the runtime says of a file that is not ours
            raise BitqError(f"ONNX Runtime says {shortened(' '.join(str(error).split()), 200)}") from error

    try:
        found, expected = apart(both, SECONDS, MEMORY_BYTES)
    except BitqError as error:
        return f"It was not run: {error}"
    except Died:
        return f"It was not run to its end, which takes over {SECONDS} s or {MEMORY_BYTES >> 30} GiB"
    off = max(float(abs(one - other).max()) for one, other in zip(found, expected, strict=True) if prod(one.shape))
    largest = max(float(abs(each).max()) for each in expected if prod(each.shape))
    return (
        f"ONNX Runtime gives results within {off:.2g} of the float file's on a random input, where the largest is "
        f"{largest:.2g}"
    )

