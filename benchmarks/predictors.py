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
from bitq.devices import load_device
from bitq.files import RunFolder
from bitq.formats import TENSORS, TensorFormats
from bitq.progress import Terminal
from bitq.store import Store
from bitq.tracing import trace
from bitq.tradeoff.allocate import Scores, allocate, predicted_loss
from bitq.tradeoff.ledger import Ledger
from bitq.tradeoff.measure import Subject, Task, evaluate
from bitq.tradeoff.records import Measurement
from bitq.tradeoff.rules.gradient import gradient_scores
from bitq.tradeoff.settings import Settings
from bitq.tradeoff.space import Choices, space_of
from bitq.tradeoff.study import Proposed, Study
from subjects import SUBJECTS, MissingError
from supernet import train_supernet, use_batch_statistics

Plans = Sequence[Choices]


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
    folder = RunFolder(options.measured or options.run / f"{options.network}-{options.steps}")
    with Terminal() as listener, Store(folder.results, alone=True) as store:
        device, model = load_device(options.device), subject.model
        space = space_of(model, layers, device, 8, listener.step)
        studied = Subject(options.network, model, subject.data, Task())
        study = Study.opened(studied, space, settings, Ledger(folder, store, listener))
        if options.measured:
            plans, measured = known(study)
        else:
            plans = held_out(study, options.plans, options.draw)
            proposed = [Proposed(f"plan {number}", plan, "other") for number, plan in enumerate(plans, 1)]
            results = dict(study.measured(proposed))
            measured = [results[plan] for plan in proposed]
        lost = np.array([lost_of(study, each) for each in measured])
        moved = np.array([each.movement_bits for each in measured]) / space.movement_max
        print(
            f"{options.network}: {len(plans)} plans after fine-tuning, {100 * lost.min():.1f} to "
            f"{100 * lost.max():.1f} points lost, {moved.min():.2f} to {moved.max():.2f} of the largest movement"
        )
        print(f"{'predictor':34} {'rank':>7} {'unexplained':>12} {'rank of O':>10} {'seconds':>8}")
        for name, predictor in PREDICTORS.items():
            start = time.perf_counter()
            predicted = predictor(study, plans)
            line(name, predicted, lost, moved, options.alpha, time.perf_counter() - start)
    return 0


def held_out(study: Study, count: int, seed: int) -> list[Choices]:
    """Plans that are best for random scores, which spread along the front and around it.

    The score of a tensor is the quantization noise 4^-m, growing with the block, times a factor of its own.
    """
    draw = np.random.default_rng(seed)
    formats, modules = study.space.formats, len(study.space.modules)
    noise = np.array([4.0**-fmt.mantissa_bits * (1 + 0.35 * np.log2(fmt.block_size)) for fmt in formats])
    found: dict[Choices, None] = {}
    while len(found) < count:
        scale = 10 ** draw.uniform(-1.2, 1.0) / modules
        scores = [scale * np.exp(draw.normal(0, 1.2, (3, 1))) * noise for _ in range(modules)]
        found[allocate(study.space, scores, 0.2)] = None
    return list(found)


def known(study: Study) -> tuple[list[Choices], list[Measurement]]:
    """What the study's store holds of fine-tuned plans, and what was measured of them."""
    index = {str(fmt): place for place, fmt in enumerate(study.space.formats)}
    store = study.ledger.store
    rows = [each for each in store.evaluations(Measurement.kind) if each.config["training"]]
    formats = [each.config["formats"] for each in rows]
    plans = [tuple(tuple(index[text] for text in each[name]) for name in study.space.modules) for each in formats]
    return plans, [Measurement.read(each.result, store.path) for each in rows]


def lost_of(study: Study, measured: Measurement) -> float:
    """Accuracy lost, on validation and test data together."""
    reference, data = study.float_accuracy, study.subject.data
    counts = {part: sum(len(target) for _, target in getattr(data, part)) for part in ("validation", "test")}
    lost = sum(count * (getattr(reference, part) - getattr(measured, part)) for part, count in counts.items())
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


