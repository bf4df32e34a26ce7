"""The rules that plans are chosen by elsewhere, as we read them, on our space and with our movement as their cost.

Each gives plans at several limits of movement, because none of them weighs accuracy against movement itself; the
benchmark fine-tunes all of them and takes the one of least O. All are our own implementations:

- uniform: one format for every tensor; those that no other beats in both the sum of scores and movement, nearest to
  the least predicted O.
- uniform-within: the one of least movement that keeps the budget of accuracy without fine-tuning, and coarser ones.
- random: every tensor's format drawn by itself.
- gradient: squared gradient times squared error of every tensor, and the plan of least sum within a limit of the cost,
  as NVIDIA ModelOpt's `auto_quantize` (which solves a linear program).
- greedy: accuracy measured with one tensor at a time in each of a few formats; tensors are then lowered in the order of
  what that lost, as AIMET's automatic mixed precision does, until the limit is met.
- hessian: trace of the Hessian of each layer times the squared error of its weight, and the plan of least sum within a
  limit of the cost with one format for each layer, as HAWQ-V2 and V3 (which solve an integer linear program).
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bitq.accuracy.evaluate import forward
from bitq.accuracy.kinds import kind_of
from bitq.accuracy.quantized import apply, quantized_weight, set_formats
from bitq.accuracy.sensitivity import TENSORS
from bitq.formats import BlockFormat, TensorFormats
from bitq.numerics import quantize
from bitq.tradeoff.allocate import allocate, predicted_loss
from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.knapsack import non_dominated
from bitq.tradeoff.measure import evaluate, first_inputs, seeded
from bitq.tradeoff.predict import Curve
from bitq.tradeoff.run import Run
from bitq.tradeoff.space import Choice

Choices = tuple[Choice, ...]

BATCHES = 8
"""Training batches that gradients are taken from."""

GREEDY_BLOCK = 16
"""Block size of the formats that the greedy rule chooses from, one for every mantissa width."""

STEP = 0.03
"""Share of movement by which the uniform formats within a loss of accuracy differ at least."""

PROBES = 4
"""Random vectors that the trace of a Hessian is estimated with (Hutchinson)."""


@dataclass(frozen=True)
class Proposal:
    """Plans to fine-tune, and how many passes over data it took to find them (one forward or backward pass each)."""

    plans: tuple[Choices, ...]
    passes: int


def limits(run: Run, count: int) -> list[float]:
    """Limits of movement, in bits: evenly from what the coarsest sensible uniform format moves to a fine one's.

    The formats of blocks of 16 with 3 and with 5 mantissa bits (8 bits), or 7 and 13 (16 bits).
    """
    bits = run.space.formats[0].bits
    low, high = (5, 3) if bits == 8 else (7, 3)
    ends = [run.space.formats.index(BlockFormat(bits, width, 16)) for width in (low, high)]
    least, most = (run.space.cost(run.space.uniform(index)).movement_bits for index in ends)
    return list(np.linspace(least, most, count + 2)[1:-1]) if count > 1 else [(least + most) / 2]


def uniform(run: Run, count: int, seed: int) -> Proposal:
    """The uniform formats worth considering."""
    curve = Curve()
    order = sorted(_worth(run), key=lambda each: run.objective(1 - curve.lost(each[1]), each[2]))
    return Proposal(tuple(plan for plan, *_ in order[:count]), 0)


def uniform_within(run: Run, count: int, seed: int) -> Proposal:
    """The uniform formats that may move the least within the budget of accuracy."""
    least = float(run.float_accuracy()["validation"]) - (run.settings.budgets.accuracy_loss or 0.0)
    finest_first = sorted(_worth(run), key=lambda each: -each[2])
    model = copy.deepcopy(run.model).eval()
    apply(model, {name: TensorFormats() for name in run.space.modules}, run.max_abs)
    enough = 0
    for place, (plan, *_) in enumerate(finest_first):
        run.listener.step("measuring uniform formats", place, len(finest_first))
        set_formats(model, run.space.tensor_formats(plan))
        if evaluate(model, run.data.validation, run.task).accuracy >= least:
            enough = place
    chosen = [finest_first[enough]]
    for each in finest_first[enough + 1 :]:
        if len(chosen) < count and each[2] <= (1 - STEP) * chosen[-1][2]:
            chosen.append(each)
    return Proposal(tuple(plan for plan, *_ in chosen), len(finest_first) * len(run.data.validation))


def _worth(run: Run) -> list[tuple[Choices, float, float]]:
    """Uniform plans that no other beats in both, with their sum of scores and what they move, in bits."""
    plans = [run.space.uniform(index) for index in range(len(run.space.formats))]
    scores = run.scores()
    costs = np.array([[predicted_loss(scores, plan), run.space.cost(plan).movement_bits] for plan in plans])
    return [(plans[i], *costs[i]) for i in non_dominated(costs)]


def drawn(run: Run, count: int, seed: int) -> Proposal:
    """Random search."""
    draw = random.Random(seed)
    formats = range(len(run.space.formats))
    plans = tuple(
        tuple((draw.choice(formats), draw.choice(formats), draw.choice(formats)) for _ in run.space.modules)
        for _ in range(count)
    )
    return Proposal(plans, 0)


def gradient(run: Run, count: int, seed: int) -> Proposal:
    """Squared gradient times squared error."""
    scores = gradient_scores(run, seed)
    plans = tuple(allocate(run.space, scores, 0.0, Budgets(movement_bits=limit)) for limit in limits(run, count))
    return Proposal(plans, 2 * BATCHES)


def gradient_scores(run: Run, seed: int) -> list[NDArray[np.float64]]:
    """For each module an array (3, formats) of squared gradients times squared errors, summed over training batches."""
    scores = [np.zeros((3, len(run.space.formats))) for _ in run.space.modules]
    for tensors in _tensors_with_gradients(run, seed):
        for module, (name, kept) in enumerate(zip(run.space.modules, tensors, strict=True)):
            for number, tensor in enumerate(kept):
                for index, fmt in enumerate(run.space.formats):
                    error = _quantized(run.model.get_submodule(name), number, tensor.detach(), fmt) - tensor.detach()
                    scores[module][number, index] += float((error * error * tensor.grad**2).sum())
    return scores


def greedy(run: Run, count: int, seed: int) -> Proposal:
    """Lowered one after the other, in the order of the accuracy lost by each alone."""
    space, finest = run.space, min(fmt.exponent_bits for fmt in run.space.formats)
    widths = sorted({fmt.exponent_bits for fmt in space.formats})
    column = {
        width: space.formats.index(BlockFormat(space.formats[0].bits, width, GREEDY_BLOCK)) for width in widths
    }
    start = [[column[finest]] * 3 for _ in space.modules]
    model = copy.deepcopy(run.model).eval()
    apply(model, {name: TensorFormats() for name in space.modules}, run.max_abs)
    batches = first_inputs(run.data.validation, run.settings.scored_inputs)
    moves = []
    for module, name in enumerate(space.modules):
        run.listener.step("measuring tensors alone", module, len(space.modules))
        for number, tensor in enumerate(TENSORS):
            for width in widths[1:]:
                entry = replace(TensorFormats(), **{tensor: space.formats[column[width]]})
                set_formats(model, {name: entry})
                moves.append((-evaluate(model, batches, run.task).accuracy, width, module, number))
            set_formats(model, {name: TensorFormats()})
    plans = []
    for limit in limits(run, count):
        plan = [list(choice) for choice in start]
        for _, width, module, number in sorted(moves):
            if space.cost(_choices(plan)).movement_bits <= limit:
                break
            plan[module][number] = max(plan[module][number], column[width])
        plans.append(_choices(plan))
    return Proposal(tuple(plans), len(moves))


def hessian(run: Run, count: int, seed: int) -> Proposal:
    """Trace of the Hessian times the squared error of the weight, one format for each layer."""
    traces = _traces(run, seed)
    formats = range(len(run.space.formats))
    worse = 1e30
    scores = []
    for name, trace in zip(run.space.modules, traces, strict=True):
        layer = run.model.get_submodule(name)
        weight = layer.weight.detach()  # type: ignore[union-attr]
        mean = trace / weight.numel()
        errors = [float((_quantized(layer, 1, weight, fmt) - weight).square().sum()) for fmt in run.space.formats]
        scores.append(np.array([mean * error for error in errors]))
    movement = [np.array([run.space.movement(m)[f, f, f] for f in formats]) for m in range(len(scores))]
    plans = []
    for limit in limits(run, count):
        chosen = _knapsack(scores, movement, limit - float(run.space.fixed_bits.sum()), worse)
        plans.append(tuple((index, index, index) for index in chosen))
    return Proposal(tuple(plans), 2 * BATCHES * PROBES)


CONTENDERS: dict[str, Callable[[Run, int, int], Proposal]] = {
    "uniform": uniform,
    "uniform-within": uniform_within,
    "random": drawn,
    "gradient": gradient,
    "greedy": greedy,
    "hessian": hessian,
}


def _knapsack(
    scores: Sequence[NDArray[np.float64]], costs: Sequence[NDArray[np.float64]], room: float, worse: float
) -> list[int]:
    """One row of each for the least sum of scores within `room`: by `milp`, as bitq's own."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    owner = np.repeat(np.arange(len(scores)), [len(row) for row in scores])
    count = len(owner)
    scale = max(float(np.concatenate(costs).max()), 1.0)
    top = max(float(np.abs(np.concatenate(scores)).max()), 1e-30)
    solved = milp(
        np.concatenate(scores) / top,
        integrality=np.ones(count),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(csr_array((np.ones(count), (owner, np.arange(count)))), 1, 1),
            LinearConstraint(np.concatenate(costs)[None] / scale, -np.inf, room / scale),
        ],
    )
    starts = np.concatenate([[0], np.cumsum([len(row) for row in scores])[:-1]])
    return [int(row) for row in np.flatnonzero(solved.x > 0.5) - starts]


