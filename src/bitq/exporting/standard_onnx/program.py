"""From a quantized network to an ONNX graph: exported by PyTorch, its quantizations put into standard operators."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxscript
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_ir.tape import Tape
from torch import Tensor, nn

from bitq.batches import arguments, count_inputs
from bitq.errors import BitqError, shortened
from bitq.exporting.standard_onnx.constants import Held
from bitq.exporting.standard_onnx.pairs import pair
from bitq.exporting.standard_onnx.rounding import DOMAIN, OPSET, Length, UnsayableError, described, function_of
from bitq.exporting.standard_onnx.runtime import ran
from bitq.exporting.target import Handed
from bitq.files import write_atomically
from bitq.formats import parse_format
from bitq.nested import mapped, tensors
from bitq.numerics.recipe import Axes, Recipe

NETWORK = "network"
_MARK = "Quantize"
"""The operator that stands for a quantization until it is put into standard ones."""

_Kind = onnx.defs.OpSchema.AttrType
_ATTRIBUTES = {
    "format": _Kind.STRING,
    "dim": _Kind.INT,
    "inner_dims": _Kind.INTS,
    "exponent_bias": _Kind.INT,
    "tensor_range": _Kind.FLOATS,
    "rounding": _Kind.STRING,
}
_ANY = onnx.defs.OpSchema.FormalParameter("x", "T"), onnx.defs.OpSchema.FormalParameter("y", "T")
_SCHEMA = onnx.defs.OpSchema(
    _MARK,
    DOMAIN,
    1,
    inputs=_ANY[:1],
    outputs=_ANY[1:],
    type_constraints=[("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "")],
    attributes=[onnx.defs.OpSchema.Attribute(name, kind, "", required=False) for name, kind in _ATTRIBUTES.items()],
)


def written(model: nn.Module, example_input: Any, path: Path, pairs: bool = False) -> Handed:
    """Write the file of a quantized network.

    Args:
        model, example_input, path: as for `bitq.export`.
        pairs: quantize activations by QuantizeLinear and DequantizeLinear alone.

    Raises:
        BitqError: as for `bitq.export`.
    """
    found = exported(model, example_input)
    graph, notes = found.graph, []
    _pass_over_stored(graph)
    packed, floats = _hold_weights(graph)
    functions = _put_into_pairs(graph) if pairs else _put_into_operators(found)
    RemoveUnusedNodesPass()(found)
    if floats:
        notes.append(
            f"the weights of {', '.join(floats)} are float32 numbers in the file: DequantizeLinear does not say their "
            "formats exactly"
        )
    fixed = [name for name, each in ((each.name, each.shape) for each in graph.inputs) if each and each.is_static(0)]
    if fixed:
        notes.append(f"the network's code fixes the batch of {', '.join(map(str, fixed))}")
    found.ir_version = max(found.ir_version, 10)
    content = ir.to_proto(found)
    try:
        onnx.checker.check_model(content, full_check=True)
    except onnx.checker.ValidationError as error:
        raise BitqError(f"the network cannot be told in ONNX {OPSET}: {shortened(str(error))}") from error
    write_atomically(path, content.SerializeToString())
    figures = {"packed_weights": packed, "float_weights": len(floats), "pairs" if pairs else "functions": functions}
    return Handed(path, tuple(notes), figures, partial(ran, path))


class _Called(nn.Module):
    """A network that takes all its tensors one after the other."""

    def __init__(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.network, self._called = network, (args, kwargs)

    def forward(self, *tensors: Tensor) -> Any:
        given = iter(tensors)
        args, kwargs = mapped(self._called, lambda _, held: next(given) if isinstance(held, Tensor) else held)
        return self.network(*args, **kwargs)


def exported(model: nn.Module, example_input: Any) -> ir.Model:
    """The graph as PyTorch exports it, with an operator `bitq.Quantize` for each quantization.

    Raises:
        BitqError: PyTorch cannot follow the network, or has no ONNX for what it computes.
    """
    args, kwargs = arguments(model, example_input)
    count = count_inputs(example_input)
    batches = [_at_least_two(each, count) for each in tensors((args, kwargs))]
    names = list(kwargs) if len(kwargs) == len(batches) else [f"input{number or ''}" for number in range(len(batches))]
    any_batch = tuple({0: torch.export.Dim.AUTO} if each.dim() and len(each) != 1 else {} for each in batches)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), _quietly():
            called = _Called(model, args, kwargs)
            program = torch.export.export(called, tuple(batches), dynamic_shapes=(any_batch,), strict=False)
            made = torch.onnx.export(
                program,
                custom_translation_table={torch.ops.bitq.quantize.default: _marked},
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


def _marked(
    x: Any,
    fmt: str,
    dim: int,
    inner_dims: Sequence[int],
    exponent_bias: int | None,
    tensor_range: Sequence[float] | None,
    rounding: str,
    key: Any = None,
    with_clipped: bool = False,
) -> tuple[Any, Any]:
    """The operator that stands for `torch.ops.bitq.quantize`; its second result nobody reads."""
    given = {
        "format": fmt,
        "dim": dim,
        "inner_dims": list(inner_dims) or None,
        "exponent_bias": exponent_bias,
        "tensor_range": None if tensor_range is None else list(tensor_range),
        "rounding": rounding,
    }
    operator = onnxscript.values.Op(onnxscript.values.Opset(DOMAIN, 1), _MARK, _SCHEMA)
    y = operator(x, **{name: value for name, value in given.items() if value is not None})
    return y, onnxscript.opset21.Identity(y)  # a value of its own, of which PyTorch notes another shape


def _quantizations(graph: ir.Graph) -> list[ir.Node]:
    return [node for node in graph if (node.domain, node.op_type) == (DOMAIN, _MARK)]


def _recipe(node: ir.Node) -> Recipe:
    """The inverse of `_marked`."""
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    low_high = given.get("tensor_range")
    return Recipe(
        parse_format(given["format"]),
        Axes(given["dim"], tuple(given.get("inner_dims", ()))),
        given.get("exponent_bias"),
        given["rounding"],
        None if low_high is None else (low_high[0], low_high[1]),
    )


def _pass_over_stored(graph: ir.Graph) -> None:
    """Let readers take what is stored in their format as it is, as the network does."""
    for node in _quantizations(graph):
        x = node.inputs[0]
        before = None if x is None else x.producer()
        if x is None or before is None or (before.domain, before.op_type) != (DOMAIN, _MARK):
            continue
        own, other = _recipe(node), _recipe(before)
        if (own.format, own.axes) == (other.format, other.axes):
            _replace(graph, node, x)


def _replace(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Use a value in place of what a node gives."""
    old = node.outputs[0]
    ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _hold_weights(graph: ir.Graph) -> tuple[int, list[str]]:
    """Quantize what is constant; how many weights are held as integers, and the names of those that are not."""
    packed, floats, names = 0, [], Counter[str]()
    for node in _quantizations(graph):
        weight = _constant(node.inputs[0])
        if weight is None:
            continue
        name = ".".join(filter(None, (_module(node), "weight")))
        names[name] += 1
        name += f"_{names[name]}" * (names[name] > 1)
        tape = Tape(graph)
        held = Held(weight, _recipe(node), f"{name}.quantized")
        value = held.emit(tape)
        for each in list(tape.nodes):
            graph.remove(each)
            graph.insert_before(node, each)
        _replace(graph, node, value)
        packed += held.packed
        floats += [] if held.packed else [name]
    return packed, floats


