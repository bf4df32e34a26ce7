"""The network's input: floats that are taken apart into their bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitq.exporting.c99.fixed_point import IntArray, scaled
from bitq.exporting.c99.integers import Slots, peaks, rounded_to, stored_by
from bitq.exporting.c99.steps import Origin, StepOfC
from bitq.exporting.c99.writing import Writer, comment, step_in_c

INPUT_LIFT = 36
"""Bits that the significand of an input is shifted to the left before it is multiplied."""


@dataclass(frozen=True)
class FromInput(Origin):
    """The network's input, float32 numbers in the order of the network's own axes.

    Attributes:
        channel_stride, position_stride: from one channel, one position to the next.
    """

    channel_stride: int
    position_stride: int
    takes_input = True


@stored_by.register
def _quantized(
    source: FromInput, step: StepOfC, memory: Slots, given: NDArray[np.float32]
) -> tuple[IntArray, IntArray]:
    target = step.target
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
    peak = np.maximum((peaks(counted, numbers.block) >> 23), 1) - 127
    codes = np.clip(peak + 1 - numbers.magnitude_bits - numbers.lowest, 0, numbers.top)
    return rounded_to(k, codes, exponents, step)


@step_in_c.register
def _input(source: FromInput, writer: Writer, number: int, step: StepOfC) -> str:
    target, numbers = step.target, step.numbers
    given = f"input[place * {source.position_stride} + k * {source.channel_stride}]"
    lines = [f"/* {comment(step.module)} */", f"static void step{number}(const float *input)", "{"]
    if numbers.scale != 1:
        lines += [
            "    int32_t place, k;",
            f"    for (place = 0; place < {target.positions}; place++)",
            f"        for (k = 0; k < {target.channels}; k++) {{",
            f"            const uint32_t x = bitq_pattern({given});",
            f"            const int32_t shift = {step.shift} - bitq_exponent(x);",
            "            int64_t v = bitq_whole(x);",
            "            if (shift > 95)",
            "                v = 0;",
            "            else if (shift >= 33)",
            f"                v = bitq_scaled(bitq_left(v, {INPUT_LIFT}), {step.gain}, shift);",
            "            else if (v != 0)",
            f"                v = v < 0 ? {numbers.low} : {numbers.high};",
            f"            v = v < {numbers.low} ? {numbers.low} : v > {numbers.high} ? {numbers.high} : v;",
            f"            {writer.stores(target, 'place', 'k', 'v')}",
            "        }",
            "}",
        ]
        return "\n" + "\n".join(lines) + "\n"
    block, sign = numbers.block, numbers.low < 0
    counted = "x & 0x7fffffff" if sign else "x >> 31 ? 0 : x"
    base = 1 - numbers.magnitude_bits - numbers.lowest - 127
    code = f"{numbers.lowest} + code" if numbers.top else str(numbers.lowest)
    lines += [
        "    int32_t place, k, first, last;",
        f"    for (place = 0; place < {target.positions}; place++)",
        f"        for (first = 0; first < {target.channels}; first = last) {{",
    ]
    if numbers.top:
        lines += [
            "            uint32_t peak = 0;",
            "            int32_t code;",
            f"            last = {target.channels} - first < {block} ? {target.channels} : first + {block};",
            "            for (k = first; k < last; k++) {",
            f"                const uint32_t x = bitq_pattern({given}), size = {counted};",
            "                peak = size > peak ? size : peak;",
            "            }",
            f"            code = (peak >> 23 ? (int32_t)(peak >> 23) : 1) + {base};",
            f"            code = code < 0 ? 0 : code > {numbers.top} ? {numbers.top} : code;",
            f"            {writer.stores_code(target, 'place', 'first', 'code')}",
        ]
    else:
        lines.append(f"            last = {target.channels} - first < {block} ? {target.channels} : first + {block};")
    k = f"bitq_rounded(bitq_whole(x), shift, {numbers.low}, {numbers.high})"
    lines += [
        "            for (k = first; k < last; k++) {",
        f"                const uint32_t x = bitq_pattern({given});",
        f"                const int32_t shift = {code} - bitq_exponent(x);",
        f"                {writer.stores(target, 'place', 'k', k)}",
        "            }",
        "        }",
        "}",
    ]
    return "\n" + "\n".join(lines) + "\n"
