"""Convolutions and linear layers: sums of products with a weight, in integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from bitq.errors import BitqError
from bitq.exporting.c99.filters import Filters, filters_of
from bitq.exporting.c99.fixed_point import IntArray
from bitq.exporting.c99.integers import Slots, drawn
from bitq.exporting.c99.lowering import Constant, Flowing, Lowering, UnknownError, computes, extents, values
from bitq.exporting.c99.numbers import NotIntegersError
from bitq.exporting.c99.steps import ROOM, SUM, Origin, Resident, bits_of
from bitq.exporting.c99.windows import Walk, pair, taps_of
from bitq.exporting.c99.wires import Wire


@dataclass(frozen=True)
class ChannelRun:
    """Neighbouring channels whose products are summed before they are shifted.

    Attributes:
        first, last: of a group's channels, from and to before.
        code: of the activation's blocks.
        weight_code: of the weight's.
    """

    first: int
    last: int
    code: int
    weight_code: int


@dataclass(frozen=True, eq=False)
class Convolve(Origin):
    """Sums of products: of each segment p, an integer; then the sum of (p·2^left) >> (tops - codes), times 2^lift.

    Attributes:
        input: what is read.
        filters: the weight.
        walk: of windows.
        groups: of channels.
        left: bits that p is shifted to the left.
        wide: whether the sum has 64 bits or 32, which hold it exactly.
        lift: bits that the sum is shifted to the left at the end.
    """

    input: Resident
    filters: Filters
    walk: Walk
    groups: int
    left: int
    wide: bool
    lift: int
    tiled = True

    @property
    def reads(self) -> tuple[Resident, ...]:
        """The input."""
        return (self.input,)

    @property
    def tops(self) -> int:
        """Of both codes together."""
        return self.input.numbers.top + self.filters.shifted_top

    def segments(self, group: int) -> tuple[ChannelRun, ...]:
        """Those of a group."""
        inner, first = self.filters.k.shape[2], group * self.filters.k.shape[2]
        block, own = self.input.numbers.block, self.filters.block
        edges = {0, inner}
        if self.input.numbers.top:
            edges |= {edge - first for edge in range(-(-first // block) * block, first + inner, block)}
        if self.filters.shifted_top:
            edges |= set(range(0, inner, own))
        marks = sorted(edges)
        return tuple(
            ChannelRun(
                a,
                b,
                (first + a) // block if self.input.numbers.top else 0,
                a // own if self.filters.shifted_top else 0,
            )
            for a, b in pairwise(marks)
        )


def convolved(stored: Resident, filters: Filters, walk: Walk, groups: int, size: tuple[int, int]) -> Wire:
    """Sums of products with a weight."""
    if filters.top and _folds(stored, filters):
        filters = replace(filters, folded=True)
    numbers, k = stored.numbers, np.abs(filters.factors).astype(np.float64)
    highest = numbers.highest + filters.lowest + filters.shifted_top
    codes = np.zeros_like(k)
    if filters.shifted_top:
        codes = np.repeat(filters.codes - float(filters.top), filters.block, axis=2)[:, :, : k.shape[2]]
    sums = numbers.most * (k * np.exp2(codes)).sum((1, 2))
    trial = Convolve(stored, filters, walk, groups, 0, True, 0)
    segments = [trial.segments(group) for group in range(groups)]
    product = numbers.most * max(
        float(k[:, :, each.first : each.last].sum(2).max()) for each in {one for own in segments for one in own}
    )
    terms = k.shape[1] * max(map(len, segments))
    sum_bits, product_bits = bits_of(float(sums.max()) + terms * 2.0**-20), bits_of(product)
    assert product_bits <= 31
    left, tops = min(ROOM - sum_bits, SUM - product_bits), trial.tops
    exact = tops + max(sum_bits, product_bits) <= 30
    source = replace(trial, left=tops, wide=False, lift=left - tops) if exact else replace(trial, left=left)
    bounds = np.ldexp(sums + terms * 2.0**-20, highest)
    gains = filters.scales * numbers.scale
    return Wire(source, (), highest - left, bounds, gains, np.zeros(len(gains)), *size)


def _folds(stored: Resident, filters: Filters) -> bool:
    """Whether products take k·2^code as one whole number: where it takes 8 bits, or 16 and runs become longer."""
    folded = replace(filters, folded=True)
    if folded.ctype == "int8_t":
        return True
    longer = not stored.numbers.top or filters.block < stored.numbers.block
    k = np.abs(folded.factors)
    return longer and int(k.max()) < 1 << 15 and stored.numbers.most * int(k.sum(2).max()) < 1 << 30


@drawn.register
def _convolve_in_integers(source: Convolve, memory: Slots, target: Resident) -> IntArray:
    k, codes = memory[source.input.name]
    weight = source.filters.factors
    own = source.filters.codes if source.filters.shifted_top else np.zeros((len(weight), 1, 1), np.int64)
    outputs, inner = weight.shape[0] // source.groups, weight.shape[2]
    found = np.zeros((target.height, target.width, weight.shape[0]), np.int64)
    for tap, (rows, columns, seen) in enumerate(taps_of(source.walk, source.input, target)):
        read, read_codes = k[rows, columns], codes[rows, columns]
        at = tap if own.shape[1] > 1 else 0
        for group in range(source.groups):
            mine = slice(group * outputs, (group + 1) * outputs)
            for part in source.segments(group):
                channels = slice(group * inner + part.first, group * inner + part.last)
                p = read[:, :, channels] @ weight[mine, tap, part.first : part.last].T
                right = source.tops - own[mine, at, part.weight_code]
                if source.input.numbers.top:
                    right = right - read_codes[:, :, part.code, None]
                found[(*seen, mine)] += (p << source.left) >> right
    return found << source.lift


def _layer(
    lowering: Lowering,
    given: dict[str, Any],
    order: Callable[[int], tuple[int, ...]],
    walk: Walk,
    groups: int = 1,
) -> Flowing:
    """A convolution or a linear layer."""
    shape = tuple(lowering.node.meta["val"].shape[1:])
    weight, axis = given["weight"], 0 if len(shape) > 1 and "stride" in given else len(shape) - 1
    if not isinstance(weight, Constant) or weight.recipe is None or weight.raw is None:
        raise UnknownError("its weight has no format, or is an activation")
    if not isinstance(given["input"], Flowing) or given["input"].recipe is None:
        raise UnknownError("its input has no format")
    flow = lowering.along(given["input"], axis)
    axes = order(weight.raw.dim())
    outputs, taps = shape[axis], walk.kernel[0] * walk.kernel[1]
    try:
        filters = filters_of(weight.raw, weight.recipe, axes, outputs, taps)
    except NotIntegersError as error:
        raise BitqError(
            f"the weight of {lowering.place()} has the format {weight.recipe.format.text}, {error}"
        ) from error
    made = convolved(lowering.stored(flow), filters, walk, groups, extents(shape, axis))
    bias = given.get("bias")
    if bias is not None:
        made = made.scaled(1.0, values(bias, outputs))
    lowering.layers.append(lowering.module())
    return Flowing(shape, axis, made, layer=lowering.module())


@computes("conv1d", "conv2d")
def _convolution(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    given = {"stride": 1, **given}
    kernel = tuple(given["weight"].value.shape[2:])
    dilation, padding = pair(given.get("dilation", 1), len(kernel), 1), given.get("padding", 0)
    if isinstance(padding, str):
        spans = [d * (k - 1) for d, k in zip(dilation[-len(kernel) :], kernel, strict=True)]
        wanted = spans if padding == "same" else [0] * len(spans)
        if any(each % 2 for each in wanted):
            raise UnknownError("it pads one side more than the other")
        padding = [each // 2 for each in wanted]
    size = len(kernel)
    walk = Walk(pair(kernel, size, 1), pair(given["stride"], size, 1), pair(padding, size), dilation)
    return _layer(lowering, given, lambda axes: (0, *range(2, axes), 1), walk, given.get("groups", 1))


@computes("conv_transpose1d", "conv_transpose2d")
def _transposed(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    given = {"stride": 1, **given}
    kernel = tuple(given["weight"].value.shape[2:])
    size = len(kernel)
    walk = Walk(
        pair(kernel, size, 1),
        pair(given["stride"], size, 1),
        pair(given.get("padding", 0), size),
        pair(given.get("dilation", 1), size, 1),
        True,
    )
    return _layer(lowering, given, lambda axes: (0, 2, *range(3, axes), 1), walk, given.get("groups", 1))


@computes("linear")
def _linear(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    return _layer(lowering, given, lambda axes: (0, 1), Walk((1, 1), (1, 1), (0, 0)))
