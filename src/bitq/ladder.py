"""The ladder of uniform formats: what a network reaches and costs in each as it is, before anything is fine-tuned."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import product
from typing import Any

import torch
from torch import nn

from bitq.accuracy.evaluate import Loss, Metric, cross_entropy, device_of, doubt, top1
from bitq.accuracy.kinds import staying_float
from bitq.accuracy.quantized import apply, observing
from bitq.batches import Batch, first_example, forward, to_device
from bitq.devices import Device, load_device
from bitq.errors import BitqError, shortened
from bitq.floating import sentence
from bitq.formats import BLOCK_SIZES, PRESETS, BlockFormat, MaxAbs, TensorFormats
from bitq.progress import Listener, Terminal
from bitq.tracing import record
from bitq.tradeoff.measure import Task, first_inputs, seeded
from bitq.tradeoff.measure import evaluate as measure
from bitq.tradeoff.records import Role, Row
from bitq.tradeoff.space import build_space, stored_bytes, weight_bytes

FLOAT = "float32"
"""The network as it came."""

USUAL = f"{FLOAT},8:e2..e6:b16,mxint8"
"""Formats that are measured if none are named."""

MOST_FORMATS = 1000
_CALIBRATED = 512
"""Inputs at least."""

_RANGES = re.compile(r"(\d{1,2}):e(\d)(?:\.\.e?(\d))?:b(\d{1,9})(?:\.\.b?(\d{1,9}))?")


def formats_of(text: str) -> tuple[BlockFormat | None, ...]:
    """Formats by a list of names, in its order and each once: None is float32.

    Args:
        text: commas between "float32", formats such as "8:e3:b16", presets such as "mxint8", and ranges: "8:e2..e6:b16"
            are five formats, "8:e4:b8..b32" those of the usual block sizes (1, 2, 4, 8, 16, 24, 32, 48) and of both
            ends.

    Raises:
        BitqError: another text, a format that is impossible, or more than 1,000 of them.
    """
    found: dict[BlockFormat | None, None] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        ranges = _RANGES.fullmatch(part)
        if part.lower() == FLOAT:
            found[None] = None
        elif ranges is None or (ranges[3] is None and ranges[5] is None):
            try:
                found[BlockFormat.parse(part)] = None
            except BitqError as error:
                raise BitqError(f"{error}, or {FLOAT}, or a range such as 8:e2..e6:b16") from None
        else:
            bits, *ends = (None if each is None else int(each) for each in ranges.groups())
            found.update(dict.fromkeys(_between(part, bits or 0, *ends)))
        if len(found) > MOST_FORMATS:
            raise BitqError(f"{shortened(text)!r} names more than {MOST_FORMATS} formats; name fewer")
    if not found:
        raise BitqError(f"no format is named; name some, such as {USUAL}")
    return tuple(found)


def _between(
    part: str, bits: int, least_e: int | None, most_e: int | None, least_b: int | None, most_b: int | None
) -> Iterator[BlockFormat]:
    first, begin = least_e or 0, least_b or 0
    last, end = first if most_e is None else most_e, begin if most_b is None else most_b
    if last < first or end < begin:
        raise BitqError(f"the range {part!r} ends below its begin; write the smaller number first")
    sizes = sorted({begin, end, *(size for size in BLOCK_SIZES if begin < size < end)})
    for exponent, size in product(range(first, last + 1), sizes):
        yield BlockFormat(bits, exponent, size)


def evaluate(
    model: nn.Module,
    data: Iterable[Batch],
    formats: str | Sequence[BlockFormat | None] = USUAL,
    *,
    calibration: Iterable[Batch] | None = None,
    device: str | Device = "stm32f103c8",
    loss: Loss = cross_entropy,
    metric: Metric = top1,
    example_input: Any = None,
    listener: Listener | None = None,
) -> tuple[Row, ...]:
    """What a network reaches and costs with one format for all its tensors, for each of some formats, untuned.

        for row in bitq.evaluate(model, loader, "float32,8:e2..e6:b16,mxint8"):
            print(row.name, row.accuracy, row.movement_bits, row.energy_pj, row.model_bytes)

    Args:
        model: trained float network; is not changed.
        data: batches of (input, target), as `bitq.batches` describes them; may be walked often.
        formats: as `formats_of` reads them, or formats; None is float32.
        calibration: what the ranges of activations are taken from, at least 512 inputs of it; by default `data`.
        device: name or file of a device, or a `Device`, whose memories the bits move through.
        loss: of (output, target).
        metric: (network, batches) to a number in [0, 1]; top-1 accuracy by default.
        example_input: one input that the layers are traced with; by default the first of the data.
        listener: is told of progress, and if float32, which is measured in any case, does no better than guessing; by
            default a bar on the terminal.

    Returns:
        A row for each format, in their order, without an objective.

    Raises:
        BitqError: what is wrong with the input, in one sentence.
    """
    wanted = formats_of(formats) if isinstance(formats, str) else tuple(formats)
    target = device if isinstance(device, Device) else load_device(device)
    if example_input is None:
        first = first_inputs(model, data, 1)
        if not first:
            raise BitqError("the data has no batch; give at least one batch of (input, target)")
        example_input = first_example(first[0][0])
    layers = record(model, example_input).layers
    weights, task = weight_bytes(model, layers), Task(loss, metric)
    own = copy.deepcopy(model).eval()
    with Terminal() if listener is None else nullcontext(listener) as heard:
        for part in staying_float(model, layers):
            heard.note(sentence(part))
        max_abs = _calibrated(own, tuple(weights), data if calibration is None else calibration)
        heard.step("measuring formats", 0, len(wanted))
        float32 = measure(model, data, task)
        if question := doubt(float32):
            heard.note(question)
        rows = []
        for done, fmt in enumerate(wanted):
            heard.step("measuring formats", done, len(wanted))
            space = build_space(layers, weights, stored_bytes(model), target, (fmt or PRESETS["mxint8"],))
            if fmt is None:
                accuracy, cost = float32.accuracy, space.float_cost
            else:
                chosen = {name: TensorFormats(fmt, fmt, fmt) for name in space.modules}
                apply(own, chosen, max_abs)
                accuracy, cost = measure(own, data, task).accuracy, space.cost(space.uniform(0))
            role: Role = "uniform" if fmt else "float32"
            rows.append(Row(name=str(fmt or FLOAT), role=role, accuracy=accuracy, **cost.figures()))
        heard.step("measuring formats", len(wanted), len(wanted))
    return tuple(rows)


def _calibrated(model: nn.Module, names: Sequence[str], batches: Iterable[Batch]) -> dict[str, MaxAbs]:
    """The largest |x| at every module's input and output over the first inputs."""
    with torch.inference_mode(), seeded(), observing(model, names) as seen:
        for inputs, _ in first_inputs(model, batches, _CALIBRATED):
            forward(model, to_device(inputs, device_of(model)))
    return dict(seen)
