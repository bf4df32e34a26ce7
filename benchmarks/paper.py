"""The tables and figures of the BitQ paper's evaluation, each with what the paper says beside it.

    python benchmarks/paper.py fig5                       # energy of its ten pairs of network and task; no weights
    python benchmarks/paper.py fig5 --pairs ResNet-18
    python benchmarks/paper.py table3                     # accuracy in the formats of its seven columns
    python benchmarks/paper.py table4 --steps 200         # its three ablations
    python benchmarks/paper.py fig4                       # what networks find in images, in float32 and in plans
    python benchmarks/paper.py fig6                       # its seven weights of movement

Each writes a table (Markdown and CSV) and a picture (PNG) under `--run`. Every result is kept there as soon as it is
finished and never computed again; what is not there yet is told as not measured. By default few images are looked at,
so that each ends in minutes; `--images` and `--scored` take more. Where weights and data lie is told by
environment variables; what is missing is named and skipped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bitq.progress import Terminal
from evaluation import ablations, accuracies, energy, pictured, weighing

PARTS = {"table3": accuracies, "table4": ablations, "fig4": pictured, "fig5": energy, "fig6": weighing}


def main() -> int:
    """Compute one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name, part in PARTS.items():
        own = parts.add_parser(
            name, description=part.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        own.add_argument("--run", type=Path, default=Path("runs/paper"), help="folder (default: runs/paper)")
        part.options(own)
    chosen = parser.parse_args()
    with Terminal() as listener:
        PARTS[chosen.part].run(chosen, chosen.run / chosen.part, listener)
    return 0


if __name__ == "__main__":
    sys.exit(main())
