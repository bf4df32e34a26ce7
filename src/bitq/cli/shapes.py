"""The argument NETWORK of commands that need its layers only: where they come from, on which input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitq.cli.given import EXAMPLE, Input, Shape, bound, read_inputs, shape_of
from bitq.cli.inputs import DEMO
from bitq.errors import BitqError, shortened
from bitq.floating import StaysFloat
from bitq.layers import Layer

if TYPE_CHECKING:
    from torch import nn

DEMO_SHAPE = (1, 1, 28, 28)
OWN = "bitq.networks:"  # What may stand before the names of the networks that come with bitq.
FIRST = ""  # as for load_onnx: the first input, by no name

Network = Annotated[
    str,
    typer.Argument(
        help="`demo`; a network that comes with bitq, such as `resnet18`, `convnext_large` or `yolov8n` (a wrong name "
        "is told all of them); an ONNX file (.onnx); or `package.module:function`: a function without arguments that "
        "returns a torch.nn.Module, in the current folder or installed."
    ),
]
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SHAPE|NAME=SHAPE",
        help="Shape of the network's input in elements: batch, channels, height and width, such as "
        "1,3,224,224. Networks that come with bitq and most ONNX files know their own; an ONNX file's batch may be "
        "given anew. For its inputs by name, such as ids=1,128, it may be given several times.",
    ),
]


@dataclass(frozen=True)
class NetworkLayers:
    """What NETWORK and --input-shape or --input name.

    Attributes:
        shape: of the (first) input, in elements.
        layers: in order of execution.
        stays_float: what takes no formats.
        assumed: a clause on what decides that, where it is not the modules themselves.
    """

    shape: Shape
    layers: tuple[Layer, ...]
    stays_float: tuple[StaysFloat, ...]
    assumed: str | None = None


def input_and_layers(
    network: str, input_shape: Sequence[str] | None, inputs: Sequence[str] | None = None
) -> NetworkLayers:
    """The network that NETWORK and --input-shape or --input name.

    Raises:
        BitqError: no such network, a shape that is none or does not fit, or a network without layers.
    """
    if input_shape and inputs:
        raise BitqError("--input says what --input-shape does, and more; give one of them")
    given, named = _by_name(input_shape or ()), read_inputs(inputs or ())
    if network.endswith(".onnx"):
        from bitq.onnx import ASSUMED, load_onnx

        types = {_key(place, each): each.dtype for place, each in enumerate(named)}
        shapes = {_key(place, each): each.shape for place, each in enumerate(named)}
        onnx = load_onnx(Path(network), shapes or given, types)
        found = NetworkLayers(onnx.input_shape, onnx.layers, onnx.stays_float, ASSUMED)
    else:
        if wrong := [shortened(name) for name in given if name != FIRST]:
            raise BitqError(
                f"--input-shape names input {wrong[0]!r}, which only ONNX files have; give the shape alone, or "
                f'--input "{EXAMPLE}"'
            )
        found = _traced(network, given.get(FIRST), named)
    if not found.layers:
        name = shortened(network)
        raise BitqError(f"network {name!r} must compute a convolution or matrix product, but has none")
    return found


def _key(place: int, given: Input) -> str | int:
    return place if given.name is None else given.name


def _traced(network: str, given: Shape | None, inputs: Sequence[Input]) -> NetworkLayers:
    import torch

    from bitq.networks import INPUT_SHAPES, NETWORKS

    own = network.removeprefix(OWN)
    if network == DEMO:
        from bitq.demo.resnet8 import resnet8

        return _on(resnet8(), given or DEMO_SHAPE, inputs, network)
    if own in NETWORKS:
        with torch.device("meta"):
            return _on(NETWORKS[own](), given or INPUT_SHAPES[own], inputs, network)
    if ":" not in network:
        known = ", ".join((DEMO, *NETWORKS))
        given_name = shortened(network)
        raise BitqError(f"no network {given_name!r}: give {known}, an ONNX file or package.module:function")
    if given is None and not inputs:
        raise BitqError(
            f'network {shortened(network)!r} needs --input-shape, such as 1,3,224,224, or --input, such as "{EXAMPLE}"'
        )
    from bitq.loading import load_network

    return _on(load_network(network), given or (), inputs, network)


def _on(model: nn.Module, shape: Shape, inputs: Sequence[Input], network: str) -> NetworkLayers:
    import torch

    from bitq.accuracy.kinds import staying_float
    from bitq.accuracy.storing import with_products
    from bitq.tracing import record

    example = bound(inputs, model, network) if inputs else torch.empty(shape, device="meta")
    traced = record(model, example)
    floating = staying_float(with_products(model, traced.products), traced.layers)
    return NetworkLayers(inputs[0].shape if inputs else shape, traced.layers, floating)


def _by_name(texts: Sequence[str]) -> dict[str, Shape]:
    """Shapes by the names of their inputs."""
    shapes: dict[str, Shape] = {}
    for text in texts:
        name, named, shape = text.rpartition("=")
        if named and not name:
            given = shortened(text)
            raise BitqError(f"--input-shape {given!r} must have an input's name before the =, such as ids=1,128")
        if name in shapes:
            which = f"input {shortened(name)!r}" if named else "the first input"
            raise BitqError(f"--input-shape is given twice for {which}; give it once")
        shapes[name] = shape_of(shape, f"--input-shape {shortened(shape)!r}", "1,3,224,224")
    return shapes
