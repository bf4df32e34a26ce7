"""The weight's tile in C, unpacked as it is loaded."""

from __future__ import annotations

from bitq.exporting.c99.kinds.convolving_in_c import decoding, unpack
from bitq.exporting.c99.kinds.in_tiles import Tiled
from bitq.exporting.c99.tiled.nest import Nest, over
from bitq.exporting.c99.writing import Writer


class WeightTile:
    """The tile of a step's weight.

    Attributes:
        codes_each: codes that an output, or each tap of one, has in it.
        each_tap: whether taps have codes of their own.
    """

    LOOPS = "KCRS"
    """Which say what tile it is."""

    def __init__(self, source: Tiled, writer: Writer, number: int, nest: Nest) -> None:
        self.filters, self.kernel = source.filters, source.walk.kernel
        self.writer, self.number, self.nest = writer, number, nest
        self.codes_each = nest.reaches(self.filters.block)
        self.each_tap = self.filters.codes.shape[1] > 1
        self.stream = writer.table("uint8_t", f"w{number}", self.filters.stream(), weights=True)
        self.depth = nest.depth(self.LOOPS)
        self.depth_of_codes = nest.depth(self.LOOPS if self.each_tap else "KC")

    @property
    def memory(self) -> tuple[str, str]:
        """Of its elements and of its codes, "" without."""
        k, r, s, c = (self.nest.size(loop) for loop in "KRSC")
        elements = self.writer.buffer("tile_weight", self.filters.ctype, k * r * s * c)
        count = k * (r * s if self.each_tap else 1) * self.codes_each
        return elements, self.writer.buffer("tile_weight_codes", "uint8_t", count) if self.filters.code_bits else ""

    def tap(self, k: str, r: str, s: str) -> str:
        """Where a tap lies in it."""
        return f"(({k} * {self.nest.size('R')} + {r}) * {self.nest.size('S')} + {s})"

    def load(self) -> list[str]:
        """Statements that load its elements."""
        filters, (elements, codes), (height, width) = self.filters, self.memory, self.kernel
        bits, inner, at = filters.element_bits, self.nest.extent("C"), f"group * {self.nest.extent('K')} + k_from"
        sizes = {loop: self.nest.size(loop) for loop in "KRSC"}
        whole = {loop: self.nest.trips(loop) == 1 for loop in "RSC"}
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
        begin, low = f"(uint32_t){first} * {units * bits}", -(1 << (bits - 1))
        found = _nested(nest, [f"{unpack(filters.ctype)}({self.stream}, {begin}, {count}, {bits}, {low}, {place});"])
        if filters.table or filters.folded:
            found += _nested("krsc", self._decoded(elements, codes))
        return found

    def load_codes(self) -> list[str]:
        """Statements that load its codes: those that all taps share stay where only these change."""
        filters, (_, codes), nest = self.filters, self.memory, self.nest
        taps, blocks, bits = filters.codes.shape[1], filters.codes.shape[2], filters.code_bits
        begin, unit = filters.k.size * filters.element_bits, f"group * {nest.extent('K')} + k_from"
        first, last = f"c_from / {filters.block}", f"((c_to - 1) / {filters.block} + 1)"
        if nest.trips("C") == 1 and not self.each_tap:
            at, count, to, loops = f"({unit}) * {blocks}", f"(k_to - k_from) * {blocks}", codes, ""
        elif not self.each_tap:
            at, count, loops = f"(({unit} + k) * {blocks} + {first})", f"{last} - {first}", "k"
            to = f"{codes} + k * {self.codes_each}"
        else:
            at = f"((({unit} + k) * {taps} + (r_from + r) * {self.kernel[1]} + s_from + s) * {blocks} + {first})"
            count, loops, to = f"{last} - {first}", "krs", f"{codes} + {self.tap('k', 'r', 's')} * {self.codes_each}"
        return _nested(
            loops, [f"bitq_unpack_uint8({self.stream}, {begin} + (uint32_t){at} * {bits}, {count}, {bits}, 0, {to});"]
        )

    def _decoded(self, elements: str, codes: str) -> list[str]:
        """Of an element as it is stored what products take."""
        filters = self.filters
        value = "*w"
        if filters.table:
            table = decoding(self.writer, self.number, filters)
            value = f"{table}[*w + {1 << (filters.element_bits - 1)}]"
        if filters.folded:
            place = self.tap("k", "r", "s") if self.each_tap else "k"
            block = f"(c_from + c) / {filters.block} - c_from / {filters.block}"
            value = f"{value} * (1 << {codes}[{place} * {self.codes_each} + {block}])"
        return [
            f"{filters.ctype} *const w = {elements} + {self.tap('k', 'r', 's')} * {self.nest.size('C')} + c;",
            f"*w = ({filters.ctype})({value});",
        ]


def _nested(loops: str, inner: list[str]) -> list[str]:
    """Loops within the tile, counted from its begin."""
    for loop in reversed(loops):
        inner = over(loop, inner, "0", f"{loop}_to - {loop}_from")
    return inner
