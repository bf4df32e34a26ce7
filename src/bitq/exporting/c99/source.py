"""Steps as C: one function for each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import singledispatch
from hashlib import sha256
from typing import Any, NamedTuple

from bitq.exporting.c99.pieces_of_c import needed
from bitq.exporting.c99.static_memory import placed_in_memory
from bitq.exporting.c99.steps import (
    INPUT_LIFT,
    Add,
    Affine,
    ChannelRun,
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

TILE = 2048
"""Bytes of fixed-point numbers that are held until their blocks are complete, if one position needs no more."""

UNROLLED = 16
"""Channels of a run whose products are written one by one."""

FILES = ("network.h", "network.c", "main.c", "Makefile")

_LINE = 20


class Written(NamedTuple):
    """What a network becomes.

    Attributes:
        files: text by name.
        weight_bytes: of packed weights.
        constant_bytes: of what layers need besides: gains, shifts, offsets, tables.
        ram_bytes: of all static memory.
    """

    files: dict[str, str]
    weight_bytes: int
    constant_bytes: int
    ram_bytes: int


def identifier(name: str) -> str:
    """A name in C from any text."""
    found = re.sub(r"[^A-Za-z0-9_]", "_", name)[:40].strip("_")
    return found if found and not found[0].isdigit() else f"net_{found}".strip("_")


def _comment(name: str) -> str:
    """Text of others in a comment."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", name)[:80] or "network"


def written(network: Schedule, name: str) -> Written:
    """The files of a network.

    Args:
        network: its steps.
        name: an identifier that all public names begin with.
    """
    writer = _Writer(network)
    body = writer.body(name)
    upper = name.upper()
    header = _HEADER.format(
        name=name, upper=upper, inputs=network.inputs, outputs=network.outputs, ram=writer.ram,
        input_shape=_shape(network.input_shape), output_shape=_shape(network.output_shape),
    )  # fmt: skip
    source = _SOURCE.format(pieces=needed(body), body=body, upper=upper)
    digest = int(sha256(f"{name}{source}".encode()).hexdigest()[:8], 16)
    texts = header.replace("DIGEST_OF_BOTH", f"{digest:#010x}"), source.replace("DIGEST_OF_BOTH", f"{digest:#010x}")
    files = dict(zip(FILES, (*texts, _MAIN.format(name=name, upper=upper), _MAKEFILE), strict=True))
    return Written(files, writer.weight_bytes, writer.constant_bytes, writer.ram)


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


_HEADER = """\
/* Written by bitq: a network in the number formats of a plan. docs/c.md of bitq defines the arithmetic. */
#ifndef {upper}_H
#define {upper}_H

#define {upper}_INPUTS {inputs} /* numbers: {input_shape} */
#define {upper}_OUTPUTS {outputs} /* numbers: {output_shape} */
#define {upper}_RAM {ram} /* bytes of static memory */
#define {upper}_DIGEST DIGEST_OF_BOTH /* of network.c, which belongs to this file */

/* Computes {upper}_OUTPUTS numbers of {upper}_INPUTS finite ones. Not reentrant: it works in static memory. */
void {name}_run(const float *input, float *output);

#endif
"""

_SOURCE = """\
/* Written by bitq; docs/c.md of bitq defines the arithmetic. */
#include "network.h"

#if {upper}_DIGEST != DIGEST_OF_BOTH
#error "network.h and network.c are of two exports; export once more"
#endif

#include <stdint.h>
#include <string.h>

/* Negative numbers are shifted to the right as two's complement, rounded down. */
typedef char bitq_shifts_are_arithmetic[(-1 >> 1) == -1 ? 1 : -1];
{pieces}{body}"""

_MAIN = """\
/* Written by bitq: reads inputs, float32, one after the other from stdin, and writes the outputs of each to stdout. */
#include "network.h"

#include <stdio.h>

int main(void)
{{
    static float input[{upper}_INPUTS], output[{upper}_OUTPUTS];
    while (fread(input, sizeof input, 1, stdin) == 1) {{
        {name}_run(input, output);
        if (fwrite(output, sizeof output, 1, stdout) != 1)
            return 1;
    }}
    return 0;
}}
"""

