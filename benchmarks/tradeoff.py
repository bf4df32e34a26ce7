"""bitq's plan against uniform formats, random search and the rules of other tools, all fine-tuned equally.

    python benchmarks/tradeoff.py                                    # the demo network, seeds 0 1 2
    python benchmarks/tradeoff.py --networks resnet20 --device i7-10700f
    python benchmarks/tradeoff.py --contenders bitq gradient --seeds 0 --steps 200

Every contender may fine-tune as many plans; the one of least O on validation data counts, and is judged on test data.
Prints for every contender the mean and the spread over the seeds of O, accuracy, movement, energy, number of
fine-tunings and of other passes over data, and wall time; then the fewest bits moved within `--within` of the float
accuracy. All evaluations are kept under `--run`, with a report for every seed: killed and started again, it continues.
ResNet-20 needs CIFAR-10 and its weights, at the paths in BITQ_CIFAR10 and BITQ_RESNET20. benchmarks/contenders.py says
how each rule is read.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bitq.accuracy.finetune import Training
from bitq.devices import load_device
from bitq.progress import Terminal
from bitq.report import write_report
from bitq.store import Json, Store
from bitq.tracing import record
from bitq.tradeoff.api import STORE, space_of
from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.measure import Task
from bitq.tradeoff.outcome import hand_over, note_baseline
from bitq.tradeoff.run import Run
from bitq.tradeoff.search import search
from bitq.tradeoff.settings import Settings
from bitq.tradeoff.stored import ties
from contenders import CONTENDERS
from subjects import SUBJECTS, MissingError

OWN = ("bitq", "bitq-within")
"""bitq for the least O, and for the fewest bits within a loss of accuracy."""

BATCH = 64
"""Inputs of a training batch of all subjects."""

HEAVY = 10.0
"""Weight of movement with which the fewest bits within a loss of accuracy are looked for."""


@dataclass(frozen=True)
class Result:
    """What one contender reached with one seed: on test data, but `validation`, which its plan was chosen by."""

    contender: str
    objective: float
    accuracy: float
    validation: float
    movement: float
    energy_pj: float
    tuned: int
    passes: int
    seconds: float


def main() -> int:
    """Run what the options name and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [*CONTENDERS, *OWN]
    parser.add_argument("--networks", nargs="+", choices=SUBJECTS, default=["demo"])
    parser.add_argument("--contenders", nargs="+", choices=every, default=every)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000, help="of every fine-tuning (default: 1000)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of the first step (default: 0.001)")
    parser.add_argument("--amp", action="store_true", help="train in bfloat16, faster where a processor has it")
    parser.add_argument("--without-qat", action="store_true", help="fine-tune nothing")
    parser.add_argument("--plans", type=int, default=7, help="fine-tunings of every contender (default: 7)")
    parser.add_argument("--scored", type=int, default=1024, help="inputs that tensors are scored on (default: 1024)")
    parser.add_argument("--alpha", type=float, default=0.2, help="weight of movement in O (default: 0.2)")
    parser.add_argument("--within", type=float, default=0.003, help="share of accuracy lost (default: 0.003)")
    parser.add_argument("--device", default="stm32f103c8", help="name or file (default: stm32f103c8)")
    parser.add_argument("--run", type=Path, default=Path("runs/benchmark-tradeoff"), help="folder for the runs")
    options = parser.parse_args()
    for network in options.networks:
        try:
            results = {seed: compared(network, seed, options) for seed in options.seeds}
        except MissingError as error:
            print(f"{network}: skipped: {error}")
            continue
        table(network, results, options)
    return 0


