"""Convolutions and linear layers in C."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from textwrap import wrap
from typing import NamedTuple

from bitq.exporting.c99.filters import Filters
from bitq.exporting.c99.kinds.convolving import ChannelRun, Convolve
from bitq.exporting.c99.steps import Resident, StepOfC
from bitq.exporting.c99.windows import Walk, loops_over
from bitq.exporting.c99.writing import LinesOfC, Writer, source_in_c, tile_of

UNROLLED = 16
"""Channels of a run whose products are written one by one."""


@source_in_c.register
def _convolve_in_c(source: Convolve, writer: Writer, number: int, step: StepOfC) -> LinesOfC:
    stored, filters, target = source.input, source.filters, step.target
    outputs, taps, inner = filters.k.shape
    per_group, has_codes = outputs // source.groups, bool(filters.code_bits)
    stream = writer.table("uint8_t", f"w{number}", filters.stream(), weights=True)
    size, codes_size, bits = taps * inner, filters.codes[0].size, filters.element_bits
    place, low = writer.buffer("filter", filters.ctype, size), -(1 << (bits - 1))
    before = [f"{unpack(filters.ctype)}({stream}, (uint32_t)k * {size * bits}, {size}, {bits}, {low}, {place});"]
    if filters.table:
        table = decoding(writer, number, filters)
        before += [
            f"for (t = 0; t < {size}; t++)",
            f"    {place}[t] = {table}[{place}[t] + {-low}];",
        ]
    if has_codes:
        begin = outputs * size * filters.element_bits
        filter_codes = writer.buffer("filter_codes", "uint8_t", codes_size)
        before.append(
            f"bitq_unpack_uint8({stream}, {begin} + (uint32_t)k * {codes_size * filters.code_bits}, {codes_size}, "
            f"{filters.code_bits}, 0, {filter_codes});"
        )
    if filters.folded:
        blocks = filters.codes.shape[2]
        tap = f"r * {blocks} + " if filters.codes.shape[1] > 1 else ""
        before += [
            f"for (r = 0; r < {taps}; r++)",
            f"    for (t = 0; t < {inner}; t++)",
            f"        {place}[r * {inner} + t] = ({filters.ctype})({place}[r * {inner} + t] * "
            f"(1 << {filter_codes}[{tap}t / {filters.block}]));",
        ]
    kind = "int64_t" if source.wide else "int32_t"
    read = _rows(source, writer, step)
    declared = [*read.declared, "int32_t y, x, r, s;"]
    before += [f"y = at / {target.width};", f"x = at % {target.width};"]
    group = f"k / {per_group} * {inner}" if source.groups > 1 else "0"
    lines = [f"{kind} sum = 0;"]
    body = [
        f"const {stored.numbers.ctype} *b = a + ({read.row} * {stored.width} + ix) * {stored.channels}"
        + (f" + {group};" if source.groups > 1 else ";"),
        f"const {filters.ctype} *w = {place} + (r * {source.walk.kernel[1]} + s) * {inner};",
    ]
    if stored.numbers.top:
        begin = f" + {group} / {stored.numbers.block}" if source.groups > 1 else ""
        body.append(f"const uint8_t *const f = e + ({read.row} * {stored.width} + ix) * {stored.blocks}{begin};")
    if filters.shifted_top:
        tap = f" + (r * {source.walk.kernel[1]} + s) * {filters.codes.shape[2]}" if filters.codes.shape[1] > 1 else ""
        body.append(f"const uint8_t *const g = {filter_codes}{tap};")
    block = stored.numbers.block

    def relative(group: int) -> tuple[ChannelRun, ...]:
        begin = group * inner // block if stored.numbers.top else 0
        return tuple(replace(each, code=each.code - begin) for each in source.segments(group))

    body += products(source, writer, number, [*map(relative, range(source.groups))], f"k / {per_group}")
    lines += loops_over(source.walk, stored, body)
    lines.append(f"v = bitq_left(sum, {source.lift});" if source.lift else "v = sum;")
    lines += [f"if (++x == {target.width}) {{", "    x = 0;", "    y++;", "}"]
    return LinesOfC(lines, declared, read.tile, before)


class _Rows(NamedTuple):
    """Rows of the input, unpacked: a and, of their codes, e.

    Attributes:
        row: an expression of where row iy lies.
        declared, tile: as of `LinesOfC`.
    """

    row: str
    declared: list[str]
    tile: list[str]


def _rows(source: Convolve, writer: Writer, step: StepOfC) -> _Rows:
    """Bytes are read where they lie. Other rows are unpacked before the first tile that reads them, into memory for as
    many as a tile reads, each in place of one that no later tile does."""
    stored, walk = source.input, source.walk
    kept, numbers, row = stored.stored, stored.numbers, stored.width * stored.channels
    if kept.bits == 8 and not kept.top and numbers.ctype != "int16_t":
        cast = "(const int8_t *)" if numbers.ctype == "int8_t" else ""
        return _Rows("iy", [f"const {numbers.ctype} *const a = {cast}({writer.place(stored)});"], [])
    count = _most_rows(walk, step, stored)
    slot = "{}" if count == stored.height else f"({{}} % {count})"
    elements, at = writer.buffer("rows", numbers.ctype, count * row), slot.format("loaded")
    declared = [f"const {numbers.ctype} *const a = {elements};", "int32_t loaded = 0;"]
    packed = writer.place(stored)
    load = [
        f"{unpack(numbers.ctype)}({packed}, (uint32_t)loaded * {row * kept.bits}, {row}, {kept.bits}, {kept.low}, "
        f"{elements} + {at} * {row});"
    ]
    if kept.top:
        size, bits = stored.width * stored.blocks, kept.code_bits
        codes = writer.buffer("row_codes", "uint8_t", (count if numbers.top else 1) * size)
        begin = f"{stored.codes_at} + (uint32_t)loaded * {size * bits}"
        place = f"{codes} + {at} * {size}" if numbers.top else codes
        load.append(f"bitq_unpack_uint8({packed}, {begin}, {size}, {bits}, 0, {place});")
        if numbers.top:
            declared.append(f"const uint8_t *const e = {codes};")
        else:
            load += [
                f"for (t = 0; t < {stored.width}; t++)",
                f"    for (k = 0; k < {stored.channels}; k++) {{",
                f"        {numbers.ctype} *const b = {elements} + ({at} * {stored.width} + t) * {stored.channels} + k;",
                f"        *b = ({numbers.ctype})(*b * (1 << {codes}[t * {stored.blocks} + k / {kept.block}]));",
                "    }",
            ]
    last = f"(at + n - 1) / {step.target.width}"
    if walk.transposed:
        last = f"({last} + {walk.padding[0]}) / {walk.stride[0]}"
    else:
        last = f"{last} * {walk.stride[0]} + {(walk.kernel[0] - 1) * walk.dilation[0] - walk.padding[0]}"
    head = f"for (; loaded < {stored.height} && loaded <= {last}; loaded++) {{"
    return _Rows(slot.format("iy"), declared, [head, *(f"    {each}" for each in load), "}"])


def _most_rows(walk: Walk, step: StepOfC, stored: Resident) -> int:
    """Rows of the input that a tile reads, at most."""
    tile, width, found = tile_of(step), step.target.width, 1
    reach, stride, padding = (walk.kernel[0] - 1) * walk.dilation[0], walk.stride[0], walk.padding[0]
    for at in range(0, step.target.positions, tile):
        first, last = at // width, (min(at + tile, step.target.positions) - 1) // width
        if walk.transposed:
            first, last = -((reach - first - padding) // stride), (last + padding) // stride
        else:
            first, last = first * stride - padding, last * stride - padding + reach
        found = max(found, min(last, stored.height - 1) - max(first, 0) + 1)
    return found


def unpack(ctype: str) -> str:
    """The function that unpacks numbers of a type."""
    return f"bitq_unpack_{ctype.removesuffix('_t')}"


def decoding(writer: Writer, number: int, filters: Filters) -> str:
    """A table of what elements are, by their code in two's complement, from the least on."""
    half = 1 << (filters.element_bits - 1)
    held = [*filters.table, *[0] * (2 * half - len(filters.table))]
    return writer.table(filters.ctype, f"d{number}", held[half:] + held[:half])