def _constant(value: ir.Value | None) -> Tensor | None:
    """A weight, perhaps reshaped; None, if the value is computed."""
    if value is None:
        return None
    node = value.producer()
    if node is None:
        return None if value.const_value is None else torch.from_numpy(value.const_value.numpy().copy())
    if node.op_type != "Reshape":
        return None
    known, target = _constant(node.inputs[0]), node.inputs[1]
    shape = None if target is None else ir.convenience.get_const_tensor(target)
    return None if known is None or shape is None else known.reshape(shape.numpy().tolist())


def _put_into_operators(model: ir.Model) -> int:
    """Put a function of standard operators in each quantization's place; how many there are.

    Raises:
        BitqError: a format that these do not express, with its module.
    """
    functions: dict[tuple[Recipe, tuple[Length, ...]], ir.Function] = {}
    names: Counter[str] = Counter()
    for node in _quantizations(model.graph):
        x, recipe = node.inputs[0], _recipe(node)
        assert x is not None
        if x.shape is None or x.dtype != ir.DataType.FLOAT:
            raise BitqError(f"{_place(node)} is no float32 tensor of known rank; export the network in float32")
        shape = tuple(each if isinstance(each, int) else None for each in x.shape)
        known = functions.get((recipe, shape))
        if known is None:
            base = f"Quantize_{described(recipe.format)}"
            names[base] += 1
            with _told(node, recipe):
                known = function_of(recipe, shape, base if names[base] == 1 else f"{base}_{names[base]}")
            known.metadata_props["format"] = recipe.format.text
            functions[recipe, shape] = known
            model.functions[known.identifier()] = known
        node.op_type = known.name
        node.attributes.clear()
    if functions:
        model.opset_imports[DOMAIN] = 1
    return len(functions)


def _put_into_pairs(graph: ir.Graph) -> int:
    """Put QuantizeLinear and DequantizeLinear in each quantization's place; how many there are.

    Raises:
        BitqError: a format that these do not express, with its module.
    """
    nodes = _quantizations(graph)
    for node in nodes:
        x, recipe = node.inputs[0], _recipe(node)
        assert x is not None
        tape = Tape()
        with _told(node, recipe):
            value = pair(tape, x, recipe)
        for each in tape.nodes:
            graph.insert_before(node, each)
        _replace(graph, node, value)
    return len(nodes)


@contextmanager
def _told(node: ir.Node, recipe: Recipe) -> Iterator[None]:
    """Say of what cannot be said where in the network it is."""
    try:
        yield
    except UnsayableError as error:
        raise BitqError(
            f"{_place(node)} has the format {recipe.format.text}, {error}; give it another format"
        ) from error


def _place(node: ir.Node) -> str:
    """Where in the network a node is, in words."""
    module = _module(node)
    return f"an activation of module {module!r}" if module else "an activation"


def _module(node: ir.Node) -> str:
    """Path of the module that a node is of; "" for the network's own."""
    scopes = str(node.metadata_props.get("pkg.torch.onnx.name_scopes", ""))
    parts = [part.strip(" '\"") for part in scopes.strip("[]").split(",")]
    inner = [part for part in parts[:-1] if part.startswith(f"{NETWORK}.")]
    return inner[-1].removeprefix(f"{NETWORK}.") if inner else ""
