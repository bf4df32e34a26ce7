"""What a search ranks: plans that are scored, plans that are tried as they are, plans that are measured in full."""

from __future__ import annotations

from dataclasses import dataclass

from bitq.tradeoff.allocate import predicted_loss
from bitq.tradeoff.records import Cost, Measurement
from bitq.tradeoff.space import Choices
from bitq.tradeoff.study import Proposed, Study


@dataclass(frozen=True)
class Candidate:
    """A plan with its sum of scores and its cost, of which the memory of activations is placed if that is limited."""

    choices: Choices
    score: float
    cost: Cost

    @classmethod
    def of(cls, study: Study, choices: Choices) -> Candidate:
        """A plan of a study."""
        cost = study.space.cost(choices, placed=study.settings.budgets.of_ram)
        return cls(choices, predicted_loss(study.scores, choices), cost)


@dataclass(frozen=True)
class Trial:
    """A plan that was measured as it is on a part of the validation data.

    Attributes:
        candidate: with its score and cost.
        plan: the same to be measured.
        lost: accuracy that it lies below the float network, both on that part.
        objective, excess, merit: as of a `Contender`, if all validation data lose as much as that part.
    """

    candidate: Candidate
    plan: Proposed
    lost: float
    objective: float
    excess: float
    merit: float


@dataclass(frozen=True)
class Contender:
    """A plan that was measured.

    Attributes:
        plan: what was proposed.
        score: sum of its tensors' scores.
        measured: what came out.
        objective: O on validation data.
        excess: by how much it misses the budgets; 0 if it keeps them.
        merit: what ranks those that miss them alike, the less the better: O, or the bits moved if the fewest are looked
            for, as a share of the largest movement.
    """

    plan: Proposed
    score: float
    measured: Measurement
    objective: float
    excess: float
    merit: float

    @classmethod
    def of(cls, study: Study, plan: Proposed, measured: Measurement) -> Contender:
        """A plan that a study measured."""
        return cls(
            plan,
            predicted_loss(study.scores, plan.choices),
            measured,
            study.objective(measured.validation, measured.movement_bits),
            study.settings.budgets.excess(measured, study.float_accuracy.validation - measured.validation),
            merit(study, measured.validation, measured.movement_bits),
        )

    @property
    def is_uniform(self) -> bool:
        """Whether it was proposed as one format for every tensor."""
        return self.plan.proposer == "uniform"


def rank(each: Contender | Trial) -> tuple[float, float, float, str, bool]:
    """The best first, whatever order they were measured in."""
    return each.excess, each.merit, each.objective, each.plan.label, each.plan.tune


def merit(study: Study, accuracy: float, movement_bits: float) -> float:
    """What ranks plans that keep the budgets, the less the better."""
    if study.settings.fewest_bits:
        return movement_bits / study.space.movement_max
    return study.objective(accuracy, movement_bits)
