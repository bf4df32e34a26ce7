"""The rules of others propose what they promise, on a study that is measured as the search's own plans are."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import bitq
import tiny
from bitq.accuracy.quantized import quantized_weight
from bitq.accuracy.storing import with_products
from bitq.files import RunFolder
from bitq.formats import TENSORS
from bitq.store import Store
from bitq.tracing import record
from bitq.tradeoff.allocate import predicted_loss
from bitq.tradeoff.compare import study_of
from bitq.tradeoff.ledger import Ledger
from bitq.tradeoff.measure import Data, Subject, Task, evaluate, seeded
from bitq.tradeoff.records import Proposal
from bitq.tradeoff.rules import RULES
from bitq.tradeoff.rules.gradient import BATCHES, gradient_scores
from bitq.tradeoff.rules.hessian import traces
from bitq.tradeoff.rules.limits import limits
from bitq.tradeoff.rules.untuned import Untuned
from bitq.tradeoff.space import space_of
from bitq.tradeoff.study import Proposed, Study

COUNT = 3


@pytest.fixture(scope="module")
def traced():
    return record(tiny.network(), torch.empty(1, 1, 8, 8))


@pytest.fixture(scope="module")
def study(traced, tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("runs"))
    model = tiny.trained()
    space = space_of(model, traced.layers, tiny.DEVICE, 8)
    subject = Subject("tiny", model, Data(*tiny.loaders()), Task())
    settings = tiny.settings(budgets=bitq.Budgets(accuracy_loss=0.05), training=bitq.Training(steps=2))
    with Store(folder.results) as store:
        yield Study.opened(subject, space, settings, Ledger(folder, store))


def bringing(study, traced, rule):
    """The study of the formats that a rule brings, or the one of all."""
    brought = rule.brings(study.space.offered)
    return study if brought is None else study_of(study, traced, brought)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_proposes_plans_of_its_space_and_repeats(study, traced, name):
    own = bringing(study, traced, RULES[name])
    proposal = RULES[name].propose(own, COUNT)
    assert 1 <= len(proposal.plans) <= COUNT
    for plan in proposal.plans:
        assert len(plan) == len(own.space.modules)
        for choice in plan:
            for index, tensor in zip(choice, TENSORS, strict=True):
                assert index in own.space.offered.indices(tensor)
        for group in own.space.ties:
            assert len({plan[module][tensor] for module, tensor in group}) == 1
    assert RULES[name].propose(own, COUNT) == proposal
    kept = study.ledger.once(Proposal, {"rule": name}, lambda: proposal)
    assert kept == study.ledger.known(Proposal, {"rule": name}) == proposal


class Attending(nn.Module):
    """Two products of two activations between a convolution and a linear layer."""

    def __init__(self):
        super().__init__()
        self.patch, self.head = nn.Conv2d(1, 8, 2, 2), nn.Linear(8, tiny.CLASSES)

    def forward(self, x):
        x = self.patch(x).flatten(2).mT
        return self.head(functional.scaled_dot_product_attention(x, x, x).mean(1))


@pytest.mark.parametrize("name", RULES)
def test_a_rule_proposes_formats_for_products_of_activations(tmp_path, name):
    torch.manual_seed(0)
    seen = record(Attending(), torch.empty(1, 1, 8, 8))
    model = with_products(Attending(), seen.products)
    space = space_of(model, seen.layers, tiny.DEVICE, 8)
    subject = Subject("attending", model, Data(*tiny.loaders()), Task())
    settings = tiny.settings(budgets=bitq.Budgets(accuracy_loss=0.05), training=bitq.Training(steps=2))
    folder = RunFolder(tmp_path)
    with Store(folder.results) as store:
        opened = Study.opened(subject, space, settings, Ledger(folder, store))
        own = bringing(opened, seen, RULES[name])
        plans = RULES[name].propose(own, COUNT).plans
    assert own.space.modules == ("patch", "matmul", "matmul#2", "head")
    assert plans
    for choices in plans:
        formats = own.space.tensor_formats(choices)
        assert all(None not in vars(formats[path]).values() for path in seen.products)


@pytest.mark.parametrize("name", ["gradient", "greedy", "hessian"])
def test_plans_keep_their_limits_of_movement(study, name):
    moved = [study.space.cost(plan).movement_bits for plan in RULES[name].propose(study, COUNT).plans]
    for bits, limit in zip(moved, limits(study, COUNT), strict=True):
        assert bits <= limit * (1 + 1e-9)


@pytest.mark.parametrize("name", ["uniform", "uniform-within", "hessian"])
def test_some_give_every_tensor_of_a_layer_one_format(study, name):
    plans = RULES[name].propose(study, COUNT).plans
    assert all(len(set(choice)) == 1 for plan in plans for choice in plan)
    assert name == "hessian" or all(len(set(plan)) == 1 for plan in plans)


def test_gradient_scores_are_squared_gradients_times_squared_errors(study):
    """Held against a pass of its own over the weights, batch by batch."""
    model, found = study.subject.model, gradient_scores(study, {})
    name, number = study.space.modules[0], 0
    layer, few = model.get_submodule(name), range(0, len(study.space.formats), 13)
    total, inputs = dict.fromkeys(few, 0.0), 0
    with seeded(study.seed):
        batches = list(itertools.islice(study.subject.data.train, BATCHES))
    for images, labels in batches:
        loss = functional.cross_entropy(model.eval()(images), labels) * len(images)
        (gradient,) = torch.autograd.grad(loss, [layer.weight])
        inputs += len(images)
        for index in few:
            error = quantized_weight(layer, layer.weight.detach(), study.space.formats[index]) - layer.weight.detach()
            total[index] += float((gradient.square() * error.square()).sum())
    for index in few:
        assert found[number][1, index] == pytest.approx(total[index] / inputs, rel=1e-4)


def test_traces_are_never_negative_and_one_for_each_layer(study):
    found = traces(study)
    assert len(found) == len(study.space.modules)
    assert min(found) >= 0
    assert max(found) > 0


def test_untuned_plans_are_measured_as_a_study_without_fine_tuning_measures_them(study):
    plan = study.space.uniform(20)
    formats = study.space.tensor_formats(plan)
    validation = study.subject.data.validation
    untuned = Untuned(study)
    coarse = untuned.accuracy(formats, validation)
    assert untuned.accuracy({}, validation) == study.float_accuracy.validation
    assert untuned.accuracy(formats, validation) == coarse
    model = tiny.trained()
    bitq.apply(model, formats, study.ranges)
    assert evaluate(model, validation, study.subject.task).accuracy == coarse


def test_a_measured_plan_is_kept_with_its_costs_and_where_it_came_from(study):
    plans = [
        Proposed("of one format", study.space.uniform(3), "uniform"),
        Proposed("drawn", RULES["random"].propose(study, 1).plans[0], "other"),
    ]
    found = dict(study.measured(plans))
    assert [found[plan].proposer for plan in plans] == ["uniform", "other"]
    for plan in plans:
        assert found[plan].figures() == study.space.cost(plan.choices).figures()
        assert found[plan].label == plan.label
    assert dict(study.measured(plans)) == found


def test_the_sum_of_scores_is_that_of_the_study(study):
    plan = study.space.uniform(7)
    assert predicted_loss(study.scores, plan) == pytest.approx(sum(float(np.sum(each[:, 7])) for each in study.scores))
