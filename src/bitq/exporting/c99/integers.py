"""The arithmetic of exported C in NumPy, step by step: the twin that the C is held against bit for bit."""

from __future__ import annotations

from functools import singledispatch

import numpy as np
from numpy.typing import NDArray

from bitq.exporting.c99.fixed_point import IntArray, rounded, scaled, top_bit, wide
from bitq.exporting.c99.steps import Affine, Change, Drop, Lift, Origin, Resident, Schedule, StepOfC

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
        memory[step.target.name] = stored_by(step.source, step, memory, given)
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


@singledispatch
def stored_by(source: Origin, step: StepOfC, memory: Slots, given: NDArray[np.float32]) -> tuple[IntArray, IntArray]:
    """k and codes of what a step stores, of an input."""
    z = drawn(source, memory, step.target)
    for each in step.operations:
        z = changed(each, z, memory)
    target, numbers = step.target, step.numbers
    z = z.reshape(target.height, target.width, target.channels)
    if numbers.scale != 1:
        return np.clip(scaled(z, step.gain, step.shift), numbers.low, numbers.high), z[:, :, :0]
    if numbers.wide:
        return wide(z), z[:, :, :0]
    size = np.abs(z) if numbers.low else np.maximum(z, 0)
    exponents = top_bit(peaks(size, numbers.block)) + step.unit
    codes = np.clip(exponents + 1 - numbers.magnitude_bits - numbers.lowest, 0, numbers.top)
    return rounded_to(z, codes, step.unit, step)


def rounded_to(z: IntArray, codes: IntArray, unit: IntArray | int, step: StepOfC) -> tuple[IntArray, IntArray]:
    """k and codes of numbers z·2^unit, as the step's target holds them."""
    numbers, each = step.numbers, _spread(codes, step.target)
    k = np.clip(rounded(z, numbers.lowest - unit + each, numbers.most), numbers.low, numbers.high)
    if step.target.numbers.top:
        return k, codes
    return k << each, codes[:, :, :0]


def peaks(size: IntArray, block: int) -> IntArray:
    """The largest of each block of channels."""
    found: IntArray = np.maximum.reduceat(size, np.arange(0, size.shape[2], block), axis=2)
    return found


def lifted(lift: Lift, k: IntArray, codes: IntArray) -> IntArray:
    """z of a tensor's numbers."""
    right = lift.stored.numbers.top - (_spread(codes, lift.stored) if lift.stored.numbers.top else 0) + np.zeros_like(k)
    if lift.left >= 0:
        return (k << lift.left) >> right
    return k >> np.minimum(right - lift.left, 63)


@singledispatch
def changed(operation: Change, z: IntArray, memory: Slots) -> IntArray:
    """What becomes of z."""
    raise TypeError(operation)


@changed.register
def _affine(operation: Affine, z: IntArray, memory: Slots) -> IntArray:
    if operation.gains.size:
        z = scaled(z, operation.gains, operation.shifts)
    return z + operation.offsets if operation.offsets.size else z


@changed.register
def _drop(operation: Drop, z: IntArray, memory: Slots) -> IntArray:
    return (z + (1 << (operation.bits - 1))) >> operation.bits if operation.bits < 63 else z * 0


@singledispatch
def drawn(source: Origin, memory: Slots, target: Resident) -> IntArray:
    """What z comes from a source, of the target's extents."""
    raise TypeError(source)
