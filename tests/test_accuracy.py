"""Training, measuring and predicting: it learns, it repeats bit by bit, and it disturbs nothing."""

import copy
import random
from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tiny
from bitq.accuracy.evaluate import cross_entropy, score, top1
from bitq.accuracy.finetune import Training, finetune
from bitq.accuracy.quantized import MaxAbs, apply, observing
from bitq.accuracy.sensitivity import PROBED_BLOCKS, TENSORS, _ordered, sensitivities
from bitq.accuracy.supernet import train_supernet, use_batch_statistics
from bitq.errors import BitqError
from bitq.formats import BLOCK_SIZES, BlockFormat, TensorFormats, grid

MODULES = ("0", "3", "8")
SHORT = Training(steps=12, learning_rate=3e-3)


def states_equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def calibrated(model):
    with torch.no_grad(), observing(model, MODULES) as seen:
        model.eval()(tiny.images(200, 7)[0])
    return seen


def quantized():
    model, fmt = tiny.network(), BlockFormat(8, 4, 16)
    apply(model, dict.fromkeys(MODULES, TensorFormats(fmt, fmt, fmt)), calibrated(copy.deepcopy(model)))
    return model


# Measuring


def test_score_is_mean_loss_and_share_of_hits():
    model, batches = tiny.network().train(), list(tiny.loader(300, 5, 100))
    found = score(model, batches)
    model.eval()
    with torch.no_grad():
        outputs = [model(inputs) for inputs, _ in batches]
    hits = sum(int((y.argmax(1) == target).sum()) for y, (_, target) in zip(outputs, batches, strict=True))
    losses = [float(cross_entropy(y, target)) for y, (_, target) in zip(outputs, batches, strict=True)]
    assert found.accuracy == hits / 300 == top1(model, batches)
    assert found.loss == pytest.approx(sum(losses) / 3)


def test_score_takes_any_metric_and_loss():
    asked = []

    def metric(model, batches):
        asked.append((model.training, len(batches)))
        return 0.25

    found = score(tiny.network().train(), list(tiny.loader(200, 5, 100)), lambda y, t: y.sum() * 0 + 3, metric)
    assert (found.accuracy, found.loss) == (0.25, 3)
    assert asked == [(False, 2)]


def test_score_changes_nothing():
    model = tiny.network().train()
    model[1].eval()  # frozen statistics
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    score(model, tiny.loader(100, 5))
    assert states_equal(before, model.state_dict())
    assert [module.training for module in model.modules()] == modes


def test_inputs_can_be_tuples():
    class Sum(nn.Module):
        def forward(self, x, y):
            return x + y

    ones = torch.eye(4)
    assert score(Sum(), [((ones, 2 * ones), torch.arange(4))]).accuracy == 1


@pytest.mark.parametrize("labels", [torch.full((20,), 4), torch.zeros(19, dtype=torch.long), torch.zeros(20, 5)])
def test_targets_that_fit_no_output_are_told(labels):
    batches = [(tiny.images(20, 1)[0], labels)]
    for use in (lambda: score(tiny.network(), batches), lambda: finetune(tiny.network(), batches, SHORT)):
        with pytest.raises(BitqError, match=r"the loss refuses output \(20, 4\) with target \("):
            use()


@pytest.mark.parametrize("given", [-0.1, 1.5, torch.nan, 83.0])
def test_a_metric_is_a_share(given):
    with pytest.raises(BitqError, match=r"the metric gave .*\[0, 1\]"):
        score(tiny.network(), tiny.loader(20, 1), metric=lambda *_: given)


def test_nothing_to_measure_on_is_told():
    with pytest.raises(BitqError, match="no batch"):
        score(tiny.network(), [])


# Fine-tuning


@pytest.mark.parametrize("make", [tiny.network, quantized])
def test_it_learns(make):
    model, test = make(), tiny.loader(500, 3, 250)
    before = score(model, test)
    finetune(model, tiny.loader(1500, 1, shuffle=True), Training(steps=60, learning_rate=1e-2))
    after = score(model, test)
    assert before.accuracy < 0.5
    assert after.accuracy > 0.65
    assert after.loss < before.loss
    assert not model.training


def test_equal_seeds_give_equal_bits():
    states = []
    for disturbance, seed in ((1, 0), (2, 0), (3, 1)):
        torch.manual_seed(disturbance)
        model = quantized()
        finetune(model, tiny.loader(1500, 1, shuffle=True), Training(steps=12, seed=seed))
        states.append(model.state_dict())
    assert states_equal(states[0], states[1])
    assert not states_equal(states[0], states[2])  # another order of the batches


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 4)

    def forward(self, x):
        return self.linear(nn.functional.dropout(x.flatten(1), 0.5, self.training))