_MAKEFILE = """\
# Written by bitq. make run: a program that reads float32 inputs from stdin and writes float32 outputs to stdout.
CFLAGS ?= -O2
WARNINGS = -std=c99 -pedantic -Wall -Wextra -Wconversion

run: network.c main.c network.h
\t$(CC) $(CFLAGS) $(WARNINGS) network.c main.c -o $@

clean:
\trm -f run

.PHONY: clean
"""


class _Writer:
    """Writes functions and the constants that they read."""

    def __init__(self, network: Schedule) -> None:
        self.network, self.arena = network, placed_in_memory(network)
        self.weight_bytes = self.constant_bytes = 0
        self.constants: list[str] = []
        steps = network.steps
        self.tiles = [_tile(step) for step in steps]
        convolutions = [step.source for step in steps if isinstance(step.source, Convolve)]
        elements = [each.filters.k[0].size * (2 if each.filters.ctype == "int16_t" else 1) for each in convolutions]
        codes = [each.filters.codes[0].size for each in convolutions if each.filters.code_bits]
        self.held = max(tile * _block(step) for tile, step in zip(self.tiles, steps, strict=True))
        self.element_bytes, self.code_bytes = -(-max(elements, default=0) // 8) * 8, -(-max(codes, default=0) // 8) * 8
        self.ram = self.arena.size + 8 * self.held + self.element_bytes + self.code_bytes

    def body(self, name: str) -> str:
        """All but the pieces."""
        functions = [self._function(number, step) for number, step in enumerate(self.network.steps)]
        calls = [
            f"    step{number}({'input' if isinstance(step.source, FromInput) else ''});\n"
            for number, step in enumerate(self.network.steps)
        ]
        first = [] if any(isinstance(step.source, FromInput) for step in self.network.steps) else ["    (void)input;\n"]
        memory = [
            "\n/* All tensors; bytes of one are read as the type that they were written as. */\n",
            f"static union {{ int64_t aligned; int16_t half[{self.arena.size // 2}]; "
            f"uint8_t byte[{self.arena.size}]; }} arena;\n",
            f"static int64_t held[{self.held}];\n",
        ]
        if self.element_bytes:
            kinds = [f"int16_t half[{self.element_bytes // 2}]", f"int8_t byte[{self.element_bytes}]"]
            memory.append(f"static union {{ {'; '.join(kinds)}; }} filter;\n")
        if self.code_bytes:
            memory.append(f"static uint8_t filter_codes[{self.code_bytes}];\n")
        lines = "".join([*first, *calls, "    give(output);\n"])
        run = f"\nvoid {name}_run(const float *input, float *output)\n{{\n{lines}}}\n"
        return "".join([*memory, *self.constants, *functions, self._give(), run])

    # LinesOfC

    def _table(self, ctype: str, name: str, values: Iterable[int], weights: bool = False) -> str:
        held = list(values)
        size = {"int8_t": 1, "uint8_t": 1, "int16_t": 2, "uint16_t": 2, "int32_t": 4, "int64_t": 8}[ctype]
        if weights:
            self.weight_bytes += len(held) * size
        else:
            self.constant_bytes += len(held) * size
        texts = [f"INT64_C({value})" if ctype == "int64_t" else str(value) for value in held]
        lines = [", ".join(texts[at : at + _LINE]) for at in range(0, len(texts), _LINE)]
        content = ",\n    ".join(lines)
        self.constants.append(f"\nstatic const {ctype} {name}[{len(held)}] = {{\n    {content}\n}};\n")
        return name

    def place(self, stored: Resident) -> str:
        """Where k of a tensor lie."""
        offset = self.arena.offsets[stored.name]
        ctype = stored.numbers.ctype
        if ctype == "int16_t":
            return f"arena.half + {offset // 2}"
        return f"(int8_t *)arena.byte + {offset}" if ctype == "int8_t" else f"arena.byte + {offset}"

    def codes(self, stored: Resident) -> str:
        """Where its codes lie."""
        return f"arena.byte + {self.arena.offsets[stored.name] + stored.codes_at}"

    def lifted(self, lift: Lift, place: str, channel: str) -> str:
        """An expression of z of a tensor's number."""
        stored, numbers = lift.stored, lift.stored.numbers
        at = f"({place}) * {stored.channels} + ({channel})"
        if numbers.ctype == "int64_t":
            k = f"bitq_get64({self.place(stored)} + 8 * ({at}))"
        else:
            k = f"({self.place(stored)})[{at}]"
        right = ""
        if numbers.top:
            code = f"({self.codes(stored)})[({place}) * {stored.blocks} + ({channel}) / {numbers.block}]"
            right = f"{numbers.top} - {code}"
        if lift.left >= 0:
            left = f"bitq_left({k}, {lift.left})"
            return f"({left} >> ({right}))" if right else left
        drop = min(-lift.left, 63)
        if numbers.top:
            return f"((int64_t){k} >> ({min(drop, 63 - numbers.top)} + {right}))"
        return f"((int64_t){k} >> {drop})"

    def _function(self, number: int, step: StepOfC) -> str:
        if isinstance(step.source, FromInput):
            return _input(self, number, step)
        target, tile, block = step.target, self.tiles[number], _block(step)
        declared, before, value = _value(step.source, self, number, target)
        for index, operation in enumerate(step.operations):
            value += _operation(operation, self, f"{number}_{index}")
        declared = [*declared, "int32_t at, n, t, k, first, last;"]
        lines = [
            f"/* {_comment(step.module)} */",
            f"static void step{number}(void)",
            "{",
            *(f"    {each}" for each in declared),
            f"    for (at = 0; at < {target.positions}; at += {tile}) {{",
            f"        n = {target.positions} - at < {tile} ? {target.positions} - at : {tile};",
            f"        for (first = 0; first < {target.channels}; first = last) {{",
            f"            last = {target.channels} - first < {block} ? {target.channels} : first + {block};",
            "            for (k = first; k < last; k++) {",
            *(f"                {each}" for each in before),
            "                for (t = 0; t < n; t++) {",
            "                    int64_t v;",
            *(f"                    {each}" for each in value),
            f"                    held[t * {block} + k - first] = v;",
            "                }",
            "            }",
            "            for (t = 0; t < n; t++) {",
            f"                const int64_t *const z = held + t * {block};",
            *(f"                {each}" for each in self._store(step, "at + t")),
            "            }",
            "        }",
            "    }",
            "}",
        ]
        return "\n" + "\n".join(lines) + "\n"

    def _store(self, step: StepOfC, place: str) -> list[str]:
        """Numbers of a block from z on in memory."""
        target, numbers, ctype = step.target, step.numbers, step.target.numbers.ctype
        at = f"({place}) * {target.channels} + k"
        loop = ["for (k = first; k < last; k++)"]
        if numbers.ctype == "int64_t":
            return [*loop, f"    bitq_put64({self.place(target)} + 8 * ({at}), z[k - first]);"]
        if numbers.scale != 1:
            return [
                *loop[:-1],
                "for (k = first; k < last; k++) {",
                f"    const int64_t v = bitq_scaled(z[k - first], {step.gain}, {step.shift});",
                f"    ({self.place(target)})[{at}] = ({ctype})(v < {numbers.low} ? {numbers.low} : "
                f"v > {numbers.high} ? {numbers.high} : v);",
                "}",
            ]
        base = step.unit + 1 - numbers.magnitude_bits - numbers.lowest
        sign = int(numbers.low < 0)
        lines, code = [], "0"
        if numbers.top:
            code = "code"
            lines = [
                f"const int32_t code = bitq_code(z, last - first, {sign}, {base}, {numbers.top});",
            ]
        if target.numbers.top:
            at_code = f"({place}) * {target.blocks} + first / {numbers.block}"
            lines.append(f"({self.codes(target)})[{at_code}] = (uint8_t)code;")
        shift = f"{numbers.lowest - step.unit} + {code}"
        rounded = f"bitq_rounded(z[k - first], {shift}, {numbers.low}, {numbers.high})"
        if numbers.top and not target.numbers.top:
            rounded = f"({rounded} * (1 << code))"
        return [*lines, *loop, f"    ({self.place(target)})[{at}] = ({ctype}){rounded};"]

    def _give(self) -> str:
        """The output as floats."""
        network, stored = self.network, self.network.output
        numbers = stored.numbers
        at = f"place * {stored.channels} + k"
        k = f"({self.place(stored)})[{at}]"
        if numbers.ctype == "int64_t":
            k = f"bitq_get64({self.place(stored)} + 8 * ({at}))"
        exponent = str(numbers.lowest)
        if numbers.top:
            exponent += f" + ({self.codes(stored)})[place * {stored.blocks} + k / {numbers.block}]"
        if numbers.scale != 1:
            fraction, power = _fraction(numbers.scale)
            k, exponent = f"(int64_t){k} * {fraction}", str(power)
        return (
            "\nstatic void give(float *output)\n{\n    int32_t place, k;\n"
            f"    for (place = 0; place < {stored.positions}; place++)\n"
            f"        for (k = 0; k < {stored.channels}; k++)\n"
            f"            output[place * {network.position_stride} + k * {network.channel_stride}] =\n"
            f"                bitq_float({k}, {exponent});\n}}\n"
        )


def _fraction(scale: float) -> tuple[int, int]:
    """A float32 as k·2^e."""
    top, bottom = scale.as_integer_ratio()
    return top, 1 - bottom.bit_length()


def _block(step: StepOfC) -> int:
    """Channels that are held until they are stored."""
    return step.numbers.block if step.numbers.top else min(step.target.channels, 16)


def _tile(step: StepOfC) -> int:
    if not isinstance(step.source, Convolve):
        return 1
    return max(1, min(step.target.positions, TILE // (8 * _block(step))))


# Sources: what is declared, what is done for each channel, and for each number


LinesOfC = tuple[list[str], list[str], list[str]]


@singledispatch
def _value(source: Any, writer: _Writer, number: int, target: Resident) -> LinesOfC:
    raise TypeError(source)


@_value.register
def _read(source: Copy, writer: _Writer, number: int, target: Resident) -> LinesOfC:
    lines, first = [], 0
    if source.view == "turned":
        return [], [], [f"v = {writer.lifted(source.parts[0], 'k', 'at + t')};"]
    if source.view == "flat":
        (lift,) = source.parts
        positions = lift.stored.positions
        return [], [], [f"v = {writer.lifted(lift, f'k % {positions}', f'k / {positions}')};"]
    for part in source.parts:
        last = first + part.stored.channels
        condition = "" if last == target.channels else f"if (k < {last}) "
        lines.append(f"{'else ' if first else ''}{condition}v = {writer.lifted(part, 'at + t', f'(k - {first})')};")
        first = last
    return [], [], [" ".join(lines)] if len(lines) == 1 else lines


@_value.register
def _pool(source: Pool, writer: _Writer, number: int, target: Resident) -> LinesOfC:
    stored = source.lift.stored
    z = writer.lifted(source.lift, f"iy * {stored.width} + ix", "k")
    inner = [f"const int64_t z = {z};", "v = z > v ? z : v;"] if source.largest else [f"v += {z};"]
    lines = [
        f"const int32_t y = (at + t) / {target.width}, x = (at + t) % {target.width};",
        "int32_t r, s;",
        "v = INT64_MIN;" if source.largest else "v = 0;",
        *_walked(source.walk, stored, inner),
    ]
    return [], [], lines


def _walked(walk: Walk, stored: Resident, inner: list[str]) -> list[str]:
    """Loops over the taps that lie inside a tensor, at row iy and column ix."""

    def axis(out: str, tap: str, index: str, which: int, extent: int) -> list[str]:
        stride, padding, dilation = walk.stride[which], walk.padding[which], walk.dilation[which]
        if walk.transposed:
            return [
                f"const int32_t {index}s = {out} + {padding} - {tap} * {dilation}, {index} = {index}s / {stride};",
                f"if ({index}s < 0 || {index}s % {stride} || {index} >= {extent})",
                "    continue;",
            ]
        if walk.kernel[which] == 1 and not padding:
            return [f"const int32_t {index} = {out} * {stride};"]
        return [
            f"const int32_t {index} = {out} * {stride} - {padding} + {tap} * {dilation};",
            f"if ({index} < 0 || {index} >= {extent})",
            "    continue;",
        ]

    return [
        f"for (r = 0; r < {walk.kernel[0]}; r++) {{",
        *(f"    {each}" for each in axis("y", "r", "iy", 0, stored.height)),
        f"    for (s = 0; s < {walk.kernel[1]}; s++) {{",
        *(f"        {each}" for each in axis("x", "s", "ix", 1, stored.width)),
        *(f"        {each}" for each in inner),
        "    }",
        "}",
    ]


@_value.register
def _convolve(source: Convolve, writer: _Writer, number: int, target: Resident) -> LinesOfC:
    stored, filters = source.input, source.filters
    outputs, taps, inner = filters.k.shape
    per_group, has_codes = outputs // source.groups, bool(filters.code_bits)
    stream = writer._table("uint8_t", f"w{number}", filters.stream(), weights=True)
    half = filters.ctype == "int16_t"
    place = "filter.half" if half else "filter.byte"
    size, codes_size, bits = taps * inner, filters.codes[0].size, filters.element_bits
    before = [
        f"bitq_unpack{16 if half else 8}({stream}, (uint32_t)k * {size * bits}, {size}, {bits}, {place});",
    ]
    if filters.table:
        low = -(1 << (filters.element_bits - 1))
        table = writer._table(filters.ctype, f"d{number}", _decoded(filters.table, filters.element_bits))
        before += [
            f"for (t = 0; t < {size}; t++)",
            f"    {place}[t] = {table}[{place}[t] + {-low}];",
        ]
    if has_codes:
        begin = outputs * size * filters.element_bits
        before.append(
            f"bitq_codes({stream}, {begin} + (uint32_t)k * {codes_size * filters.code_bits}, {codes_size}, "
            f"{filters.code_bits}, filter_codes);"
        )
    if filters.folded:
        blocks = filters.codes.shape[2]
        tap = f"r * {blocks} + " if filters.codes.shape[1] > 1 else ""
        before += [
            f"for (r = 0; r < {taps}; r++)",
            f"    for (t = 0; t < {inner}; t++)",
            f"        {place}[r * {inner} + t] = ({filters.ctype})({place}[r * {inner} + t] * "
            f"(1 << filter_codes[{tap}t / {filters.block}]));",
        ]
    kind = "int64_t" if source.wide else "int32_t"
    declared = [f"const {stored.numbers.ctype} *const a = {writer.place(stored)};"]
    if stored.numbers.top:
        declared.append(f"const uint8_t *const e = {writer.codes(stored)};")
    declared.append("int32_t y, x, r, s;")
    before += [f"y = at / {target.width};", f"x = at % {target.width};"]
    group = f"k / {per_group} * {inner}" if source.groups > 1 else "0"
    lines = [f"{kind} sum = 0;"]
    body = [
        f"const {stored.numbers.ctype} *b = a + (iy * {stored.width} + ix) * {stored.channels}"
        + (f" + {group};" if source.groups > 1 else ";"),
        f"const {filters.ctype} *w = {place} + (r * {source.walk.kernel[1]} + s) * {inner};",
    ]
    if stored.numbers.top:
        begin = f" + {group} / {stored.numbers.block}" if source.groups > 1 else ""
        body.append(f"const uint8_t *const f = e + (iy * {stored.width} + ix) * {stored.blocks}{begin};")
    if filters.shifted_top:
        tap = f" + (r * {source.walk.kernel[1]} + s) * {filters.codes.shape[2]}" if filters.codes.shape[1] > 1 else ""
        body.append(f"const uint8_t *const g = filter_codes{tap};")
    body += _products(source, writer, number)
    lines += _walked(source.walk, stored, body)
    lines.append(f"v = bitq_left(sum, {source.lift});" if source.lift else "v = sum;")
    lines += [f"if (++x == {target.width}) {{", "    x = 0;", "    y++;", "}"]
    return declared, before, lines


def _decoded(table: tuple[int, ...], bits: int) -> list[int]:
    """By code in two's complement, from the least on."""
    held = [*table, *[0] * ((1 << bits) - len(table))]
    return held[1 << (bits - 1) :] + held[: 1 << (bits - 1)]


def _products(source: Convolve, writer: _Writer, number: int) -> list[str]:
    """Sums of the products of a tap."""
    block = source.input.numbers.block
    segments = [source.segments(group) for group in range(source.groups)]

    def relative(group: int) -> tuple[ChannelRun, ...]:
        begin = group * source.filters.k.shape[2] // block if source.input.numbers.top else 0
        return tuple(ChannelRun(each.first, each.last, each.code - begin, each.weight_code) for each in segments[group])

    first = relative(0)
    if all(relative(group) == first for group in range(source.groups)):
        if len(first) <= 2:
            rows = [(each.first, each.last - each.first, each.code, each.weight_code) for each in first]
            return [line for row in rows for line in _one(source, *row)]
        if even := _even(source, first):
            return _evenly(source, len(first), *even)
        held, begin, end = [first], "0", str(len(first))
    else:
        held = [relative(group) for group in range(source.groups)]
        counts = [sum(map(len, held[:group])) for group in range(source.groups + 1)]
        starts = writer._table("uint16_t", f"b{number}", counts)
        per_group = source.filters.k.shape[0] // source.groups
        begin, end = f"{starts}[k / {per_group}]", f"{starts}[k / {per_group} + 1]"
    rows = [(each.first, each.last - each.first, each.code, each.weight_code) for own in held for each in own]
    table = writer._table("uint16_t", f"p{number}", [value for row in rows for value in row])
    return [
        "int32_t i;",
        f"for (i = {begin}; i < {end}; i++) {{",
        f"    const uint16_t *const p = {table} + 4 * i;",
        *(f"    {each}" for each in _one(source, "p[0]", "p[1]", "p[2]", "p[3]")),
        "}",
    ]


def _even(source: Convolve, runs: Sequence[ChannelRun]) -> tuple[int, int, int] | None:
    """Channels of each run, and runs that share a code of the input and of the weight, if all have as many."""
    count = runs[0].last
    shared = [
        sum(getattr(each, name) == 0 for each in runs) if top else len(runs)
        for name, top in (("code", source.input.numbers.top), ("weight_code", source.filters.shifted_top))
    ]
    expected = [ChannelRun(i * count, (i + 1) * count, i // shared[0], i // shared[1]) for i in range(len(runs))]
    return (count, shared[0], shared[1]) if expected == list(runs) else None


def _evenly(source: Convolve, runs: int, count: int, *shared: int) -> list[str]:
    """Runs of as many channels each, one after the other."""
    codes = ["i" if own == 1 else f"i / {own}" for own in shared]
    pointers = f"b += {count}, w += {count}"
    return ["int32_t i;", f"for (i = 0; i < {runs}; i++, {pointers}) {{", *_one(source, 0, count, *codes), "}"]


def _one(source: Convolve, first: object, count: object, code: object, weight_code: object) -> list[str]:
    left, right = source.input.numbers.ctype, source.filters.ctype
    if isinstance(count, int) and isinstance(first, int) and count <= UNROLLED:
        product = " + ".join(f"b[{first + each}] * w[{first + each}]" for each in range(count))
    else:
        name = f"bitq_dot_{left.removesuffix('_t')}_{right.removesuffix('_t')}"
        product = f"{name}(b + {first}, w + {first}, {count})"
    if not source.tops:
        return [f"sum += bitq_left({product}, {source.left});" if source.left else f"sum += {product};"]
    codes = [f"f[{code}]"] * bool(source.input.numbers.top) + [f"g[{weight_code}]"] * bool(source.filters.shifted_top)
    if source.wide:
        return [f"sum += bitq_left({product}, {source.left}) >> ({' - '.join([str(source.tops), *codes])});"]
    return [f"sum += ({product}) * (1 << ({' + '.join(codes)}));"]


# Operations


@singledispatch
def _operation(operation: Any, writer: _Writer, name: str) -> list[str]:
    raise TypeError(operation)


@_operation.register
def _affine(operation: Affine, writer: _Writer, name: str) -> list[str]:
    lines = []
    if operation.gains.size:
        alike = len({*zip(operation.gains.tolist(), operation.shifts.tolist(), strict=True)}) == 1
        if alike:
            lines.append(f"v = bitq_scaled(v, {operation.gains[0]}, {operation.shifts[0]});")
        else:
            gains = writer._table("int32_t", f"g{name}", operation.gains.tolist())
            shifts = writer._table("uint8_t", f"s{name}", operation.shifts.tolist())
            lines.append(f"v = bitq_scaled(v, {gains}[k], {shifts}[k]);")
    if operation.offsets.size:
        offsets = writer._table("int64_t", f"o{name}", operation.offsets.tolist())
        lines.append(f"v += {offsets}[k];")
    return lines


@_operation.register
def _divide(operation: Divide, writer: _Writer, name: str) -> list[str]:
    return [f"v /= {operation.by};"]


@_operation.register
def _drop(operation: Drop, writer: _Writer, name: str) -> list[str]:
    if operation.bits > 62:
        return ["v = 0;"]
    return [f"v = (v + ((int64_t)1 << {operation.bits - 1})) >> {operation.bits};"]


@_operation.register
def _add(operation: Add, writer: _Writer, name: str) -> list[str]:
    z = writer.lifted(operation.lift, "at + t", "k")
    return [f"v += bitq_scaled({z}, {operation.gain}, {operation.shift});" if operation.shift else f"v += {z};"]


@_operation.register
def _clamp(operation: Clamp, writer: _Writer, name: str) -> list[str]:
    lines = []
    for end, sign in ((operation.low, "<"), (operation.high, ">")):
        if end is not None:
            lines.append(f"v = v {sign} INT64_C({end}) ? INT64_C({end}) : v;")
    return lines


@_operation.register
def _leak(operation: Leak, writer: _Writer, name: str) -> list[str]:
    return [f"v = v < 0 ? bitq_scaled(v * 4, {operation.gain}, {operation.shift}) : v;"]


# The input


def _input(writer: _Writer, number: int, step: StepOfC) -> str:
    target, source, numbers = step.target, step.source, step.numbers
    assert isinstance(source, FromInput)
    given = f"input[place * {source.position_stride} + k * {source.channel_stride}]"
    at = f"place * {target.channels} + k"
    store = f"({writer.place(target)})[{at}] = ({target.numbers.ctype})"
    lines = [f"/* {_comment(step.module)} */", f"static void step{number}(const float *input)", "{"]
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
            f"            {store}(v < {numbers.low} ? {numbers.low} : v > {numbers.high} ? {numbers.high} : v);",
            "        }",
            "}",
        ]
        return "\n" + "\n".join(lines) + "\n"
    block, sign = numbers.block, numbers.low < 0
    folded = " * (1 << code)" if numbers.top and not target.numbers.top else ""
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
        ]
        if target.numbers.top:
            lines.append(
                f"            ({writer.codes(target)})[place * {target.blocks} + first / {block}] = (uint8_t)code;"
            )
    else:
        lines.append(f"            last = {target.channels} - first < {block} ? {target.channels} : first + {block};")
    lines += [
        "            for (k = first; k < last; k++) {",
        f"                const uint32_t x = bitq_pattern({given});",
        f"                const int32_t shift = {code} - bitq_exponent(x);",
        f"                {store}(bitq_rounded(bitq_whole(x), shift, {numbers.low}, {numbers.high}){folded});",
        "            }",
        "        }",
        "}",
    ]
    return "\n" + "\n".join(lines) + "\n"
