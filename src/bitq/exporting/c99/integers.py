"""The arithmetic of exported C in NumPy, step by step: the twin that the C is held against bit for bit."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitq.exporting.c99.fixed_point import IntArray, rounded, scaled
from bitq.exporting.c99.steps import (
    INPUT_LIFT,
    Add,
    Affine,
    Clamp,
    Convolve,
    Copy,
    Divide,
    Drop,
    FromInput,
    Leak,
    Lift,
    Pool,
    Resident,
    Schedule,
    StepOfC,
    Walk,
)

Slots = dict[str, tuple[IntArray, IntArray]]
"""By name of a tensor its k [height, width, channels] and codes [height, width, blocks]."""


def run(network: Schedule, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs [n, *output_shape] of inputs [n, *input_shape], one after the other."""
    found = np.empty((len(inputs), network.outputs), np.float32)
    for number, each in enumerate(inputs.astype(np.float32).reshape(len(inputs), network.inputs)):
        memory = memory_of(network, each)
        value = floats(*memory[network.output.name], network.output)
        value = value.reshape(network.output.positions, network.output.channels)
        places = np.add.outer(
            np.arange(network.output.positions) * network.position_stride,
            np.arange(network.output.channels) * network.channel_stride,
        )
        found[number, places] = value
    return found.reshape(len(inputs), *network.output_shape)


def memory_of(network: Schedule, given: NDArray[np.float32]) -> Slots:
    """All tensors that one input leads to."""
    memory: Slots = {}
    for step in network.steps:
        given_to = isinstance(step.source, FromInput)
        memory[step.target.name] = _quantized_input(step, given) if given_to else _step(step, memory)
    return memory


def floats(k: IntArray, codes: IntArray, stored: Resident) -> NDArray[np.float32]:
    """The numbers that are stored, rounded to float32, ties to even."""
    numbers = stored.numbers
    exponents = numbers.lowest + (_spread(codes, stored) if numbers.top else 0)
    if numbers.scale == 1:
        found: NDArray[np.float32] = np.ldexp(_odd(k), exponents).astype(np.float32)
        return found
    return (k.astype(np.float64) * numbers.scale).astype(np.float32)


def _odd(k: IntArray) -> NDArray[np.float64]:
    """As float64; what has more digits is rounded to odd before, so that float32 rounds as if it had not been."""
    size = np.abs(k)
    drop = np.maximum(np.frexp(size.astype(np.float64))[1] - 53, 0)
    kept = (size >> drop) | ((size & ((1 << drop) - 1)) != 0)
    found: NDArray[np.float64] = np.ldexp(np.where(k < 0, -kept, kept).astype(np.float64), drop)
    return found


def _spread(codes: IntArray, stored: Resident) -> IntArray:
    return np.repeat(codes, stored.numbers.block, axis=2)[:, :, : stored.channels]


def _step(step: StepOfC, memory: Slots) -> tuple[IntArray, IntArray]:
    z = _source(step.source, memory, step.target)
    for each in step.operations:
        z = _operation(each, z, memory)
    target, numbers = step.target, step.numbers
    z = z.reshape(target.height, target.width, target.channels)
    if numbers.scale != 1:
        return np.clip(scaled(z, step.gain, step.shift), numbers.low, numbers.high), z[:, :, :0]
    if numbers.ctype == "int64_t":
        return z, z[:, :, :0]
    size = np.abs(z) if numbers.low else np.maximum(z, 0)
    exponents = _top_bit(_peaks(size, numbers.block)) + step.unit
    codes = np.clip(exponents + 1 - numbers.magnitude_bits - numbers.lowest, 0, numbers.top)
    return _rounded_to(z, codes, step.unit, step)


def _rounded_to(z: IntArray, codes: IntArray, unit: IntArray | int, step: StepOfC) -> tuple[IntArray, IntArray]:
    """k and codes of numbers z·2^unit, as the step's target holds them."""
    numbers, each = step.numbers, _spread(codes, step.target)
    k = np.clip(rounded(z, numbers.lowest - unit + each, numbers.most), numbers.low, numbers.high)
    if step.target.numbers.top:
        return k, codes
    return k << each, codes[:, :, :0]


def _peaks(size: IntArray, block: int) -> IntArray:
    found: IntArray = np.maximum.reduceat(size, np.arange(0, size.shape[2], block), axis=2)
    return found


def _top_bit(size: IntArray) -> IntArray:
    """floor(log2) of whole numbers from 0 to 2^62; -63 of 0."""
    high, low = size >> 31, size & 0x7FFFFFFF
    found = np.where(high > 0, np.frexp(high.astype(np.float64))[1] + 30, np.frexp(low.astype(np.float64))[1] - 1)
    return np.where(size > 0, found, -63).astype(np.int64)


def _lifted(lift: Lift, k: IntArray, codes: IntArray) -> IntArray:
    right = lift.stored.numbers.top - (_spread(codes, lift.stored) if lift.stored.numbers.top else 0) + np.zeros_like(k)
    if lift.left >= 0:
        return (k << lift.left) >> right
    return k >> np.minimum(right - lift.left, 63)


@singledispatch
def _operation(operation: Any, z: IntArray, memory: Slots) -> IntArray:
    raise TypeError(operation)


