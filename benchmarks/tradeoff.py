"""bitq's plan against uniform formats, random search and the rules of other tools, all fine-tuned equally.

    python benchmarks/tradeoff.py                                    # the demo network, seeds 0 1 2
    python benchmarks/tradeoff.py --networks resnet20 --device i7-10700f
    python benchmarks/tradeoff.py --contenders bitq gradient --seeds 0 --steps 200

What `bitq compare` does, on networks whose data and weights are at hand, with bitq's own report for every seed. Prints
for every contender the mean and the spread over the seeds of O, accuracy, movement, energy, number of fine-tunings and
of other passes over data, and wall time; then the fewest bits moved within `--within` of the float accuracy. All
evaluations are kept under `--run`: killed and started again, it continues.
ResNet-20 needs CIFAR-10 and its weights, at the paths in BITQ_CIFAR10 and BITQ_RESNET20. `bitq.tradeoff.rules` says
how each rule is read.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

from bitq.accuracy.finetune import Training
from bitq.devices import load_device
from bitq.errors import BitqError
from bitq.files import RunFolder
from bitq.formats import EXPONENT_BITS
from bitq.progress import Terminal
from bitq.report import write_report
from bitq.store import versions
from bitq.tradeoff.compare import Comparison, Contest, OfSeed, Reached, compared, of_seed
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.measure import Subject, Task
from bitq.tradeoff.opening import opened
from bitq.tradeoff.outcome import hand_over, note_baseline
from bitq.tradeoff.rules import RULES, Called, rules_of
from bitq.tradeoff.search import search
from bitq.tradeoff.settings import Settings
from bitq.tradeoff.stored import Stored
from subjects import SUBJECTS, MissingError

OWN, OWN_WITHIN = "bitq", "bitq-within"
"""bitq for the least O, and for the fewest bits within a loss of accuracy."""


def main() -> int:
    """Run what the options name and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=SUBJECTS, default=["demo"])
    parser.add_argument("--contenders", nargs="+", default=list(RULES), help="rules, as bitq compare takes them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000, help="of every fine-tuning (default: 1000)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of the first step (default: 0.001)")
    parser.add_argument("--amp", action="store_true", help="train in bfloat16, faster where a processor has it")
    parser.add_argument("--without-qat", action="store_true", help="fine-tune nothing")
    parser.add_argument("--plans", type=int, default=7, help="fine-tunings of every contender (default: 7)")
    parser.add_argument("--scored", type=int, default=1024, help="inputs that tensors are scored on (default: 1024)")
    parser.add_argument("--screened", type=int, default=2048, help="inputs for plans as they are (default: 2048)")
    parser.add_argument("--alpha", type=float, default=0.2, help="weight of movement in O (default: 0.2)")
    parser.add_argument("--within", type=float, default=0.003, help="share of accuracy lost (default: 0.003)")
    parser.add_argument("--device", default="stm32f103c8", help="name or file (default: stm32f103c8)")
    parser.add_argument("--formats", default="any", help="that tensors choose from; any, or a list (default: any)")
    parser.add_argument("--grid", type=int, choices=EXPONENT_BITS, help="or Table 2 with so many bits")
    parser.add_argument("--stored", choices=get_args(Stored), default="after-activation", help="what is stored")
    parser.add_argument("--run", type=Path, default=Path("runs/benchmark-tradeoff"), help="folder for the runs")
    options = parser.parse_args()
    settings = Settings(
        alpha=options.alpha,
        training=Training(options.steps, options.learning_rate, amp=options.amp),
        scored_inputs=options.scored,
        screened_inputs=options.screened,
        stored=options.stored,
        without="qat" if options.without_qat else None,
    )
    try:
        rules = rules_of(",".join(options.contenders))
    except BitqError as error:
        parser.error(str(error))
    near = Called(OWN_WITHIN, replace(RULES[OWN_WITHIN], loss=options.within))  # type: ignore[call-arg]
    rules = tuple(near if each.label == OWN_WITHIN else each for each in rules)
    contest = Contest(rules, options.plans, options.within)
    for network in options.networks:
        try:
            found = tuple(of_network(network, seed, settings, contest, options) for seed in options.seeds)
        except MissingError as error:
            print(f"{network}: skipped: {error}")
            continue
        table(Comparison(network, options.device, contest, settings, found, shlex.join(sys.argv), versions()))
    return 0


def of_network(
    network: str, seed: int, settings: Settings, contest: Contest, options: argparse.Namespace
) -> OfSeed:
    """All contenders with one seed, and a report of bitq's plan beside the others."""
    subject = SUBJECTS[network](seed)
    steps = 0 if options.without_qat else options.steps
    offered = FormatSet.of(bits=options.grid) if options.grid else FormatSet.of(options.formats)
    folder = of_seed(RunFolder(options.run / f"{network}-{Path(options.device).stem}-{steps}"), seed)
    own = contest.settings(replace(settings, training=replace(settings.training, seed=seed)))
    studied = Subject(network, subject.model, subject.data, Task())
    with (
        Terminal() as listener,
        opened(studied, load_device(options.device), offered, own, folder, listener) as (study, traced),
    ):
        found = compared(study, traced, contest)
        for each in found.results:
            if isinstance(each, Reached) and each.label != OWN:
                note_baseline(study, f"{each.label}, the best of {each.tuned or contest.plans}", each.measured)
        if OWN in [called.label for called in contest.rules]:
            hand_over(study, search(study), traced, shlex.join(["python", *sys.argv]))
            listener.note(f"{write_report(folder.path)} shows bitq's plan beside the others")
    return found


def table(found: Comparison) -> None:
    """Mean and spread over the seeds."""
    contest, seeds = found.contest, [each.seed for each in found.seeds]
    print(
        f"\n{found.network} on {found.device}, {found.tuning}, alpha {found.settings.alpha}, seeds {seeds}, test data"
    )
    print(f"{torch.get_num_threads()} threads; each contender's best of {contest.plans} measured plans by validation")
    print(
        f"{'contender':14} {'O':>16} {'accuracy %':>14} {'movement %':>14} {'uJ':>8}"
        f" {'tuned':>6} {'passes':>7} {'minutes':>8} {'fewest Mbit, accuracy %':>30}"
    )
    for each in found.rules:
        if each.reason:
            print(f"{each.label:14} cannot run: {each.reason}")
            continue
        told = "not with every seed"
        if each.fewest_bits and each.fewest_accuracy:
            told = f"{each.fewest_bits.text(2, 1e6)}, {each.fewest_accuracy.text(2, 0.01)}"
        print(
            f"{each.label:14} {each.objective.text(4):>16}"
            f" {each.accuracy.text(2, 0.01):>14} {each.share.text(1, 0.01):>14}"
            f" {each.energy_pj.mean / 1e6:8.2f} {each.tuned:6.0f} {each.passes:7.0f}"
            f" {each.seconds / 60:8.1f}"
            f" {told:>30}",
            flush=True,
        )
    print(
        f"fewest: of a contender's plans within {contest.within} of the float accuracy on validation data the one that "
        "moves the least, and its accuracy on test data"
    )


if __name__ == "__main__":
    sys.exit(main())
