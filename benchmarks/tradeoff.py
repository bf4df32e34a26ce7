"""bitq's plan against uniform formats, random search and the rules of other tools, all fine-tuned equally.

    python benchmarks/tradeoff.py                                    # the demo network, seeds 0 1 2
    python benchmarks/tradeoff.py --networks resnet20 --device i7-10700f
    python benchmarks/tradeoff.py --contenders bitq gradient --seeds 0 --steps 200

Every contender may fine-tune as many plans; the one of least O on validation data counts, and is judged on test data.
Prints for every contender the mean and the spread over the seeds of O, accuracy, movement, energy, number of
fine-tunings and of other passes over data, and wall time; then the fewest bits moved within `--within` of the float
accuracy. All evaluations are kept under `--run`, with a report for every seed: killed and started again, it continues.
ResNet-20 needs CIFAR-10 and its weights, at the paths in BITQ_CIFAR10 and BITQ_RESNET20. `bitq.tradeoff.rules` says
how each rule is read.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch

from bitq.accuracy.finetune import Training
from bitq.devices import load_device
from bitq.files import RunFolder
from bitq.progress import Terminal
from bitq.report import write_report
from bitq.store import Store
from bitq.tracing import record
from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.ledger import Ledger
from bitq.tradeoff.measure import Subject, Task
from bitq.tradeoff.outcome import hand_over, note_baseline
from bitq.tradeoff.records import Measurement, Perturbations, Proposal
from bitq.tradeoff.rules import RULES
from bitq.tradeoff.search import search
from bitq.tradeoff.settings import Settings
from bitq.tradeoff.space import space_of
from bitq.tradeoff.stored import Stored, stored_as
from bitq.tradeoff.study import Proposed, Study
from subjects import SUBJECTS, MissingError

OWN = ("bitq", "bitq-within")
"""bitq for the least O, and for the fewest bits within a loss of accuracy."""

BATCH = 64
"""Inputs of a training batch of all subjects."""

HEAVY = 10.0
"""Weight of movement with which the fewest bits within a loss of accuracy are looked for."""


Fewest = dict[str, Measurement | None]
"""By contender the plan of the fewest bits within a loss of accuracy, if there is one."""


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
    every = [*RULES, *OWN]
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
    parser.add_argument("--stored", choices=get_args(Stored), default="after-activation", help="what is stored")
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


def compared(
    network: str, seed: int, options: argparse.Namespace
) -> tuple[list[Result], Fewest]:
    """All contenders with one seed, and the fewest bits within the loss of accuracy by contender."""
    subject = SUBJECTS[network](seed)
    traced = record(subject.model, subject.example)
    steps = 0 if options.without_qat else options.steps
    name = f"{network}-{Path(options.device).stem}-{steps}"
    folder = RunFolder(options.run / name / f"seed-{seed}")
    settings = Settings(
        alpha=options.alpha,
        training=Training(options.steps, options.learning_rate, amp=options.amp, seed=seed),
        scored_inputs=options.scored,
        rounds=max(options.plans - 1, 1),
        plans=1,
        uniforms=1,
        stored=options.stored,
        without="qat" if options.without_qat else None,
    )
    with Terminal() as listener, Store(folder.results, alone=True) as store:
        space = space_of(subject.model, traced.layers, load_device(options.device), 8, listener.step)
        space = stored_as(space, traced, options.stored)
        studied = Subject(network, subject.model, subject.data, Task())
        study = Study.opened(studied, space, settings, Ledger(folder, store, listener))
        results, fewest = [], {}
        for name in options.contenders:
            listener.note(f"{network}, seed {seed}: {name}")
            own = study
            if name.endswith("-within"):
                within = replace(settings, alpha=HEAVY, budgets=Budgets(accuracy_loss=options.within))
                own = replace(study, settings=within)
            plans, passes, seconds = proposed(own, name, options.plans)
            listener.outlook({"fine-tuning": steps * len(plans)}, "")
            measured = [result for _, result in study.measured(plans)]
            spent = seconds + sum(seconds_of(study, plan) for plan in plans)
            enough = [each for each in measured if each.validation >= study.float_accuracy.validation - options.within]
            fewest[name] = min(enough, key=lambda each: each.movement_bits, default=None)
            best = min(measured, key=lambda each: study.objective(each.validation, each.movement_bits))
            if name != OWN[0]:
                note_baseline(study, f"{name}, the best of {len(plans)}", best)
            results.append(
                Result(
                    name,
                    study.objective(best.test, best.movement_bits),
                    best.test,
                    best.validation,
                    best.movement_bits / space.movement_max,
                    best.energy_pj,
                    sum(plan.tune for plan in plans),
                    passes,
                    spent,
                )
            )
        if OWN[0] in options.contenders:
            hand_over(study, search(study), traced, shlex.join(["python", *sys.argv]))
            listener.note(f"{write_report(folder.path)} shows bitq's plan beside the others")
    return results, fewest


def proposed(study: Study, name: str, count: int) -> tuple[tuple[Proposed, ...], int, float]:
    """A contender's plans, passes over data, and seconds to find them; kept in the store."""
    if name in OWN:
        found = search(study)
        plans = tuple(replace(each.plan, label=f"{name} {each.plan.label}") for each in found.contenders)
        *_, scored = study.ledger.store.evaluations(Perturbations.kind)
        return plans, study.settings.scored_inputs // BATCH, scored.seconds
    config = {"contender": name, "count": count, "seed": study.seed, "alpha": study.settings.alpha}
    kept = study.ledger.once(Proposal, config, lambda: RULES[name](study, count))
    (seconds,) = (each.seconds for each in study.ledger.store.evaluations(Proposal.kind) if each.config == config)
    plans = tuple(Proposed(f"{name} {number}", plan, "other") for number, plan in enumerate(kept.plans, 1))
    return plans, kept.passes, seconds


def seconds_of(study: Study, plan: Proposed) -> float:
    """What fine-tuning and measuring a plan took."""
    config = study.config(plan)
    measured = study.ledger.store.evaluations(Measurement.kind)
    return next(each.seconds for each in measured if each.config == config)


def table(network: str, results: dict[int, tuple[list[Result], Fewest]], options: argparse.Namespace) -> None:
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
            told = spread([one.movement_bits / 1e6 for one in within], 2)
            told += ", " + spread([100 * one.test for one in within], 2)
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
