"""Losses that networks give in training mode alone, as detectors do."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional

import bitq
from bitq.accuracy.distilling import distance, lesson
from bitq.accuracy.evaluate import InTraining, score
from bitq.errors import BitqError
from bitq.tradeoff.functions import identity_of


class Detector(nn.Module):
    """Gives losses in training, and what it has found in evaluation."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.9))
        self.head = nn.Linear(8, 3)

    def forward(self, images, targets=None):
        scores = self.head(self.body(torch.stack(images)).mean((2, 3)))
        if not self.training:
            return [{"scores": each, "found": each[each > 0]} for each in scores]
        return {"classes": functional.cross_entropy(scores, targets), "size": scores.square().mean()}


def by_hand(model, images, targets):
    scores = model.head(model.body(torch.stack(images)).mean((2, 3)))
    return functional.cross_entropy(scores, targets) + scores.square().mean()


def found_right(model, batches):
    answers = [(model(*inputs), inputs[1]) for inputs, _ in batches]
    assert not model.training
    hits = [
        each["scores"].argmax() == label
        for output, labels in answers
        for each, label in zip(output, labels, strict=True)
    ]
    return float(torch.stack(hits).float().mean())


def batch(count=4):
    images = [torch.randn(3, 6, 6) for _ in range(count)]
    return (images, torch.arange(count) % 3), None


def test_the_loss_is_the_networks_own_and_leaves_norms_alone():
    model, (inputs, _) = Detector().eval(), batch()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = float(by_hand(model, *inputs))
    found = score(model, [(inputs, None)], InTraining(), found_right)
    assert found.loss == pytest.approx(expected, rel=1e-6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    with pytest.raises(BitqError, match="the loss gave a list of 4"):
        score(model, [(inputs, None)], lambda output, target: output, found_right)


def test_a_network_with_losses_of_its_own_is_searched_and_loaded(tmp_path):
    torch.manual_seed(0)
    data = [batch(), batch()]
    effort = bitq.Settings.quick(training=bitq.Training(steps=2))
    result = bitq.search(
        Detector(), data, data, device="stm32h743", run=tmp_path, formats="8:e4:b16,8:e3:b16", settings=effort,
        loss=bitq.InTraining(), metric=found_right,
    )
    fresh = Detector()
    bitq.load_quantized(fresh, tmp_path)
    (images, _), _ = data[0]
    for one, other in zip(fresh(images), result.model(images), strict=True):
        assert torch.equal(one["scores"], other["scores"])


class Decoding(nn.Linear):
    """Gives logits in training, and classes in evaluation."""

    def forward(self, x):
        y = super().forward(x)
        return y if self.training else y.argmax(-1)


def test_a_loss_of_what_it_gives_in_training_learns_from_the_teachers():
    student, teacher, x, labels = Decoding(4, 3), Decoding(4, 3), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    loss = InTraining(functional.cross_entropy)
    value = lesson(teacher, loss)(x, student(x), labels)
    right = functional.linear(x, teacher.weight, teacher.bias)
    assert torch.allclose(value, functional.cross_entropy(student(x), labels) + distance(student(x), right))
    assert teacher.training


@dataclass
class Output:
    """As transformers has it."""

    loss: torch.Tensor
    logits: torch.Tensor


def test_a_loss_among_the_outputs_is_no_answer_to_learn():
    own, right = torch.randn(4, 3), torch.randn(4, 3)
    known = distance(own, right)
    assert distance(Output(torch.tensor(3.0), own), Output(torch.tensor(2.0), right)) == known
    with pytest.raises(BitqError, match=r"in training and .* in evaluation, where the float network"):
        distance([own[:2]], [right])


def test_it_is_known_by_the_loss_it_holds():
    names = {identity_of(loss).text for loss in (InTraining(), InTraining(distance), InTraining(by_hand))}
    assert len(names) == 3
    assert identity_of(InTraining(by_hand)).text == identity_of(InTraining(by_hand)).text
