"""The shapes of a file's inputs, from what it says of them and what its user does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from operator import index
from pathlib import Path

import onnx

from bitq.errors import BitqError
from bitq.onnx.shapes import Dimension, Shape, dimensions

FIRST = ""
"""Stands for the name of the first input."""

Given = Sequence[int] | Mapping[str, Sequence[int]] | Mapping[str | int, Sequence[int]]
"""Shape of the first input, or shapes by name or place."""

# What exporters write for a size of which they know nothing: no letter at all ("?", "-1"), or a word for it. Two of
# these need not be equal, unlike two of the same symbol.
_PLACEHOLDER = re.compile(r"[\W\d_]*|none|null|nan|unk|unknown|undefined|any|dynamic", re.IGNORECASE)


def fix_inputs(graph: onnx.GraphProto, given: Given | None, path: Path) -> list[str]:
    """Give every input its shape, and named sizes the same value wherever they stand.

    A shape that is left open at its first axis only, the batch, has 1 there, unless that size has a name that other
    axes have too, or a given shape says that the batch is another. A batch that the file fixes gives way to a given
    shape that differs there alone; other inputs of the same fixed batch, of which no shape is given, follow. What the
    file says of the shapes of further tensors is then forgotten.

    Args:
        graph: changed in place.
        given: as for `load_onnx`.
        path: for messages.

    Returns:
        Names of the inputs that users give, in order.

    Raises:
        BitqError: a shape that stays open, does not fit the file, is no shape, or is given to no input.
    """
    _forget_placeholders(graph)
    inputs = _inputs(graph)
    shapes = _by_name(given, [value.name for value in inputs], path)
    dims = {value.name: _dimensions(value, path) for value in inputs}
    dims = _other_batch(graph, dims, shapes)
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        _agree(dims[name], shape, sizes, f"{path}: input {name!r}")
    further = {dim for each in dims.values() for dim in (each or ())[1:]}
    batches = {shapes[name][:1] for name in shapes if not _fixed((dims[name] or (None,))[:1])}
    for value in inputs:
        known = shapes.get(value.name, dims[value.name])
        if known and isinstance(known[0], str) and known[0] not in further and batches <= {(1,)}:
            sizes.setdefault(known[0], 1)
        if known and known[0] is None and batches <= {(1,)}:
            known = (1, *known[1:])
        if known is not None:
            known = tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in known)
        if known is None or not _fixed(known):
            raise _left_open(value.name, known, path)
        fixed = value.type.tensor_type.shape
        fixed.Clear()
        for dim in known:
            fixed.dim.add(dim_value=dim)
    for value in (*graph.value_info, *graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in sizes:
                size.dim_value = sizes[size.dim_param]
    return list(dims)


def _other_batch(
    graph: onnx.GraphProto, dims: Mapping[str, tuple[Dimension, ...] | None], shapes: Mapping[str, Shape]
) -> dict[str, tuple[Dimension, ...] | None]:
    """The file's shapes, with a batch that it fixes as the given shapes have it."""
    found = dict(dims)
    other: dict[Dimension, int] = {}
    for name, shape in shapes.items():
        own = dims[name]
        if own and len(own) == len(shape) and isinstance(own[0], int) and own[0] != shape[0]:
            found[name] = (shape[0], *own[1:])
            other.setdefault(own[0], shape[0])
    if other:
        for name, own in dims.items():
            if name not in shapes and own and own[0] in other:
                found[name] = (other[own[0]], *own[1:])
        del graph.value_info[:]
        for value in graph.output:
            value.type.tensor_type.ClearField("shape")
    return found


def check_types(graph: onnx.GraphProto, given: Mapping[str | int, str], path: Path) -> None:
    """Refuse inputs that are said to be of other types than in the file.

    Args:
        graph: the file's.
        given: types by the names or places of inputs, as NumPy calls them.
        path: for messages.

    Raises:
        BitqError: no such input, or one of another type.
    """
    inputs = {value.name: value for value in _inputs(graph)}
    for key, dtype in given.items():
        name = _named(key, list(inputs), path)
        kind = inputs[name].type.tensor_type.elem_type
        own = onnx.TensorProto.DataType.Name(kind).lower() if kind in onnx.TensorProto.DataType.values() else ""
        own = {"float": "float32", "double": "float64", "undefined": ""}.get(own, own)
        if own and own != dtype:
            raise BitqError(f"{path}: input {name!r} is of type {own}, not {dtype}")


