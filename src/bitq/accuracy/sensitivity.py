"""What each tensor's format perturbs, to second order: the squared gradient of the loss times the squared error.

Around trained weights the loss grows by about half of sum g² e², the gradients g standing for the Hessian as in the
empirical Fisher information. It takes one backward pass per batch for all formats of all tensors. What is left of it
after fine-tuning grows slower: `POWER` is our finding, and the scores of tensors add up (`benchmarks/predictors.py`).
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from math import exp, isfinite, log2
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from bitq.accuracy.evaluate import Loss, device_of, differentiate, loss_of, telling
from bitq.accuracy.graded import Graded
from bitq.accuracy.kinds import kind_of
from bitq.accuracy.quantized import UNKNOWN, Shared, quantized_weight
from bitq.accuracy.ranges import Samples
from bitq.accuracy.watching import watching
from bitq.batches import Batch, count_inputs, forward, no_batch, pairs, to_device
from bitq.calls import Call, Points
from bitq.errors import BitqError
from bitq.formats import TENSORS, Format, Ranges, Span, TensorName
from bitq.formats.blocking import Along, Whole
from bitq.formats.elements import Integer
from bitq.formats.scales import SharedExponent
from bitq.memory import memory_told
from bitq.numerics import quantize
from bitq.private_torch import version
from bitq.running import calls_of

Kin = tuple[Any, ...]
"""What formats that differ in their block size, or in the bits of their integers, alone have in common."""

PROBED_BLOCKS = (1, 4, 16, 48)
"""Block sizes measured of formats that differ in nothing else, if all of them are offered, or else the smallest and the
largest; others are read off lines through them over log2 BS."""

PROBED_BITS = (2, 3, 4, 6)
"""Bits of integers, sign included, measured of formats that differ in nothing else, beside the least and the most, if
many are offered: a bit more divides squared errors by 4, so others are read off lines through log scores.
`benchmarks/probing.py` holds both against measuring all."""

MANY_BITS = 7
"""Widths of integers from which on some of them are measured."""

_STORED = "_bitq_stored_for_scoring"
"""Attribute of a tensor that is what a layer stores: its version then."""

POWER = 0.6
"""Of the perturbation, in a tensor's score."""


def probed(formats: Sequence[Format], extent: int) -> tuple[Format, ...]:
    """The formats that are measured for a tensor of `extent` elements along its blocks.

    Of formats whose blocks are cut to the same size by the extent, or that hold the same numbers in it, the first.
    """
    found: dict[tuple[Kin, int, int], Format] = {}
    for fmt in formats:
        found.setdefault(_place(fmt, extent), fmt)
    sizes, bits = _offered(found)
    blocks = {kin: _probed_sizes(own, extent) for kin, own in sizes.items()}
    widths = {kin: _probed_bits(own) for kin, own in bits.items()}
    return tuple(
        fmt for (kin, bit, size), fmt in found.items() if size in blocks[kin, bit] and bit in widths[kin, size]
    )


def _offered(
    places: Iterable[tuple[Kin, int, int]],
) -> tuple[dict[tuple[Kin, int], set[int]], dict[tuple[Kin, int], set[int]]]:
    """Block sizes by kin and bits, and bits by kin and block size."""
    sizes: dict[tuple[Kin, int], set[int]] = defaultdict(set)
    bits: dict[tuple[Kin, int], set[int]] = defaultdict(set)
    for kin, bit, size in places:
        sizes[kin, bit].add(size)
        bits[kin, size].add(bit)
    return sizes, bits


def _probed_sizes(offered: set[int], extent: int) -> set[int]:
    usual = {min(size, extent) for size in PROBED_BLOCKS}
    return usual if usual <= offered else {min(offered), max(offered)}


def _probed_bits(offered: set[int]) -> set[int]:
    return offered if len(offered) < MANY_BITS else {min(offered), *PROBED_BITS, max(offered)} & offered


def _place(fmt: Format, extent: int) -> tuple[Kin, int, int]:
    """All that a format's values depend on: what it shares with others, the bits of its integers and its block size.

    Integers without a sign count as those with one and the same numbers, for they are of tensors without negative ones.
    """
    geometry, element = fmt.geometry, fmt.elements[0]
    elements: Any = fmt.elements
    bits = 0
    if isinstance(element, Integer) and len(fmt.elements) == 1 and element.kind != "u":
        elements, bits = "integer", element.bits + (element.kind == "n")
    if not isinstance(geometry, Along):
        return (elements, fmt.scale, fmt.rounding, geometry), bits, 1
    kin = elements, fmt.scale, fmt.rounding, geometry.window, geometry.patch
    return kin, bits, min(geometry.size, extent)


