"""The output's tile in C: numbers wait in it until all of them are packed."""

from __future__ import annotations

from bitq.exporting.c99.steps import Resident
from bitq.exporting.c99.tiled.nest import Nest, over
from bitq.exporting.c99.writing import Writer


class OutputTile:
    """Takes what is stored of a tile of a step's output, as a `Writer` does."""

    LOOPS = "KPQ"
    """Which say what tile it is."""

    def __init__(self, target: Resident, writer: Writer, nest: Nest) -> None:
        self.target, self.writer, self.nest = target, writer, nest
        kept, block = target.stored, target.stored.block
        self.ctype = "int16_t" if kept.low < -128 or kept.high > 255 else "int8_t" if kept.low < 0 else "uint8_t"
        self.channels = nest.size("K")
        self.blocks = -(-self.channels // block) if kept.top else 0
        positions = nest.size("P") * nest.size("Q")
        self.elements = writer.buffer("tile_output", self.ctype, positions * self.channels)
        self.codes = writer.buffer("tile_output_codes", "uint8_t", positions * self.blocks) if kept.top else ""

    @property
    def _slot(self) -> str:
        return f"((y - p_from) * {self.nest.size('Q')} + x - q_from)"

    def stores(self, stored: Resident, place: str, channel: str, k: str) -> str:
        """As of `Writer`."""
        at = f"{self._slot} * {self.channels} + {channel} - (group * {self.nest.extent('K')} + k_from)"
        return f"{self.elements}[{at}] = ({self.ctype})({k});"

    def stores_code(self, stored: Resident, place: str, channel: str, code: str) -> str:
        """As of `Writer`."""
        block = f"({channel} - (group * {self.nest.extent('K')} + k_from)) / {stored.stored.block}"
        return f"{self.codes}[{self._slot} * {self.blocks} + {block}] = (uint8_t){code};"

    def packed(self) -> list[str]:
        """Statements that store the tile."""
        target, kept, width = self.target, self.target.stored, self.nest.size("Q")
        place, function = self.writer.place(target), f"bitq_pack_{self.ctype.removesuffix('_t')}"
        all_channels = self.channels == target.channels
        if all_channels and width == target.width:
            loops, at, slot, count = "", f"p_from * {width}", "0", f"(p_to - p_from) * {width}"
        elif all_channels:
            loops, count = "y", "(q_to - q_from)"
            at, slot = f"(y * {target.width} + q_from)", f"((y - p_from) * {width})"
        else:
            loops, at, slot, count = "yx", f"(y * {target.width} + x)", self._slot, "1"
        first = f"group * {self.nest.extent('K')} + k_from"
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
            lines = over(loop, lines)
        return lines
