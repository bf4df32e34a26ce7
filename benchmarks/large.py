"""What large networks take: the movement of every format, and scores of all formats, in seconds and peak memory.

    python benchmarks/large.py convnext_large --device i7-10700f    # movement of every format, without the disk's cache
    python benchmarks/large.py convnext_large --scored 1            # scores on so many random inputs, random weights
    python benchmarks/large.py onepeace --single 256                # one memory of so many KiB: exact optima

OMP_NUM_THREADS says how many threads. Scores are of the mean square of all that the network returns.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bitq.accuracy.quantized import observing
from bitq.accuracy.sensitivity import perturbations, probed
from bitq.accuracy.storing import with_products
from bitq.allocator import keeping_freed_memory
from bitq.devices import Device, Memory, load_device
from bitq.formats import TENSORS, Format, TensorName, format_for
from bitq.movement.cache import FOLDER_VARIABLE
from bitq.nested import tensors
from bitq.networks import INPUT_SHAPES, NETWORKS
from bitq.progress import Terminal
from bitq.tracing import Traced, record
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.space import modules_of, space_of, weight_bytes
from bitq.tradeoff.stored import points_of


def main() -> None:
    """Measure one network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--device", default="i7-10700f", help="whose memories (default: i7-10700f)")
    parser.add_argument("--single", type=float, help="instead: one memory of so many KiB before a DRAM")
    parser.add_argument("--formats", help="that tensors choose from (default: Table 2's grid of 8 bits)")
    parser.add_argument("--scored", type=int, default=0, help="score on so many inputs instead")
    options = parser.parse_args()
    offered = FormatSet.of(options.formats) if options.formats else FormatSet.grid(8)
    os.environ[FOLDER_VARIABLE] = ""
    start, computing = time.perf_counter(), time.process_time()
    torch.manual_seed(0)
    with torch.device("cpu" if options.scored else "meta"):
        model = NETWORKS[options.network]().eval()
    example = torch.randn(INPUT_SHAPES[options.network], device="cpu" if options.scored else "meta")
    traced = record(model, example)
    model = with_products(model, traced.products)
    weights = sum(each.numel() * each.element_size() for each in model.parameters()) / 2**20
    traced_in = f"traced in {time.perf_counter() - start:.0f} s"
    print(f"{options.network}: {len(traced.layers)} layers, weights of {weights:.0f} MiB, {traced_in}", flush=True)
    with Terminal() as listener:
        if options.scored:
            score(model, traced, offered, [torch.randn_like(example) for _ in range(options.scored)], listener)
        else:
            device = single(options.single) if options.single else load_device(options.device)
            space = space_of(model, traced.layers, device, offered, listener.step)
            print(f"largest movement on {device.title}: {space.movement_max:.4g} bits")
    seconds, computed = time.perf_counter() - start, time.process_time() - computing
    print(f"{seconds:.0f} s, {computed:.0f} s of processors, peak memory {_peak():.0f} MiB")


def single(kib: float) -> Device:
    """One memory in front of a DRAM."""
    memories = Memory("SRAM", 8192 * kib, 0.0, ""), Memory("DRAM", float("inf"), 1.0, "")
    return Device("single", f"one memory of {kib:g} KiB", "", memories)


def score(model: nn.Module, traced: Traced, offered: FormatSet, inputs: Sequence[Tensor], listener: Terminal) -> None:
    """Score every format of every tensor on these inputs, one at a time."""
    modules = modules_of(model, traced.layers)
    points = points_of(traced, "after-activation", weight_bytes(model, traced.layers))
    extents = {layer.module: layer.extents for layer in traced.layers}
    with torch.inference_mode(), observing(model, modules, points=points) as ranges:
        for each in inputs:
            model(each)

    def few(module: str, tensor: TensorName) -> tuple[Format, ...]:
        signless = ranges[module].non_negative(tensor)
        own = (format_for(offered.formats[index], tensor, signless) for index in offered.indices(tensor))
        return probed(tuple(dict.fromkeys(f for f in own if signless or not f.never_negative)), extents[module][tensor])

    print(f"peak memory before scoring: {_peak():.0f} MiB", flush=True)
    with keeping_freed_memory():
        found = perturbations(
            model,
            modules,
            few,
            ranges,
            [(each, None) for each in inputs],
            lambda output, _: sum(each.square().mean() for each in tensors(output)),
            lambda done, total: listener.step("scoring formats", done, total),
            points=points,
        )
    scores = sum(len(found[name][tensor]) for name in modules for tensor in TENSORS)
    print(f"{scores} formats of {len(modules)} layers are measured")


def _peak() -> float:
    """Of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    main()