def compared(network: str, seed: int, options: argparse.Namespace) -> tuple[list[Result], Json]:
    """All contenders with one seed, and the fewest bits within the loss of accuracy by contender."""
    subject = SUBJECTS[network](seed)
    traced = record(subject.model, subject.example)
    layers = traced.layers
    steps = 0 if options.without_qat else options.steps
    folder = options.run / f"{network}-{Path(options.device).stem}-{steps}" / f"seed-{seed}"
    settings = Settings(
        alpha=options.alpha,
        training=Training(options.steps, options.learning_rate, amp=options.amp, seed=seed),
        scored_inputs=options.scored,
        rounds=max(options.plans - 1, 1),
        plans=1,
        uniforms=1,
        without="qat" if options.without_qat else None,
    )
    with Terminal() as listener, Store(folder / STORE, alone=True) as store:
        device = load_device(options.device)
        space = space_of(subject.model, layers, device, 8, listener)

        def run_of(wanted: Settings) -> Run:
            return Run(folder, network, subject.model, subject.data, Task(), space, wanted, store, listener)

        run = run_of(settings)
        most_accurate = float(run.float_accuracy()["validation"])
        results, fewest = [], {}
        for name in options.contenders:
            listener.note(f"{network}, seed {seed}: {name}")
            own = settings
            if name.endswith("-within"):
                own = replace(settings, alpha=HEAVY, budgets=Budgets(accuracy_loss=options.within))
            plans, passes, seconds = proposed(run_of(own), name, options.plans, seed)
            listener.outlook({"fine-tuning": steps * len(plans)}, "")
            measured = [result for _, result in run.measured(plans)]
            spent = seconds + sum(seconds_of(store, run, choices) for choices in plans.values())
            enough = [each for each in measured if each["validation"] >= most_accurate - options.within]
            fewest[name] = min(enough, key=lambda each: each["movement_bits"]) if enough else None
            best = min(measured, key=lambda each: run.objective(each["validation"], each["movement_bits"]))
            if name != OWN[0]:
                note_baseline(run, f"{name}, the best of {len(plans)}", best)
            results.append(
                Result(
                    name,
                    run.objective(best["test"], best["movement_bits"]),
                    best["test"],
                    best["validation"],
                    best["movement_bits"] / space.movement_max,
                    best["energy_pj"],
                    len(plans),
                    passes,
                    spent,
                )
            )
        if OWN[0] in options.contenders:
            hand_over(run, search(run), layers, ties(space, traced.stored), shlex.join(["python", *sys.argv]))
            listener.note(f"{write_report(folder)} shows bitq's plan beside the others")
    return results, fewest


def proposed(run: Run, name: str, count: int, seed: int) -> tuple[dict[str, tuple], int, float]:
    """A contender's plans by label, passes over data, and seconds to find them; kept in the store."""
    if name in OWN:
        found = search(run)
        plans = {f"{name} {each.label}": each.choices for each in found.contenders}
        *_, scored = run.store.evaluations("perturbation")
        return plans, run.settings.scored_inputs // BATCH, scored.seconds

    def propose() -> Json:
        start = time.perf_counter()
        proposal = CONTENDERS[name](run, count, seed)
        return {"plans": proposal.plans, "passes": proposal.passes, "seconds": time.perf_counter() - start}

    config = {"contender": name, "count": count, "seed": seed, "alpha": run.settings.alpha}
    kept = run.store.get_or_run("proposal", config, propose)
    plans = {
        f"{name} {number}": tuple(tuple(choice) for choice in plan) for number, plan in enumerate(kept["plans"], 1)
    }
    return plans, kept["passes"], kept["seconds"]


def seconds_of(store: Store, run: Run, choices: Sequence) -> float:
    """What fine-tuning and measuring a plan took."""
    formats = run.config(choices)
    return next(each.seconds for each in store.evaluations("finetune") if each.config == formats)


def table(network: str, results: dict[int, tuple[list[Result], Json]], options: argparse.Namespace) -> None:
    """Mean and spread over the seeds."""
    seeds = list(results)
    training = f"{options.steps} steps from {options.learning_rate:g}" + ", bfloat16" * options.amp
    training = "no fine-tuning" if options.without_qat else training
    print(f"\n{network} on {options.device}, {training}, alpha {options.alpha}, seeds {seeds}, test data")
    print(f"{torch.get_num_threads()} threads; each contender's best of {options.plans} measured plans by validation")
    print(
        f"{'contender':12} {'O':>16} {'accuracy %':>14} {'movement %':>14} {'uJ':>8}"
        f" {'tuned':>6} {'passes':>7} {'minutes':>8} {'fewest Mbit, accuracy %':>30}"
    )
    for place, first in enumerate(results[seeds[0]][0]):
        each = [results[seed][0][place] for seed in seeds]
        fewest = [results[seed][1][first.contender] for seed in seeds]
        within = [one for one in fewest if one]
        told = f"{len(within)} of {len(seeds)}"
        if len(within) == len(seeds):
            told = spread([one["movement_bits"] / 1e6 for one in within], 2)
            told += ", " + spread([100 * one["test"] for one in within], 2)
        print(
            f"{first.contender:12} {spread([r.objective for r in each], 4):>16}"
            f" {spread([100 * r.accuracy for r in each], 2):>14} {spread([100 * r.movement for r in each], 1):>14}"
            f" {statistics.mean(r.energy_pj for r in each) / 1e6:8.2f} {each[0].tuned:6d} {each[0].passes:7d}"
            f" {statistics.mean(r.seconds for r in each) / 60:8.1f}"
            f" {told:>30}",
            flush=True,
        )
    print(
        f"fewest: of a contender's plans within {options.within} of the float accuracy on validation data the one that "
        "moves the least, and its accuracy on test data; or how many seeds have one"
    )


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} +- {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


if __name__ == "__main__":
    sys.exit(main())
