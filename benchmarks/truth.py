"""What exported C loads and stores outside of its tiles, counted access by access, beside what the movement model says.

    python benchmarks/truth.py
    python benchmarks/truth.py --run runs/demo               # a plan of the demo, too
    python benchmarks/truth.py --formats 8:e3:b16 int8/int8-tensor --memory 4096 1024

The demo's network in each format of weights and, after a slash, of activations, if these have another, is exported in
tiles that lie in a memory of so many bytes, as `bitq export --to c --target DEVICE` has them: in the order of least
movement. Compiled for this machine, it runs on one test image under valgrind's lackey, which tells the address of each
access. Counted are all bytes that a layer loads from the packed tensors and weights and stores to them, and the sums
that it spills: what crosses the boundary of the memory that holds the tiles. `model` is what the movement model says of
the same tiles, `plan` the least that it says of any: tiles of a plan are packed, may end within a block of the output,
and so are larger. Needs gcc, binutils and valgrind.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from bitq.errors import BitqError
from bitq.exporting.c99.folder import replace_files
from bitq.exporting.c99.kinds.in_tiles import Tiled, in_tiles, layer_of
from bitq.exporting.c99.lowering import lowered
from bitq.exporting.c99.source import written
from bitq.exporting.c99.static_memory import placed_in_memory
from bitq.exporting.c99.steps import Schedule
from bitq.files import RunFolder
from bitq.formats import TensorFormats
from bitq.layers import Layer
from bitq.movement import Tiling, Widths, optimize, traffic
from bitq.movement.widths import widths
from bitq.tracing import record
from bitq.tradeoff.plan import Plan, load_plan
from exported import quantized
from instructions import formats_of, lacks, networks_asked_for, planned
from subjects import demo

FORMATS = ("int8-tensor", "8:e3:b16", "8:e3:b4")
MEMORIES = (20480, 4096)
SUM_BITS = 32
COUNTER = Path(__file__).with_suffix(".c")
TOOLS = ("gcc", "nm", "valgrind")
OPTIONS = ("-std=c99", "-O1", "-fno-inline", "-fno-builtin", "-static", "-no-pie")
"""Each function stays one, and each access is as the C has it."""


class Planned(NamedTuple):
    """A layer as a plan has it.

    Attributes:
        layer: its loops.
        widths: bits per element.
    """

    layer: Layer
    widths: Widths


class Counted(NamedTuple):
    """What a layer moved, in bits.

    Attributes:
        input, weight, output: between the tensors and the tiles.
        sums: spilled, written and read back.
        others: of what is added on the way out.
    """

    input: int
    weight: int
    output: int
    sums: int
    others: int

    @property
    def total(self) -> int:
        """What the model counts, too."""
        return self.input + self.weight + self.output + self.sums


def main() -> int:
    """A row for each layer of each network and memory."""
    parser = networks_asked_for(__doc__, FORMATS)
    parser.add_argument("--memory", nargs="+", type=int, default=MEMORIES, metavar="BYTES", help="that holds the tiles")
    options = parser.parse_args()
    if lacks(TOOLS):
        return 0
    subject = demo(0)
    image = next(iter(subject.data.test))[0][:1]
    heading = ("formats", "memory, B", "layer", "tiles", "plan, bit", "model", "input", "weight", "output", "sums",
               "counted", "of model")  # fmt: skip
    print("| " + " | ".join(heading) + " |\n|" + " --- |" * len(heading))
    networks = {text: (quantized(subject, formats_of(text)), formats_of(text)) for text in options.formats}
    if options.run:
        networks[f"the plan of {options.run}"] = planned(options.run), load_plan(RunFolder(options.run).plan)
    for name, (model, formats) in networks.items():
        network, layers = lowered(model, image), layers_of(model, image, formats)
        for memory in options.memory:
            for row in rows(network, layers, memory, image):
                print(f"| {name} | {memory} | " + " | ".join(row) + " |", flush=True)
    return 0


def layers_of(model: nn.Module, image: Tensor, formats: TensorFormats | Plan) -> list[Planned]:
    """The layers of a network, all in the same formats or as a plan has them; sums have the C's width."""
    if isinstance(formats, Plan):
        return [Planned(each.layer, widths(each.layer, each.formats, SUM_BITS)) for each in formats.layers]
    return [Planned(layer, widths(layer, formats, SUM_BITS)) for layer in record(model, image).layers]