def perturbations(
    model: nn.Module,
    modules: Sequence[str],
    formats: Callable[[str, TensorName], Sequence[Format]],
    ranges: Mapping[str, Ranges],
    batches: Sequence[Batch],
    loss: Loss,
    progress: Callable[[int, int], None] = lambda done, total: None,
    points: Points | None = None,
    samples: Samples | None = None,
) -> dict[str, dict[TensorName, dict[Format, float]]]:
    """Mean over the inputs of g² e², summed over a tensor's elements, for every module, tensor and format.

    Args:
        model: float network; is not changed.
        modules: paths.
        formats: those to measure, by path and one of `TENSORS`.
        ranges: calibration, from which activations get what a whole tensor shares.
        batches: to take gradients from.
        loss: a mean over a batch's inputs.
        progress: called with (batches done, batches) before each.
        points: where what modules store comes out, as for `bitq.apply`.
        samples: of calibration, from which activations get the range that suits a format.

    Returns:
        By path, tensor and format. A tensor that the loss does not depend on has 0, and so has an input that is what
        another layer stored: its error is counted once, where it is made.

    Raises:
        BitqError: no tensor of any module has anything but 0, a loss that fails or is not finite, memory that runs
            out, a module that the network never calls, or whose weight it computes with past the module.
    """
    shared = {id(each): nn.Parameter(each.detach(), requires_grad=False) for each in model.parameters()}
    own = copy.deepcopy(model, shared).eval()  # what is scored gets gradients
    with watching(own, modules, "scored"), memory_told("scoring formats"):
        return _perturbations(own, modules, formats, ranges, batches, loss, progress, points or {}, samples)


def _perturbations(
    own: nn.Module,
    modules: Sequence[str],
    formats: Callable[[str, TensorName], Sequence[Format]],
    ranges: Mapping[str, Ranges],
    batches: Sequence[Batch],
    loss: Loss,
    progress: Callable[[int, int], None],
    points: Points,
    samples: Samples | None,
) -> dict[str, dict[TensorName, dict[Format, float]]]:
    found: dict[str, dict[TensorName, dict[Format, float]]] = {
        name: {tensor: dict.fromkeys(formats(name, tensor), 0.0) for tensor in TENSORS} for name in modules
    }
    squares: dict[str, tuple[Tensor, Tensor]] = {}

    def spanned(name: str, tensor: TensorName, fmt: Format) -> Span | None:
        span = getattr(ranges.get(name, UNKNOWN), tensor, None)
        return span if samples is None else samples.span(name, tensor, fmt, span)

    def came(name: str, tensor: TensorName, x: Tensor, gradient: Tensor) -> None:
        layer = own.get_submodule(name)
        if tensor == "weight" and not kind_of(layer).of_activations:
            _, summed = squares.setdefault(name, (x, torch.zeros_like(gradient, dtype=torch.float32)))
            summed.addcmul_(gradient.float(), gradient.float())
            return
        row = found[name][tensor]
        for fmt, value in _of_activation(layer, tensor, x, gradient, {fmt: spanned(name, tensor, fmt) for fmt in row}):
            row[fmt] += value

    total, device, has_gradient = 0, device_of(own), False
    for done, batch in enumerate(pairs(own, batches)):
        progress(done, len(batches))
        inputs, target = to_device(batch, device)
        count = count_inputs(inputs)
        total += count
        with _kept(own, modules, points, came), torch.enable_grad(), parametrize.cached():
            with telling(own, loss):
                value = loss_of(forward(own, inputs), target, loss)
            if not torch.isfinite(value):
                raise BitqError(f"the float network's loss is {value.item()} on training data; it must be finite")
            if value.requires_grad:
                differentiate(value * count)
                has_gradient = True
    progress(len(batches), len(batches))
    if not batches:
        raise no_batch("the training data")
    if not has_gradient:
        raise BitqError(
            "the loss has no gradient where formats are scored by it, with the network in evaluation mode; let it "
            "follow from what layers compute there, too, or give it as bitq.InTraining(loss)"
        )
    for name, (weight, summed) in squares.items():
        layer = own.get_submodule(name)
        for fmt in found[name]["weight"]:
            rounded = quantized_weight(layer, weight, fmt, Shared.of(fmt, spanned(name, "weight", fmt)))
            found[name]["weight"][fmt] = float((rounded - weight).float().square().mul_(summed).sum())
    for name, row in found.items():
        if not all(isfinite(value) for each in row.values() for value in each.values()):
            raise BitqError(
                f"what {name!r} computes on training data is too large to score formats by; scale its inputs, such as "
                "by --mean and --std"
            )
    if len(unperturbed(found)) == len(found):
        raise BitqError(
            f"no format of any layer changes the loss on the {total} inputs that formats are scored on, so none seems "
            "better than another; give a loss that depends on what the layers compute for the training data"
        )
    return {
        name: {tensor: {fmt: value / max(total, 1) for fmt, value in each.items()} for tensor, each in row.items()}
        for name, row in found.items()
    }


