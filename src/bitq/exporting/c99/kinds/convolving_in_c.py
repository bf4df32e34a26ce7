"""Convolutions and linear layers in C."""

from __future__ import annotations

from typing import NamedTuple

from bitq.exporting.c99.kinds.convolving import ChannelRun, Convolve
from bitq.exporting.c99.steps import Resident, StepOfC
from bitq.exporting.c99.windows import Walk, loops_over
from bitq.exporting.c99.writing import LinesOfC, Writer, source_in_c, tile_of


@source_in_c.register
def _convolve_in_c(source: Convolve, writer: Writer, number: int, step: StepOfC) -> LinesOfC:
    stored, filters, target = source.input, source.filters, step.target
    outputs, taps, inner = filters.k.shape
    per_group, has_codes = outputs // source.groups, bool(filters.code_bits)
    stream = writer.table("uint8_t", f"w{number}", filters.stream(), weights=True)
    size, codes_size, bits = taps * inner, filters.codes[0].size, filters.element_bits
    place, low = writer.buffer("filter", filters.ctype, size), -(1 << (bits - 1))
    before = [f"{_unpack(filters.ctype)}({stream}, (uint32_t)k * {size * bits}, {size}, {bits}, {low}, {place});"]
    if filters.table:
        table = writer.table(filters.ctype, f"d{number}", _decoded(filters.table, filters.element_bits))
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
        f"const {stored.numbers.ctype} *const b = a + ({read.row} * {stored.width} + ix) * {stored.channels}"
        + (f" + {group};" if source.groups > 1 else ";"),
        f"const {filters.ctype} *const w = {place} + (r * {source.walk.kernel[1]} + s) * {inner};",
    ]
    if stored.numbers.top:
        begin = f" + {group} / {stored.numbers.block}" if source.groups > 1 else ""
        body.append(f"const uint8_t *const f = e + ({read.row} * {stored.width} + ix) * {stored.blocks}{begin};")
    if filters.shifted_top:
        tap = f" + (r * {source.walk.kernel[1]} + s) * {filters.codes.shape[2]}" if filters.codes.shape[1] > 1 else ""
        body.append(f"const uint8_t *const g = {filter_codes}{tap};")
    body += _products(source, writer, number)
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
        f"{_unpack(numbers.ctype)}({packed}, (uint32_t)loaded * {row * kept.bits}, {row}, {kept.bits}, {kept.low}, "
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


def _unpack(ctype: str) -> str:
    return f"bitq_unpack_{ctype.removesuffix('_t')}"


def _decoded(table: tuple[int, ...], bits: int) -> list[int]:
    """By code in two's complement, from the least on."""
    held = [*table, *[0] * ((1 << bits) - len(table))]
    return held[1 << (bits - 1) :] + held[: 1 << (bits - 1)]


def _products(source: Convolve, writer: Writer, number: int) -> list[str]:
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
        held, begin, end = [first], "0", str(len(first))
    else:
        held = [relative(group) for group in range(source.groups)]
        counts = [sum(map(len, held[:group])) for group in range(source.groups + 1)]
        starts = writer.table("uint16_t", f"b{number}", counts)
        per_group = source.filters.k.shape[0] // source.groups
        begin, end = f"{starts}[k / {per_group}]", f"{starts}[k / {per_group} + 1]"
    rows = [(each.first, each.last - each.first, each.code, each.weight_code) for own in held for each in own]
    table = writer.table("uint16_t", f"p{number}", [value for row in rows for value in row])
    return [
        "int32_t i;",
        f"for (i = {begin}; i < {end}; i++) {{",
        f"    const uint16_t *const p = {table} + 4 * i;",
        *(f"    {each}" for each in _one(source, "p[0]", "p[1]", "p[2]", "p[3]")),
        "}",
    ]


def _one(source: Convolve, first: object, count: object, code: object, weight_code: object) -> list[str]:
    left, right = source.input.numbers.ctype, source.filters.ctype
    if count == 1:
        product = f"b[{first}] * w[{first}]"
    else:
        name = f"bitq_dot_{left.removesuffix('_t')}_{right.removesuffix('_t')}"
        product = f"{name}(b + {first}, w + {first}, {count})"
    if not source.tops:
        return [f"sum += bitq_left({product}, {source.left});" if source.left else f"sum += {product};"]
    shift = [str(source.tops)]
    if source.input.numbers.top:
        shift.append(f"f[{code}]")
    if source.filters.shifted_top:
        shift.append(f"g[{weight_code}]")
    if source.wide:
        return [f"sum += bitq_left({product}, {source.left}) >> ({' - '.join(shift)});"]
    return [f"sum += (int32_t)((uint32_t)({product}) << {source.left}) >> ({' - '.join(shift)});"]
