"""From a graph with marks to a file: a target's own operators in the place of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_ir.tape import Tape
from torch import Tensor, nn

from bitq.errors import BitqError, shortened
from bitq.exporting.standard_onnx.constants import Held
from bitq.exporting.standard_onnx.marks import (
    constant_of,
    marks_in,
    module_of,
    pass_over_stored,
    place_of,
    put_in_place,
    recipe_of,
    unsayable_told,
)
from bitq.exporting.standard_onnx.rounding import DOMAIN, OPSET, Length, described, function_of
from bitq.exporting.standard_onnx.runtime import ran
from bitq.exporting.target import Handed
from bitq.files import write_atomically
from bitq.numerics.recipe import Recipe


class Put(NamedTuple):
    """What a target made of a graph's marks.

    Attributes:
        figures, notes: as of `Handed`.
    """

    figures: dict[str, int]
    notes: tuple[str, ...] = ()


def written(
    found: ir.Model,
    path: Path,
    put: Callable[[ir.Model], Put],
    run: Callable[[Path, nn.Module, Any], str] = ran,
) -> Handed:
    """Write the file of a graph with marks.

    Args:
        found: is changed.
        path: as for `bitq.export`.
        put: puts a target's operators in the place of every mark.
        run: as of `Handed`, of the file.

    Raises:
        BitqError: what the target cannot say, with its module.
    """
    pass_over_stored(found.graph)
    figures, notes = put(found)
    RemoveUnusedNodesPass()(found)
    found.ir_version = max(found.ir_version, 10)
    content = ir.to_proto(found)
    try:
        onnx.checker.check_model(content, full_check=True)
    except onnx.checker.ValidationError as error:
        raise BitqError(f"the network cannot be told in ONNX {OPSET}: {shortened(str(error))}") from error
    write_atomically(path, content.SerializeToString())
    return Handed(path, (*notes, *_fixed(found.graph)), figures, partial(run, path))


def _fixed(graph: ir.Graph) -> Iterator[str]:
    names = [each.name for each in graph.inputs if each.shape and each.shape.is_static(0)]
    if names:
        yield f"the batch of {', '.join(map(str, names))} is fixed in the file"


class WeightMark(NamedTuple):
    """A mark of a weight.

    Attributes:
        node: it.
        name: of the module with the weight, and "weight"; each once.
        value: float.
        recipe: that quantizes it.
    """

    node: ir.Node
    name: str
    value: Tensor
    recipe: Recipe


def weight_marks(graph: ir.Graph) -> Iterator[WeightMark]:
    """The marks of what is constant."""
    names = Counter[str]()
    for node in marks_in(graph):
        weight = constant_of(node.inputs[0])
        if weight is None:
            continue
        name = ".".join(filter(None, (module_of(node), "weight")))
        names[name] += 1
        yield WeightMark(node, name + f"_{names[name]}" * (names[name] > 1), weight, recipe_of(node))


class WeightsHeld(NamedTuple):
    """How a file holds weights.

    Attributes:
        packed: how many are integers.
        floats: those that are float32 numbers.
    """

    packed: int
    floats: tuple[str, ...]

    @property
    def figures(self) -> dict[str, int]:
        """As of `Handed`."""
        return {"packed_weights": self.packed, "float_weights": len(self.floats)}

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to say of those that no integers say."""
        if not self.floats:
            return ()
        return (
            f"the weights of {', '.join(self.floats)} are float32 numbers in the file: DequantizeLinear does not say "
            "their formats exactly",
        )


def put_weights(
    graph: ir.Graph,
    put_packed: Callable[[WeightMark, Held], None],
    put_otherwise: Callable[[WeightMark, Held], bool] = lambda mark, held: False,
) -> WeightsHeld:
    """Put something in the place of every mark of a weight.

    Args:
        graph: is changed.
        put_packed: puts integers there.
        put_otherwise: puts something else there before that, and tells whether it did.
    """
    packed, floats = 0, []
    for mark in weight_marks(graph):
        held = Held(mark.value, mark.recipe, f"{mark.name}.quantized")
        if put_otherwise(mark, held):
            continue
        if held.packed:
            put_packed(mark, held)
            packed += 1
        else:
            put_as_emitted(mark, held)
            floats.append(mark.name)
    return WeightsHeld(packed, tuple(floats))


def put_as_emitted(mark: WeightMark, held: Held) -> None:
    """Put the operators that give a weight in its mark's place."""
    graph = mark.node.graph
    assert isinstance(graph, ir.Graph)
    tape = Tape(graph)
    put_in_place(graph, mark.node, tape, held.emit(tape))


def put_into_operators(model: ir.Model) -> Put:
    """Weights as integers in as few numbers as say them, a function of standard operators for each activation.

    Raises:
        BitqError: a format that these do not express, with its module.
    """
    weights = put_weights(model.graph, put_as_emitted)
    return Put({**weights.figures, "functions": put_into_functions(model)}, weights.notes)


def put_into_functions(model: ir.Model) -> int:
    """Put a function of standard operators in each mark's place; how many there are.

    Raises:
        BitqError: a format that these do not express, with its module.
    """
    functions: dict[tuple[Recipe, tuple[Length, ...]], ir.Function] = {}
    names: Counter[str] = Counter()
    for node in marks_in(model.graph):
        x, recipe = node.inputs[0], recipe_of(node)
        assert x is not None
        if x.shape is None or x.dtype != ir.DataType.FLOAT:
            raise BitqError(f"{place_of(node)} is no float32 tensor of known rank; export the network in float32")
        shape = tuple(each if isinstance(each, int) else None for each in x.shape)
        known = functions.get((recipe, shape))
        if known is None:
            base = f"Quantize_{described(recipe.format)}"
            names[base] += 1
            with unsayable_told(node, recipe):
                known = function_of(recipe, shape, base if names[base] == 1 else f"{base}_{names[base]}")
            known.metadata_props["format"] = recipe.format.text
            functions[recipe, shape] = known
            model.functions[known.identifier()] = known
        node.op_type = known.name
        node.attributes.clear()
    if functions:
        model.opset_imports[DOMAIN] = 1
    return len(functions)
