"""What ONNX Runtime makes of exported networks, beside bitq's own emulation.

    python benchmarks/exported.py
    BITQ_CIFAR10=... BITQ_RESNET20=... python benchmarks/exported.py --subjects demo resnet20 --formats 8:e3:b16 mxint8

Each network is calibrated on validation images, given each format for all of its tensors, exported, and run on test
images by ONNX Runtime. `weights` and `activations` are the tensors that are quantized on the way: how many of them are
the same in every bit, and of activations which share of all numbers. The first row of a network is itself in float32:
what its logits differ by there, as a share of the largest, is what the order of sums makes. Labels of a network that
gives a class to each pixel are those of pixels.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bitq.accuracy.kinds import quantizable
from bitq.accuracy.quantized import apply, observing
from bitq.accuracy.storing import with_products
from bitq.exporting import export
from bitq.exporting.standard_onnx.runtime import outputs
from bitq.formats import TensorFormats, parse_format
from bitq.tracing import record
from bitq.tradeoff.stored import points_of
from evaluation.trained import TRAINED
from subjects import SUBJECTS, MissingError, Subject


def trained(name: str) -> Subject:
    """One of the networks whose weights can be had.

    Raises:
        MissingError: the weights or the data.
    """
    own = TRAINED[name].make()
    first, _ = next(iter(own.data.validation))
    return Subject(name, own.model, own.data, first[:1])


ALL: dict[str, Callable[[int], Subject]] = {
    **SUBJECTS, "mobilenet_v2": lambda seed: trained("mobilenet_v2"), "espnet": lambda seed: trained("espnet")
}  # fmt: skip

BATCH = 20
"""Images at once: what is between is kept of all."""

FORMATS = ("8:e3:b16", "6:e2:b8", "mxint8", "mxfp4", "nvfp4", "16:e5:b16")


def main() -> int:
    """A row for each network and format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", nargs="+", choices=ALL, default=list(ALL))
    parser.add_argument("--formats", nargs="+", default=FORMATS, metavar="FORMAT", help="texts or names")
    parser.add_argument("--images", type=int, default=2000, help="of test data, at most (default: 2000)")
    options = parser.parse_args()
    heading = ("network", "format", "images", "labels", "logits", "differ by", "weights", "activations", "numbers")
    print("| " + " | ".join(heading) + " |\n|" + " --- |" * len(heading))
    for name in options.subjects:
        try:
            subject = ALL[name](0)
        except MissingError as error:
            print(f"{name}: skipped: {error}", file=sys.stderr)
            continue
        images = torch.cat(list(upto(options.images, (x for x, _ in subject.data.test))))
        for text in (None, *options.formats):
            row = (name, text or "float32", str(len(images)), *measured(subject, text, images))
            print("| " + " | ".join(row) + " |", flush=True)
    return 0


