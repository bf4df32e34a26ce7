"""Convolutions and linear layers in C, tile by tile.

Tensors and weights are read and written through tiles alone, each when the nest comes to it: what is loaded and stored
is what the movement model counts. Tiles hold unpacked numbers.
"""

from __future__ import annotations

from itertools import product

from bitq.exporting.c99.kinds.convolving_in_c import products
from bitq.exporting.c99.kinds.in_tiles import REDUCTIONS, Tiled
from bitq.exporting.c99.steps import StepOfC
from bitq.exporting.c99.tiled.nest import Nest, indented, mentions, over, used
from bitq.exporting.c99.tiled.of_input import InputTile
from bitq.exporting.c99.tiled.of_output import OutputTile
from bitq.exporting.c99.tiled.of_weight import WeightTile
from bitq.exporting.c99.windows import loops_over
from bitq.exporting.c99.writing import Writer, changes_in_c, comment, held_channels, step_in_c, stored_in_c


@step_in_c.register
def _tiled_in_c(source: Tiled, writer: Writer, number: int, step: StepOfC) -> str:
    lines = [
        f"/* {comment(step.module)}, in tiles */",
        f"static void step{number}(void)",
        "{",
        *indented(_Walked(source, writer, number, step).lines()),
        "}",
    ]
    return "\n" + "\n".join(lines) + "\n"


class _Walked:
    """The function of a step."""

    def __init__(self, source: Tiled, writer: Writer, number: int, step: StepOfC) -> None:
        self.source, self.writer, self.number, self.step = source, writer, number, step
        self.nest = Nest(source, step)
        self.input = InputTile(source, writer, number, self.nest)
        self.weight = WeightTile(source, writer, number, self.nest)
        self.sum_type = "int64_t" if source.wide else "int32_t"
        self.depth = self.nest.depth(OutputTile.LOOPS)
        self.spilling = [loop for loop in self.nest.order[: self.depth] if loop in REDUCTIONS]

    def lines(self) -> list[str]:
        """The body of the function."""
        level = self._level(0)
        constants = used(self.nest.whole(), level)
        body = [*constants, *self.nest.begins(), *self.input.declared(), *level]
        indices = [each for each in "kcrsxy" if mentions(body, each)]
        return [
            f"int32_t group, {', '.join(indices)};",
            f"for (group = 0; group < {self.source.groups}; group++) {{",
            *indented(body),
            "}",
        ]

    def _level(self, depth: int) -> list[str]:
        """What is done from a loop of the nest on, within those outside of it."""
        nest, found = self.nest, []
        if depth == self.input.depth:
            found += self.input.load()
        if self.source.filters.code_bits and depth == self.weight.depth_of_codes:
            found += self.weight.load_codes()
        if depth == self.weight.depth:
            found += self.weight.load()
        if nest.split and depth == self.depth:
            found += self._begin()
        if depth < len(nest.order):
            found += nest.over_tiles(nest.order[depth], self._level(depth + 1))
        elif nest.split:
            found += _everywhere([*self._sum(), f"{self._sums()} += sum;"])
        if depth == self.depth:
            found += self._end()
        return found

    def _sum(self) -> list[str]:
        """The sum of what a tile has of the products of output k of a group at y and x."""
        source, stored, filters, size = self.source, self.source.input, self.source.filters, self.nest.size("C")
        (elements, codes), (weight, weight_codes) = self.input.memory, self.weight.memory
        slot, tap = self.input.slot(), self.weight.tap("(k - k_from)", "(r - r_from)", "(s - s_from)")
        body = [
            f"const {stored.numbers.ctype} *b = {elements} + {slot} * {size};",
            f"const {filters.ctype} *w = {weight} + {tap} * {size};",
        ]
        if stored.numbers.top:
            body.append(f"const uint8_t *const f = {codes} + {slot} * {self.input.codes_each};")
        if filters.shifted_top:
            place = tap if self.weight.each_tap else "(k - k_from)"
            body.append(f"const uint8_t *const g = {weight_codes} + {place} * {self.weight.codes_each};")
        parts = self.nest.trips("C")
        cases = [source.runs(group, part) for group, part in product(range(source.groups), range(parts))]
        body += products(source, self.writer, self.number, cases, f"(group * {parts} + c_from / {size})")
        taps = "r_from", "r_to", "s_from", "s_to"
        return [f"{self.sum_type} sum = 0;", *loops_over(source.walk, stored, body, taps)]

    def _sums(self) -> str:
        """The output's tile while it is summed up."""
        width, channels = self.nest.size("Q"), self.nest.size("K")
        place = f"((y - p_from) * {width} + x - q_from) * {channels} + k - k_from"
        return f"{self.writer.buffer('tile_sums', self.sum_type, self.nest.size('P') * width * channels)}[{place}]"

    def _spilled(self) -> str:
        """A sum that is not whole yet, outside of the tile."""
        target = self.step.target
        memory = self.writer.buffer("spilled", self.sum_type, target.positions * target.channels)
        return f"{memory}[(y * {target.width} + x) * {target.channels} + group * {self.nest.extent('K')} + k]"

    def _begin(self) -> list[str]:
        if not self.spilling:
            return _everywhere([f"{self._sums()} = 0;"])
        first = " && ".join(f"{loop.lower()}_from == 0" for loop in self.spilling)
        return _everywhere([f"{self._sums()} = {first} ? 0 : {self._spilled()};"])

    def _end(self) -> list[str]:
        if not self.spilling:
            return self._finish()
        last = " && ".join(f"{loop.lower()}_to == {self.nest.extent(loop)}" for loop in self.spilling)
        return [
            f"if ({last}) {{",
            *indented(self._finish()),
            "} else {",
            *indented(_everywhere([f"{self._spilled()} = {self._sums()};"])),
            "}",
        ]

    def _finish(self) -> list[str]:
        """Sums of a tile become numbers of the output, which are stored."""
        step, target, writer = self.step, self.step.target, self.writer
        block, outputs, lift = held_channels(step), self.nest.extent("K"), self.source.lift
        held = writer.buffer("held", "int64_t", block)
        take = [f"const {self.sum_type} sum = {self._sums()};"] if self.nest.split else self._sum()
        computed = [
            "int64_t v;",
            f"const int32_t channel = group * {outputs} + k;",
            "{",
            *indented(take),
            f"    v = {f'bitq_left(sum, {lift})' if lift else 'sum'};",
            "}",
            "{",
            "    const int32_t k = channel;",
            *indented(changes_in_c(step, writer, self.number)),
            f"    {held}[k - first] = v;",
            "}",
        ]
        into = writer if step.numbers.wide else OutputTile(target, writer, self.nest)
        blocks = [
            f"for (first = group * {outputs} + k_from; first < group * {outputs} + k_to; first = last) {{",
            f"    const int64_t *const z = {held};",
            f"    last = group * {outputs} + k_to - first < {block} ? group * {outputs} + k_to : first + {block};",
            *indented(over("k", computed, f"first - group * {outputs}", f"last - group * {outputs}")),
            *indented(stored_in_c(into, step)),
            "}",
        ]
        body = [*used({"at": f"y * {target.width} + x", "t": "0"}, blocks), "int32_t first, last;", *blocks]
        found = over("y", over("x", body))
        return [*found, *into.packed()] if isinstance(into, OutputTile) else found


def _everywhere(inner: list[str]) -> list[str]:
    """Loops over the output's tile."""
    return over("y", over("x", over("k", inner)))