@pytest.mark.parametrize("factor", [1, torch.nan])
def test_the_callers_randomness_is_untouched(factor):
    model, batches = Dropping(), tiny.loader(1500, 1, shuffle=True)
    state = torch.get_rng_state()
    with pytest.raises(BitqError) if factor != 1 else nullcontext():
        finetune(model, batches, SHORT, loss=lambda y, t: factor * cross_entropy(y, t))
    assert torch.equal(torch.get_rng_state(), state)


def test_steps_are_told_before_and_after():
    before, after = [], []
    finetune(
        tiny.network(),
        tiny.loader(130, 1),  # three batches, walked four times
        SHORT,
        before_step=before.append,
        progress=lambda done, total: after.append((done, total)),
    )
    assert before == list(range(12))
    assert after == [(step + 1, 12) for step in range(12)]


def test_the_learning_rate_falls_along_half_a_cosine():
    class Slope(nn.Module):
        """Its parameter moves by the learning rate at every step of Adam, since the gradient stays 1."""

        def __init__(self):
            super().__init__()
            self.x = nn.Parameter(torch.zeros(1))

        def forward(self, _):
            return self.x

    seen, model = [], Slope()
    finetune(
        model,
        [(torch.zeros(1), torch.zeros(1))],
        Training(steps=10, learning_rate=0.1, weight_decay=0.0),
        loss=lambda y, _: y.sum(),
        progress=lambda *_: seen.append(model.x.item()),
    )
    steps = [first - second for first, second in pairwise([0.0, *seen])]
    assert steps == pytest.approx([0.05 * (1 + np.cos(np.pi * i / 10)) for i in range(10)], rel=1e-4)


@pytest.mark.parametrize("batches", [[], DataLoader(TensorDataset(*tiny.images(10, 1)), 64, drop_last=True)])
def test_no_data_is_told(batches):
    with pytest.raises(BitqError, match="training data has no batch"):
        finetune(tiny.network(), batches, SHORT)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"learning_rate": 0.0}, {"learning_rate": torch.inf}, {"weight_decay": -1.0}, {"seed": -1}]
)
def test_training_out_of_range_is_told(wrong):
    (name,) = wrong
    with pytest.raises(BitqError, match=f"{name} is .*it must be"):
        Training(**wrong)


def test_a_frozen_network_is_told():
    with pytest.raises(BitqError, match="requires a gradient"):
        finetune(tiny.network().requires_grad_(False), tiny.loader(100, 1), SHORT)


def test_divergence_is_told():
    values = iter([1.0, 1.0, torch.inf])
    with pytest.raises(BitqError, match="diverged at step 2: the loss is inf"):
        finetune(tiny.network(), tiny.loader(500, 1), SHORT, loss=lambda y, t: cross_entropy(y, t) * next(values))
    with pytest.raises(BitqError, match="lower"):
        finetune(tiny.network(), tiny.loader(500, 1), Training(steps=40, learning_rate=1e30))


# The supernet


def test_every_step_meets_formats_of_similar_exponent_widths():
    model, drawn = tiny.network(), []
    model.register_forward_pre_hook(lambda *_: drawn.append([model[int(name)]._bitq.formats for name in MODULES]))
    train_supernet(model, MODULES, grid(8), {}, tiny.loader(500, 1), Training(steps=60))
    assert len(drawn) == 60
    per_step = [[fmt for entry in step for fmt in vars(entry).values()] for step in drawn]
    for formats in per_step:
        bits = [fmt.exponent_bits for fmt in formats]
        assert max(bits) - min(bits) <= 2
    met = {fmt for formats in per_step for fmt in formats}
    assert {fmt.block_size for fmt in met} == set(BLOCK_SIZES)
    assert {fmt.exponent_bits for fmt in met} == {2, 3, 4, 5, 6}
    assert len({tuple(formats) for formats in per_step}) > 50


def test_a_supernet_repeats_bit_by_bit_and_predicts_that_coarse_is_worse():
    states, losses = [], {}
    for disturbance in range(2):
        random.seed(disturbance)
        torch.manual_seed(disturbance)
        model = tiny.trained()
        train_supernet(
            model, MODULES, grid(8), calibrated(copy.deepcopy(model)), tiny.loader(1500, 1, shuffle=True), SHORT
        )
        states.append(copy.deepcopy(model.state_dict()))
    assert states_equal(*states)
    for fmt in (BlockFormat(8, 2, 4), BlockFormat(8, 6, 48)):
        apply(model, dict.fromkeys(MODULES, TensorFormats(fmt, fmt, fmt)))
        losses[fmt] = score(model, tiny.loader(500, 3, 250)).loss
    fine, coarse = losses.values()
    assert fine < coarse


