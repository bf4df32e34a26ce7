"""Plans of several memories beside those of another mapper, ZigZag, for the same layers, memories and widths.

    python benchmarks/mappers.py --zigzag-python /path/to/python                  # LOMA (PyPI: zigzag-dse and six)
    python benchmarks/mappers.py --zigzag-python /path/to/python --engine salsa   # simulated annealing, minutes a layer
    python benchmarks/mappers.py --zigzag-python ... --devices eyeriss --minimize movement

One row per layer and device: what bitq's plan moves and takes, its gap and seconds; the same of ZigZag's tiles, and
what ZigZag counts itself. Its tiles are counted by bitq, in the order of each memory that is best for them, with
halos that stay. The outermost memory is walked by `simulate` too, and 1 is returned if
that differs. ZigZag is asked for one group of a layer; it knows integer widths alone and tiles that divide their
loops.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import permutations
from math import prod
from pathlib import Path
from typing import Any

from bitq.devices import Device, load_device
from bitq.layers import LOOPS, Layer
from bitq.movement.expression import split, traffic, whole
from bitq.movement.levels import plan
from bitq.movement.model import Tiling, Widths
from bitq.movement.simulate import simulate
from bitq.movement.tiled import CountedTilings, LevelMovement, Tilings, levels_of
from bitq.planning import Minimize
from movement import conv, one_buffer

LAYERS = {
    "resnet18": conv("resnet18", 64, 64, 56, 3, 1),
    "mobilenetv2": replace(conv("mobilenetv2", 96, 1, 112, 3, 2), groups=96),
    "yolov8n": conv("yolov8n", 80, 256, 20, 3, 1),
}
"""A convolution of ResNet-18's first stage, a depthwise one of MobileNetV2, one of a head of YOLOv8n."""

WIDTHS = Widths(input=8, output=8, weight=4)


class NoAnswerError(Exception):
    """The other mapper gave none; why, in a line."""


def ask(python: Path, question: dict[str, Any], timeout: float) -> dict[str, Any]:
    """What `zigzag_driver.py` answers.

    Raises:
        NoAnswerError: it ended otherwise, or not in time (seconds).
    """
    driver = Path(__file__).with_name("zigzag_driver.py")
    words, given = [str(python), str(driver)], json.dumps(question)
    try:
        run = subprocess.run(words, input=given, capture_output=True, text=True, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoAnswerError(f"skipped: {error}") from None
    if run.returncode:
        raise NoAnswerError(f"failed: {([line for line in run.stderr.splitlines() if line] or ['no word'])[-1]}")
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def question_of(layer: Layer, widths: Widths, memories: Sequence[tuple[float, float]], **how: Any) -> dict[str, Any]:
    """Of one group of a layer; a capacity and a price of each memory, the innermost first."""
    bits = {"I": int(widths.input), "W": int(widths.weight), "O": int(widths.output)}
    asked = [(int(capacity), price) for capacity, price in memories]
    default = {"engine": "loma", "most_factors": 6, "seed": 0}
    return {"layer": asdict(layer.group), "widths": bits, "memories": asked, **default, **how}


def tilings_of(layer: Layer, widths: Widths, loops: Sequence[Sequence[tuple[str, int]]]) -> Tilings:
    """Tiles of each memory, the outermost first, each in the order of least traffic, from loops innermost first."""
    parts, found = whole(layer), []
    for depth in range(len(loops) - 1, 0, -1):
        within = [pair for own in loops[:depth] for pair in own]
        tiles = {loop: prod(size for name, size in within if name == loop) for loop in LOOPS}
        several = [loop for loop in LOOPS if any(len(span) > tiles[loop] for span in parts[loop])]
        rest = [loop for loop in LOOPS if loop not in several]
        each = (Tiling((*order, *rest), tiles) for order in permutations(several))
        best = min(each, key=lambda tiling: traffic(layer, tiling, parts).bits(widths))
        found.append(best)
        parts = split(parts, best)
    return tuple(found)


def told(levels: Sequence[LevelMovement]) -> str:
    """Bits over all boundaries, and their energy."""
    bits, energy = (sum(getattr(level, name) for level in levels) for name in ("bits", "energy_pj"))
    return f"{bits / 1e6:9.2f} Mbit {energy / 1e6:8.2f} uJ"


def beside(layer: Layer, device: Device, python: Path, timeout: float, **how: Any) -> bool:
    """Print one row; whether what was walked is what was counted."""
    what = f"{layer.name:12} {device.name:12}"
    start = time.perf_counter()
    ours = plan(layer, WIDTHS, device)
    print(f"{what} bitq   {told(ours.levels)} {time.perf_counter() - start:7.1f} s, gap {ours.gap:.1%}", flush=True)
    inward = zip(device.boundaries, device.prices, strict=True)
    memories = [(memory.capacity_bits, price) for (memory, _), price in inward][::-1]
    try:
        answer = ask(python, question_of(layer, WIDTHS, memories, **how), timeout)
    except NoAnswerError as error:
        print(f"{what} ZigZag {error}", flush=True)
        return True
    tilings = tilings_of(layer, WIDTHS, answer["loops"])
    theirs = levels_of(layer, WIDTHS, device, tilings)
    price = sum(level.bits * price for level, price in zip(theirs, device.prices, strict=True))
    held = zip(CountedTilings.of(layer, tilings).held, device.boundaries, strict=True)
    fits = all(each.bits(WIDTHS) <= memory.capacity_bits for each, (memory, _) in held)
    print(
        f"{what} ZigZag {told(theirs)} {answer['seconds']:7.1f} s, {price / ours.price:.3f} times bitq's"
        f" (by its own count {answer['price'] * layer.groups / ours.price:.3f}){'' if fits else ', DOES NOT FIT'}",
        flush=True,
    )
    return simulate(layer, tilings[0]) == theirs[0].traffic


def main() -> int:
    """Print the rows; 1 if a walk differs from a count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--devices", nargs="+", default=["i7-10700f", "eyeriss"], help="names, or device files")
    parser.add_argument("--buffers", type=float, nargs="+", default=[], help="KiB of one in front of a DRAM, instead")
    parser.add_argument("--minimize", type=Minimize, choices=list(Minimize), default=Minimize.energy)
    parser.add_argument("--zigzag-python", type=Path, help="a Python where `import zigzag` works")
    parser.add_argument("--engine", choices=["loma", "salsa"], default="loma", help="of ZigZag (default: loma)")
    parser.add_argument("--most-factors", type=int, default=6, help="that LOMA cuts loops into (default: 6, as ZigZag)")
    parser.add_argument("--seed", type=int, default=0, help="of SALSA (default: 0)")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds per layer (default: 600)")
    options = parser.parse_args()
    if options.zigzag_python is None:
        print("ZigZag: skipped, --zigzag-python names no Python that has it")
        return 0
    how = {"engine": options.engine, "most_factors": options.most_factors, "seed": options.seed}
    devices = [replace(one_buffer(kib), name=f"{kib:g} KiB") for kib in options.buffers]
    devices = devices or [replace(load_device(name), minimize=options.minimize) for name in options.devices]
    pairs = [(LAYERS[name], device) for device in devices for name in options.layers]
    right = [beside(*pair, options.zigzag_python, options.timeout, **how) for pair in pairs]
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