def products(
    source: Convolve, writer: Writer, number: int, cases: Sequence[tuple[ChannelRun, ...]], case: str
) -> list[str]:
    """Sums of the products of a tap, from b, w and the codes f and g on.

    Args:
        source: whose.
        writer: of tables.
        number: of the step.
        cases: runs, told from b and f on.
        case: an expression of which of them it is.
    """
    first = cases[0]
    if all(each == first for each in cases):
        if len(first) <= 2:
            rows = [(each.first, each.last - each.first, each.code, each.weight_code) for each in first]
            return [line for row in rows for line in _one(source, *row)]
        if even := _even(source, first):
            return _evenly(source, len(first), *even)
        held, begin, end = [first], "0", str(len(first))
    else:
        held = list(cases)
        counts = [sum(map(len, held[:each])) for each in range(len(held) + 1)]
        starts = writer.table("uint16_t", f"b{number}", counts)
        begin, end = f"{starts}[{case}]", f"{starts}[{case} + 1]"
    rows = [(each.first, each.last - each.first, each.code, each.weight_code) for own in held for each in own]
    table = writer.table("uint16_t", f"p{number}", [value for row in rows for value in row])
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
    if not all(shared):
        return None
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
        added = f"bitq_left({product}, {source.left})" if source.left else product
        return _in_lines(f"sum += {added};")
    codes = [f"f[{code}]"] * bool(source.input.numbers.top) + [f"g[{weight_code}]"] * bool(source.filters.shifted_top)
    if source.wide:
        return _in_lines(f"sum += bitq_left({product}, {source.left}) >> ({' - '.join([str(source.tops), *codes])});")
    return _in_lines(f"sum += ({product}) * (1 << ({' + '.join(codes)}));")


def _in_lines(statement: str) -> list[str]:
    return wrap(statement, 88, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