def unperturbed(found: Mapping[str, Mapping[TensorName, Mapping[Any, float]]]) -> list[str]:
    """The modules none of whose tensors has a format that changes the loss, from what `perturbations` gives."""
    return [name for name, row in found.items() if not any(any(each.values()) for each in row.values())]


@contextmanager
def _kept(
    model: nn.Module,
    modules: Sequence[str],
    points: Points,
    came: Callable[[str, TensorName, Tensor, Tensor], None],
) -> Iterator[None]:
    """Inside, `came` is called with (module, tensor's name, tensor, gradient) as soon as backward knows a gradient.

    So no more is kept of activations than backward needs. Outputs are looked at where they are stored; an input that is
    one of them is not looked at again.

    Layers compute on copies, so that what others do in place to an input or output changes none of them.
    """
    weights: set[str] = set()

    def keep(name: str, tensor: TensorName, x: Tensor) -> Tensor:
        if x.is_leaf:
            x.requires_grad_()
            handles.append(x.register_post_accumulate_grad_hook(_without_gradient))  # type: ignore[no-untyped-call]
        held = [x.detach()]  # which is dropped as soon as it is looked at

        def look(gradient: Tensor) -> None:
            if held:
                came(name, tensor, held.pop(), gradient)

        handles.append(x.register_hook(look))  # type: ignore[no-untyped-call]
        return x

    def before(name: str, layer: nn.Module, args: Any, kwargs: Any) -> Any:
        if kind_of(layer).of_activations:
            args = args[0], keep(name, "weight", args[1].clone()), *args[2:]
        elif name not in weights:
            weights.add(name)
            keep(name, "weight", layer.weight)  # type: ignore[arg-type]
        x = args[0] if args else kwargs["input"]
        if getattr(x, _STORED, None) == version(x) or not x.is_floating_point():
            return args, kwargs
        if args:
            return (keep(name, "input", args[0].clone()), *args[1:]), kwargs
        return args, {**kwargs, "input": keep(name, "input", kwargs["input"].clone())}

    def after(name: str, output: Tensor) -> Tensor:
        return output if name in elsewhere else keep(name, "output", output).clone()

    def store(call: Call, result: Any) -> Any:
        if call not in at:
            return result
        copied = keep(at[call], "output", result).clone()
        setattr(copied, _STORED, version(copied))
        return copied

    at = {call: name for name, calls in points.items() if name in modules for call in calls}
    elsewhere = set(at.values())
    handles: list[RemovableHandle] = []
    for name in modules:
        layer = model.get_submodule(name)
        handles.append(layer.register_forward_pre_hook(lambda *call, n=name: before(n, *call), with_kwargs=True))
        handles.append(layer.register_forward_hook(lambda _, args, y, n=name: after(n, y)))
    try:
        with calls_of(model, store) if at else nullcontext():
            yield
    finally:
        for handle in handles:
            handle.remove()


def _without_gradient(x: Tensor) -> None:
    """Keep none, once it was looked at."""
    x.grad = None


def _of_activation(
    layer: nn.Module, tensor: TensorName, x: Tensor, gradient: Tensor, formats: Mapping[Format, Span | None]
) -> Iterator[tuple[Format, float]]:
    """Of an activation with its gradient the perturbation in each of the formats, each with the range it has."""
    axis = -1 if tensor == "weight" else kind_of(layer).channel_axis(layer)
    every = Graded(x, gradient, axis)
    few = every.drawn()
    for fmt, span in formats.items():
        if few is every or not _apart(fmt, x, axis):
            graded = every
        else:
            graded = few
            if span is None and fmt.needs_range:  # its own
                span = float(x.amin()), float(x.amax())
        values, shared = graded.values, Shared.of(fmt, span)
        if tensor == "weight":
            rounded = quantized_weight(layer, values, fmt, shared)
        else:
            bias, *_ = shared
            rounded = quantize(values, fmt, graded.axis, exponent_bias=bias, tensor_range=shared.tensor_range)
        yield fmt, graded.perturbation(rounded)