def divergence(study: Study, plans: Plans, power: float) -> NDArray[np.float64]:
    """Sum of KL^power: of the outputs from the float ones, with one tensor at a time in a format."""
    inputs = next(iter(study.subject.data.validation))[0]

    def distance(model: nn.Module) -> float:
        with torch.inference_mode():
            logits = [net(inputs).log_softmax(1) for net in (model, study.subject.model.eval())]
        return float(functional.kl_div(*logits, reduction="batchmean", log_target=True))

    return added([np.maximum(table, 0.0) ** power for table in one_at_a_time(study, distance)], plans)


def one_at_a_time(study: Study, measure: Callable[[nn.Module], float]) -> list[NDArray[np.float64]]:
    """For each module an array (3, formats) of what is measured with one tensor alone in a format; blocks of 16 stand
    for all sizes."""
    model = _quantizable(study)
    tables = [np.zeros((3, len(study.space.formats))) for _ in study.space.modules]
    for module, name in enumerate(study.space.modules):
        for number, tensor in enumerate(TENSORS):
            for width in sorted({fmt.exponent_bits for fmt in study.space.formats}):
                same = [i for i, fmt in enumerate(study.space.formats) if fmt.exponent_bits == width]
                fmt = next(study.space.formats[i] for i in same if study.space.formats[i].block_size == 16)
                set_formats(model, {name: replace(TensorFormats(), **{tensor: fmt})})
                tables[module][number, same] = measure(model)
        set_formats(model, {name: TensorFormats()})
    return tables


def loss_alone(study: Study, plans: Plans) -> NDArray[np.float64]:
    """Growth of the loss with one tensor at a time in a format."""
    subject, batches = study.subject, list(study.subject.data.validation)[:1]
    reference = evaluate(subject.model, batches, subject.task).loss
    return added(one_at_a_time(study, lambda model: evaluate(model, batches, subject.task).loss - reference), plans)


def untrained(study: Study, plans: Plans) -> NDArray[np.float64]:
    """The loss of each plan without fine-tuning."""
    return _losses(study, _quantizable(study), plans)


def supernet(study: Study, plans: Plans) -> NDArray[np.float64]:
    """The loss of each plan on one network that was fine-tuned while formats were drawn anew at every step."""
    model, subject, space = copy.deepcopy(study.subject.model), study.subject, study.space
    training = study.settings.training
    train_supernet(
        model, space.modules, space.formats, study.ranges, subject.data.train, training, subject.task.loss
    )
    use_batch_statistics(model)
    return _losses(study, model.eval(), plans)


PREDICTORS: dict[str, Callable[[Study, Plans], NDArray[np.float64]]] = {
    "(gradient^2 * error^2)^0.6 (bitq)": lambda study, plans: added(study.scores, plans),
    "gradient^2 * error^2": lambda study, plans: added(gradient_scores(study, {}), plans),
    "KL": lambda study, plans: divergence(study, plans, 1.0),
    "root of KL": lambda study, plans: divergence(study, plans, 0.5),
    "loss": loss_alone,
    "the plan without fine-tuning": untrained,
    "supernet": supernet,
}


def _quantizable(study: Study) -> nn.Module:
    model = copy.deepcopy(study.subject.model).eval()
    apply(model, {name: TensorFormats() for name in study.space.modules}, study.ranges)
    return model


def _losses(study: Study, model: nn.Module, plans: Plans) -> NDArray[np.float64]:
    """What each plan adds to the float network's loss."""
    subject, found = study.subject, []
    for plan in plans:
        set_formats(model, study.tensor_formats(plan))
        found.append(evaluate(model, subject.data.validation, subject.task).loss)
    return np.array(found) - evaluate(subject.model, subject.data.validation, subject.task).loss


if __name__ == "__main__":
    sys.exit(main())
