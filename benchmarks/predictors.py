"""Which prediction ranks plans as fine-tuning does, and what it costs.

    python benchmarks/predictors.py                          # the demo network, 32 held-out plans
    python benchmarks/predictors.py --network resnet20 --plans 12 --steps 300
    python benchmarks/predictors.py --network resnet20 --measured runs/benchmark-tradeoff/.../seed-0

Held-out plans are drawn near the front: solved for random scores, so that no predictor chose them. Each is fine-tuned
and measured. With `--measured` they are those that the contenders of `benchmarks/tradeoff.py` had fine-tuned. Prints
for every predictor Spearman's rank correlation with the accuracy lost (validation and test images together), what a
curve a·x + b·x² through the predictions leaves unexplained (standard deviation, in points of accuracy), the rank
correlation of O predicted by that curve with O, and the seconds it took. Everything measured is kept under `--run`.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional

from bitq.accuracy.finetune import Training
from bitq.accuracy.quantized import apply, set_formats
from bitq.accuracy.sensitivity import TENSORS
from bitq.devices import load_device
from bitq.formats import TensorFormats
from bitq.progress import Terminal
from bitq.store import Json, Store
from bitq.tracing import trace
from bitq.tradeoff.allocate import Scores, allocate, predicted_loss
from bitq.tradeoff.api import STORE, space_of
from bitq.tradeoff.measure import Task, evaluate
from bitq.tradeoff.run import Run
from bitq.tradeoff.settings import Settings
from bitq.tradeoff.space import Choice
from contenders import gradient_scores
from subjects import SUBJECTS, MissingError
from supernet import train_supernet, use_batch_statistics

Plans = Sequence[tuple[Choice, ...]]


def main() -> int:
    """Measure the plans, predict them, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=SUBJECTS, default="demo")
    parser.add_argument("--plans", type=int, default=32, help="held-out plans (default: 32)")
    parser.add_argument("--steps", type=int, default=1000, help="of every fine-tuning (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of training (default: 0)")
    parser.add_argument("--draw", type=int, default=7, help="seed of the plans (default: 7)")
    parser.add_argument("--alpha", type=float, default=0.2, help="weight of movement in O (default: 0.2)")
    parser.add_argument("--device", default="stm32f103c8", help="name or file (default: stm32f103c8)")
    parser.add_argument("--measured", type=Path, help="folder of a seed of benchmarks/tradeoff.py, to take plans from")
    parser.add_argument("--run", type=Path, default=Path("runs/benchmark-predictors"), help="folder for the run")
    options = parser.parse_args()
    try:
        subject = SUBJECTS[options.network](options.seed)
    except MissingError as error:
        print(f"{options.network}: skipped: {error}")
        return 0
    layers = trace(subject.model, subject.example)
    settings = Settings(alpha=options.alpha, training=Training(steps=options.steps, seed=options.seed))
    folder = options.measured or options.run / f"{options.network}-{options.steps}"
    with Terminal() as listener, Store(folder / STORE, alone=True) as store:
        device, model = load_device(options.device), subject.model
        space = space_of(model, layers, device, 8, listener)
        run = Run(folder, options.network, model, subject.data, Task(), space, settings, store, listener)
        if options.measured:
            plans, measured = known(run)
        else:
            plans = held_out(run, options.plans, options.draw)
            results = dict(run.measured({f"plan {number}": plan for number, plan in enumerate(plans, 1)}))
            measured = [results[f"plan {number}"] for number in range(1, len(plans) + 1)]
        lost = np.array([lost_of(run, each) for each in measured])
        moved = np.array([each["movement_bits"] for each in measured]) / space.movement_max
        print(
            f"{options.network}: {len(plans)} plans after fine-tuning, {100 * lost.min():.1f} to "
            f"{100 * lost.max():.1f} points lost, {moved.min():.2f} to {moved.max():.2f} of the largest movement"
        )
        print(f"{'predictor':34} {'rank':>7} {'unexplained':>12} {'rank of O':>10} {'seconds':>8}")
        for name, predictor in PREDICTORS.items():
            start = time.perf_counter()
            predicted = predictor(run, plans)
            line(name, predicted, lost, moved, options.alpha, time.perf_counter() - start)
    return 0


def held_out(run: Run, count: int, seed: int) -> list[tuple[Choice, ...]]:
    """Plans that are best for random scores, which spread along the front and around it.

    The score of a tensor is the quantization noise 4^-m, growing with the block, times a factor of its own.
    """
    draw = np.random.default_rng(seed)
    formats, modules = run.space.formats, len(run.space.modules)
    noise = np.array([4.0**-fmt.mantissa_bits * (1 + 0.35 * np.log2(fmt.block_size)) for fmt in formats])
    found: dict[tuple[Choice, ...], None] = {}
    while len(found) < count:
        scale = 10 ** draw.uniform(-1.2, 1.0) / modules
        scores = [scale * np.exp(draw.normal(0, 1.2, (3, 1))) * noise for _ in range(modules)]
        found[allocate(run.space, scores, 0.2)] = None
    return list(found)