def _tensors_with_gradients(run: Run, seed: int) -> Iterator[list[tuple[Tensor, Tensor, Tensor]]]:
    """By batch, each module's input, weight and output with the gradient of the summed loss in `.grad`."""
    model = copy.deepcopy(run.model).eval()
    kept: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def keep(name: str, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        for tensor in (args[0], output):
            if tensor.requires_grad and not tensor.is_leaf:
                tensor.retain_grad()
        kept[name] = (args[0], layer.weight, output)  # type: ignore[assignment]

    for name in run.space.modules:
        layer = model.get_submodule(name)
        layer.register_forward_hook(lambda layer, args, output, name=name: keep(name, layer, args, output))
    with seeded(seed):
        for done, (inputs, target) in enumerate(islice(run.data.train, BATCHES)):
            run.listener.step("taking gradients", done, BATCHES)
            model.zero_grad(set_to_none=True)
            loss = run.task.loss(forward(model, inputs.clone().requires_grad_()), target) * len(target)
            loss.backward()
            yield [kept[name] for name in run.space.modules]


def _traces(run: Run, seed: int) -> list[float]:
    """Trace of the Hessian of the loss by each module's weight (Hutchinson's estimate)."""
    model = copy.deepcopy(run.model).eval()
    weights = [model.get_submodule(name).weight for name in run.space.modules]
    traces = np.zeros(len(weights))
    with seeded(seed):
        batches = list(islice(run.data.train, BATCHES))
        for done, (inputs, target) in enumerate(batches):
            run.listener.step("taking traces", done, BATCHES)
            loss = run.task.loss(forward(model, inputs), target)
            gradients = torch.autograd.grad(loss, weights, create_graph=True)
            for probe in range(PROBES):
                signs = [torch.randint_like(weight, 2) * 2 - 1 for weight in weights]
                products = torch.autograd.grad(gradients, weights, signs, retain_graph=probe + 1 < PROBES)
                traces += [float((v * hv).sum()) for v, hv in zip(signs, products, strict=True)]
    return [max(float(value), 0.0) / (BATCHES * PROBES) for value in traces]


def _quantized(layer: nn.Module, number: int, tensor: Tensor, fmt: BlockFormat) -> Tensor:
    """An input (0), weight (1) or output (2) of a layer in a format."""
    if number == 1:
        return quantized_weight(layer, tensor, fmt)
    return quantize(tensor, fmt, kind_of(layer).channel_axis(layer))


def _choices(plan: Sequence[Sequence[int]]) -> Choices:
    return tuple((i, w, o) for i, w, o in plan)
