"""Convolutions and linear layers in C, tile by tile.

Tensors and weights are read and written through tiles alone, each when the walk comes to it: what is loaded and stored
is what the movement model counts. Tiles hold unpacked numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from bitq.exporting.c99.kinds.convolving_in_c import decoding, products, unpack
from bitq.exporting.c99.kinds.in_tiles import REDUCTIONS, Tiled, layer_of
from bitq.exporting.c99.steps import Resident, StepOfC
from bitq.exporting.c99.windows import loops_over
from bitq.exporting.c99.writing import Writer, changes_in_c, comment, held_channels, step_in_c, stored_in_c

OF_INPUT, OF_WEIGHT, OF_OUTPUT = "CPQRS", "KCRS", "KPQ"
"""Loops that say which tile of a tensor is read or written."""


@step_in_c.register
def _tiled_in_c(source: Tiled, writer: Writer, number: int, step: StepOfC) -> str:
    walk = _Walked(source, writer, number, step)
    lines = [
        f"/* {comment(step.module)}, in tiles */",
        f"static void step{number}(void)",
        "{",
        *(f"    {each}" for each in walk.lines()),
        "}",
    ]
    return "\n" + "\n".join(lines) + "\n"


class _Axis(NamedTuple):
    """Rows or columns of the input that tiles read.

    Attributes:
        read: all that any output reads.
        boxes: of each tile of outputs, of each tile of taps, from where to before where in `read`.
    """

    read: tuple[int, ...]
    boxes: tuple[tuple[int, int], ...]

    @property
    def most(self) -> int:
        """The longest box."""
        return max(end - begin for begin, end in self.boxes)


class _Walked:
    """The function of a step, part by part."""

    def __init__(self, source: Tiled, writer: Writer, number: int, step: StepOfC) -> None:
        self.source, self.writer, self.number, self.step = source, writer, number, step
        layer = layer_of(step)
        assert layer is not None
        self.layer, self.tiling = layer, source.tiling
        self.order = [loop for loop in self.tiling.permutation if self.trips(loop) > 1]
        self.rows, self.columns = self._axis(0), self._axis(1)
        filters, stored = source.filters, source.input
        self.codes = max(self._blocks(stored.stored.block, group) for group in range(source.groups))
        self.weight_codes = self._blocks(filters.block)
        self.each_tap = filters.codes.shape[1] > 1
        self.stream = writer.table("uint8_t", f"w{number}", filters.stream(), weights=True)
        self.sum_type = "int64_t" if source.wide else "int32_t"
        self.split = any(loop in self.order for loop in REDUCTIONS)
        depth = self.depth(OF_OUTPUT)
        self.spilling = [loop for loop in self.order[:depth] if loop in REDUCTIONS]
        self.in_runs = self.size("C") == stored.channels and not self.gaps(1)

    def extent(self, loop: str) -> int:
        return self.layer.extent(loop)

    def size(self, loop: str) -> int:
        return self.tiling.size(self.layer, loop)

    def trips(self, loop: str) -> int:
        return self.tiling.trips(self.layer, loop)

    def depth(self, loops: Iterable[str]) -> int:
        """How many of the walk's loops, from the outermost on, say which tile is there."""
        return max((self.order.index(loop) + 1 for loop in loops if loop in self.order), default=0)

    def _blocks(self, block: int, group: int = 0) -> int:
        """Blocks that a tile of a group's channels reaches into, at most."""
        begin = group * self.extent("C")
        tiles = [range(begin + own.start, begin + own.stop) for own in self._tiles("C")]
        return max(own[-1] // block - own[0] // block + 1 for own in tiles)

    def gaps(self, axis: int) -> bool:
        read = (self.rows, self.columns)[axis].read
        return read != tuple(range(len(read)))

    def _axis(self, axis: int) -> _Axis:
        out, tap = ("P", "R") if axis == 0 else ("Q", "S")
        stored, walk = self.source.input, self.source.walk
        extent = (stored.height, stored.width)[axis]

        def reads(outs: range, taps: range) -> set[int]:
            found = {walk.read(each, other, axis, extent) for each in outs for other in taps}
            return {each for each in found if each is not None}

        read = tuple(sorted(reads(range(self.extent(out)), range(self.extent(tap)))))
        place = {row: at for at, row in enumerate(read)}
        boxes = []
        for outs, taps in product(self._tiles(out), self._tiles(tap)):
            used = [place[row] for row in reads(outs, taps)]
            boxes.append((min(used), max(used) + 1) if used else (0, 0))
        return _Axis(read, tuple(boxes))

    def _tiles(self, loop: str) -> list[range]:
        extent, size = self.extent(loop), self.size(loop)
        return [range(at, min(at + size, extent)) for at in range(0, extent, size)]

    # The walk

    def lines(self) -> list[str]:
        """The body of the function."""
        level = self._level(0)
        constants = {f"{loop.lower()}_from": "0" for loop in "KCPQRS" if loop not in self.order}
        constants |= {f"{loop.lower()}_to": str(self.extent(loop)) for loop in "KCPQRS" if loop not in self.order}
        starts = [f"int32_t {', '.join(f'{loop.lower()}_from' for loop in self.order)};"] if self.order else []
        body = [*_used(constants, level), *starts, *self._held(), *level]
        indices = [each for each in "kcrsxy" if _mentions(body, each)]
        groups = self.source.groups
        return [
            f"int32_t group, {', '.join(indices)};",
            f"for (group = 0; group < {groups}; group++) {{",
            *_inner(body),
            "}",
        ]

    def _level(self, depth: int) -> list[str]:
        found = []
        if depth == self.depth(OF_INPUT):
            found += self._load_input()
        if self.source.filters.code_bits and depth == self.depth(OF_WEIGHT if self.each_tap else "KC"):
            found += self._load_weight_codes()
        if depth == self.depth(OF_WEIGHT):
            found += self._load_weight()
        if self.split and depth == self.depth(OF_OUTPUT):
            found += self._begin()
        if depth < len(self.order):
            loop = self.order[depth]
            low, size, extent = loop.lower(), self.size(loop), self.extent(loop)
            end = f"{low}_from + {size}"
            if extent % size:
                end = f"{extent} - {low}_from < {size} ? {extent} : {end}"
            found += [
                f"for ({low}_from = 0; {low}_from < {extent}; {low}_from += {size}) {{",
                f"    const int32_t {low}_to = {end};",
                *_inner(self._level(depth + 1)),
                "}",
            ]
        elif self.split:
            found += self._accumulate()
        if depth == self.depth(OF_OUTPUT):
            found += self._end()
        return found

    def _over(self, index: str, inner: list[str], begin: str = "", end: str = "") -> list[str]:
        """A loop within a tile."""
        names = {"k": "k", "c": "c", "r": "r", "s": "s", "y": "p", "x": "q"}
        low, high = begin or f"{names[index]}_from", end or f"{names[index]}_to"
        return [f"for ({index} = {low}; {index} < {high}; {index}++) {{", *_inner(inner), "}"]

    # The input

    def _box(self, axis: int) -> tuple[str, str]:
        """Where a tile's rows or columns begin and end among those that are read at all."""
        found, (out, tap) = (self.rows, self.columns)[axis], (("p", "r"), ("q", "s"))[axis]
        if len(set(found.boxes)) == 1:
            return str(found.boxes[0][0]), str(found.boxes[0][1])
        table = self.writer.table("uint16_t", f"{'yx'[axis]}{self.number}", [at for box in found.boxes for at in box])
        upper, taps = (out.upper(), tap.upper()), self.trips(tap.upper())
        at = f"2 * ({out}_from / {self.size(upper[0])} * {taps} + {tap}_from / {self.size(upper[1])})"
        return f"{table}[{at}]", f"{table}[{at} + 1]"

    def _slot(self, axis: int, at: str) -> str:
        """Where one of them lies in the tile."""
        found = (self.rows, self.columns)[axis]
        if found.most == len(found.read):
            return at
        if len(set(found.boxes)) == 1:
            return f"({at} - {found.boxes[0][0]})"
        return f"({at} % {found.most})"

    def _held(self) -> list[str]:
        """What the input's tile holds: nothing yet."""
        if self.depth(OF_INPUT) == 0:
            return []
        return ["int32_t held_c = -1, held_y0 = 0, held_y1 = 0, held_x0 = 0, held_x1 = 0;"]

    def _input(self) -> tuple[str, str]:
        stored = self.source.input
        slots = self.rows.most * self.columns.most
        elements = self.writer.buffer("tile_input", stored.numbers.ctype, slots * self.size("C"))
        codes = self.writer.buffer("tile_input_codes", "uint8_t", slots * self.codes) if stored.stored.top else ""
        return elements, codes

    def _load_input(self) -> list[str]:
        stored, kept = self.source.input, self.source.input.stored
        (y0, y1), (x0, x1) = self._box(0), self._box(1)
        keeps = self.depth(OF_INPUT) > 0
        found = []
        row = f"{self._read(0)}[y]" if self.gaps(0) else "y"
        column = f"{self._read(1)}[x]" if self.gaps(1) else "x"
        again = "held_c == c_from && y >= held_y0 && y < held_y1"
        place = f"({self._slot(0, 'y')} * {self.columns.most} + {self._slot(1, 'x')})"
        if self.in_runs:
            inner = self._load_runs(again if keeps else "", f"{row} * {stored.width} + x", place)
        else:
            skip = [f"if ({again} && x >= held_x0 && x < held_x1)", "    continue;"] if keeps else []
            load = self._unpacked(f"{row} * {stored.width} + {column}", "1", place)
            inner = self._over("x", [*skip, *load], "box_x0", "box_x1")
        found += self._over("y", inner, "box_y0", "box_y1")
        if keeps:
            found.append("held_c = c_from, held_y0 = box_y0, held_y1 = box_y1, held_x0 = box_x0, held_x1 = box_x1;")
        channel = f"group * {self.extent('C')} + c"
        codes = {"code0": f"({channel}_from) / {kept.block}", "code1": f"({channel}_to - 1) / {kept.block} + 1"}
        return [*_used({"box_y0": y0, "box_y1": y1, "box_x0": x0, "box_x1": x1, **codes}, found), *found]

    def _load_runs(self, again: str, place: str, slot: str) -> list[str]:
        """Load what is missing of a row: neighbouring positions at once, up to where the tile begins anew."""
        columns, found = self.columns, ["int32_t next;"]
        load = ["next = box_x1;"]
        if again:
            found.append(f"const int32_t again = {again};")
            load = [
                "if (again && x >= held_x0 && x < held_x1) {",
                "    next = held_x1;",
                "    continue;",
                "}",
                "next = again && held_x0 > x && held_x0 < box_x1 ? held_x0 : box_x1;",
            ]
        if len(set(columns.boxes)) > 1 and columns.most < len(columns.read):
            rest = f"{columns.most} - x % {columns.most}"
            load.append(f"next = next - x < {rest} ? next : x + {rest};")
        load += self._unpacked(place, "next - x", slot)
        return [*found, "for (x = box_x0; x < box_x1; x = next) {", *_inner(load), "}"]

    def _read(self, axis: int) -> str:
        """The rows or columns that are read at all, as a table."""
        return self.writer.table("uint16_t", f"{'ij'[axis]}{self.number}", (self.rows, self.columns)[axis].read)

    def _unpacked(self, place: str, positions: str, slot: str) -> list[str]:
        """Load numbers of neighbouring positions, which have all channels if they are several."""
        stored, kept, size = self.source.input, self.source.input.stored, self.size("C")
        elements, codes = self._input()
        packed, function = self.writer.place(stored), unpack(stored.numbers.ctype)
        first = f"(uint32_t)(({place}) * {stored.channels} + group * {self.extent('C')} + c_from) * {kept.bits}"
        count = f"({positions}) * {size}" if self.in_runs else "c_to - c_from"
        found = [f"{function}({packed}, {first}, {count}, {kept.bits}, {kept.low}, {elements} + {slot} * {size});"]
        if kept.top:
            first = f"{stored.codes_at} + (uint32_t)(({place}) * {stored.blocks} + code0) * {kept.code_bits}"
            count = f"({positions}) * {self.codes}" if self.in_runs else "code1 - code0"
            to = f"{codes} + {slot} * {self.codes}"
            found.append(f"bitq_unpack_uint8({packed}, {first}, {count}, {kept.code_bits}, 0, {to});")
            if not stored.numbers.top:
                found += self._aligned_input(positions, slot)
        return found

    def _aligned_input(self, positions: str, slot: str) -> list[str]:
        """Multiply numbers in the tile with the power of two of their code."""
        stored, size = self.source.input, self.size("C")
        elements, codes = self._input()
        block = f"(group * {self.extent('C')} + c_from + c) / {stored.stored.block} - code0"
        ctype = stored.numbers.ctype
        inner = [
            f"{ctype} *const b = {elements} + ({slot} + s) * {size} + c;",
            f"*b = ({ctype})(*b * (1 << {codes}[({slot} + s) * {self.codes} + {block}]));",
        ]
        return self._over("s", self._over("c", inner, "0", "c_to - c_from"), "0", positions)

    # The weight

    def _weight(self) -> tuple[str, str]:
        filters, sizes = self.source.filters, [self.size(loop) for loop in "KRSC"]
        elements = self.writer.buffer("tile_weight", filters.ctype, sizes[0] * sizes[1] * sizes[2] * sizes[3])
        taps = sizes[1] * sizes[2] if self.each_tap else 1
        count = sizes[0] * taps * self.weight_codes
        return elements, self.writer.buffer("tile_weight_codes", "uint8_t", count) if filters.code_bits else ""

    def _load_weight(self) -> list[str]:
        filters, stream, (elements, codes) = self.source.filters, self.stream, self._weight()
        bits, (height, width), inner = filters.element_bits, self.source.walk.kernel, self.extent("C")
        low, sizes = -(1 << (bits - 1)), {loop: self.size(loop) for loop in "KRSC"}
        found, at = [], "group * {} + k_from".format(self.extent("K"))
        whole = {loop: self.trips(loop) == 1 for loop in "RSC"}
        if all(whole.values()):
            nest, first, count, to = "", f"({at})", f"(k_to - k_from) * {height * width * inner}", ""
        elif whole["C"] and whole["S"]:
            nest, count = "k", f"(r_to - r_from) * {width * inner}"
            first, to = f"(({at} + k) * {height} + r_from)", f"k * {sizes['R']}"
        elif whole["C"]:
            nest, count = "kr", f"(s_to - s_from) * {inner}"
            first = f"((({at} + k) * {height} + r_from + r) * {width} + s_from)"
            to = f"(k * {sizes['R']} + r) * {sizes['S']}"
        else:
            nest, count = "krs", "c_to - c_from"
            first = f"(((({at} + k) * {height} + r_from + r) * {width} + s_from + s) * {inner} + c_from)"
            to = f"((k * {sizes['R']} + r) * {sizes['S']} + s)"
        units = {"": height * width * inner, "k": width * inner, "kr": inner, "krs": 1}[nest]
        steps = {"": 1, "k": sizes["S"] * sizes["C"], "kr": sizes["C"], "krs": sizes["C"]}[nest]
        place = f"{elements} + {to} * {steps}" if to else elements
        begin = f"(uint32_t){first} * {units * bits}"
        load = [f"{unpack(filters.ctype)}({stream}, {begin}, {count}, {bits}, {low}, {place});"]
        found += self._nested(nest, load)
        if filters.table or filters.folded:
            found += self._nested("krsc", self._decoded(elements, codes))
        return found

    def _load_weight_codes(self) -> list[str]:
        """Those that all taps share stay where only these change."""
        filters, stream, width = self.source.filters, self.stream, self.source.walk.kernel[1]
        _, codes = self._weight()
        taps, blocks, bits = filters.codes.shape[1], filters.codes.shape[2], filters.code_bits
        begin, unit = filters.k.size * filters.element_bits, "group * {} + k_from".format(self.extent("K"))
        first, last = f"c_from / {filters.block}", f"((c_to - 1) / {filters.block} + 1)"
        if self.trips("C") == 1 and not self.each_tap:
            at, count, to, nest = f"({unit}) * {blocks}", f"(k_to - k_from) * {blocks}", codes, ""
        elif not self.each_tap:
            at, count, nest = f"(({unit} + k) * {blocks} + {first})", f"{last} - {first}", "k"
            to = f"{codes} + k * {self.weight_codes}"
        else:
            at = f"((({unit} + k) * {taps} + (r_from + r) * {width} + s_from + s) * {blocks} + {first})"
            count, nest, to = f"{last} - {first}", "krs", f"{codes} + {self._tap('k', 'r', 's')} * {self.weight_codes}"
        return self._nested(
            nest, [f"bitq_unpack_uint8({stream}, {begin} + (uint32_t){at} * {bits}, {count}, {bits}, 0, {to});"]
        )

    def _tap(self, k: str, r: str, s: str) -> str:
        """Where a tap of the weight lies in its tile."""
        return f"(({k} * {self.size('R')} + {r}) * {self.size('S')} + {s})"

    def _decoded(self, elements: str, codes: str) -> list[str]:
        """Of an element as it is stored what products take."""
        filters, size = self.source.filters, self.size("C")
        value = "*w"
        if filters.table:
            table = decoding(self.writer, self.number, filters)
            value = f"{table}[*w + {1 << (filters.element_bits - 1)}]"
        if filters.folded:
            place = self._tap("k", "r", "s") if self.each_tap else "k"
            block = f"(c_from + c) / {filters.block} - c_from / {filters.block}"
            value = f"{value} * (1 << {codes}[{place} * {self.weight_codes} + {block}])"
        return [
            f"{filters.ctype} *const w = {elements} + {self._tap('k', 'r', 's')} * {size} + c;",
            f"*w = ({filters.ctype})({value});",
        ]

    def _nested(self, loops: str, inner: list[str]) -> list[str]:
        """Loops within the weight's tile, counted from its begin."""
        for loop in reversed(loops):
            inner = self._over(loop, inner, "0", f"{loop}_to - {loop}_from")
        return inner

    # Sums

    def _sum(self) -> list[str]:
        """The sum of what a tile has of the products of output k of a group at y and x."""
        source, stored, filters = self.source, self.source.input, self.source.filters
        (elements, codes), (weight, weight_codes) = self._input(), self._weight()
        row = f"{self._place(0)}[iy]" if self.gaps(0) else "iy"
        column = f"{self._place(1)}[ix]" if self.gaps(1) else "ix"
        slot = f"({self._slot(0, row)} * {self.columns.most} + {self._slot(1, column)})"
        tap = self._tap("(k - k_from)", "(r - r_from)", "(s - s_from)")
        body = [
            f"const {stored.numbers.ctype} *b = {elements} + {slot} * {self.size('C')};",
            f"const {filters.ctype} *w = {weight} + {tap} * {self.size('C')};",
        ]
        if stored.numbers.top:
            body.append(f"const uint8_t *const f = {codes} + {slot} * {self.codes};")
        if filters.shifted_top:
            place = tap if self.each_tap else "(k - k_from)"
            body.append(f"const uint8_t *const g = {weight_codes} + {place} * {self.weight_codes};")
        parts = self.trips("C")
        cases = [source.runs(group, part) for group, part in product(range(source.groups), range(parts))]
        body += products(source, self.writer, self.number, cases, f"(group * {parts} + c_from / {self.size('C')})")
        taps = "r_from", "r_to", "s_from", "s_to"
        return [f"{self.sum_type} sum = 0;", *loops_over(source.walk, stored, body, taps)]

    def _place(self, axis: int) -> str:
        """Where each row or column lies among those that are read at all, as a table."""
        found, stored = (self.rows, self.columns)[axis], self.source.input
        extent = (stored.height, stored.width)[axis]
        places = {row: at for at, row in enumerate(found.read)}
        return self.writer.table(
            "uint16_t", f"{'mn'[axis]}{self.number}", [places.get(row, 0) for row in range(extent)]
        )

    def _sums(self) -> str:
        """The output's tile while it is summed up."""
        count = self.size("P") * self.size("Q") * self.size("K")
        place = f"((y - p_from) * {self.size('Q')} + x - q_from) * {self.size('K')} + k - k_from"
        return f"{self.writer.buffer('tile_sums', self.sum_type, count)}[{place}]"

    def _spilled(self) -> str:
        target = self.step.target
        memory = self.writer.buffer("spilled", self.sum_type, target.positions * target.channels)
        return f"{memory}[(y * {target.width} + x) * {target.channels} + group * {self.extent('K')} + k]"

    def _everywhere(self, inner: list[str]) -> list[str]:
        """Loops over the output's tile."""
        return self._over("y", self._over("x", self._over("k", inner)))

    def _begin(self) -> list[str]:
        if not self.spilling:
            return self._everywhere([f"{self._sums()} = 0;"])
        first = " && ".join(f"{loop.lower()}_from == 0" for loop in self.spilling)
        return self._everywhere([f"{self._sums()} = {first} ? 0 : {self._spilled()};"])

    def _accumulate(self) -> list[str]:
        return self._everywhere([*self._sum(), f"{self._sums()} += sum;"])

    def _end(self) -> list[str]:
        if not self.spilling:
            return self._finish()
        last = " && ".join(f"{loop.lower()}_to == {self.extent(loop)}" for loop in self.spilling)
        return [
            f"if ({last}) {{",
            *_inner(self._finish()),
            "} else {",
            *_inner(self._everywhere([f"{self._spilled()} = {self._sums()};"])),
            "}",
        ]

    # The output

    def _finish(self) -> list[str]:
        """Sums of a tile become numbers of the output, which are stored."""
        step, target, writer = self.step, self.step.target, self.writer
        block, outputs, lift = held_channels(step), self.extent("K"), self.source.lift
        held = writer.buffer("held", "int64_t", block)
        take = [f"const {self.sum_type} sum = {self._sums()};"] if self.split else self._sum()
        computed = [
            "int64_t v;",
            f"const int32_t channel = group * {outputs} + k;",
            "{",
            *_inner(take),
            f"    v = {f'bitq_left(sum, {lift})' if lift else 'sum'};",
            "}",
            "{",
            "    const int32_t k = channel;",
            *_inner(changes_in_c(step, writer, self.number)),
            f"    {held}[k - first] = v;",
            "}",
        ]
        into: Writer | _Tile = writer
        if not step.numbers.wide:
            into = _Tile(self)
        blocks = [
            f"for (first = group * {outputs} + k_from; first < group * {outputs} + k_to; first = last) {{",
            f"    const int64_t *const z = {held};",
            f"    last = group * {outputs} + k_to - first < {block} ? group * {outputs} + k_to : first + {block};",
            *_inner(self._over("k", computed, f"first - group * {outputs}", f"last - group * {outputs}")),
            *_inner(stored_in_c(into, step)),
            "}",
        ]
        body = [*_used({"at": f"y * {target.width} + x", "t": "0"}, blocks), "int32_t first, last;", *blocks]
        found = self._over("y", self._over("x", body))
        return [*found, *into.packed()] if isinstance(into, _Tile) else found


class _Tile:
    """Takes what is stored of a tile of the output, as a `Writer` does, until all of it is packed."""

    def __init__(self, walk: _Walked) -> None:
        self.walk, self.target = walk, walk.step.target
        kept, block = self.target.stored, self.target.stored.block
        self.ctype = "int16_t" if kept.low < -128 or kept.high > 255 else "int8_t" if kept.low < 0 else "uint8_t"
        self.channels = walk.size("K")
        self.blocks = -(-self.channels // block) if kept.top else 0
        positions = walk.size("P") * walk.size("Q")
        self.elements = walk.writer.buffer("tile_output", self.ctype, positions * self.channels)
        self.codes = walk.writer.buffer("tile_output_codes", "uint8_t", positions * self.blocks) if kept.top else ""

    @property
    def _slot(self) -> str:
        return f"((y - p_from) * {self.walk.size('Q')} + x - q_from)"

    def stores(self, stored: Resident, place: str, channel: str, k: str) -> str:
        """As of `Writer`."""
        at = f"{self._slot} * {self.channels} + {channel} - (group * {self.walk.extent('K')} + k_from)"
        return f"{self.elements}[{at}] = ({self.ctype})({k});"

    def stores_code(self, stored: Resident, place: str, channel: str, code: str) -> str:
        """As of `Writer`."""
        block = f"({channel} - (group * {self.walk.extent('K')} + k_from)) / {stored.stored.block}"
        return f"{self.codes}[{self._slot} * {self.blocks} + {block}] = (uint8_t){code};"

    def packed(self) -> list[str]:
        """Statements that store the tile."""
        walk, target, kept = self.walk, self.target, self.target.stored
        width, place = walk.size("Q"), walk.writer.place(target)
        all_channels = self.channels == target.channels
        function = f"bitq_pack_{self.ctype.removesuffix('_t')}"
        if all_channels and width == target.width:
            loops, at, slot, count = "", f"p_from * {width}", "0", f"(p_to - p_from) * {width}"
        elif all_channels:
            loops, count = "y", "(q_to - q_from)"
            at, slot = f"(y * {target.width} + q_from)", f"((y - p_from) * {width})"
        else:
            loops, at, slot, count = "yx", f"(y * {target.width} + x)", self._slot, "1"
        first = f"group * {walk.extent('K')} + k_from"
        channels = self.channels if loops != "yx" else "(k_to - k_from)"
        lines = [
            f"{function}({place}, (uint32_t)({at} * {target.channels} + {first}) * {kept.bits}, {count} * {channels}, "
            f"{kept.bits}, {self.elements} + {slot} * {self.channels});"
        ]
        if kept.top:
            block = kept.block
            blocks = self.blocks if loops != "yx" else f"((k_to - k_from + {block - 1}) / {block})"
            begin = f"{target.codes_at} + (uint32_t)({at} * {target.blocks} + ({first}) / {block}) * {kept.code_bits}"
            lines.append(
                f"bitq_pack_uint8({place}, {begin}, {count} * {blocks}, {kept.code_bits}, "
                f"{self.codes} + {slot} * {self.blocks});"
            )
        for loop in reversed(loops):
            lines = walk._over(loop, lines)
        return lines


def _inner(lines: Sequence[str]) -> list[str]:
    return [f"    {each}" for each in lines]


def _mentions(lines: Sequence[str], name: str) -> bool:
    return any(re.search(rf"\b{name}\b", each) for each in lines)


def _used(values: Mapping[str, str], lines: Sequence[str]) -> list[str]:
    """Constants that some lines mention."""
    return [f"const int32_t {name} = {value};" for name, value in values.items() if _mentions(lines, name)]
