"""The demo's plan against the uniform formats of its grid, all fine-tuned equally.

    python benchmarks/demo.py                         # the five uniform formats that the predictor ranks best
    python benchmarks/demo.py --uniforms 40           # every uniform format of the 8-bit grid
    python benchmarks/demo.py --seeds 0 1 2           # mean and spread

Prints a row per contender: accuracy on the 10,000 test images, data movement, energy, model size, and O on the test
images; then whether the plan's O is below every uniform one's. Interrupted, it continues where it was.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from bitq.accuracy.finetune import Training
from bitq.api import search
from bitq.cli.inputs import DataGiven, load_source
from bitq.cli.search import DEMO_DEVICE
from bitq.files import RunFolder
from bitq.store import Store
from bitq.tradeoff.records import Measurement, objective
from bitq.tradeoff.settings import Settings


def main() -> int:
    """Search with each seed, print the contenders, compare; 1 if a uniform format has a lower O."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uniforms", type=int, default=5, help="uniform formats to fine-tune (default: 5)")
    parser.add_argument("--plans", type=int, default=3, help="plans to fine-tune in each of two rounds (default: 3)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of data split and training (default: 0)")
    parser.add_argument("--steps", type=int, default=1000, help="of every fine-tuning (default: 1000)")
    parser.add_argument("--alpha", type=float, default=0.2, help="weight of movement in O (default: 0.2)")
    parser.add_argument("--device", default=DEMO_DEVICE, help=f"device (default: {DEMO_DEVICE})")
    parser.add_argument("--formats", help="that tensors choose from (default: any)")
    parser.add_argument("--screened", type=int, default=2048, help="images for plans as they are (default: 2048)")
    parser.add_argument("--run", type=Path, default=Path("runs/benchmark-demo"), help="folder for the runs")
    options = parser.parse_args()
    margins = []
    for seed in options.seeds:
        margins.append(compare(options, seed))
    if len(margins) > 1:
        spread = statistics.stdev(margins)
        print(f"O of the best uniform minus O of the plan: {statistics.mean(margins):.4f} +- {spread:.4f}")
    print("the plan's O is below every uniform format's:", "yes" if min(margins) > 0 else "NO")
    return 0 if min(margins) > 0 else 1


def compare(options: argparse.Namespace, seed: int) -> float:
    """Search with one seed; returns O of the best uniform format minus O of the plan, both on the test images."""
    source = load_source("demo", None, DataGiven(batch_size=64))
    training = Training(steps=options.steps, seed=seed)
    result = search(
        source.model,
        source.train,
        source.validation,
        source.test,
        device=options.device,
        run=options.run / f"seed-{seed}",
        formats=options.formats,
        settings=Settings(
            alpha=options.alpha,
            training=training,
            uniforms=options.uniforms,
            plans=options.plans,
            screened_inputs=options.screened,
        ),
        network="demo",
        command=f"python benchmarks/demo.py --uniforms {options.uniforms} --seeds {seed}",
    )
    print(f"seed {seed}: {'contender':20} {'accuracy':>9} {'Mbit':>8} {'uJ':>7} {'bytes':>8} {'O':>8}")
    with Store(RunFolder(result.folder).results) as store:
        tuned = [Measurement.read(each.result, store.path) for each in store.evaluations(Measurement.kind)]
    uniform = []
    for each in tuned:
        o = objective(each.test, each.movement_bits, result.plan.totals.movement_bits_max, options.alpha)
        if each.proposer == "uniform":
            uniform.append(o)
        print(
            f"        {each.label:20} {each.test:9.4f} {each.movement_bits / 1e6:8.3f}"
            f" {each.energy_pj / 1e6:7.2f} {each.model_bytes:8d} {o:8.4f}"
        )
    totals = result.plan.totals
    print(f"        chosen by validation: accuracy {totals.accuracy:.4f}, O {totals.objective:.4f}", flush=True)
    return min(uniform) - totals.objective


if __name__ == "__main__":
    sys.exit(main())
