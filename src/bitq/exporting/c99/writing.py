"""Writes functions in C and the constants that they read: one function for each step."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import singledispatch
from typing import NamedTuple, Protocol

from bitq.exporting.c99.static_memory import placed_in_memory
from bitq.exporting.c99.steps import Affine, Change, Drop, Lift, Origin, Resident, Schedule, StepOfC

TILE = 2048
"""Bytes of fixed-point numbers that are held until their blocks are complete, if one position needs no more."""

LINE = 20
"""Numbers of a table in a line."""

SIZES = {"int8_t": 1, "uint8_t": 1, "int16_t": 2, "uint16_t": 2, "int32_t": 4, "int64_t": 8}
"""Bytes of types."""


def comment(name: str) -> str:
    """Text of others in a comment."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", name)[:80] or "network"


class WorkSpace(NamedTuple):
    """Static memory that steps use while they run, each in its own way.

    Attributes:
        bytes: the most that a step takes.
        types: that it is read as, by name.
    """

    bytes: int
    types: dict[str, str]


class Writer:
    """Writes functions and the constants that they read.

    Attributes:
        network: what is written.
        arena: where its tensors lie.
        weight_bytes, constant_bytes: of tables so far, those of packed weights and all others.
    """

    def __init__(self, network: Schedule) -> None:
        self.network, self.arena = network, placed_in_memory(network)
        self.weight_bytes = self.constant_bytes = 0
        self._tables: list[str] = []
        self._known: set[str] = set()
        self._buffers: dict[str, WorkSpace] = {}

    def body(self, name: str) -> str:
        """All but the pieces."""
        steps = self.network.steps
        functions = [step_in_c(step.source, self, number, step) for number, step in enumerate(steps)]
        given = ["input" if step.source.takes_input else "" for step in steps]
        calls = [f"    step{number}({each});\n" for number, each in enumerate(given)]
        if not any(given):
            calls.insert(0, "    (void)input;\n")
        run = f"\nvoid {name}_run(const float *input, float *output)\n{{\n{''.join(calls)}    give(output);\n}}\n"
        return "".join([*self._memory(), *self._tables, *functions, self._give(), run])

    @property
    def ram(self) -> int:
        """Bytes of all static memory."""
        return self.arena.size + sum(each.bytes for each in self._buffers.values())

    def _memory(self) -> list[str]:
        lines = [
            "\n/* All tensors, packed. */\n",
            f"static uint8_t arena[{self.arena.size}];\n",
            "\n/* What a step works on. */\n",
        ]
        for name, (size, types) in self._buffers.items():
            members = [f"{ctype} {member}[{size // SIZES[ctype]}]" for member, ctype in types.items()]
            lines.append(f"static union {{ {'; '.join(members)}; }} {name};\n")
        return lines

    def table(self, ctype: str, name: str, values: Iterable[int], weights: bool = False) -> str:
        """The name of a constant array; one that is there under its name is the same."""
        held = list(values)
        if name in self._known:
            return name
        self._known.add(name)
        if weights:
            self.weight_bytes += len(held) * SIZES[ctype]
        else:
            self.constant_bytes += len(held) * SIZES[ctype]
        texts = [f"INT64_C({value})" if ctype == "int64_t" else str(value) for value in held]
        lines = [", ".join(texts[at : at + LINE]) for at in range(0, len(texts), LINE)]
        content = ",\n    ".join(lines)
        self._tables.append(f"\nstatic const {ctype} {name}[{len(held)}] = {{\n    {content}\n}};\n")
        return name

    def buffer(self, name: str, ctype: str, count: int) -> str:
        """An expression of static memory for some numbers of a type, which a step uses while it runs."""
        found = self._buffers.get(name, WorkSpace(0, {}))
        member = ctype.removesuffix("_t")
        size = max(found.bytes, -(-count * SIZES[ctype] // 8) * 8)
        self._buffers[name] = WorkSpace(size, {**found.types, member: ctype})
        return f"{name}.{member}"

    def place(self, stored: Resident) -> str:
        """Where a tensor lies."""
        return f"arena + {self.arena.offsets[stored.name]}"

    def element(self, stored: Resident, place: str, channel: str) -> str:
        """An expression of k of a tensor's number."""
        numbers, at = stored.stored, f"(({place}) * {stored.channels} + ({channel}))"
        if numbers.wide:
            return f"bitq_get_wide({self.place(stored)} + 4 * {at})"
        k = self._field(stored, 0, at, numbers.bits, numbers.low)
        return f"({k} * (1 << {self.code(stored, place, channel)}))" if numbers.top and not stored.numbers.top else k

    def code(self, stored: Resident, place: str, channel: str) -> str:
        """An expression of the code of its block."""
        at = f"(({place}) * {stored.blocks} + ({channel}) / {stored.stored.block})"
        return self._field(stored, stored.codes_at, at, stored.stored.code_bits, 0)

    def _field(self, stored: Resident, begin: int, at: str, bits: int, low: int) -> str:
        start = f"{begin} + " if begin else ""
        return f"bitq_get({self.place(stored)}, {start}(uint32_t){at} * {bits}, {bits}, {low})"

    def lifted(self, lift: Lift, place: str, channel: str) -> str:
        """An expression of z of a tensor's number."""
        stored, top, k = lift.stored, lift.stored.numbers.top, self.element(lift.stored, place, channel)
        right = f"{top} - {self.code(stored, place, channel)}" if top else ""
        if lift.left >= 0:
            left = f"bitq_left({k}, {lift.left})"
            return f"({left} >> ({right}))" if right else left
        drop = min(-lift.left, 63)
        if top:
            return f"((int64_t){k} >> ({min(drop, 63 - top)} + {right}))"
        return f"((int64_t){k} >> {drop})"

    def stores(self, stored: Resident, place: str, channel: str, k: str) -> str:
        """A statement that stores k of a number."""
        numbers, at = stored.stored, f"(({place}) * {stored.channels} + ({channel}))"
        if numbers.wide:
            return f"bitq_put_wide({self.place(stored)} + 4 * {at}, {k});"
        return f"bitq_put({self.place(stored)}, (uint32_t){at} * {numbers.bits}, {numbers.bits}, (uint32_t)({k}));"

    def stores_code(self, stored: Resident, place: str, channel: str, code: str) -> str:
        """A statement that stores the code of a block."""
        at, bits = f"(({place}) * {stored.blocks} + ({channel}) / {stored.stored.block})", stored.stored.code_bits
        begin = f"{stored.codes_at} + (uint32_t){at} * {bits}"
        return f"bitq_put({self.place(stored)}, {begin}, {bits}, (uint32_t){code});"

    def _give(self) -> str:
        """The output as floats."""
        network, stored = self.network, self.network.output
        k, exponent = self.element(stored, "place", "k"), str(stored.numbers.lowest)
        if stored.numbers.top:
            exponent += f" + {self.code(stored, 'place', 'k')}"
        if stored.numbers.scale != 1:
            fraction, power = _fraction(stored.numbers.scale)
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


def held_channels(step: StepOfC) -> int:
    """Channels that are held until they are stored."""
    return step.numbers.block if step.numbers.top else min(step.target.channels, 16)


def tile_of(step: StepOfC) -> int:
    """Positions that are."""
    return max(1, min(step.target.positions, TILE // (8 * held_channels(step)))) if step.source.tiled else 1


class LinesOfC(NamedTuple):
    """What a source is in C, in loops over tiles (`at`, `n`), channels (`k`) and a tile's positions (`t`).

    Attributes:
        value: what computes v of channel k at position at + t.
        declared: at the begin of the function.
        tile: before each tile.
        channel: before each channel of a tile.
    """

    value: list[str]
    declared: list[str] = []  # noqa: RUF012 - never changed
    tile: list[str] = []  # noqa: RUF012
    channel: list[str] = []  # noqa: RUF012


@singledispatch
def source_in_c(source: Origin, writer: Writer, number: int, step: StepOfC) -> LinesOfC:
    """A source's own."""
    raise TypeError(source)


@singledispatch
def change_in_c(operation: Change, writer: Writer, name: str) -> list[str]:
    """What changes v of channel k at position at + t; name is for tables."""
    raise TypeError(operation)


def changes_in_c(step: StepOfC, writer: Writer, number: int) -> list[str]:
    """What becomes of v of channel k at position at + t."""
    changes = enumerate(step.operations)
    return [line for place, each in changes for line in change_in_c(each, writer, f"{number}_{place}")]


@singledispatch
def step_in_c(source: Origin, writer: Writer, number: int, step: StepOfC) -> str:
    """The function of a step."""
    target, tile, block = step.target, tile_of(step), held_channels(step)
    lines = source_in_c(source, writer, number, step)
    changes = changes_in_c(step, writer, number)
    held = writer.buffer("held", "int64_t", tile * block)
    text = [
        f"/* {comment(step.module)} */",
        f"static void step{number}(void)",
        "{",
        *(f"    {each}" for each in lines.declared),
        "    int32_t at, n, t, k, first, last;",
        f"    for (at = 0; at < {target.positions}; at += {tile}) {{",
        f"        n = {target.positions} - at < {tile} ? {target.positions} - at : {tile};",
        *(f"        {each}" for each in lines.tile),
        f"        for (first = 0; first < {target.channels}; first = last) {{",
        f"            last = {target.channels} - first < {block} ? {target.channels} : first + {block};",
        "            for (k = first; k < last; k++) {",
        *(f"                {each}" for each in lines.channel),
        "                for (t = 0; t < n; t++) {",
        "                    int64_t v;",
        *(f"                    {each}" for each in (*lines.value, *changes)),
        f"                    {held}[t * {block} + k - first] = v;",
        "                }",
        "            }",
        "            for (t = 0; t < n; t++) {",
        f"                const int64_t *const z = {held} + t * {block};",
        *(f"                {each}" for each in stored_in_c(writer, step)),
        "            }",
        "        }",
        "    }",
        "}",
    ]
    return "\n" + "\n".join(text) + "\n"


class Stores(Protocol):
    """Gives statements that store numbers and codes, as `Writer` does."""

    def stores(self, stored: Resident, place: str, channel: str, k: str) -> str:
        """See `Writer`."""

    def stores_code(self, stored: Resident, place: str, channel: str, code: str) -> str:
        """See `Writer`."""


def stored_in_c(writer: Stores, step: StepOfC) -> list[str]:
    """Numbers of a block from z on in memory, at position at + t."""
    target, numbers = step.target, step.numbers
    loop = "for (k = first; k < last; k++)"
    if numbers.wide:
        return [loop, f"    {writer.stores(target, 'at + t', 'k', 'z[k - first]')}"]
    if numbers.scale != 1:
        k = f"v < {numbers.low} ? {numbers.low} : v > {numbers.high} ? {numbers.high} : v"
        return [
            f"{loop} {{",
            f"    const int64_t v = bitq_scaled(z[k - first], {step.gain}, {step.shift});",
            f"    {writer.stores(target, 'at + t', 'k', k)}",
            "}",
        ]
    lines, code = [], "0"
    if numbers.top:
        base, sign = step.unit + 1 - numbers.magnitude_bits - numbers.lowest, int(numbers.low < 0)
        code = "code"
        lines = [
            f"const int32_t code = bitq_code(z, last - first, {sign}, {base}, {numbers.top});",
            writer.stores_code(target, "at + t", "first", "code"),
        ]
    shift = f"{numbers.lowest - step.unit} + {code}"
    k = f"bitq_rounded(z[k - first], {shift}, {numbers.low}, {numbers.high})"
    return [*lines, loop, f"    {writer.stores(target, 'at + t', 'k', k)}"]


@change_in_c.register
def _affine(operation: Affine, writer: Writer, name: str) -> list[str]:
    lines = []
    if operation.gains.size:
        alike = len({*zip(operation.gains.tolist(), operation.shifts.tolist(), strict=True)}) == 1
        if alike:
            lines.append(f"v = bitq_scaled(v, {operation.gains[0]}, {operation.shifts[0]});")
        else:
            gains = writer.table("int32_t", f"g{name}", operation.gains.tolist())
            shifts = writer.table("uint8_t", f"s{name}", operation.shifts.tolist())
            lines.append(f"v = bitq_scaled(v, {gains}[k], {shifts}[k]);")
    if operation.offsets.size:
        offsets = writer.table("int64_t", f"o{name}", operation.offsets.tolist())
        lines.append(f"v += {offsets}[k];")
    return lines


@change_in_c.register
def _drop(operation: Drop, writer: Writer, name: str) -> list[str]:
    if operation.bits > 62:
        return ["v = 0;"]
    return [f"v = (v + ((int64_t)1 << {operation.bits - 1})) >> {operation.bits};"]