def upto(count: int, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Batches until there are so many images."""
    for batch in batches:
        if count <= 0:
            return
        yield batch[:count]
        count -= len(batch)


class Alike:
    """How many numbers of how many are the same bits, but for the sign of zero."""

    def __init__(self) -> None:
        self.same = self.total = 0
        self.whole = True

    def add(self, found: Tensor, expected: Tensor) -> None:
        """Count those of two tensors of one shape."""
        equal = found == expected
        self.same += int(equal.sum())
        self.total += equal.numel()
        self.whole = self.whole and bool(equal.all())

    def __str__(self) -> str:
        return f"{100 * self.same / self.total:.4g} %" if self.total else "none"


def measured(subject: Subject, text: str | None, images: Tensor) -> tuple[str, ...]:
    """Labels and logits alike, the largest difference over the largest logit, weights and activations alike."""
    model = copy.deepcopy(subject.model) if text is None else quantized(subject, alike(text))
    labels, logits, farthest, largest = Alike(), Alike(), 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        handed = export(model, images[:2], Path(folder) / "net.onnx")
        looked, weights, names = with_quantized(handed.path)
        activations: list[Alike] = []
        places: list[int] = []
        weights_alike = expected_weights = 0
        for number, batch in enumerate(images.split(BATCH)):
            found = outputs(looked, [batch])
            with torch.inference_mode(), Quantized(model) as quantized_here:
                expected = model(batch)
            own = found[0]
            labels.add(own.argmax(1), expected.argmax(1))
            logits.add(own, expected)
            farthest = max(farthest, float((own - expected).abs().max()))
            largest = max(largest, float(expected.abs().max()))
            if number == 0:
                places = [nearest(each, found[1 : 1 + len(names)]) for each in quantized_here.activations]
                activations = [Alike() for _ in places]
                given = found[1 + len(names) :]
                chains = [[given.pop(0) for _ in chain] for chain in weights]
                weights_alike = sum(
                    any(one.shape == other.shape and bool((one == other).all()) for chain in chains for one in chain)
                    for other in quantized_here.weights
                )
                expected_weights = len(quantized_here.weights)
            for counted, place, other in zip(activations, places, quantized_here.activations, strict=True):
                counted.add(found[1 + place], other)
    numbers = Alike()
    for each in activations:
        numbers.same, numbers.total = numbers.same + each.same, numbers.total + each.total
    return (
        str(labels),
        str(logits),
        f"{farthest / largest:.2g}",
        f"{weights_alike} of {expected_weights}",
        f"{sum(each.whole for each in activations)} of {len(activations)}",
        str(numbers),
    )


def nearest(expected: Tensor, found: list[Tensor]) -> int:
    """Which tensor is an activation in the file, where branches may come in another order."""
    alike = [each.shape == expected.shape and float((each == expected).float().mean()) for each in found]
    return max(range(len(found)), key=lambda place: (alike[place] is not False, alike[place]))


def with_quantized(path: Path) -> tuple[Path, list[list[str]], list[str]]:
    """A file beside one that gives what is quantized, too.

    Returns:
        The file; of each weight the names of what it is on its way to where it is read; the names of activations. The
        file gives its own outputs, the activations, the weights.
    """
    file = onnx.load(path)
    graph = file.graph
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def chain(name: str) -> list[str]:
        moves = [each for each in readers.get(name, ()) if each.op_type in ("Reshape", "Transpose")]
        return [name, *(other for each in moves for other in chain(each.output[0]))]

    held = [node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"]
    floats = [each.name for each in graph.initializer if each.name.endswith(".quantized")]
    for name in floats:  # an initializer that is an output, too, is no constant for some operators
        graph.node.append(onnx.helper.make_node("Identity", [name], [f"{name}.seen"]))
    weights = [*map(chain, held), *([f"{name}.seen", *chain(name)[1:]] for name in floats)]
    activations = [node.output[0] for node in graph.node if node.domain]
    known = {each.name for each in graph.output}
    for name in (*activations, *(each for own in weights for each in own)):
        seen = name
        if name in known:
            seen = f"{name}.again"
            graph.node.append(onnx.helper.make_node("Identity", [name], [seen]))
        graph.output.append(onnx.helper.make_tensor_value_info(seen, onnx.TensorProto.FLOAT, None))
    looked = path.with_suffix(".looked.onnx")
    onnx.save(file, looked)
    return looked, weights, activations


class Quantized(TorchDispatchMode):
    """What a network quantizes while this is on.

    Attributes:
        activations: in order.
        weights: each once.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._parameters = {each.untyped_storage().data_ptr() for each in model.parameters()}
        self._seen: set[int] = set()
        self.activations: list[Tensor] = []
        self.weights: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let the operator compute, and keep what it gives if it quantizes."""
        given = func(*args, **(kwargs or {}))
        if func.namespace == "bitq":
            place = args[0].untyped_storage().data_ptr()
            if place not in self._parameters:
                self.activations.append(given[0])
            elif place not in self._seen:
                self._seen.add(place)
                self.weights.append(given[0])
        return given


def alike(text: str) -> TensorFormats:
    """One format for all tensors of a layer."""
    fmt = parse_format(text)
    return TensorFormats(fmt, fmt, fmt)


def quantized(subject: Subject, formats: TensorFormats) -> nn.Module:
    """The network with formats for the tensors of its layers, calibrated on a batch of validation images."""
    x, _ = next(iter(subject.data.validation))
    traced = record(subject.model, subject.example)
    model = with_products(copy.deepcopy(subject.model), traced.products)
    names = [layer.module for layer in traced.layers if layer.module in quantizable(model)]
    points = points_of(traced, "after-activation", names)
    with observing(model, names, points=points) as ranges, torch.inference_mode():
        model(x)
    apply(model, dict.fromkeys(names, formats), ranges, points=points)
    return model.eval()


if __name__ == "__main__":
    sys.exit(main())
