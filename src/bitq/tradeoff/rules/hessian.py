"""Trace of the Hessian of each layer times the squared error of its weight, and the plan of least sum within a limit.

One format for each layer, as HAWQ-V2 and V3, which solve an integer linear program. Where a tensor that one layer
writes and others read has one format, too, a layer's output has that of its readers.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bitq.accuracy.evaluate import device_of
from bitq.accuracy.kinds import kind_of
from bitq.accuracy.quantized import quantized_weight
from bitq.batches import forward, pairs, to_device
from bitq.errors import BitqError
from bitq.formats import TENSORS
from bitq.tradeoff.allocate import allocate
from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.groups import joined
from bitq.tradeoff.measure import seeded
from bitq.tradeoff.records import Proposal
from bitq.tradeoff.rules.gradient import BATCHES
from bitq.tradeoff.rules.limits import limits
from bitq.tradeoff.rules.statistics import weight_numbers
from bitq.tradeoff.rules.units import admissible
from bitq.tradeoff.study import Study

PROBES = 4
"""Random vectors that the trace of a Hessian is estimated with (Hutchinson)."""


def hessian(study: Study, count: int) -> Proposal:
    """A plan for each of some limits of movement."""
    modules = range(len(study.space.modules))
    shared = {end for group in study.space.ties for end in group}
    layers = (tuple((m, tensor) for tensor in ((0, 1) if (m, 2) in shared else (0, 1, 2))) for m in modules)
    tied = replace(study.space, ties=joined((*layers, *study.space.ties)))
    for unit in tied.ties:
        admissible(study, unit)
    scores = []
    for module, (name, trace) in enumerate(zip(study.space.modules, traces(study), strict=True)):
        layer, weight = study.subject.model.get_submodule(name), weight_numbers(study, name)
        mean = trace / max(weight.numel(), 1)
        formats = study.formats(name, "weight")
        table = np.full((len(TENSORS), len(formats)), np.inf)
        for tensor, row in enumerate(table):
            row[list(admissible(study, ((module, tensor),)))] = 0.0
        for index in np.flatnonzero(np.isfinite(table[1])):
            table[1, index] = mean * float((quantized_weight(layer, weight, formats[index]) - weight).square().sum())
        scores.append(table)
    plans = tuple(allocate(tied, scores, 0.0, Budgets(movement_bits=limit)) for limit in limits(study, count))
    return Proposal(plans=plans, passes=2 * BATCHES * PROBES)


def traces(study: Study) -> list[float]:
    """Trace of the Hessian of the loss by each module's weight (Hutchinson's estimate).

    A weight that is an activation counts as the one with the largest trace (ours: no parameter has it).
    """
    subject = study.subject
    model, device = copy.deepcopy(subject.model).eval(), device_of(subject.model)
    layers = [model.get_submodule(name) for name in study.space.modules]
    having = [place for place, layer in enumerate(layers) if not kind_of(layer).of_activations]
    weights: list[Tensor] = [layers[place].weight for place in having]  # type: ignore[misc]
    found = np.zeros(len(weights))
    with seeded(study.seed), sdpa_kernel(SDPBackend.MATH):  # other ways of attention have no second derivative
        for done, (inputs, target) in enumerate(list(islice(pairs(model, subject.data.train), BATCHES))):
            study.ledger.listener.step("taking traces", done, BATCHES)
            loss = subject.task.loss(forward(model, to_device(inputs, device)), to_device(target, device))
            try: 
                gradients = torch.autograd.grad(loss, weights, create_graph=True)
                for probe in range(PROBES):
                    signs = [torch.randint_like(weight, 2) * 2 - 1 for weight in weights]
                    products = torch.autograd.grad(gradients, weights, signs, retain_graph=probe + 1 < PROBES)
                    found += [float((v * hv).sum()) for v, hv in zip(signs, products, strict=True)]
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise BitqError(
                    "the network computes something that has no second derivative by a weight, which traces of the "
                    "Hessian are made of; leave this rule out"
                ) from error
    traces = np.full(len(layers), found.max(initial=0.0))
    traces[having] = found
    return [max(float(value), 0.0) / (BATCHES * PROBES) for value in traces]