def _apart(fmt: Format, x: Tensor, axis: int) -> bool:
    """Whether rows of x along an axis are alone what they are together, but for what the whole tensor shares."""
    if fmt.geometry is None or isinstance(fmt.geometry, Whole):
        return True
    dim = axis % x.ndim
    lengths = fmt.geometry.lengths(tuple(x.shape), dim, ())
    return all(length == 1 for place, length in enumerate(lengths) if place != dim)


def scores(formats: Sequence[Format], measured: Mapping[Format, float], extent: int) -> NDArray[np.float64]:
    """Scores of one tensor in every format, from the perturbations of those that were measured.

    Args:
        formats: all formats.
        measured: perturbations by format, of what `probed` chose.
        extent: elements of the tensor along its blocks; larger blocks are cut to it.

    Returns:
        Array (formats,), (perturbation / 2)^POWER; interpolated for block sizes and bits that were not measured, and
        never less for a coarser format than for a finer one: for one of the same kind that has nothing more (no wider
        elements, no more of their bits for the mantissa, no smaller blocks).
    """
    powers: dict[tuple[Kin, int, int], float] = {}
    for fmt, value in measured.items():
        powers[_place(fmt, extent)] = (value / 2) ** POWER
    places = [_place(fmt, extent) for fmt in formats]
    return _ordered(formats, _interpolated(places, powers))


def _grain(fmt: Format) -> tuple[Kin, tuple[int, ...]]:
    """The kind within which formats are finer and coarser, and how coarse one is in each respect."""
    element, scale, geometry = fmt.elements[0], fmt.scale, fmt.geometry
    size, shape = (
        (geometry.size, (geometry.window, geometry.patch)) if isinstance(geometry, Along) else (0, geometry)
    )
    if not isinstance(element, Integer) or len(fmt.elements) > 1:
        return (fmt.elements, scale, shape, fmt.rounding), (size,)
    kind = type(scale) if isinstance(scale, SharedExponent) else scale
    shared = scale.bits if isinstance(scale, SharedExponent) else 0
    return (element.kind, kind, shape, fmt.rounding), (-element.bits - shared, -element.bits, size)


def _ordered(formats: Sequence[Format], values: Sequence[float]) -> NDArray[np.float64]:
    """Scores that never say a coarser format of a kind does better: that would be noise.

    The mean of the least such scores above the values and the largest below them.
    """
    found = np.array(values, dtype=np.float64)
    kinds: dict[Kin, list[int]] = defaultdict(list)
    for place, fmt in enumerate(formats):
        kinds[_grain(fmt)[0]].append(place)
    for those in kinds.values():
        found[those] = _ordered_kind([_grain(formats[place])[1] for place in those], found[those])
    return found


def _ordered_kind(grain: Sequence[tuple[int, ...]], values: NDArray[np.float64]) -> NDArray[np.float64]:
    axes = [sorted(set(steps)) for steps in zip(*grain, strict=True)]
    places = [tuple(axis.index(step) for axis, step in zip(axes, steps, strict=True)) for steps in grain]
    above = np.full([len(axis) for axis in axes], np.nan)
    above[tuple(zip(*places, strict=True))] = values
    below = np.flip(above)
    for axis in range(above.ndim):
        above, below = np.fmax.accumulate(above, axis=axis), np.fmin.accumulate(below, axis=axis)
    below = np.flip(below)
    return np.array([(above[place] + below[place]) / 2 for place in places])


def _interpolated(
    places: Sequence[tuple[Kin, int, int]], measured: Mapping[tuple[Kin, int, int], float]
) -> list[float]:
    """Values at places: of bits that were measured on lines over log2 BS, of others between these, on lines through
    logarithms over bits where no value is 0."""
    found = dict(measured)
    sizes, _ = _offered(measured)
    for kin, bit, size in places:
        if own := sorted(sizes.get((kin, bit), ())):
            values = [measured[kin, bit, each] for each in own]
            found.setdefault((kin, bit, size), float(np.interp(log2(size), list(map(log2, own)), values)))
    _, bits = _offered(found)
    for kin, bit, size in places:
        if (kin, bit, size) not in found:
            own = sorted(bits[kin, size])
            values = [found[kin, each, size] for each in own]
            on_logs = min(values) > 0
            value = float(np.interp(bit, own, np.log(values) if on_logs else values))
            found[kin, bit, size] = exp(value) if on_logs else value
    return [found[place] for place in places]
