"""Data of a user's own loaders that have no labels: learned from and judged by what the float network answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from bitq.accuracy.agreement import OF_CLASSES
from bitq.accuracy.evaluate import cross_entropy, top1
from bitq.batches import check_lasting, is_bare, walked
from bitq.errors import BitqError
from bitq.randomness import random_states_kept
from bitq.tradeoff.measure import Data, Task, seeded

_NAMES = {"train": "training", "validation": "validation", "test": "test"}


def with_answers(model: nn.Module, data: Data, task: Task) -> tuple[Data, Task]:
    """Data and task in which the float network's most probable classes stand for labels, where data have none.

    Training data may be without labels alone: then what is judged by is as it was. Where validation and test data are,
    the metric is agreement with the float network.

    Args:
        model: the float network.
        data: with labels or without; one batch of each is looked at.
        task: as it is given.

    Raises:
        BitqError: validation data with labels and test data without, or the other way round; or a loss or a metric
            of the user's own, which has nothing to compare with.
    """
    bare = {name: _is_bare(getattr(data, name), f"the {told} data") for name, told in _NAMES.items()}
    if not any(bare.values()):
        return data, task
    if bare["validation"] != bare["test"]:
        lacking, other = ("validation", "test") if bare["validation"] else ("test", "validation")
        raise BitqError(f"the {lacking} data have no labels, but the {other} data do; give both alike")
    for what, own in (("loss", task.loss is not cross_entropy), ("metric", task.metric is not top1)):
        if own and (what == "loss" or bare["test"]):
            first = next(told for name, told in _NAMES.items() if bare[name])
            raise BitqError(
                f"the {first} data have no labels, which the {what} that is given needs; leave it out, or give batches "
                "(input, target)"
            )
    if bare["test"]:
        task = replace(task, metric=OF_CLASSES.metric)
    names = [name for name in _NAMES if bare[name]]
    answered = OF_CLASSES.of(model, *(getattr(data, name) for name in names))
    return replace(data, **dict(zip(names, answered, strict=True))), task


def _is_bare(batches: Any, told: str) -> bool:
    """Whether the first batch is an input alone."""
    check_lasting(batches, told)
    if not (hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")):
        return False  # which is told where they are walked
    with random_states_kept(batches), seeded():
        return is_bare(next(walked(batches), None))