def test_batch_statistics_are_those_of_the_batch():
    model = tiny.trained(steps=3)
    twin = copy.deepcopy(model).train()  # normalizes by the batch too
    use_batch_statistics(model)
    assert not any("running" in name or "tracked" in name for name in model.state_dict())
    model.eval()
    with torch.no_grad():
        for seed in (1, 2):
            inputs = tiny.images(50, seed)[0]
            assert torch.equal(model(inputs), twin(inputs))
    assert model(tiny.images(50, 1)[0])[0].tolist() != model(tiny.images(1, 1)[0])[0].tolist()


# Sensitivities


@st.composite
def scored_formats(draw):
    formats = draw(st.lists(st.sampled_from(grid(8)), min_size=1, max_size=40, unique=True))
    value = st.floats(-1, 1) | st.sampled_from([0.0, 0.1])
    return formats, draw(st.lists(value, min_size=len(formats), max_size=len(formats)))


def no_finer(a, b):
    """Neither more mantissa bits nor smaller blocks."""
    return a.exponent_bits >= b.exponent_bits and a.block_size >= b.block_size


@given(scored_formats())
def test_ordered_is_the_mean_of_the_bounds(case):
    formats, values = case
    for fmt, found in zip(formats, _ordered(formats, values), strict=True):
        above = max(value for other, value in zip(formats, values, strict=True) if no_finer(fmt, other))
        below = min(value for other, value in zip(formats, values, strict=True) if no_finer(other, fmt))
        assert found == pytest.approx((above + below) / 2)


@given(scored_formats())
def test_coarser_formats_never_score_better(case):
    formats, values = case
    found = _ordered(formats, values)
    for i, coarse in enumerate(formats):
        for j, fine in enumerate(formats):
            assert not no_finer(coarse, fine) or found[i] >= found[j]
    assert _ordered(formats, found).tolist() == pytest.approx(found.tolist())  # what is ordered stays


def additive(formats, modules):
    """A table (modules, 3, formats) of losses that grow with exponent bits and block size, each in its own way."""
    generator = np.random.default_rng(3)
    scale = generator.uniform(0.01, 1, (modules, 3, 2))
    coarse = np.array([[fmt.exponent_bits**2, np.log2(fmt.block_size)] for fmt in formats])
    return scale @ coarse.T


def test_an_additive_loss_is_recovered():
    formats, modules = grid(8), 3
    table, told, asked = additive(formats, modules), [], []

    def loss(choices):
        asked.append(tuple(choices))
        return 5 + sum(table[m, t, choices[m][t]] for m in range(modules) for t in range(3))

    base = [(7, 20, 33), (0, 39, 12), (1, 2, 3)]
    scores = sensitivities(base, formats, loss, lambda *step: told.append(step))
    measured = [i for i, fmt in enumerate(formats) if fmt.block_size in PROBED_BLOCKS]
    total = modules * len(TENSORS) * len(measured)
    assert told == [(done + 1, total) for done in range(total)]
    assert len(asked) == total + 1
    assert all(
        sum(a != b for x, y in zip(plan, base, strict=True) for a, b in zip(x, y, strict=True)) < 2 for plan in asked
    )
    for m in range(modules):
        for t in range(3):
            relative = table[m, t] - table[m, t, base[m][t]]
            assert scores[m][t, measured] == pytest.approx(relative[measured])
            for i, fmt in enumerate(formats):
                if fmt.block_size > min(PROBED_BLOCKS):  # the loss is a line over log2 BS, and so the reading
                    assert scores[m][t, i] == pytest.approx(relative[i])
                else:  # blocks smaller than any probed count like the smallest probed
                    nearest = formats.index(BlockFormat(8, fmt.exponent_bits, min(PROBED_BLOCKS)))
                    assert scores[m][t, i] == pytest.approx(relative[nearest])


def test_without_the_probed_blocks_every_format_is_measured():
    formats = [fmt for fmt in grid(8) if fmt.block_size in (2, 16)]
    table = additive(formats, 1)
    (scores,) = sensitivities([(0, 0, 0)], formats, lambda plan: sum(table[0, t, plan[0][t]] for t in range(3)))
    assert scores == pytest.approx(table[0] - table[0, :, :1])


def test_calibration_that_is_unknown_stays_unknown():
    model = tiny.network()
    train_supernet(model, MODULES, grid(8), {"0": MaxAbs(1.0, 2.0)}, tiny.loader(200, 1), Training(steps=1))
    assert [model[int(name)]._bitq.max_abs for name in MODULES] == [MaxAbs(1.0, 2.0), MaxAbs(), MaxAbs()]
