"""The argument NETWORK of commands that need its layers only: where they come from, on which input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitq.errors import BitqError, shortened
from bitq.floating import StaysFloat
from bitq.layers import Layer

if TYPE_CHECKING:
    from torch import nn

DEMO = "demo"
DEMO_SHAPE = (1, 1, 28, 28)
IMAGE_SHAPE = (1, 3, 224, 224)  # of the networks that come with bitq
MOST_ELEMENTS, MOST_AXES = 10**12, 16
FIRST = ""  # as for load_onnx: the first input, by no name

Shape = tuple[int, ...]
Network = Annotated[
    str,
    typer.Argument(
        help="`demo`; `resnet18`, `googlenet`, `eca_mobilenet_v2` or `convnext_large`; an ONNX file (.onnx); or "
        "`package.module:function`: a function without arguments that returns a torch.nn.Module, in the current "
        "folder or installed."
    ),
]
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SHAPE|NAME=SHAPE",
        help="Shape of the network's input in elements: batch, channels, height and width, such as "
        "1,3,224,224. Networks that come with bitq and most ONNX files know their own. For the inputs of an ONNX file "
        "by name, such as ids=1,128, it may be given several times.",
    ),
]


@dataclass(frozen=True)
class NetworkLayers:
    """What NETWORK and --input-shape name.

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


def input_and_layers(network: str, input_shape: Sequence[str] | None) -> NetworkLayers:
    """The network that NETWORK and --input-shape name.

    Raises:
        BitqError: no such network, a shape that is none or does not fit, or a network without layers.
    """
    given = _by_name(input_shape or ())
    if network.endswith(".onnx"):
        from bitq.onnx import ASSUMED, load_onnx

        onnx = load_onnx(Path(network), given)
        found = NetworkLayers(onnx.input_shape, onnx.layers, onnx.stays_float, ASSUMED)
    else:
        if named := [shortened(name) for name in given if name != FIRST]:
            raise BitqError(f"--input-shape names input {named[0]!r}, which only ONNX files have; give the shape alone")
        found = _traced(network, given.get(FIRST))
    if not found.layers:
        name = shortened(network)
        raise BitqError(f"network {name!r} must compute a convolution or matrix product, but has none")
    return found


def _traced(network: str, given: Shape | None) -> NetworkLayers:
    import torch

    from bitq.networks import NETWORKS

    if network == DEMO:
        from bitq.demo.resnet8 import resnet8

        return _on(resnet8(), given or DEMO_SHAPE)
    if network in NETWORKS:
        with torch.device("meta"):
            return _on(NETWORKS[network](), given or IMAGE_SHAPE)
    if ":" not in network:
        known = ", ".join((DEMO, *NETWORKS))
        given_name = shortened(network)
        raise BitqError(f"no network {given_name!r}: give {known}, an ONNX file or package.module:function")
    if given is None:
        raise BitqError(f"network {shortened(network)!r} needs --input-shape, such as 1,3,224,224")
    from bitq.loading import load_network

    return _on(load_network(network), given)


def _on(model: nn.Module, shape: Shape) -> NetworkLayers:
    import torch

    from bitq.accuracy.kinds import staying_float
    from bitq.tracing import trace

    layers = trace(model, torch.empty(shape, device="meta"))
    return NetworkLayers(shape, layers, staying_float(model, layers))


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
        shapes[name] = _parsed(shape)
    return shapes


def _parsed(text: str) -> Shape:
    given = shortened(text)
    try:
        shape = tuple(int(extent) for extent in text.split(","))
    except ValueError:
        shape = (0,)
    if min(shape) < 1:
        raise BitqError(f"--input-shape {given!r} must be whole numbers above 0, such as 1,3,224,224")
    if len(shape) > MOST_AXES:
        raise BitqError(f"--input-shape {given!r} has {len(shape)} axes; it must have at most {MOST_AXES}")
    if prod(shape) > MOST_ELEMENTS:
        raise BitqError(f"--input-shape {given!r} has over {MOST_ELEMENTS} elements; it must have fewer")
    return shape
