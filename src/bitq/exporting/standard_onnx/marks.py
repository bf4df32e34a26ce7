"""The operator that stands for a quantization in a graph, until each target puts its own in that place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnx
import onnx_ir as ir
import onnxscript
import torch
from onnx_ir.tape import Tape
from torch import Tensor

from bitq.errors import BitqError
from bitq.exporting.standard_onnx.rounding import DOMAIN, UnsayableError
from bitq.formats import parse_format
from bitq.numerics.recipe import Axes, Recipe

MARK = "Quantize"
NETWORK = "network"
"""What the exported module has the network as."""

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
    MARK,
    DOMAIN,
    1,
    inputs=_ANY[:1],
    outputs=_ANY[1:],
    type_constraints=[("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "")],
    attributes=[onnx.defs.OpSchema.Attribute(name, kind, "", required=False) for name, kind in _ATTRIBUTES.items()],
)


def attributes_of(recipe: Recipe) -> dict[str, Any]:
    """A recipe as the attributes of a mark."""
    given = {
        "format": recipe.format.text,
        "dim": recipe.axes.dim,
        "inner_dims": list(recipe.axes.inner) or None,
        "exponent_bias": recipe.exponent_bias,
        "tensor_range": None if recipe.tensor_range is None else list(recipe.tensor_range),
        "rounding": recipe.rounding,
    }
    return {name: value for name, value in given.items() if value is not None}


def recipe_of(node: ir.Node) -> Recipe:
    """The inverse of `attributes_of`, of a mark."""
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    low_high = given.get("tensor_range")
    return Recipe(
        parse_format(given["format"]),
        Axes(given["dim"], tuple(given.get("inner_dims", ()))),
        given.get("exponent_bias"),
        given["rounding"],
        None if low_high is None else (low_high[0], low_high[1]),
    )


def translated(
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
    """The mark for `torch.ops.bitq.quantize`, as PyTorch's exporter asks for it; its second result nobody reads."""
    shared = None if tensor_range is None else (tensor_range[0], tensor_range[1])
    recipe = Recipe(parse_format(fmt), Axes(dim, tuple(inner_dims)), exponent_bias, rounding, shared)
    operator = onnxscript.values.Op(onnxscript.values.Opset(DOMAIN, 1), MARK, _SCHEMA)
    y = operator(x, **attributes_of(recipe))
    return y, onnxscript.opset21.Identity(y)  # a value of its own, of which PyTorch notes another shape


def marks_in(graph: ir.Graph) -> list[ir.Node]:
    """All of them, in order."""
    return [node for node in graph if is_mark(node)]


def is_mark(node: ir.Node | None) -> bool:
    """Whether a node is one."""
    return node is not None and (node.domain, node.op_type) == (DOMAIN, MARK)


def pass_over_stored(graph: ir.Graph) -> None:
    """Let readers take what is stored in their format as it is, as the network does."""
    for node in marks_in(graph):
        x = node.inputs[0]
        before = None if x is None else x.producer()
        if x is None or before is None or not is_mark(before):
            continue
        own, other = recipe_of(node), recipe_of(before)
        if (own.format, own.axes) == (other.format, other.axes):
            replace(graph, node, x)


def replace(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Use a value in place of what a node gives."""
    old = node.outputs[0]
    value.type, value.shape = value.type or old.type, value.shape or old.shape  # as a graph tells of its results
    ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def put_in_place(graph: ir.Graph, node: ir.Node, tape: Tape, value: ir.Value) -> None:
    """Use a value in place of what a node gives, and put what was emitted for it there."""
    for each in list(tape.nodes):
        if each.graph is not None:
            graph.remove(each)
        graph.insert_before(node, each)
    replace(graph, node, value)


def constant_shape(node: ir.Node) -> list[int] | None:
    """The shape that Reshape makes, if it is constant."""
    target = node.inputs[1]
    found = None if target is None else ir.convenience.get_const_tensor(target)
    return None if found is None else found.numpy().tolist()


def constant_of(value: ir.Value | None) -> Tensor | None:
    """A weight, perhaps reshaped; None, if the value is computed."""
    if value is None:
        return None
    node = value.producer()
    if node is None:
        return None if value.const_value is None else torch.from_numpy(value.const_value.numpy().copy())
    if node.op_type != "Reshape":
        return None
    known, shape = constant_of(node.inputs[0]), constant_shape(node)
    return None if known is None or shape is None else known.reshape(shape)


@contextmanager
def unsayable_told(node: ir.Node, recipe: Recipe) -> Iterator[None]:
    """Say of what cannot be said where in the network it is."""
    try:
        yield
    except UnsayableError as error:
        raise BitqError(
            f"{place_of(node)} has the format {recipe.format.text}, {error}; give it another format"
        ) from error


def place_of(node: ir.Node) -> str:
    """Where in the network a mark of an activation is, in words."""
    module = module_of(node)
    return f"an activation of module {module!r}" if module else "an activation"


def module_of(node: ir.Node) -> str:
    """Path of the module that a node is of; "" for the network's own."""
    if LAYER in node.metadata_props:
        return str(node.metadata_props[LAYER])
    scopes = str(node.metadata_props.get("pkg.torch.onnx.name_scopes", ""))
    parts = [part.strip(" '\"") for part in scopes.strip("[]").split(",")]
    inner = [part for part in parts[:-1] if part.startswith(f"{NETWORK}.")]
    return inner[-1].removeprefix(f"{NETWORK}.") if inner else ""


LAYER = "bitq.layer"
"""Key of a node's metadata with the layer that it is of, where no exporter says it."""
