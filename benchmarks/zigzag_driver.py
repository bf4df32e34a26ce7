"""ZigZag on one layer and some memories; run by `mappers.ask` in the environment where ZigZag is installed.

Reads {"layer": ..., "widths": {"I": 8, "W": 8, "O": 8}, "memories": [[capacity_bits, price], ...], "engine": "loma",
"most_factors": 6, "seed": 0} from stdin, the innermost memory first; a price is that of a bit between the memory and
the next outer one, the last of which is a DRAM. Prints {"seconds": ..., "price": ..., "loops": [[["K", 4], ...], ...]}:
the price that ZigZag counts, and the loops of each memory and of the DRAM, innermost first. All three tensors share
every memory and are tiled alike ("even"), and nothing else costs anything, so the energy that ZigZag minimizes is that
price.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from zigzag.api import get_hardware_performance_zigzag

OPERANDS = ("I1", "I2", "O")
PORT_BITS = 64
"""At once; no element is wider. ZigZag rounds what each tensor moves down to so many bits, which cost as they are."""

LOOPS = {"B": "N", "K": "K", "C": "C", "OY": "P", "OX": "Q", "FY": "R", "FX": "S"}


def memory(bits: int, cost: float, flows: str) -> dict[str, Any]:
    """One memory with these flows of every operand, each bit of which costs the same."""
    flows_of = {"I1": [f for f in flows.split() if f in ("fh", "tl")], "O": flows.split()}
    flows_of["I2"] = flows_of["I1"]
    port = {
        "name": "rw_port_1",
        "type": "read_write",
        "bandwidth_min": 1,
        "bandwidth_max": PORT_BITS,
        "allocation": [f"{operand}, {flow}" for operand in OPERANDS for flow in flows_of[operand]],
    }
    return {
        "size": bits,
        "r_cost": cost * PORT_BITS,
        "w_cost": cost * PORT_BITS,
        "area": 0,
        "latency": 1,
        "operands": list(OPERANDS),
        "ports": [port],
        "served_dimensions": ["D1"],
    }


def accelerator(memories: list[tuple[int, float]]) -> dict[str, Any]:
    """One multiplier, the memories, a DRAM.

    ZigZag counts a bit between two memories at both of them, and between the innermost one and the multiplier: so the
    innermost costs nothing, and the next ones what is left of each boundary's price.
    """
    costs = list(accumulate((price for _, price in memories), lambda inner, price: price - inner, initial=0.0))
    if min(costs) < 0:
        raise SystemExit("ZigZag cannot be told these prices: they alternate too much")
    names = [f"memory_{place}" for place in range(len(memories))]
    tiled = [memory(bits, cost, "fh tl fl th") for (bits, _), cost in zip(memories, costs, strict=False)]
    return {
        "name": "memories",
        "memories": {**dict(zip(names, tiled, strict=True)), "dram": memory(10**15, costs[-1], "tl fl")},
        "operational_array": {
            "input_precision": [8, 8],
            "unit_energy": 0.0,
            "unit_area": 1,
            "dimensions": ["D1"],
            "sizes": [1],
        },
    }


def workload(layer: dict[str, Any], widths: dict[str, int]) -> list[dict[str, Any]]:
    """One group of the layer as ZigZag writes it."""
    (down, right), (top, left) = layer["stride"], layer["padding"]
    (tall, wide) = layer["dilation"]
    return [
        {
            "id": 0,
            "name": layer["name"],
            "operator_type": "Conv",
            "equation": "O[b][k][oy][ox]+=W[k][c][fy][fx]*I[b][c][iy][ix]",
            "dimension_relations": [f"ix={right}*ox+{wide}*fx", f"iy={down}*oy+{tall}*fy"],
            "loop_dims": list(LOOPS),
            "loop_sizes": [layer[loop] for loop in LOOPS.values()],
            "operand_precision": {**widths, "O_final": widths["O"]},
            "operand_source": {"I": 0, "W": 0},
            "pr_loop_dims": ["IX", "IY"],
            "pr_loop_sizes": [layer["input_size"][1], layer["input_size"][0]],
            "padding": [[left, left], [top, top]],
        }
    ]


def main() -> None:
    """Solve the layer on stdin."""
    asked = json.load(sys.stdin)
    random.seed(asked["seed"])
    np.random.seed(asked["seed"])  # SALSA draws from both
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        device, mapping = folder / "accelerator.yaml", folder / "mapping.yaml"
        device.write_text(yaml.safe_dump(accelerator(asked["memories"]), sort_keys=False))
        mapping.write_text(yaml.safe_dump([{"name": "default", "spatial_mapping": {"D1": ["K, 1"]}}]))
        start = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):
            price, _, found = get_hardware_performance_zigzag(
                workload(asked["layer"], asked["widths"]),
                str(device),
                str(mapping),
                opt="energy",
                temporal_mapping_type="even",
                temporal_mapping_search_engine=asked["engine"],
                lpf_limit=asked["most_factors"],
                dump_folder=str(folder / "out"),
                loma_show_progress_bar=False,
            )
        seconds = time.perf_counter() - start
    ordered = found[0][1][0][0].temporal_mapping.mapping_dic_origin
    alike = next(iter(ordered.values()))  # every tensor has the same loops if tiled alike
    loops = [[[LOOPS[str(loop)], int(size)] for loop, size in own] for own in alike]
    print(json.dumps({"seconds": seconds, "price": price, "loops": loops}))


if __name__ == "__main__":
    main()
