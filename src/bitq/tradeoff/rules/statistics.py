"""What rules look at that choose by the numbers of a tensor: of weights, and of inputs on a few training batches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import pad

from bitq.accuracy.evaluate import device_of
from bitq.accuracy.kinds import kind_of
from bitq.batches import forward, pairs, to_device
from bitq.formats import Format
from bitq.tradeoff.measure import seeded
from bitq.tradeoff.study import Study

BATCHES = 8
"""Training batches that inputs are looked at on."""

LEAST_EXPONENT = -150
"""Below that of every float32; of zeros."""


def zeroed(x: Tensor, fmt: Format, dim: int, inner_dims: Sequence[int] = ()) -> tuple[int, int]:
    """Elements that lose all their bits when a block is aligned to its largest exponent, and elements.

    Those whose exponent lies at least as many below the block's largest as a magnitude has bits; zeros are among them
    (FlexBlock's zero setting error is the share of them).

    Args:
        x: any finite numbers.
        fmt: blocks of integers under a power of two.
        dim, inner_dims: as for `bitq.quantize`.
    """
    if fmt.geometry is None or not x.numel():
        return 0, x.numel()
    dim, inner = dim % x.dim(), tuple(axis % x.dim() for axis in inner_dims)
    reach = fmt.geometry.lengths(tuple(x.shape), dim, inner)
    lengths = [min(length, n) for length, n in zip(reach, x.shape, strict=True)]
    found = torch.frexp(x.detach().float()).exponent.where(x != 0, LEAST_EXPONENT)
    missing = [-n % length for n, length in zip(x.shape, lengths, strict=True)]
    padded = pad(found, [each for more in reversed(missing) for each in (0, more)], value=LEAST_EXPONENT)
    blocks = [each for n, length in zip(padded.shape, lengths, strict=True) for each in (n // length, length)]
    within = tuple(range(1, len(blocks), 2))
    largest = padded.reshape(blocks).amax(within, keepdim=True).expand(blocks).reshape(padded.shape)
    own = largest[tuple(slice(n) for n in x.shape)]
    magnitude = fmt.element_bits - (0 if fmt.never_negative else 1)
    return int(((own - found >= magnitude) | (x == 0)).sum()), x.numel()


def weight_numbers(study: Study, name: str) -> Tensor:
    """The weight of the module of this path; where it is an activation, what was sampled of it."""
    layer = study.subject.model.get_submodule(name)
    if not kind_of(layer).of_activations:
        return layer.weight.detach()  # type: ignore[operator]
    rows = study.samples.rows(name, "weight")
    return torch.zeros(0, 1) if rows is None else rows


def weight_zeroed(study: Study, name: str, fmt: Format) -> float:
    """The share of `zeroed` elements in the weight of the module of this path."""
    layer, weight = study.subject.model.get_submodule(name), weight_numbers(study, name)
    shape, dim, inner = kind_of(layer).blocks(layer, tuple(weight.shape))
    lost, count = zeroed(weight.reshape(shape), fmt, dim, inner)
    return lost / max(count, 1)


def input_zeroed(study: Study, formats: Sequence[Format]) -> dict[str, list[float]]:
    """By module path, the share of `zeroed` elements in its input in each of some formats."""

    def looked(x: Tensor, axis: int, name: str) -> list[tuple[float, float]]:
        return [zeroed(x, fmt, axis) for fmt in formats]

    sums = summed_over_inputs(study, looked)
    return {name: [lost / max(count, 1) for lost, count in found] for name, found in sums.items()}


def summed_over_inputs(
    study: Study, look: Callable[[Tensor, int, str], Sequence[tuple[float, float]]]
) -> Mapping[str, list[tuple[float, float]]]:
    """By module path, sums over all inputs in some training batches.

    Args:
        study: whose network runs as it is, in float.
        look: of (input, axis of its channels, module path) to pairs of numbers, which are added up.
    """
    model = copy.deepcopy(study.subject.model).eval()
    found: dict[str, list[tuple[float, float]]] = {}

    def add(name: str, axis: int, x: Tensor) -> None:
        own = look(x.detach(), axis, name)
        known = found.get(name) or [(0.0, 0.0)] * len(own)
        found[name] = [(a + c, b + d) for (a, b), (c, d) in zip(known, own, strict=True)]

    device = device_of(model)
    with torch.inference_mode(), seeded(study.seed), ExitStack() as hooks:
        for name in study.space.modules:
            layer = model.get_submodule(name)
            axis = kind_of(layer).channel_axis(layer)
            handle = layer.register_forward_pre_hook(
                lambda _, args, kwargs, name=name, axis=axis: add(name, axis, args[0] if args else kwargs["input"]),
                with_kwargs=True,
            )
            hooks.callback(handle.remove)
        for done, (inputs, _) in enumerate(islice(pairs(model, study.subject.data.train), BATCHES)):
            study.ledger.listener.step("looking at inputs", done, BATCHES)
            forward(model, to_device(inputs, device))
    return found
