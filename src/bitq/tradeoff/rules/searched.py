"""bitq's own search, beside the rules of others: for the least O, or for the fewest bits within a loss of accuracy."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.measure import first_inputs
from bitq.tradeoff.records import Perturbations, Proposal, Screened
from bitq.tradeoff.rules.rule import Proposals, Rule
from bitq.tradeoff.search import search
from bitq.tradeoff.study import Study

HEAVY = 10.0
"""Weight of movement with which the fewest bits within a loss of accuracy are looked for."""


@dataclass(frozen=True)
class Searched(Rule):
    """The search, which fine-tunes and measures plans as it goes, as many as the study's settings say.

    Attributes:
        loss: of accuracy, as a share in [0, 1], within which the fewest bits are looked for; by default the least O is.
    """

    loss: float = 0.0

    def propose(self, study: Study, count: int) -> Proposal:
        """What it has fine-tuned, the best first."""
        found = self.proposals(study, "bitq", count)
        return Proposal(plans=tuple(each.choices for each in found.plans if each.tune)[:count], passes=found.passes)

    def proposals(self, study: Study, label: str, count: int) -> Proposals:
        """All that it has measured, the best first; what was measured as it is comes beside `count` plans."""
        settings = study.settings
        if self.loss:
            settings = replace(settings, alpha=HEAVY, budgets=Budgets(accuracy_loss=self.loss))
        found = search(replace(study, settings=settings))
        plans = tuple(replace(each.plan, label=f"{label} {each.plan.label}") for each in found.contenders)
        store, subject = study.ledger.store, study.subject
        tried = store.evaluations(Screened.kind)
        scored = len(first_inputs(subject.model, subject.data.train, settings.scored_inputs, study.seed))
        screened = len(first_inputs(subject.model, subject.data.validation, settings.screened_inputs))
        seconds = sum(each.seconds for each in (*store.evaluations(Perturbations.kind), *tried))
        return Proposals(plans, 2 * scored + screened * len(tried), seconds)
