"""The input's tile in C: what is not there yet of it is loaded."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

from bitq.exporting.c99.kinds.convolving_in_c import unpack
from bitq.exporting.c99.kinds.in_tiles import Tiled
from bitq.exporting.c99.tiled.nest import Nest, indented, over, used
from bitq.exporting.c99.writing import Writer


class ReadAxis(NamedTuple):
    """Rows or columns of the input that tiles read.

    Attributes:
        read: all that any output reads.
        boxes: of each tile of outputs, of each tile of taps, from where to before where in `read`.
    """

    read: tuple[int, ...]
    boxes: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, source: Tiled, nest: Nest, axis: int) -> ReadAxis:
        """Of height (0) or width (1)."""
        out, tap = ("P", "R") if axis == 0 else ("Q", "S")
        extent = (source.input.height, source.input.width)[axis]

        def reads(outs: range, taps: range) -> set[int]:
            found = {source.walk.read(each, other, axis, extent) for each in outs for other in taps}
            return {each for each in found if each is not None}

        read = tuple(sorted(reads(range(nest.extent(out)), range(nest.extent(tap)))))
        place = {row: at for at, row in enumerate(read)}
        boxes = []
        for outs, taps in product(nest.tiles(out), nest.tiles(tap)):
            used = [place[row] for row in reads(outs, taps)]
            boxes.append((min(used), max(used) + 1) if used else (0, 0))
        return cls(read, tuple(boxes))

    @property
    def most(self) -> int:
        """The longest box."""
        return max(end - begin for begin, end in self.boxes)

    @property
    def gaps(self) -> bool:
        """Whether some in between are not read."""
        return self.read != tuple(range(len(self.read)))

    @property
    def moves(self) -> bool:
        """Whether tiles read unlike boxes."""
        return len(set(self.boxes)) > 1

    def slot(self, at: str) -> str:
        """Where one of them lies in the tile."""
        if self.most == len(self.read):
            return at
        return f"({at} % {self.most})" if self.moves else f"({at} - {self.boxes[0][0]})"


class InputTile:
    """The tile of a step's input.

    Attributes:
        codes_each: codes that a position has in it.
    """

    LOOPS = "CPQRS"
    """Which say what tile it is."""

    def __init__(self, source: Tiled, writer: Writer, number: int, nest: Nest) -> None:
        self.source, self.writer, self.number, self.nest = source, writer, number, nest
        self.rows, self.columns = (ReadAxis.of(source, nest, axis) for axis in (0, 1))
        stored = source.input
        self.codes_each = max(nest.reaches(stored.stored.block, group) for group in range(source.groups))
        self.in_runs = nest.size("C") == stored.channels and not self.columns.gaps
        self.depth = nest.depth(self.LOOPS)

    @property
    def memory(self) -> tuple[str, str]:
        """Of its elements and of its codes, "" without."""
        stored, slots = self.source.input, self.rows.most * self.columns.most
        elements = self.writer.buffer("tile_input", stored.numbers.ctype, slots * self.nest.size("C"))
        return elements, self.writer.buffer(
            "tile_input_codes", "uint8_t", slots * self.codes_each
        ) if stored.stored.top else ""

    def declared(self) -> list[str]:
        """What it holds: nothing yet."""
        if self.depth == 0:
            return []
        return ["int32_t held_c = -1, held_y0 = 0, held_y1 = 0, held_x0 = 0, held_x1 = 0;"]

    def slot(self) -> str:
        """Where it holds row iy and column ix."""
        row = f"{self._place(0)}[iy]" if self.rows.gaps else "iy"
        column = f"{self._place(1)}[ix]" if self.columns.gaps else "ix"
        return f"({self.rows.slot(row)} * {self.columns.most} + {self.columns.slot(column)})"

    def _place(self, axis: int) -> str:
        """Where each row or column lies among those that are read at all, as a table."""
        stored = self.source.input
        places = {row: at for at, row in enumerate((self.rows, self.columns)[axis].read)}
        extent = (stored.height, stored.width)[axis]
        return self.writer.table(
            "uint16_t", f"{'mn'[axis]}{self.number}", [places.get(row, 0) for row in range(extent)]
        )

    def load(self) -> list[str]:
        """Statements that load what is missing of it."""
        stored, kept = self.source.input, self.source.input.stored
        (y0, y1), (x0, x1) = self._box(0), self._box(1)
        row = f"{self._read(0)}[y]" if self.rows.gaps else "y"
        column = f"{self._read(1)}[x]" if self.columns.gaps else "x"
        again = "held_c == c_from && y >= held_y0 && y < held_y1"
        place = f"({self.rows.slot('y')} * {self.columns.most} + {self.columns.slot('x')})"
        if self.in_runs:
            inner = self._runs(again if self.depth else "", f"{row} * {stored.width} + x", place)
        else:
            skip = [f"if ({again} && x >= held_x0 && x < held_x1)", "    continue;"] if self.depth else []
            load = self._unpacked(f"{row} * {stored.width} + {column}", "1", place)
            inner = over("x", [*skip, *load], "box_x0", "box_x1")
        found = over("y", inner, "box_y0", "box_y1")
        if self.depth:
            found.append("held_c = c_from, held_y0 = box_y0, held_y1 = box_y1, held_x0 = box_x0, held_x1 = box_x1;")
        channel = f"group * {self.nest.extent('C')} + c"
        codes = {"code0": f"({channel}_from) / {kept.block}", "code1": f"({channel}_to - 1) / {kept.block} + 1"}
        return [*used({"box_y0": y0, "box_y1": y1, "box_x0": x0, "box_x1": x1, **codes}, found), *found]

    def _box(self, axis: int) -> tuple[str, str]:
        """Where a tile's rows or columns begin and end among those that are read at all."""
        found, (out, tap) = (self.rows, self.columns)[axis], (("p", "r"), ("q", "s"))[axis]
        if not found.moves:
            return str(found.boxes[0][0]), str(found.boxes[0][1])
        table = self.writer.table("uint16_t", f"{'yx'[axis]}{self.number}", [at for box in found.boxes for at in box])
        sizes, taps = (self.nest.size(out.upper()), self.nest.size(tap.upper())), self.nest.trips(tap.upper())
        at = f"2 * ({out}_from / {sizes[0]} * {taps} + {tap}_from / {sizes[1]})"
        return f"{table}[{at}]", f"{table}[{at} + 1]"

    def _runs(self, again: str, place: str, slot: str) -> list[str]:
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
        if columns.moves and columns.most < len(columns.read):
            rest = f"{columns.most} - x % {columns.most}"
            load.append(f"next = next - x < {rest} ? next : x + {rest};")
        load += self._unpacked(place, "next - x", slot)
        return [*found, "for (x = box_x0; x < box_x1; x = next) {", *indented(load), "}"]

    def _read(self, axis: int) -> str:
        """The rows or columns that are read at all, as a table."""
        return self.writer.table("uint16_t", f"{'ij'[axis]}{self.number}", (self.rows, self.columns)[axis].read)

    def _unpacked(self, place: str, positions: str, slot: str) -> list[str]:
        """Load numbers of neighbouring positions, which have all channels if they are several."""
        stored, kept, size = self.source.input, self.source.input.stored, self.nest.size("C")
        elements, codes = self.memory
        packed, function = self.writer.place(stored), unpack(stored.numbers.ctype)
        begin = f"group * {self.nest.extent('C')} + c_from"
        first = f"(uint32_t)(({place}) * {stored.channels} + {begin}) * {kept.bits}"
        count = f"({positions}) * {size}" if self.in_runs else "c_to - c_from"
        found = [f"{function}({packed}, {first}, {count}, {kept.bits}, {kept.low}, {elements} + {slot} * {size});"]
        if kept.top:
            first = f"{stored.codes_at} + (uint32_t)(({place}) * {stored.blocks} + code0) * {kept.code_bits}"
            count = f"({positions}) * {self.codes_each}" if self.in_runs else "code1 - code0"
            to = f"{codes} + {slot} * {self.codes_each}"
            found.append(f"bitq_unpack_uint8({packed}, {first}, {count}, {kept.code_bits}, 0, {to});")
            if not stored.numbers.top:
                found += self._aligned(positions, slot)
        return found

    def _aligned(self, positions: str, slot: str) -> list[str]:
        """Multiply numbers in the tile with the power of two of their code."""
        stored, size = self.source.input, self.nest.size("C")
        elements, codes = self.memory
        block = f"(group * {self.nest.extent('C')} + c_from + c) / {stored.stored.block} - code0"
        ctype = stored.numbers.ctype
        inner = [
            f"{ctype} *const b = {elements} + ({slot} + s) * {size} + c;",
            f"*b = ({ctype})(*b * (1 << {codes}[({slot} + s) * {self.codes_each} + {block}]));",
        ]
        return over("s", over("c", inner, "0", "c_to - c_from"), "0", positions)
