"""Plans that earlier searches measured in the same run folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bitq.formats import TENSORS, TensorName
from bitq.tradeoff.records import Measurement
from bitq.tradeoff.space import Choices
from bitq.tradeoff.study import Proposed, Study


def measured_earlier(study: Study) -> Iterator[tuple[Proposed, Measurement]]:
    """All plans of the space that the folder holds as this study would measure them, fine-tuned or as they are."""
    seen: set[tuple[Choices, bool]] = set()
    for each in study.ledger.store.evaluations(Measurement.kind):
        choices = _choices(study, each.config.get("formats"))
        for tune in (True, False) if study.training else (True,):
            if choices is None or (choices, tune) in seen:
                continue
            plan = Proposed("", choices, "plan", tune)
            known = study.ledger.known(Measurement, study.config(plan))
            if known is not None:
                seen.add((choices, tune))
                yield from study.measured([Proposed(f"{known.label} of before", choices, known.proposer, tune)])


def _choices(study: Study, formats: Any) -> Choices | None:
    """The plan of stored formats, or None if they are no plan of the space."""
    space = study.space
    if not isinstance(formats, dict) or formats.keys() != set(space.modules):
        return None
    found = []
    for module in space.modules:
        of_module = formats[module]
        if not isinstance(of_module, list) or len(of_module) != len(TENSORS):
            return None
        indices = [
            places.get(fmt, -1) if isinstance(fmt, str) else -1
            for fmt, places in zip(of_module, (_places(study, module, tensor) for tensor in TENSORS), strict=True)
        ]
        choice = indices[0], indices[1], indices[2]
        if not space.offered.allows(choice):
            return None
        found.append(choice)
    tied = all(len({found[module][tensor] for module, tensor in group}) == 1 for group in space.ties)
    return tuple(found) if tied else None


def _places(study: Study, module: str, tensor: TensorName) -> dict[str, int]:
    """By text of the formats of a tensor, the first index that means it."""
    return {str(fmt): place for place, fmt in reversed(tuple(enumerate(study.formats(module, tensor))))}
