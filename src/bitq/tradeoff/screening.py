"""Plans measured as they are, without fine-tuning: cheap enough for many, and it tells what a network's scores mean."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from bitq.accuracy.quantized import apply
from bitq.batches import Batch, count_inputs, pair, walked
from bitq.tradeoff.identity import formats_text
from bitq.tradeoff.measure import evaluate
from bitq.tradeoff.records import Screened
from bitq.tradeoff.study import Proposed, Study

STAGE = "measuring formats as they are"
"""What a listener hears of."""


@dataclass(frozen=True)
class Part:
    """The first batches of some data with at least `count` inputs, or all there are; walked afresh every time."""

    model: nn.Module
    batches: Iterable[Batch]
    count: int

    def __iter__(self) -> Iterator[Batch]:
        seen = 0
        for batch in walked(self.batches):
            inputs, _ = pair(self.model, batch)
            yield batch
            seen += count_inputs(inputs)
            if seen >= self.count:
                return


def screened(
    study: Study, plans: Sequence[Proposed], before: int = 0, total: int | None = None
) -> tuple[Screened, ...]:
    """What each plan reaches as it is, on the first `settings.screened_inputs` inputs of the validation data.

    What is not in the store is measured and stored at once. The listener is told of these plans as some of `total`, of
    which `before` are done.
    """
    total = len(plans) if total is None else total
    subject, ledger, part = study.subject, study.ledger, _part(study)
    model = None
    found = []
    for done, plan in enumerate(plans):
        ledger.listener.step(STAGE, before + done, total)
        formats = study.tensor_formats(plan.choices)
        config = {
            "formats": formats_text(formats), "inputs": part.count, "ranges": study.settings.ranges, **study.stored
        }
        known = ledger.known(Screened, config)
        if known is None:
            start = time.perf_counter()
            if model is None:
                model = copy.deepcopy(subject.model).eval()
            apply(model, formats, study.ranges_for(formats), points=study.space.points)
            known = Screened(
                label=plan.label,
                proposer=plan.proposer,
                accuracy=evaluate(model, part, subject.task).accuracy,
                **study.space.cost(plan.choices).figures(),
            )
            ledger.store.put(Screened.kind, config, known.model_dump(), time.perf_counter() - start)
        found.append(known)
    ledger.listener.step(STAGE, before + len(plans), total)
    return tuple(found)


def screened_float(study: Study) -> float:
    """The accuracy of the float network on the inputs that plans are measured on as they are."""
    part, subject = _part(study), study.subject
    return study.ledger.once(
        Screened,
        {"formats": {}, "inputs": part.count},
        lambda: Screened(
            label="float32",
            accuracy=evaluate(subject.model, part, subject.task).accuracy,
            **study.space.float_cost.figures(),
        ),
    ).accuracy


def _part(study: Study) -> Part:
    return Part(study.subject.model, study.subject.data.validation, study.settings.screened_inputs)