def _named(key: str | int, names: Sequence[str], path: Path) -> str:
    """The name of the input that is meant."""
    known = ", ".join(map(repr, names)) or "none"
    if isinstance(key, int):
        if key >= len(names):
            raise BitqError(f"{path} has {len(names)} inputs ({known}), no input number {key + 1}")
        return names[key]
    told = names[0] if key == FIRST and names else key
    if told not in names:
        raise BitqError(f"{path} has no input {told!r} to give a shape to; its inputs are {known}")
    return told


def _forget_placeholders(graph: onnx.GraphProto) -> None:
    for value in (*graph.input, *graph.value_info, *graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.HasField("dim_value") and size.dim_value < 1:  # as some exporters write what is open
                size.ClearField("dim_value")
            if size.HasField("dim_param") and _PLACEHOLDER.fullmatch(size.dim_param.strip()):
                size.ClearField("dim_param")


def _inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that users give; old files list their weights too."""
    weights = {tensor.name for tensor in graph.initializer}
    weights |= {tensor.values.name for tensor in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in weights]


def _by_name(given: Given | None, names: Sequence[str], path: Path) -> dict[str, Shape]:
    """The given shapes by the names of their inputs."""
    if given is None:
        return {}
    by_name = given if isinstance(given, Mapping) else {FIRST: given}
    found: dict[str, Shape] = {}
    for name, shape in by_name.items():
        told = _named(name, names, path)
        if told in found:
            place = ", the first," if told == names[0] else ""
            raise BitqError(f"{path}: input {told!r}{place} is given a shape twice; give it once")
        try:
            found[told] = tuple(map(index, shape))
        except TypeError:
            found[told] = (0,)
        if min(found[told], default=1) < 1:
            raise BitqError(f"{path}: the shape {shape!r} of input {told!r} must be whole numbers above 0")
    return found


def _dimensions(value: onnx.ValueInfoProto, path: Path) -> tuple[Dimension, ...] | None:
    kind = value.type.WhichOneof("value")
    if kind not in (None, "tensor_type"):
        raise BitqError(f"{path}: input {value.name!r} is a {kind.removesuffix('_type')}; it must be a tensor")
    return dimensions(value.type)


def _agree(dims: tuple[Dimension, ...] | None, given: Shape, sizes: dict[str, int], where: str) -> None:
    """Enter named sizes as a given shape has them, if it fits what the file and the shapes before it say."""
    if dims is None:
        return
    before = [f"{dim}={sizes[dim]}" if isinstance(dim, str) and dim in sizes else dim for dim in dims]
    known = [
        sizes.setdefault(dim, size) if isinstance(dim, str) else dim for dim, size in zip(dims, given, strict=False)
    ]
    if len(dims) != len(given) or any(dim not in (None, size) for dim, size in zip(known, given, strict=True)):
        raise BitqError(f"{where} is {_shown(before)} in the file, which the shape {_shown(given)} does not fit")


def _fixed(dims: Iterable[Dimension]) -> bool:
    return all(isinstance(dim, int) for dim in dims)


def _left_open(name: str, dims: Sequence[Dimension] | None, path: Path) -> BitqError:
    if dims is None:
        shape, advice = "unknown", f"{name}=1,3,224,224"
    else:
        shape, advice = _shown(dims), f"{name}={_shown(dims, ',')}"
    return BitqError(
        f"{path}: the shape of input {name!r} is left open ({shape}); give --input-shape {advice!r}, with whole "
        "numbers for what is open"
    )


def _shown(dims: Iterable[Dimension], between: str = " x ") -> str:
    return between.join("?" if dim is None else str(dim) for dim in dims) or "a single number"
