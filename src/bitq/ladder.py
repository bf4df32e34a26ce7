"""The ladder of uniform formats: what a network reaches and costs in each as it is, before anything is fine-tuned."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from bitq.accuracy.evaluate import Loss, Metric, cross_entropy, device_of, doubt, top1
from bitq.accuracy.kinds import staying_float
from bitq.accuracy.quantized import apply, observing
from bitq.accuracy.ranges import Samples, fitted
from bitq.accuracy.storing import with_products
from bitq.batches import Batch, forward, one_example, to_device, unlike_inputs
from bitq.calls import Points
from bitq.devices import Device, load_device
from bitq.errors import BitqError
from bitq.floating import sentence
from bitq.formats import Choosable, Ranges, formats_of, integers
from bitq.formats.lists import FLOAT
from bitq.progress import Listener, Terminal
from bitq.tracing import record
from bitq.tradeoff.measure import Data, Task, first_inputs, seeded
from bitq.tradeoff.measure import evaluate as measure
from bitq.tradeoff.records import Role, Row
from bitq.tradeoff.space import build_space, stored_bytes, weight_bytes
from bitq.tradeoff.stored import Stored, points_of
from bitq.tradeoff.unlabelled import with_answers

USUAL = f"{FLOAT},8:e2..e6:b16,mxint8"
"""Formats that are measured if none are named."""

MOST_CALIBRATED, LEAST_CALIBRATED = 512, 32
"""Inputs that ranges are taken from: the more, the less work each is."""

CALIBRATING_MACS = 150e9
"""Multiply-accumulates that may take: half a minute on a thread, 500 inputs of MobileNetV2, 34 of YOLOv8n."""


def evaluate(
    model: nn.Module,
    data: Iterable[Batch],
    formats: str | Sequence[Choosable | None] = USUAL,
    *,
    calibration: Iterable[Batch] | None = None,
    device: str | Device = "stm32f103c8",
    loss: Loss = cross_entropy,
    metric: Metric = top1,
    example_input: Any = None,
    listener: Listener | None = None,
    stored: Stored = "after-activation",
) -> tuple[Row, ...]:
    """What a network reaches and costs with one format for all its tensors, for each of some formats, untuned.

        for row in bitq.evaluate(model, loader, "float32,8:e2..e6:b16,mxint8"):
            print(row.name, row.accuracy, row.movement_bits, row.energy_pj, row.model_bytes)

    Args:
        model: trained float network; is not changed.
        data: batches of (input, target), as `bitq.batches` describes them; may be walked often. Where they are inputs
            alone, what counts is agreement with the float network.
        formats: as `formats_of` reads them, or formats; None is float32.
        calibration: what the ranges of activations are taken from, its first 512 inputs or more, of a network that
            takes more than 0.3 billion multiply-accumulates fewer, but 32; by default `data`.
        device: name or file of a device, or a `Device`, whose memories the bits move through.
        loss: of (output, target).
        metric: (network, batches) to a number in [0, 1]; top-1 accuracy by default.
        example_input: one input that the layers are traced with; by default the first of the data.
        listener: is told of progress, and if float32, which is measured in any case, does no better than guessing; by
            default a bar on the terminal.
        stored: what of a layer's output is, "after-activation" or as in the "paper"; see `bitq.tradeoff.stored.Stored`.

    Returns:
        A row for each format, in their order, without an objective.

    Raises:
        BitqError: what is wrong with the input, in one sentence.
    """
    wanted = formats_of(formats) if isinstance(formats, str) else tuple(formats)
    target = device if isinstance(device, Device) else load_device(device)
    given = Data(data if calibration is None else calibration, data, data)
    parts, task = with_answers(model, given, Task(loss, metric))
    data = parts.test
    unlike = None
    if example_input is None:
        first = first_inputs(model, data, 1)
        if not first:
            raise BitqError("the data has no batch; give at least one batch of (input, target)")
        example_input, unlike = one_example(first[0][0]), unlike_inputs(first[0][0])
    traced = record(model, example_input)
    model = with_products(model, traced.products)
    layers = traced.layers
    weights = weight_bytes(model, layers)
    points = points_of(traced, stored, weights)
    own = copy.deepcopy(model).eval()
    with Terminal() if listener is None else nullcontext(listener) as heard:
        for note in (*([unlike] if unlike else []), *map(sentence, staying_float(model, layers))):
            heard.note(note)
        calibrated = first_inputs(own, parts.train, enough(sum(layer.macs for layer in layers)))
        ranges, samples = _calibrated(own, tuple(weights), points, calibrated, partial(heard.step, "calibrating"))
        heard.step("measuring formats", 0, len(wanted))
        float32 = measure(model, data, task)
        if question := doubt(float32):
            heard.note(question)
        rows = []
        for done, fmt in enumerate(wanted):
            heard.step("measuring formats", done, len(wanted))
            space = build_space(layers, weights, stored_bytes(model), target, (fmt or integers(8),))
            space = space.with_activations(traced.activations)
            if fmt is None:
                accuracy, cost = float32.accuracy, space.float_cost
            else:
                formats_of_all = space.tensor_formats(space.uniform(0), ranges)
                apply(own, formats_of_all, fitted(samples, formats_of_all, ranges), points=points)
                accuracy, cost = measure(own, data, task).accuracy, space.cost(space.uniform(0))
            role: Role = "uniform" if fmt else "float32"
            rows.append(Row(name=str(fmt or FLOAT), role=role, accuracy=accuracy, **cost.figures()))
        heard.step("measuring formats", len(wanted), len(wanted))
    return tuple(rows)


def enough(macs: float) -> int:
    """Inputs that calibration takes of a network with so many multiply-accumulates."""
    return int(min(max(CALIBRATING_MACS / max(macs, 1), LEAST_CALIBRATED), MOST_CALIBRATED))


def _calibrated(
    model: nn.Module,
    names: Sequence[str],
    points: Points,
    batches: Sequence[Batch],
    progress: Callable[[int, int], None],
) -> tuple[dict[str, Ranges], Samples]:
    """Between which numbers every module's input and output lie for some inputs, and some of them."""
    samples = Samples()
    with torch.inference_mode(), seeded(), observing(model, names, samples, points) as seen:
        for done, (inputs, _) in enumerate(batches, 1):
            forward(model, to_device(inputs, device_of(model)))
            progress(done, len(batches))
    return dict(seen), samples
