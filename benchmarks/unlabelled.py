"""What fine-tuning reaches without labels, beside what it reaches with them.

    python benchmarks/unlabelled.py --subject demo --seeds 0 1

A plan of `benchmarks/recipe.py` is fine-tuned alike, by four lessons:

- labels: cross entropy with the labels, and the float network's softened probabilities, which is the default;
- answers: the same with the float network's classes for labels, as data without labels are learned from;
- answers alone: the softened probabilities alone;
- classes alone: cross entropy with the float network's classes alone.

Told are top-1 accuracy, by labels that no unlabelled lesson sees, and agreement with the float network, both of all
images of the validation and test data. Nothing is chosen by either.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass, replace

import torch

from bitq.accuracy.agreement import Answered, agreement_with_float32, classes_in
from bitq.accuracy.distilling import divergence
from bitq.accuracy.evaluate import Loss, cross_entropy, score
from bitq.accuracy.finetune import Training, finetune
from bitq.allocator import keeping_freed_memory
from recipe import PLANS, planned
from subjects import SUBJECTS, MissingError


@dataclass(frozen=True)
class Lesson:
    """What is learned from: whether labels are seen, whether the float network's probabilities are followed, too."""

    labelled: bool
    taught: bool
    loss: Loss = cross_entropy


LESSONS = {
    "labels": Lesson(True, True),
    "answers": Lesson(False, True),
    "answers alone": Lesson(False, False, divergence),
    "classes alone": Lesson(False, False),
}


def main() -> int:
    """Print a row for every lesson."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", choices=SUBJECTS, default="demo")
    parser.add_argument("--plans", nargs="+", choices=PLANS, default=["blocks", "integers"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| plan | lesson | top-1 | seeds | agreement | seeds | s |\n| --- | --- | --- | --- | --- | --- | --- |")
    for plan in options.plans:
        for name, lesson in LESSONS.items():
            start = time.perf_counter()
            try:
                found = [reached(options.subject, plan, lesson, options.steps, seed) for seed in options.seeds]
            except MissingError as error:
                print(f"{options.subject}: skipped: {error}")
                return 0
            told = " | ".join(_spread(each) for each in zip(*found, strict=True))
            print(f"| {plan} | {name} | {told} | {(time.perf_counter() - start) / len(found):.0f} |", flush=True)
    return 0


def reached(name: str, plan: str, lesson: Lesson, steps: int, seed: int) -> tuple[float, float]:
    """Top-1 accuracy and agreement after fine-tuning, in percent."""
    subject = SUBJECTS[name](seed)
    model, data = planned(subject, PLANS[plan], "least-squares", seed), subject.data
    train = data.train
    if not lesson.labelled:
        bare = _Bare(data.train)
        train = Answered(bare, subject.model, classes_in if lesson.loss is cross_entropy else lambda output, _: output)
    with keeping_freed_memory():
        training = replace(Training(), steps=steps, seed=seed, taught=lesson.taught)
        finetune(model, train, training, lesson.loss, teacher=subject.model)
        parts = data.validation, data.test
        counts = [sum(len(y) for _, y in part) for part in parts]
        right = [score(model, part).accuracy for part in parts]
        answered = [Answered(_Bare(part), subject.model, classes_in) for part in parts]
        alike = [score(model, part, metric=agreement_with_float32).accuracy for part in answered]
    own = [sum(x * count for x, count in zip(each, counts, strict=True)) / sum(counts) for each in (right, alike)]
    return 100 * own[0], 100 * own[1]


def _spread(found: tuple[float, ...]) -> str:
    return f"{statistics.mean(found):.2f} | {' '.join(f'{each:.2f}' for each in found)}"


@dataclass(frozen=True)
class _Bare:
    """Batches whose labels nobody sees."""

    batches: object

    def __iter__(self):
        return (inputs for inputs, _ in self.batches)


if __name__ == "__main__":
    sys.exit(main())
