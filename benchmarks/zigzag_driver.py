"""ZigZag on one layer and one buffer; run by `movement.py` in the environment where ZigZag is installed.

Reads {"layer": ..., "width_bits": 8, "capacity_bits": ...} from stdin, prints {"seconds": ..., "bits": ...}. The device
is one buffer that holds all three tensors in front of a DRAM whose every bit costs 1, all else nothing, so the energy
that ZigZag minimizes is the traffic in bits.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from zigzag.api import get_hardware_performance_zigzag

OPERANDS = ("I1", "I2", "O")


def memory(bits: int, cost: float, port_bits: int, flows: str) -> dict[str, Any]:
    """One memory whose port moves so many bits per access, with these flows of every operand."""
    flows_of = {"I1": [f for f in flows.split() if f in ("fh", "tl")], "O": flows.split()}
    flows_of["I2"] = flows_of["I1"]
    port = {
        "name": "rw_port_1",
        "type": "read_write",
        "bandwidth_min": port_bits,
        "bandwidth_max": port_bits,
        "allocation": [f"{operand}, {flow}" for operand in OPERANDS for flow in flows_of[operand]],
    }
    return {
        "size": bits,
        "r_cost": cost,
        "w_cost": cost,
        "area": 0,
        "latency": 1,
        "operands": list(OPERANDS),
        "ports": [port],
        "served_dimensions": ["D1"],
    }


def accelerator(capacity_bits: int) -> dict[str, Any]:
    """One multiplier, one buffer, a DRAM."""
    return {
        "name": "one_buffer",
        "memories": {
            "buffer": memory(capacity_bits, 0.0, 1024, "fh tl fl th"),
            "dram": memory(10**15, 1.0, 1, "tl fl"),
        },
        "operational_array": {
            "input_precision": [8, 8],
            "unit_energy": 0.0,
            "unit_area": 1,
            "dimensions": ["D1"],
            "sizes": [1],
        },
    }


def workload(layer: dict[str, Any], width_bits: int) -> list[dict[str, Any]]:
    """The layer as ZigZag writes it."""
    (down, right), (top, left) = layer["stride"], layer["padding"]
    return [
        {
            "id": 0,
            "name": layer["name"],
            "operator_type": "Conv",
            "equation": "O[b][k][oy][ox]+=W[k][c][fy][fx]*I[b][c][iy][ix]",
            "dimension_relations": [f"ix={right}*ox+1*fx", f"iy={down}*oy+1*fy"],
            "loop_dims": ["B", "K", "C", "OY", "OX", "FY", "FX"],
            "loop_sizes": [layer[loop] for loop in "NKCPQRS"],
            "operand_precision": {"W": width_bits, "I": width_bits, "O": width_bits, "O_final": width_bits},
            "operand_source": {"I": 0, "W": 0},
            "pr_loop_dims": ["IX", "IY"],
            "pr_loop_sizes": [layer["input_size"][1], layer["input_size"][0]],
            "padding": [[left, left], [top, top]],
        }
    ]


def main() -> None:
    """Solve the layer on stdin."""
    asked = json.load(sys.stdin)
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        device, mapping = folder / "accelerator.yaml", folder / "mapping.yaml"
        device.write_text(yaml.safe_dump(accelerator(asked["capacity_bits"])))
        mapping.write_text(yaml.safe_dump([{"name": "default", "spatial_mapping": {"D1": ["K, 1"]}}]))
        start = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):
            bits, _, _ = get_hardware_performance_zigzag(
                workload(asked["layer"], asked["width_bits"]),
                str(device),
                str(mapping),
                opt="energy",
                dump_folder=str(folder / "out"),
                loma_show_progress_bar=False,
            )
        print(json.dumps({"seconds": time.perf_counter() - start, "bits": bits}))


if __name__ == "__main__":
    main()
