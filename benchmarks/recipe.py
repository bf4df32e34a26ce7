"""What each ingredient of fine-tuning gives: ranges, what is learned, who teaches, and the rates.

    python benchmarks/recipe.py --subject demo --seeds 0 1 2
    python benchmarks/recipe.py --subject resnet20 --plans blocks integers --recipes default alone --seeds 0
    python benchmarks/recipe.py --subject resnet20 --plans searched --share 0.2 --steps 150

Every recipe is the default one (`Training()`, with the float network as teacher) but for what its name says. A plan
gives all layers but the first and the last the same formats, for weights and inputs; inputs that are never negative
have no sign. First and last layers have 8 bits of the same kind. Nothing else is quantized. `searched` is what bitq
finds best before anything is fine-tuned, of `any` format on the stm32f103c8, that moves a share of the largest
movement, with the ranges of the least squared error; its scores are kept under `--run`. Accuracy is top-1, of all
images of the validation and test data, since nothing is chosen by the former here. `--recipes untuned` measures ranges
alone, and `average-0.98` is to be held against `fixed-ranges`: an average of weights has no learned ranges.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitq.accuracy.evaluate import score
from bitq.accuracy.finetune import Training, finetune
from bitq.accuracy.kinds import quantizable
from bitq.accuracy.quantized import apply, observing
from bitq.accuracy.ranges import METHODS, Samples, fitted
from bitq.allocator import keeping_freed_memory
from bitq.batches import forward
from bitq.devices import load_device
from bitq.files import RunFolder
from bitq.formats import Ranges, TensorFormats, parse_format
from bitq.progress import Terminal
from bitq.tradeoff.allocate import front
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.measure import Subject as Studied
from bitq.tradeoff.measure import Task, first_inputs
from bitq.tradeoff.opening import opened
from bitq.tradeoff.settings import Settings
from subjects import SUBJECTS, MissingError, Subject

CALIBRATED = 512
"""Training images that ranges are calibrated on."""


class Inputs(NamedTuple):
    """Formats of weights and inputs, and of both of the first and the last layer."""

    weight: str
    signed: str
    unsigned: str
    ends: str


PLANS = {
    "blocks": Inputs("8:e4:b4", "7:e3:b16", "n3:e3:b16", "8:e3:b16"),
    "small-blocks": Inputs("7:e4:b4", "6:e3:b16", "n2:e3:b16", "8:e3:b16"),
    "scaled-blocks": Inputs("7:e4*f32:b4", "6:e3*f32:b16", "n2:e3*f32:b16", "8:e3:b16"),
    "integers": Inputs("i4:f32:channel", "i4:f32:tensor", "n4:f32:tensor", "int8"),
    "small-integers": Inputs("i3:f32:channel", "i3:f32:tensor", "n3:f32:tensor", "int8"),
}


SEARCHED = "searched"
"""The plan of the front that moves a share of the largest movement."""


class Recipe(NamedTuple):
    """How a network is fine-tuned: with these settings, what is done before each step, and the share of an average."""

    training: Training = Training()
    before: Callable[[nn.Module], None] = lambda model: None
    averaged: float = 0.0


def _frozen(model: nn.Module) -> None:
    """Keep batch norms at the statistics that they have."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


_OWN = Training()
RECIPES: dict[str, Recipe | None] = {
    "untuned": None,
    "default": Recipe(),
    "alone": Recipe(replace(_OWN, taught=False)),
    "fixed-ranges": Recipe(replace(_OWN, range_rate=0.0)),
    "alone-fixed-ranges": Recipe(replace(_OWN, range_rate=0.0, taught=False)),
    "rate-3e-4": Recipe(replace(_OWN, learning_rate=3e-4)),
    "rate-3e-3": Recipe(replace(_OWN, learning_rate=3e-3)),
    "range-rate-1e-3": Recipe(replace(_OWN, range_rate=1e-3)),
    "no-decay": Recipe(replace(_OWN, weight_decay=0.0)),
    "frozen-norms": Recipe(before=_frozen),
    "average-0.98": Recipe(replace(_OWN, range_rate=0.0), averaged=0.98),
}


