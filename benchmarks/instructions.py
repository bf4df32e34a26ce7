"""What exported C takes of a microcontroller: flash, static memory, and instructions an image.

    python benchmarks/instructions.py
    python benchmarks/instructions.py --run runs/demo             # a plan of the demo, too
    python benchmarks/instructions.py --formats 8:e3:b16 mxint8/int8-tensor

The demo's network in each format of weights and, after a slash, of activations, if these have another, runs on an
emulated Cortex-M3 (QEMU's mps2-an385; `gcc -O2`). With `-icount shift=0` an instruction takes a nanosecond there, and
SysTick counts at 25 MHz, so counts are right to 40 instructions. `code` is all that is compiled but weights and other
constants, with the few hundred bytes that start the board. Ratios are to the first row, integers of 8 bits.
Needs Debian's gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from shutil import which

import numpy as np
from torch import Tensor, nn

from bitq import load_quantized
from bitq.demo.resnet8 import resnet8
from bitq.exporting import Handed, export
from bitq.formats import TensorFormats, parse_format
from exported import quantized
from subjects import demo

FORMATS = ("int8/int8-tensor", "7:e2:b32", "8:e3:b16", "mxint8", "8:e3:b4")
BOARD = Path(__file__).parents[1] / "tests" / "cortex"
TIMED = Path(__file__).with_suffix(".c")
TOOLS = ("arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm")
INSTRUCTIONS_A_TICK = 40


def main() -> int:
    """A row for each network."""
    options = networks_asked_for(__doc__, FORMATS).parse_args()
    if lacks(TOOLS):
        return 0
    subject = demo(0)
    images = next(iter(subject.data.test))[0][:2]
    networks = {text: quantized(subject, formats_of(text)) for text in options.formats}
    if options.run:
        networks[f"the plan of {options.run}"] = planned(options.run)
    heading = ("formats", "weights, B", "other constants, B", "code, B", "static memory, B", "instructions, M", "times")
    print("| " + " | ".join(heading) + " |\n|" + " --- |" * len(heading))
    first = 0.0
    for name, network in networks.items():
        with tempfile.TemporaryDirectory() as folder:
            handed = export(network, images[:1], Path(folder) / "net", to="c")
            code, millions = counted(Path(folder), handed, images)
        first = first or millions
        figures = (handed.figures[key] for key in ("weight_bytes", "constant_bytes"))
        row = (name, *figures, code, handed.figures["ram_bytes"], f"{millions:.1f}", f"{millions / first:.2f}")
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
    return 0


def networks_asked_for(about: str | None, formats: Sequence[str]) -> argparse.ArgumentParser:
    """Options that say in which formats, or in what plan, a network is exported to C."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="*", default=formats, metavar="WEIGHT[/ACTIVATION]", help="texts or names")
    parser.add_argument("--run", type=Path, help="folder of a finished search of the demo")
    return parser


def lacks(tools: Sequence[str]) -> bool:
    """Whether any of these programs is missing, which is told."""
    missing = [tool for tool in tools if which(tool) is None]
    if missing:
        print(f"skipped: needs {', '.join(missing)}")
    return bool(missing)


def formats_of(text: str) -> TensorFormats:
    """Of the tensors of every layer."""
    weight, _, activation = text.partition("/")
    own, other = parse_format(weight), parse_format(activation or weight)
    return TensorFormats(other, own, other)


def planned(run: Path) -> nn.Module:
    """The demo's network in the formats and with the weights of a search."""
    model = resnet8()
    load_quantized(model, run)
    return model.eval()


def counted(folder: Path, handed: Handed, images: Tensor) -> tuple[int, float]:
    """Bytes of code, and millions of instructions an image."""
    (folder / "inputs").write_bytes(images.numpy().tobytes())
    sources = (BOARD / "start.c", TIMED, handed.path / "network.c")
    options = ("-mcpu=cortex-m3", "-mthumb", "-O2", "-std=c99", "-nostartfiles", "--specs=nano.specs")
    made = (*options, "-T", BOARD / "board.ld", *sources, "-I", handed.path, "-o", folder / "program")
    subprocess.run(["arm-none-eabi-gcc", *map(str, made)], check=True)
    sized = ["arm-none-eabi-size", str(folder / "program")]
    text = int(subprocess.run(sized, check=True, capture_output=True, text=True).stdout.split()[6])
    machine = ("-M", "mps2-an385", "-icount", "shift=0", "-nographic", "-monitor", "none", "-serial", "none")
    debugger = ("-semihosting-config", "enable=on,target=native", "-kernel", "program")
    subprocess.run(["qemu-system-arm", *machine, *debugger], cwd=folder, check=True, timeout=300, capture_output=True)
    ticks = np.fromfile(folder / "counts", np.uint32)
    code = text - handed.figures["weight_bytes"] - handed.figures["constant_bytes"]
    return code, float(ticks.mean()) * INSTRUCTIONS_A_TICK / 1e6


if __name__ == "__main__":
    sys.exit(main())
