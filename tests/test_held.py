"""Scales of sums during fine-tuning: the best when they are looked for, kept in between, and gone at the end."""

import copy

import pytest
import torch
from torch import nn

import tiny
from bitq import parse_format
from bitq.accuracy.finetune import Training, finetune
from bitq.accuracy.held import EVERY, holding_scales
from bitq.accuracy.quantized import apply, quantized_weight, weight_in_use
from bitq.formats import TensorFormats
from bitq.numerics import sums
from bitq.numerics.recipe import recipe_for

BSFP = parse_format("bsfp")


def layer(make):
    torch.manual_seed(5)
    model = nn.Sequential(make())
    apply(model, {"0": TensorFormats(None, BSFP, None)})
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(20, 3),
        lambda: nn.Conv2d(6, 4, 3, groups=2),
        lambda: nn.ConvTranspose2d(6, 4, (1, 2)),
        lambda: nn.Linear(32, 2, dtype=torch.bfloat16),
    ],
)
def test_scales_that_were_just_found_give_what_quantizing_gives(make):
    model = layer(make)
    with holding_scales(model) as renew:
        renew()
        found = weight_in_use(model[0])
        assert torch.equal(found, quantized_weight(model[0], model[0].weight, BSFP))
        found.sum().backward()
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))


def test_kept_scales_round_to_their_sums_and_new_ones_are_found_when_asked_for():
    model = layer(lambda: nn.Linear(16, 1))
    weight = model[0].weight
    with holding_scales(model) as renew:
        renew()
        before = weight_in_use(model[0])
        rows = weight.detach()
        unit = sums.unit(rows.amin(), rows.amax(), recipe_for(rows, BSFP, 1))
        s1, s2 = sums.nearest(rows, BSFP, unit)[0][0].tolist()
        levels = torch.tensor([(s1 * a + s2 * b) * float(unit) for a in range(-2, 2) for b in range(-2, 2)])
        with torch.no_grad():
            weight.mul_(0.3)
        nearest = levels[(weight.view(-1, 1) - levels).abs().argmin(1)].view(1, -1)
        assert torch.equal(weight_in_use(model[0]), nearest)
        assert not torch.equal(nearest, quantized_weight(model[0], weight, BSFP))
        renew()
        assert torch.equal(weight_in_use(model[0]), quantized_weight(model[0], weight, BSFP))
        with torch.no_grad():
            weight[0, 3] = torch.nan
        assert weight_in_use(model[0]).isnan().all()
    assert model[0]._bitq.held is None
    assert not before.isnan().any()


def test_fine_tuning_looks_for_scales_now_and_then_and_gains(monkeypatch):
    model = tiny.trained()
    apply(model, {name: TensorFormats(None, BSFP, None) for name in ("0", "3", "8")})
    searched = []
    nearest = sums.nearest
    monkeypatch.setattr(sums, "nearest", lambda *given: searched.append(1) or nearest(*given))
    untuned = copy.deepcopy(model)
    finetune(model, tiny.loaders()[0], Training(steps=EVERY + 1, learning_rate=3e-3))
    assert len(searched) == 2 * 3  # of three layers
    images, labels = tiny.images(1500, 1)

    def loss(net):
        with torch.no_grad():
            return float(nn.functional.cross_entropy(net.eval()(images), labels))

    assert loss(model) < loss(untuned)