def known(run: Run) -> tuple[list[tuple[Choice, ...]], list[Json]]:
    """What the run's store holds of fine-tuned plans, and what was measured of them."""
    index = {str(fmt): place for place, fmt in enumerate(run.space.formats)}
    rows = [each for each in run.store.evaluations("finetune") if each.config["training"]]
    formats = [each.config["formats"] for each in rows]
    plans = [tuple(tuple(index[text] for text in each[name]) for name in run.space.modules) for each in formats]
    return plans, [each.result for each in rows]


def lost_of(run: Run, measured: dict[str, float]) -> float:
    """Accuracy lost, on validation and test data together."""
    reference = run.float_accuracy()
    counts = {part: sum(len(target) for _, target in getattr(run.data, part)) for part in ("validation", "test")}
    lost = sum(count * (reference[part] - measured[part]) for part, count in counts.items())
    return float(lost / sum(counts.values()))


def line(
    name: str,
    predicted: NDArray[np.float64],
    lost: NDArray[np.float64],
    moved: NDArray[np.float64],
    alpha: float,
    seconds: float,
) -> None:
    """One row of the table."""
    terms = np.stack([predicted, predicted**2], axis=1)
    curve = terms @ np.linalg.lstsq(terms, lost, rcond=None)[0]
    ranks = spearmanr(predicted, lost).statistic, spearmanr(curve + alpha * moved, lost + alpha * moved).statistic
    print(f"{name:34} {ranks[0]:7.3f} {100 * np.std(lost - curve):12.2f} {ranks[1]:10.3f} {seconds:8.1f}", flush=True)


def added(scores: Scores, plans: Plans) -> NDArray[np.float64]:
    """Sums of scores."""
    return np.array([predicted_loss(scores, plan) for plan in plans])


def divergence(run: Run, plans: Plans, power: float) -> NDArray[np.float64]:
    """Sum of KL^power: of the outputs from the float ones, with one tensor at a time in a format."""
    inputs = next(iter(run.data.validation))[0]

    def distance(model: nn.Module) -> float:
        with torch.inference_mode():
            logits = [net(inputs).log_softmax(1) for net in (model, run.model.eval())]
        return float(functional.kl_div(*logits, reduction="batchmean", log_target=True))

    return added([np.maximum(table, 0.0) ** power for table in one_at_a_time(run, distance)], plans)


def one_at_a_time(run: Run, measure: Callable[[nn.Module], float]) -> list[NDArray[np.float64]]:
    """For each module an array (3, formats) of what is measured with one tensor alone in a format; blocks of 16 stand
    for all sizes."""
    model = _quantizable(run)
    tables = [np.zeros((3, len(run.space.formats))) for _ in run.space.modules]
    for module, name in enumerate(run.space.modules):
        for number, tensor in enumerate(TENSORS):
            for width in sorted({fmt.exponent_bits for fmt in run.space.formats}):
                same = [i for i, fmt in enumerate(run.space.formats) if fmt.exponent_bits == width]
                fmt = next(run.space.formats[i] for i in same if run.space.formats[i].block_size == 16)
                set_formats(model, {name: replace(TensorFormats(), **{tensor: fmt})})
                tables[module][number, same] = measure(model)
        set_formats(model, {name: TensorFormats()})
    return tables


def loss_alone(run: Run, plans: Plans) -> NDArray[np.float64]:
    """Growth of the loss with one tensor at a time in a format."""
    batches = list(run.data.validation)[:1]
    reference = evaluate(run.model, batches, run.task).loss
    return added(one_at_a_time(run, lambda model: evaluate(model, batches, run.task).loss - reference), plans)


def untrained(run: Run, plans: Plans) -> NDArray[np.float64]:
    """The loss of each plan without fine-tuning."""
    model = _quantizable(run)
    return _losses(run, model, plans) - evaluate(run.model, run.data.validation, run.task).loss


def supernet(run: Run, plans: Plans) -> NDArray[np.float64]:
    """The loss of each plan on one network that was fine-tuned while formats were drawn anew at every step."""
    model = copy.deepcopy(run.model)
    train_supernet(
        model, run.space.modules, run.space.formats, run.max_abs, run.data.train, run.settings.training, run.task.loss
    )
    use_batch_statistics(model)
    return _losses(run, model.eval(), plans) - evaluate(run.model, run.data.validation, run.task).loss


PREDICTORS: dict[str, Callable[[Run, Plans], NDArray[np.float64]]] = {
    "(gradient^2 * error^2)^0.6 (bitq)": lambda run, plans: added(run.scores(), plans),
    "gradient^2 * error^2": lambda run, plans: added(gradient_scores(run, 0), plans),
    "KL": lambda run, plans: divergence(run, plans, 1.0),
    "root of KL": lambda run, plans: divergence(run, plans, 0.5),
    "loss": loss_alone,
    "the plan without fine-tuning": untrained,
    "supernet": supernet,
}


def _quantizable(run: Run) -> nn.Module:
    model = copy.deepcopy(run.model).eval()
    apply(model, {name: TensorFormats() for name in run.space.modules}, run.max_abs)
    return model


def _losses(run: Run, model: nn.Module, plans: Plans) -> NDArray[np.float64]:
    found = []
    for plan in plans:
        set_formats(model, run.space.tensor_formats(plan))
        found.append(evaluate(model, run.data.validation, run.task).loss)
    return np.array(found)


if __name__ == "__main__":
    sys.exit(main())