def main() -> int:
    """Print a row for every plan and recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", choices=SUBJECTS, default="demo")
    parser.add_argument("--plans", nargs="+", choices=(*PLANS, SEARCHED), default=["blocks", "integers"])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--ranges", nargs="+", choices=METHODS, default=["least-squares"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--share", type=float, default=0.2, help="of the largest movement, of searched (default: 0.2)")
    parser.add_argument("--run", type=Path, default=Path("runs/benchmark-recipe"), help="folder of its scores")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| plan | ranges | recipe | top-1 | seeds | s |\n| --- | --- | --- | --- | --- | --- |")
    for plan in options.plans:
        for method in options.ranges:
            for recipe in options.recipes:
                start = time.perf_counter()
                try:
                    found = [reached(options, plan, method, recipe, seed) for seed in options.seeds]
                except MissingError as error:
                    print(f"{options.subject}: skipped: {error}")
                    return 0
                spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
                spent = (time.perf_counter() - start) / len(found)
                each = " ".join(f"{value:.2f}" for value in found)
                row = f"| {plan} | {method} | {recipe} | {statistics.mean(found):.2f}{spread} | {each} | {spent:.0f} |"
                print(row, flush=True)
    return 0


def reached(options: argparse.Namespace, plan: str, method: str, recipe: str, seed: int) -> float:
    """Top-1 accuracy after fine-tuning, in percent."""
    subject, how = SUBJECTS[options.subject](seed), RECIPES[recipe]
    if plan == SEARCHED:
        model = searched(subject, options.share, options.run / subject.name)
    else:
        model = planned(subject, PLANS[plan], method, seed)
    with keeping_freed_memory():
        if how is not None:
            average = _Average(model, how.averaged)
            finetune(
                model,
                subject.data.train,
                replace(how.training, steps=options.steps, seed=seed),
                before_step=partial(_before, how, model, average),
                teacher=subject.model,
            )
            average.end()
        data = (subject.data.validation, subject.data.test)
        found = [(score(model, part), sum(len(y) for _, y in part)) for part in data]
    return 100 * sum(each.accuracy * count for each, count in found) / sum(count for _, count in found)


def planned(subject: Subject, inputs: Inputs, method: str, seed: int) -> nn.Module:
    """The network in a plan's formats, calibrated on training data."""
    model, names = copy.deepcopy(subject.model).eval(), list(quantizable(subject.model))
    samples = Samples(seed, method)  # type: ignore[arg-type]
    with torch.no_grad(), observing(model, names, samples=samples) as seen:
        for batch, _ in first_inputs(model, subject.data.train, CALIBRATED, seed):
            forward(model, batch)
    formats = {name: _formats(inputs, seen[name]) for name in names}
    ends = parse_format(inputs.ends)
    formats |= {name: TensorFormats(ends, ends) for name in (names[0], names[-1])}
    apply(model, formats, fitted(samples, formats, seen))
    return model


def searched(subject: Subject, share: float, folder: Path) -> nn.Module:
    """The network in the plan of the front whose movement is nearest to a share of the largest."""
    studied = Studied(subject.name, subject.model, subject.data, Task())
    device, offered = load_device("stm32f103c8"), FormatSet.of("any")
    with (
        Terminal() as listener,
        opened(studied, device, offered, Settings(), RunFolder(folder), listener) as (study, _),
    ):
        wanted = share * study.space.movement_max
        plans = [point.choices for point in front(study.space, study.scores)]
        nearest = min(plans, key=lambda plan: abs(study.space.cost(plan).movement_bits - wanted))
        moved = study.space.cost(nearest).movement_bits / study.space.movement_max
        listener.note(f"{SEARCHED}: {100 * moved:.1f} % of the largest movement")
        formats = study.tensor_formats(nearest)
        model = copy.deepcopy(study.subject.model).eval()
        apply(model, formats, study.ranges_for(formats), points=study.space.points)
    return model


def _formats(inputs: Inputs, seen: Ranges) -> TensorFormats:
    fmt = inputs.unsigned if seen.non_negative("input") else inputs.signed
    return TensorFormats(parse_format(fmt), parse_format(inputs.weight))


def _before(how: Recipe, model: nn.Module, average: _Average, step: int) -> None:
    how.before(model)
    average.take(step)


class _Average:
    """The exponential moving average of a network's parameters; of none with a share of 0."""

    def __init__(self, model: nn.Module, share: float) -> None:
        self._model, self._share = model, share
        self._kept = [parameter.detach().clone() for parameter in model.parameters()]

    def take(self, step: int) -> None:
        """Take in what the parameters are before a step."""
        if self._share:
            for kept, parameter in zip(self._kept, self._model.parameters(), strict=True):
                kept.lerp_(parameter.detach(), 1 - min(self._share, step / (step + 10)))

    def end(self) -> None:
        """Give the network its average."""
        if self._share:
            with torch.no_grad():
                for kept, parameter in zip(self._kept, self._model.parameters(), strict=True):
                    parameter.copy_(kept)


if __name__ == "__main__":
    sys.exit(main())