@_operation.register
def _affine(operation: Affine, z: IntArray, memory: Slots) -> IntArray:
    if operation.gains.size:
        z = scaled(z, operation.gains, operation.shifts)
    return z + operation.offsets if operation.offsets.size else z


@_operation.register
def _divide(operation: Divide, z: IntArray, memory: Slots) -> IntArray:
    found: IntArray = np.sign(z) * (np.abs(z) // operation.by)
    return found


@_operation.register
def _drop(operation: Drop, z: IntArray, memory: Slots) -> IntArray:
    return (z + (1 << (operation.bits - 1))) >> operation.bits if operation.bits < 63 else z * 0


@_operation.register
def _add(operation: Add, z: IntArray, memory: Slots) -> IntArray:
    other = _lifted(operation.lift, *memory[operation.lift.stored.name])
    return z + (scaled(other, operation.gain, operation.shift) if operation.shift else other).reshape(z.shape)


@_operation.register
def _clamp(operation: Clamp, z: IntArray, memory: Slots) -> IntArray:
    if operation.low is not None:
        z = np.maximum(z, operation.low)
    return z if operation.high is None else np.minimum(z, operation.high)


@_operation.register
def _leak(operation: Leak, z: IntArray, memory: Slots) -> IntArray:
    return np.where(z < 0, scaled(z * 4, operation.gain, operation.shift), z)


@singledispatch
def _source(source: Any, memory: Slots, target: Resident) -> IntArray:
    raise TypeError(source)


@_source.register
def _read(source: Copy, memory: Slots, target: Resident) -> IntArray:
    parts = [_lifted(lift, *memory[lift.stored.name]) for lift in source.parts]
    whole = np.concatenate(parts, axis=2)
    turned = whole.transpose(2, 0, 1)
    shapes = {"same": whole, "flat": turned.reshape(1, 1, -1), "turned": turned.reshape(1, len(turned), -1)}
    return shapes[source.view]


@_source.register
def _pool(source: Pool, memory: Slots, target: Resident) -> IntArray:
    z = _lifted(source.lift, *memory[source.lift.stored.name])
    found = np.full((target.height, target.width, target.channels), np.iinfo(np.int64).min if source.largest else 0)
    for rows, columns, seen in _taps(source.walk, source.lift.stored, target):
        part = z[rows, columns]
        if source.largest:
            found[seen] = np.maximum(found[seen], part)
        else:
            found[seen] += part
    return found


def _taps(walk: Walk, stored: Resident, target: Resident) -> list[tuple[Any, Any, Any]]:
    """Of each tap the rows and columns that it reads, and the outputs that it reads them for."""
    found: list[tuple[Any, Any, Any]] = []
    for y in range(walk.kernel[0]):
        rows = [(walk.read(out, y, 0, stored.height), out) for out in range(target.height)]
        for x in range(walk.kernel[1]):
            columns = [(walk.read(out, x, 1, stored.width), out) for out in range(target.width)]
            some = [
                np.array([each for each in axis if each[0] is not None], np.int64).reshape(-1, 2)
                for axis in (rows, columns)
            ]
            read_rows, read_columns = np.ix_(some[0][:, 0], some[1][:, 0])
            found.append((read_rows, read_columns, np.ix_(some[0][:, 1], some[1][:, 1])))
    return found


@_source.register
def _convolve(source: Convolve, memory: Slots, target: Resident) -> IntArray:
    k, codes = memory[source.input.name]
    weight = source.filters.factors
    own = source.filters.codes if source.filters.shifted_top else np.zeros((len(weight), 1, 1), np.int64)
    outputs, inner = weight.shape[0] // source.groups, weight.shape[2]
    found = np.zeros((target.height, target.width, weight.shape[0]), np.int64)
    for tap, (rows, columns, seen) in enumerate(_taps(source.walk, source.input, target)):
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


# The input


def _quantized_input(step: StepOfC, given: NDArray[np.float32]) -> tuple[IntArray, IntArray]:
    target, source = step.target, step.source
    assert isinstance(source, FromInput)
    places = np.add.outer(
        np.arange(target.positions) * source.position_stride, np.arange(target.channels) * source.channel_stride
    )
    pattern = given[places].reshape(target.height, target.width, target.channels).view(np.uint32).astype(np.int64)
    numbers = step.numbers
    field, fraction = (pattern >> 23) & 0xFF, pattern & 0x7FFFFF
    size = np.where(field > 0, fraction | 0x800000, fraction)
    exponents = np.maximum(field, 1) - 150
    negative = pattern >> 31 != 0
    k = np.where(negative, -size, size)
    if numbers.scale != 1:
        shifts = step.shift - exponents
        scaled_k = scaled(k << INPUT_LIFT, step.gain, np.clip(shifts, 33, 95))
        far = np.where(negative, numbers.low, numbers.high)
        wide = np.where(shifts > 95, 0, np.where(shifts < 33, np.where(size > 0, far, 0), scaled_k))
        return np.clip(wide, numbers.low, numbers.high), k[:, :, :0]
    counted = (pattern & 0x7FFFFFFF) if numbers.low else np.where(negative, 0, pattern)
    peak = np.maximum((_peaks(counted, numbers.block) >> 23), 1) - 127
    codes = np.clip(peak + 1 - numbers.magnitude_bits - numbers.lowest, 0, numbers.top)
    return _rounded_to(k, codes, exponents, step)