def rows(network: Schedule, layers: Sequence[Planned], memory: int, image: Tensor) -> Iterator[tuple[str, ...]]:
    """For each layer its tiles, what is planned, what the model says of these tiles, and what was counted.

    Raises:
        BitqError: a layer that is computed otherwise than the model counts it.
    """
    walked = in_tiles(network, 8.0 * memory)
    numbers = [number for number, step in enumerate(walked.steps) if layer_of(step) is not None]
    counted = count(walked, image)
    for number, (layer, own) in zip(numbers, layers, strict=True):
        source, found = walked.steps[number].source, counted[number]
        if (same := layer_of(walked.steps[number])) is None or same.extents != layer.extents:
            raise BitqError(f"the C computes layer {layer.name!r} otherwise than the model counts it")
        least = optimize(layer, own, 8.0 * memory).bits
        parts = [f"{bits:,}" for bits in (found.input, found.weight, found.output, found.sums, found.total)]
        if not isinstance(source, Tiled):
            yield (layer.name, "no tiles", f"{least:,.0f}", "", *parts, "")
            continue
        said = traffic(layer, source.tiling).bits(own)
        loops = loops_text(layer, source.tiling)
        yield (layer.name, loops, f"{least:,.0f}", f"{said:,.0f}", *parts, f"{found.total / said:.3f}")


def loops_text(layer: Layer, tiling: Tiling) -> str:
    """Loops of several tiles, outermost first, with the sizes of these."""
    several = [loop for loop in tiling.permutation if tiling.trips(layer, loop) > 1]
    return " ".join(f"{loop}:{tiling.size(layer, loop)}/{layer.extent(loop)}" for loop in several) or "one tile"


def count(network: Schedule, image: Tensor) -> Mapping[int, Counted]:
    """What the layers of a network move on an image, by number of their step."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        replace_files(folder, written(network, "net").files)
        program, counter = folder / "program", folder / "counter"
        subprocess.run(["gcc", *OPTIONS, folder / "network.c", folder / "main.c", "-o", program], check=True)
        subprocess.run(["gcc", "-O2", COUNTER, "-o", counter], check=True)
        symbols = symbols_of(program)
        regions = regions_of(network, symbols)
        steps = [f"step {symbols[f'step{number}'][0]:x}" for number in range(len(network.steps))]
        lines = [*steps, f"step {symbols['give'][0]:x}"]
        ends = [(number, *own) for number, each in regions.items() for own in each.values()]
        lines += [f"region {number} {begin:x} {end:x}" for number, begin, end in ends]
        (folder / "regions").write_text("\n".join(lines) + "\n")
        traced = ["valgrind", "--tool=lackey", "--trace-mem=yes", "--log-fd=2", str(program)]
        with subprocess.Popen(
            traced, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as running:
            assert running.stdin is not None
            running.stdin.write(image.numpy().tobytes())
            running.stdin.close()
            told = subprocess.run(
                [counter, folder / "regions"], stdin=running.stderr, check=True, capture_output=True, text=True
            ).stdout
        if running.returncode:
            raise BitqError(f"the program ended with {running.returncode} under valgrind")
    counts = iter(told.split("\n"))
    bits = {
        number: {name: tuple(8 * int(each) for each in next(counts).split()) for name in own}
        for number, own in regions.items()
    }
    return {number: counted_of(own) for number, own in bits.items()}


def counted_of(bits: Mapping[str, tuple[int, ...]]) -> Counted:
    """Of what was loaded from and stored to each region."""

    def moved(name: str) -> int:
        return sum(bits.get(name, (0, 0)))

    others = sum(sum(each) for name, each in bits.items() if name.startswith("other"))
    return Counted(moved("input"), moved("weight"), moved("output"), moved("sums"), others)


def symbols_of(program: Path) -> dict[str, tuple[int, int]]:
    """Address and size of each symbol of a program."""
    told = subprocess.run(["nm", "-S", program], check=True, capture_output=True, text=True).stdout
    found = re.findall(r"^([0-9a-f]+) ([0-9a-f]+) \w (\w+)$", told, re.MULTILINE)
    return {name: (int(address, 16), int(size, 16)) for address, size, name in found}


def regions_of(network: Schedule, symbols: Mapping[str, tuple[int, int]]) -> dict[int, dict[str, tuple[int, int]]]:
    """By number of a layer's step where what it moves begins and ends."""
    arena, offsets = symbols["arena"][0], placed_in_memory(network).offsets
    found = {}
    for number, step in enumerate(network.steps):
        if layer_of(step) is None:
            continue
        tensors = {"input": step.source.reads[0], "output": step.target}
        others = [each for change in step.operations for each in change.reads]
        tensors |= {f"other{place}": each for place, each in enumerate(others)}
        begins = {name: arena + offsets[each.name] for name, each in tensors.items()}
        own = {name: (begins[name], begins[name] + each.bytes) for name, each in tensors.items()}
        for name, symbol in (("weight", f"w{number}"), ("sums", "spilled")):
            if symbol in symbols:
                own[name] = (symbols[symbol][0], sum(symbols[symbol]))
        found[number] = own
    return found


if __name__ == "__main__":
    sys.exit(main())
