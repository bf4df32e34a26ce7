"""The float network as a teacher: what is least, by hand, and that it is followed."""

import copy
from math import exp, log

import pytest
import torch
from torch import nn

import tiny
from bitq import parse_format
from bitq.accuracy.distilling import TEMPERATURE, distance, divergence, lesson
from bitq.accuracy.evaluate import cross_entropy
from bitq.accuracy.finetune import Training, finetune
from bitq.accuracy.quantized import apply
from bitq.errors import BitqError
from bitq.formats import TensorFormats


def softened(logits):
    powers = [exp(each / TEMPERATURE) for each in logits]
    return [each / sum(powers) for each in powers]


def by_hand(given, wanted):
    pairs = zip(softened(wanted), softened(given), strict=True)
    return TEMPERATURE**2 * sum(p * log(p / q) for p, q in pairs)


def test_the_divergence_by_hand():
    torch.manual_seed(0)
    given, wanted = 5 * torch.randn(6, 4), 5 * torch.randn(6, 4)
    right = sum(by_hand(*pair) for pair in zip(given.tolist(), wanted.tolist(), strict=True)) / 6
    assert divergence(given, wanted).item() == pytest.approx(right, rel=1e-5)
    assert divergence(wanted, wanted).item() == pytest.approx(0, abs=1e-6)


def test_classes_stand_where_cross_entropy_has_them():
    torch.manual_seed(0)
    given, wanted = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5)
    flat = divergence(*(each.movedim(1, -1).reshape(-1, 4) for each in (given, wanted)))
    assert divergence(given, wanted).item() == pytest.approx(flat.item(), rel=1e-5)
    alone = divergence(given[0, :, 0, 0], wanted[0, :, 0, 0])
    assert alone.item() == pytest.approx(by_hand(given[0, :, 0, 0].tolist(), wanted[0, :, 0, 0].tolist()), rel=1e-5)


def test_the_distance_by_hand():
    wanted = {"a": torch.tensor([0.0, 2.0]), "b": [torch.tensor([1, 2])], "c": torch.tensor([1.0, 5.0])}
    given = {"a": torch.tensor([1.0, 2.0]), "b": [torch.tensor([3, 4])], "c": torch.tensor([1.0, 5.0])}
    assert distance(given, wanted).item() == pytest.approx((0.5 / 1.0 + 0) / 2)
    assert distance([torch.tensor([1])], [torch.tensor([2])]).item() == 0


def test_the_loss_stays_and_what_the_teacher_asks_is_added():
    torch.manual_seed(0)
    teacher, x, target = nn.Linear(4, 2), torch.randn(8, 4), torch.randn(8, 2)
    output, mse = torch.randn(8, 2), nn.functional.mse_loss
    found = lesson(teacher, mse)(x, output, target)
    assert found.item() == pytest.approx((mse(output, target) + distance(output, teacher(x))).item())
    labels = torch.randint(2, (8,))
    found = lesson(teacher, cross_entropy)(x, output, labels)
    assert found.item() == pytest.approx((cross_entropy(output, labels) + divergence(output, teacher(x))).item())
    assert lesson(None, mse)(x, output, target).item() == mse(output, target).item()


def test_a_teacher_is_not_changed_and_teaches_in_evaluation():
    teacher = tiny.trained().train()
    teacher.zero_grad()
    before = copy.deepcopy(teacher.state_dict())
    finetune(tiny.network(1), tiny.loader(500, 1), Training(steps=3), teacher=teacher)
    assert teacher.training
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in teacher.parameters())


def test_the_teacher_is_come_nearer_to():
    """Labels are of no use, and a quantized copy of the teacher answers more like it with it than without."""
    teacher, x = tiny.trained(), tiny.images(500, 2)[0]
    batches = [(x, torch.zeros_like(y)) for x, y in tiny.loader(1500, 1)]
    found = []
    for taught in (True, False):
        model = copy.deepcopy(teacher)
        apply(model, dict.fromkeys(["3", "8"], TensorFormats(None, parse_format("i3:f32:tensor"))))
        finetune(model, batches, Training(steps=60, learning_rate=1e-2, taught=taught), teacher=teacher)
        found.append(divergence(model(x), teacher(x)).item())
    assert found[0] < found[1] / 2


@pytest.mark.parametrize("amp", [False, True])
def test_equal_seeds_give_equal_bits_with_a_teacher(amp):
    states = []
    for _ in range(2):
        model = tiny.network(1)
        apply(model, {"3": TensorFormats(parse_format("i4:f32:tensor"), parse_format("i4:f32:channel"))})
        loader = tiny.loader(500, 1, shuffle=True)
        finetune(model, loader, Training(steps=8, amp=amp, seed=3), teacher=tiny.trained(steps=5))
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_labels_that_do_not_fit_are_still_told():
    with pytest.raises(BitqError, match="label 9"):
        lesson(tiny.network(), cross_entropy)(torch.zeros(2, 1, 8, 8), torch.zeros(2, 4), torch.tensor([1, 9]))


def test_a_range_rate_of_zero_learns_no_range():
    weights = []
    for rate in (0.0, 1e-2):
        model = tiny.trained(steps=5)
        apply(model, {"8": TensorFormats(None, parse_format("i3:f32:channel"))})
        finetune(model, tiny.loader(500, 1), Training(steps=2, learning_rate=1e-6, range_rate=rate))
        weights.append(model[8].weight)
    plain = tiny.trained(steps=5)[8].weight
    assert torch.allclose(weights[0], plain, atol=1e-4)
    assert not torch.allclose(weights[1], plain, atol=1e-4)  # clipped
